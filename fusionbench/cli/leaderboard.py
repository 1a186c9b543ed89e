"""fusionbench leaderboard"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusionbench.cli.options import (
    ending_of,
    json_option,
    list_option,
    listed,
    plugins_option,
    store_option,
)
from fusionbench.cli.table_options import overrides_of, table_options

if TYPE_CHECKING:
    from fusionbench.leaderboard import Block, PublishedBlock
    from fusionbench.leaderboard.block import LevelName
    from fusionbench.records import Record
    from fusionbench.tables import DeclaredTable, Overrides

# Of a printed table, beside the metrics and what names a row (leaderboard.own_table).
COLUMNS = (
    *("fusion", "backbone", "loss", "settings", "vs_image", "vs_shuffled", "n"),
    *("parameters", "images_per_s", "audit", "notes"),
)
SUFFIXES = {".md": "markdown", ".csv": "csv", ".tex": "latex", ".json": "json"}


@click.command("leaderboard", context_settings={"max_content_width": 100})
@click.argument("table", default="")
@store_option
@click.option("--dataset", default="", help="Only this dataset. With TABLE: in place of its own.")
@click.option("--protocol", default="", help="Only this protocol. With TABLE: in place of its own.")
@table_options
@click.option(
    "--level",
    type=click.Choice(("image", "lesion")),
    default="image",
    show_default=True,
    help="What is counted: photographs, or lesions over their photographs.",
)
@click.option(
    "--no-controls",
    "controls",
    flag_value=False,
    default=True,
    help="Leave out the rows that only compare: metadata without a photograph, shuffled metadata.",
)
@click.option(
    "--published/--no-published",
    default=None,
    help="What papers report, in a table below ours. Default: only below runs on a whole dataset, "
    "not below a subset of its photographs.",
)
@click.option(
    "--metrics",
    default="",
    metavar="A,B,…",
    help="Exact metric names (fusionbench list metrics). Default: those of the papers' tables.",
)
@list_option(
    "--columns",
    metavar="A,B,…",
    help=f"These columns beside the rows' names, and no others: {', '.join(COLUMNS)}, or metrics. "
    "For printed tables; csv and JSON hold them all.",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="ROW=TEXT",
    help="What the table calls a row: a method, method@backbone, its key or part of a run id.",
)
@click.option(
    "--digits",
    type=click.IntRange(0, 6),
    default=1,
    show_default=True,
    help="Decimals of a percentage, in printed tables.",
)
@click.option(
    "--two-column", is_flag=True, help="LaTeX as wide as a two-column page, with more columns."
)
@click.option(
    "--sort",
    default="bacc",
    show_default=True,
    help="Metric that orders the rows (those of a TABLE keep its order) and that gains are in.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(("terminal", *SUFFIXES.values())),
    default="terminal",
    show_default=True,
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file.")
@plugins_option
@json_option
@click.pass_context
def leaderboard_command(
    context: click.Context,
    table: str,
    store: Path,
    format_: str,
    output: Path | None,
    metrics: str,
    sort: str,
    level: LevelName,
    controls: bool,
    published: bool | None,
    columns: tuple[str, ...] | None,
    labels: tuple[str, ...],
    digits: int,
    two_column: bool,
    plugins: tuple[Path, ...],
    as_json: bool,
    **options: Any,
) -> int:
    """Show finished runs as a table: mean ± standard deviation over folds, best value bold.

    Rows are ranked only among runs on the same photographs under the same split, and only when
    every fold is there. Each carries the audit's verdict on its data, and what its metadata gain it
    over the image alone and over a twin with shuffled metadata.

    With TABLE, the name of a built-in table (fusionbench list tables) or a file: the rows that it
    declares, in its order, those without runs included.
    """
    from fusionbench.cli import terminal
    from fusionbench.cli.reading import Reading
    from fusionbench.cli.streams import write_result
    from fusionbench.files import write_output
    from fusionbench.leaderboard import Terminal, check_held, chosen, render, without_controls
    from fusionbench.leaderboard.select import relabelled

    names = tuple(listed(metrics)) or None
    beside = [name for name in columns or () if name in COLUMNS]
    if columns:
        if names:
            raise click.UsageError("--columns names metrics, too: leave out --metrics.")
        names = tuple(name for name in columns if name not in beside)
    chosen([sort, *(names or ())])
    if as_json or output is not None:
        format_ = _format_of(output, "json" if as_json else format_)
    if two_column and format_ != "latex":
        raise click.UsageError("--two-column is for --format latex.")
    if columns and format_ in ("csv", "json"):
        raise click.UsageError(f"{format_} holds every column: leave out --columns.")
    renamed = [text.rpartition("=") for text in labels]
    for text, (row, _, label) in zip(labels, renamed, strict=True):
        if not (row.strip() and label.strip()):
            raise click.UsageError(f"--label {text}: write ROW=TEXT.")
    declared = _declared(table, options, plugins)
    # A declared table names its dataset and protocol itself.
    wanted = [options[name] if declared is None else "" for name in ("dataset", "protocol")]
    reading = Reading(store, wanted[0], wanted[1], level)
    blocks = _blocks(
        reading.records(), plugins, declared, overrides_of(options), sort=sort, level=level
    )
    reading.report_failures()
    reading.report(some=declared is None)
    blocks = blocks if controls else without_controls(blocks)
    for row, _, label in renamed:
        blocks = relabelled(blocks, row, label.strip())
    check_held([sort, *(names or ())], blocks)
    below = _published(blocks, published, declared)
    if declared is not None and format_ not in ("csv", "json") and names is None:
        names = declared.columns or None
    # Metrics alone, where no other column is named.
    drawn: dict[str, Any] = {"columns": beside or ["-"] if columns else (), "digits": digits}
    if format_ == "terminal":
        terminal.out().print(Terminal(blocks, names, below, **drawn))
        return 1 if reading.problems else 0
    command = f"{terminal.command_line(context)} --format {format_}"
    drawn |= {"metrics": names, "published": below, "two_column": two_column}
    text = render(blocks, format_, command=command, **drawn)
    if output is None:
        write_result(text)
    else:
        write_output(output, text)
    return 1 if reading.problems else 0


def print_blocks(
    records: Iterable[Record],
    plugins: tuple[Path, ...] = (),
    table: DeclaredTable | None = None,
    overrides: Overrides | None = None,
) -> None:
    """Our rows on the terminal: those of a declared table, or all."""
    from fusionbench.cli import terminal
    from fusionbench.leaderboard import Terminal

    blocks = _blocks(records, plugins, table, overrides)
    terminal.out().print(Terminal(blocks, table.columns or None if table else None))


def _declared(
    table: str, options: dict[str, Any], plugins: tuple[Path, ...]
) -> DeclaredTable | None:
    """The table that is asked for; None for a leaderboard of all runs."""
    if table:
        from fusionbench.tables import read_table

        return read_table(table, plugins=plugins)
    for name, value in options.items():
        if name not in ("dataset", "protocol") and value not in (None, False, ()):
            flag = name.removesuffix("s") if name == "backbones" else name
            raise click.UsageError(f"--{flag.replace('_', '-')} changes a TABLE: name one.")
    return None


def _blocks(
    records: Iterable[Record],
    plugins: tuple[Path, ...],
    table: DeclaredTable | None,
    overrides: Overrides | None,
    **options: Any,
) -> list[Block]:
    """`options`: sort and level."""
    from fusionbench.leaderboard import blocks, declared_blocks
    from fusionbench.plugin import registry
    from fusionbench.tables import Overrides, apply, expand, note_of

    # The plugins as they are now.
    options["current_sources"] = {
        (kind, name): registry.source_hash(entry)
        for kind in registry.KINDS
        for name, entry in registry.discover(kind, plugins).items()
    }
    if table is None:
        return blocks(records, **options)
    overrides = overrides or Overrides()
    return declared_blocks(
        apply(table, overrides),
        expand(table, overrides, plugins=plugins),
        records,
        note=note_of(table, overrides),
        plugins=plugins,
        **options,
    )


def _published(
    blocks: list[Block], show: bool | None, table: DeclaredTable | None
) -> list[PublishedBlock]:
    """What stands below our blocks. A table that declares no published rows shows them only when
    asked."""
    from fusionbench.leaderboard import beside, published

    only = table.published if table else None
    if show is False or (table and only is None and not show):
        return []
    rows, changes = published.load(), published.load_changes()
    if only:
        rows = [r for r in rows if only.wants(r.method, r.backbone, r.source)]
        changes = [c for c in changes if only.wants(c.method, c.backbone, c.source)]
    return beside(blocks, rows, changes, show=show)


def _format_of(output: Path | None, format_: str) -> str:
    """The format that is named, else the one that the file's ending asks for."""
    if format_ != "terminal":
        return format_
    return SUFFIXES[ending_of(output or Path(), SUFFIXES, ", or give --format")]
