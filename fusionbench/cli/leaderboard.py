"""fusionbench leaderboard"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusionbench.cli.options import json_option, plugins_option, store_option

if TYPE_CHECKING:
    from fusionbench.leaderboard import Block, PublishedBlock
    from fusionbench.records import Record

FORMATS = ("terminal", "markdown", "csv", "latex", "json")


@click.command("leaderboard")
@store_option
@click.option("--dataset", default="", help="Only this dataset.")
@click.option("--protocol", default="", help="Only this protocol.")
@click.option(
    "--format", "format_", type=click.Choice(FORMATS), default="terminal", show_default=True
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file.")
@click.option(
    "--metrics",
    default="",
    metavar="A,B,…",
    help="Exact metric names (fusionbench list metrics). Default: those of the papers' tables.",
)
@click.option("--sort", default="bacc", show_default=True, help="Metric that orders the rows.")
@click.option(
    "--published/--no-published",
    default=None,
    help="What papers report, in a block of its own. Default: only below runs on a whole dataset, "
    "not below a subset of its photographs.",
)
@plugins_option
@json_option
def leaderboard_command(
    store: Path,
    dataset: str,
    protocol: str,
    format_: str,
    output: Path | None,
    metrics: str,
    sort: str,
    published: bool | None,
    plugins: tuple[Path, ...],
    as_json: bool,
) -> int:
    """Show finished runs as a table: mean ± standard deviation over folds, best value bold.

    Rows are ranked only among runs on the same photographs under the same split, and only when
    every fold is there.
    """
    from fusionbench.cli import terminal
    from fusionbench.errors import FusionbenchError
    from fusionbench.leaderboard import render
    from fusionbench.records import Store

    names = tuple(m.strip() for m in metrics.split(",") if m.strip()) or None
    _known_metrics([sort, *(names or ())])
    records, problems = Store(store).scan()
    for problem in problems:
        terminal.print_error(f"Not counted: {problem.message}")
    chosen = [
        r
        for r in records
        if (not dataset or r.identity["dataset"] == dataset)
        and (not protocol or r.identity["protocol"] == protocol)
    ]
    if not chosen:
        raise FusionbenchError(
            f"There is no finished run in {store}"
            + (f" ({len(records)} of other datasets or protocols)." if records else "."),
            "fusionbench run makes one; --store names another folder.",
        )
    format_ = "json" if as_json else format_
    if format_ == "terminal" and output is None:
        print_blocks(chosen, names, sort, plugins, published)
        return 1 if problems else 0
    if format_ == "terminal":
        format_ = _format_of(output)
    found = _blocks(chosen, sort, plugins)
    text = render(
        found,
        format_,
        metrics=names,
        command=_command(format_, names, published),
        published=_published(found, published),
    )
    if output is None:
        click.echo(text, nl=not text.endswith("\n"))
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")
    return 1 if problems else 0


def print_blocks(
    records: Iterable[Record],
    metrics: tuple[str, ...] | None = None,
    sort: str = "bacc",
    plugins: tuple[Path, ...] = (),
    published: bool | None = False,
) -> None:
    """The table on the terminal."""
    from fusionbench.cli import terminal
    from fusionbench.leaderboard import Terminal

    found = _blocks(records, sort, plugins)
    terminal.out().print(Terminal(found, metrics, _published(found, published)))


def _blocks(records: Iterable[Record], sort: str, plugins: tuple[Path, ...]) -> list[Block]:
    from fusionbench import registry
    from fusionbench.leaderboard import blocks

    sources = {
        (kind, name): registry.source_hash(entry)
        for kind in registry.KINDS
        for name, entry in registry.discover(kind, plugins).items()
    }
    return blocks(records, current_sources=sources, sort=sort)


def _published(found: list[Block], show: bool | None) -> list[PublishedBlock]:
    from fusionbench.leaderboard import beside, published

    if show is False:
        return []
    return beside(found, published.load(), published.load_changes(), show=show)


def _known_metrics(names: Iterable[str]) -> None:
    from fusionbench.errors import UsageError
    from fusionbench.metric_names import METRICS, RECALL
    from fusionbench.registry import unknown_name

    for name in names:
        if name in METRICS or (name.startswith(RECALL) and name != RECALL):
            continue
        # "auc" is no number of ours: its averaging must be said.
        exact = [known for known in METRICS if name and name.lower() in known]
        message, remedy = unknown_name("metric", name, exact or METRICS)
        if exact:
            remedy = f"Did you mean {' or '.join(exact)}?"
        raise UsageError(message, remedy)


def _format_of(output: Path | None) -> str:
    """The format that a file's name asks for."""
    known = {".md": "markdown", ".csv": "csv", ".tex": "latex", ".json": "json"}
    suffix = output.suffix if output is not None else ""
    if suffix not in known:
        raise click.UsageError(
            f"--output {output}: end it in {', '.join(known)}, or give --format."
        )
    return known[suffix]


def _command(format_: str, metrics: tuple[str, ...] | None, published: bool | None) -> str:
    """The command that a generated file names; without paths, which say nothing elsewhere."""
    chosen = f" --metrics {','.join(metrics)}" if metrics else ""
    if published is not None:
        chosen += " --published" if published else " --no-published"
    return f"fusionbench leaderboard --format {format_}{chosen}"
