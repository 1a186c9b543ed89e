"""Drawing for people: errors, tables of problems. Data goes to stdout, the rest to stderr."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from fusionbench.progress import Progress

# Findings of one kind that are spelled out, and kinds that are shown.
SHOWN_ALIKE, SHOWN_KINDS = 10, 20


def out() -> Console:
    """Standard output, for results."""
    return Console(highlight=False)


def err() -> Console:
    """Standard error, for progress and messages."""
    return Console(stderr=True, highlight=False)


def progress() -> Progress:
    """Bars on a terminal, plain lines elsewhere."""
    from fusionbench.cli.progress import BarProgress, LineProgress

    console = err()
    return BarProgress(console) if console.is_terminal else LineProgress()


def print_json(data: Any) -> None:
    """One JSON value on stdout and nothing else; NaN and infinity become null."""
    sys.stdout.write(json.dumps(_plain(data), indent=2, allow_nan=False) + "\n")


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


def facts(rows: Mapping[str, object]) -> Table:
    """Name and value, one pair a line; pairs without a value are left out."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value not in ("", None):
            table.add_row(name, Text(str(value)))
    return table


def print_problems(problems: Iterable[Mapping[str, object]], root: str = "") -> None:
    """Findings as one table on stderr, those of a kind together and only the first ten of each.

    `root` is left out of file names. What to do (`fix`) stands below, once.
    """
    problems = list(problems)
    kinds: dict[tuple[str, ...], list[Mapping[str, object]]] = {}
    for problem in problems:
        kinds.setdefault(_kind(problem), []).append(problem)
    shown = [found for _, found in zip(range(SHOWN_KINDS), kinds.values(), strict=False)]
    names = dict.fromkeys(key for problem in problems for key in problem)
    columns = [
        name
        for name in (*(n for n in names if n not in ("problem", "fix")), "problem")
        if any(problem.get(name) not in ("", None) for problem in problems)
    ]
    table = Table(box=None, header_style="bold", pad_edge=False, show_header=len(columns) > 1)
    for name in columns:
        table.add_column(name, overflow="fold")
    for found in shown:
        for problem in found[:SHOWN_ALIKE]:
            table.add_row(*(_cell(problem.get(name), root) for name in columns))
        if len(found) > SHOWN_ALIKE:
            more = Text(f"… and {len(found) - SHOWN_ALIKE:,} more", style="yellow")
            table.add_row(*([""] * (len(columns) - 1)), more)
    console = err()
    console.print(table)
    rest = sum(map(len, kinds.values())) - sum(map(len, shown))
    if rest:
        console.print(f"[yellow]… and {rest:,} problems of other kinds[/]")
    for fix in dict.fromkeys(str(p["fix"]).strip() for p in problems if p.get("fix")):
        console.print(Text(fix), soft_wrap=True)


def _kind(problem: Mapping[str, object]) -> tuple[str, ...]:
    """Findings are of a kind where they differ in names, numbers and quoted text only."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\S*[\d./\\]\S*", "…", str(problem.get("problem", "")))
    return (str(problem.get("column", "")), text)


def _cell(value: object, root: str) -> Text:
    text = "" if value is None else str(value)
    return Text(text.removeprefix(root).lstrip("/\\") if root and text.startswith(root) else text)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    return value
