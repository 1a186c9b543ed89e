"""Drawing for people: errors, tables of problems. Data goes to stdout, the rest to stderr."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from fusionbench.cli.streams import write_result
from fusionbench.config.wording import printable

if TYPE_CHECKING:
    from fusionbench.progress import Progress

# Findings of one kind that are spelled out, and kinds that are shown.
SHOWN_ALIKE, SHOWN_KINDS = 10, 20


class Literal(Console):
    """Draws control characters of any text as `\\u001b`; rich would pass them to the terminal."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(printable(text), style)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # which ends the command quietly; rich would raise SystemExit


def out() -> Console:
    """Standard output, for results."""
    return _on(sys.stdout)


def err() -> Console:
    """Standard error, for progress and messages."""
    return _on(sys.stderr)


def _on(stream: Any) -> Console:
    # Below what guards text that is not drawn, and what rich itself lays over it beside a bar.
    while inner := getattr(stream, "rich_proxied_file", None):
        stream = inner
    return Literal(file=stream, highlight=False, emoji=False)


def progress() -> Progress:
    """Bars on a terminal, plain lines elsewhere."""
    from fusionbench.cli.progress import BarProgress, LineProgress

    console = err()
    return BarProgress(console) if console.is_terminal else LineProgress()


def print_json(data: Any) -> None:
    """One JSON value on stdout and nothing else; NaN and infinity become null."""
    from pydantic_core import to_jsonable_python

    plain = to_jsonable_python(data, inf_nan_mode="null")
    write_result(json.dumps(plain, indent=2, allow_nan=False) + "\n")


def print_error(message: str, remedy: str = "") -> None:
    """What is wrong and what to do, on one red line. What runs over several lines (a plugin's own
    traceback, how to get a dataset) follows below it, not red."""
    first, _, rest = message.strip().partition("\n")
    remedy = remedy.strip()
    if remedy and not rest and "\n" not in remedy:
        first, remedy = f"{first} {remedy}", ""
    console = err()
    console.print(f"[bold red]Error:[/] [red]{escape(first)}[/]", soft_wrap=True)
    for text in (rest, remedy):
        if text:
            console.print(Text(text), soft_wrap=True)


def command_line(context: click.Context) -> str:
    """The command as it was typed, for the first line of a generated file. Without the options that
    say where files are, or in which format: they mean nothing elsewhere."""
    words = ["fusionbench", str(context.info_name)]
    for parameter in context.command.params:
        name = str(parameter.name)
        typed = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if not typed or name in ("store", "output", "format_", "as_json", "plugins"):
            continue
        value = context.params[name]
        for one in value if parameter.multiple else [value]:
            if isinstance(parameter, click.Option):
                no = one is False and parameter.secondary_opts
                words.append(no[0] if no else parameter.opts[0])
            if not isinstance(one, bool):
                words.append(Path(one).name if Path(str(one)).exists() else str(one))
    return shlex.join(words)


def grid(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Container[str] = (),
    fixed: Container[str] = (),
    title: str | None = None,
    style: str = "",
) -> Table:
    """A plain table of literal text; a cell that is a Text keeps its style.

    `right`: columns of numbers, other than the first; `fixed`: those that never wrap; `style`: of
    the first column.
    """
    table = Table(
        title=title,
        title_justify="left",
        title_style="dim",
        box=None,
        show_header=any(headings),
        header_style="bold",
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for i, heading in enumerate(headings):
        table.add_column(
            Text(heading),
            justify="right" if i and heading in right else "left",
            style="" if i else style,
            no_wrap=heading in fixed,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(c if isinstance(c, Text) else Text(printable(str(c))) for c in row))
    return table


def facts(rows: Mapping[str, object]) -> Table:
    """Name and value, one pair a line; pairs without a value are left out."""
    pairs = [pair for pair in rows.items() if pair[1] not in ("", None)]
    return grid(("", ""), pairs, style="cyan")


def print_problems(problems: Iterable[Mapping[str, object]], root: str = "") -> None:
    """Findings as one table on stderr, those of a kind together and only the first ten of each.

    `root` is left out of file names. What to do (`fix`) stands below, once.
    """
    problems = list(problems)
    kinds: dict[tuple[str, ...], list[Mapping[str, object]]] = {}
    for problem in problems:  # of a kind differ in names, numbers and quoted text only
        text = re.sub(r"'[^']*'|\"[^\"]*\"|\S*[\d./\\]\S*", "…", str(problem.get("problem", "")))
        kinds.setdefault((str(problem.get("column", "")), text), []).append(problem)
    shown = list(kinds.values())[:SHOWN_KINDS]
    names = dict.fromkeys(key for problem in problems for key in problem)
    columns = [
        name
        for name in (*(n for n in names if n not in ("problem", "fix")), "problem")
        if any(problem.get(name) not in ("", None) for problem in problems)
    ]

    def cell(value: object) -> Text:
        text = "" if value is None else printable(str(value))
        inside = root and text.startswith(root)
        return Text(text.removeprefix(root).lstrip("/\\") if inside else text)

    rows: list[list[Text]] = []
    for alike in shown:
        rows += ([cell(p.get(name)) for name in columns] for p in alike[:SHOWN_ALIKE])
        if len(alike) > SHOWN_ALIKE:
            more = Text(f"… and {len(alike) - SHOWN_ALIKE:,} more", style="yellow")
            rows.append([Text()] * (len(columns) - 1) + [more])
    console = err()
    console.print(grid(columns if len(columns) > 1 else [""], rows))
    if rest := len(problems) - sum(map(len, shown)):
        console.print(f"[yellow]… and {rest:,} problems of other kinds[/]")
    for fix in dict.fromkeys(str(p["fix"]).strip() for p in problems if p.get("fix")):
        console.print(Text(fix), soft_wrap=True)
