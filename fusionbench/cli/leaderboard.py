"""fusionbench leaderboard"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusionbench.cli.options import json_option, listed, plugins_option, store_option
from fusionbench.cli.table_options import overrides_of, spelled, table_options

if TYPE_CHECKING:
    from fusionbench.leaderboard import Block, PublishedBlock
    from fusionbench.leaderboard.block import LevelName
    from fusionbench.records import Record
    from fusionbench.tables import Overrides, PublishedFilter, Table

FORMATS = ("terminal", "markdown", "csv", "latex", "json")


@click.command("leaderboard", context_settings={"max_content_width": 100})
@click.argument("table", default="")
@store_option
@click.option("--dataset", default="", help="Only this dataset. With TABLE: in place of its own.")
@click.option("--protocol", default="", help="Only this protocol. With TABLE: in place of its own.")
@table_options
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
@click.option(
    "--sort",
    default="bacc",
    show_default=True,
    help="Metric that orders the rows (those of a TABLE keep its order) and that gains are in.",
)
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
    help="What papers report, in a block of its own. Default: only below runs on a whole dataset, "
    "not below a subset of its photographs.",
)
@plugins_option
@json_option
def leaderboard_command(
    table: str,
    store: Path,
    format_: str,
    output: Path | None,
    metrics: str,
    sort: str,
    level: LevelName,
    controls: bool,
    published: bool | None,
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
    from fusionbench.files import write_output
    from fusionbench.leaderboard import Terminal, render

    names = tuple(listed(metrics)) or None
    _known_metrics([sort, *(names or ())])
    overrides = overrides_of(options)
    declared = _declared(table, options, plugins)
    wanted = {} if declared else {k: options[k] for k in ("dataset", "protocol") if options[k]}
    reading = Reading(store, wanted, level)
    if declared is None:
        found = _blocks(reading.records(), sort, plugins, level)
    else:
        found = _declared_blocks(declared, overrides, reading.records(), plugins, sort, level)
    reading.report(asked_for=declared is None)
    found = _shown(found, controls)
    if declared is None:
        below = _published(found, published)
    else:
        below = _published_beside(declared, found, published)
    format_ = "json" if as_json else format_
    if names is None and declared is not None and format_ not in ("csv", "json"):
        names = declared.columns or None
    if format_ == "terminal" and output is None:
        terminal.out().print(Terminal(found, names, below))
        return 1 if reading.problems else 0
    if format_ == "terminal":
        format_ = _format_of(output)
        if format_ in ("csv", "json") and not metrics.strip(" ,"):
            names = None
    said = {"sort": (sort, "bacc"), "level": (level, "image")}
    words = f" {spelled(table, options)}" if declared is not None else ""
    words += "".join(f" --{k} {value}" for k, (value, usual) in said.items() if value != usual)
    words += "" if controls else " --no-controls"
    text = render(
        found,
        format_,
        metrics=names,
        command=_command(format_, metrics, published, words),
        published=below,
    )
    if output is None:
        click.echo(text, nl=not text.endswith("\n"))
    else:
        write_output(output, text if text.endswith("\n") else text + "\n")
    return 1 if reading.problems else 0


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


def print_declared(
    table: Table,
    overrides: Overrides,
    records: Iterable[Record],
    metrics: tuple[str, ...] | None = None,
    plugins: tuple[Path, ...] = (),
    published: bool | None = False,
) -> None:
    """A declared table on the terminal."""
    from fusionbench.cli import terminal
    from fusionbench.leaderboard import Terminal

    found = _declared_blocks(table, overrides, records, plugins)
    below = _published_beside(table, found, published)
    terminal.out().print(Terminal(found, metrics or table.columns or None, below))


def _declared(table: str, options: dict[str, Any], plugins: tuple[Path, ...]) -> Table | None:
    """The table that is asked for; None for a leaderboard of all runs."""
    if table:
        from fusionbench.tables import read_table

        return read_table(table, plugins=plugins)
    for name, value in options.items():
        if name not in ("dataset", "protocol") and value not in (None, False, ()):
            flag = name.removesuffix("s") if name == "backbones" else name
            raise click.UsageError(f"--{flag.replace('_', '-')} changes a TABLE: name one.")
    return None


def _declared_blocks(
    table: Table,
    overrides: Overrides,
    records: Iterable[Record],
    plugins: tuple[Path, ...],
    sort: str = "bacc",
    level: LevelName = "image",
) -> list[Block]:
    from fusionbench.leaderboard import declared_blocks
    from fusionbench.tables import apply, expand, note_of

    return declared_blocks(
        apply(table, overrides),
        expand(table, overrides, plugins=plugins),
        records,
        note=note_of(table, overrides),
        plugins=plugins,
        current_sources=_sources(plugins),
        sort=sort,
        level=level,
    )


def _blocks(
    records: Iterable[Record], sort: str, plugins: tuple[Path, ...], level: LevelName = "image"
) -> list[Block]:
    from fusionbench.leaderboard import blocks

    return blocks(records, current_sources=_sources(plugins), sort=sort, level=level)


def _shown(found: list[Block], controls: bool) -> list[Block]:
    from fusionbench.leaderboard import without_controls

    return found if controls else without_controls(found)


def _sources(plugins: tuple[Path, ...]) -> dict[tuple[str, str], str]:
    """The plugins as they are now: (kind, name) -> hash of the source."""
    from fusionbench.plugin import registry

    return {
        (kind, name): registry.source_hash(entry)
        for kind in registry.KINDS
        for name, entry in registry.discover(kind, plugins).items()
    }


def _published(
    found: list[Block], show: bool | None, only: PublishedFilter | None = None
) -> list[PublishedBlock]:
    """Blocks to stand below ours, of rows that a table's filter wants."""
    from fusionbench.leaderboard import beside, published

    if show is False:
        return []
    rows, changes = published.load(), published.load_changes()
    if only:
        rows = [r for r in rows if only.wants(r.method, r.backbone, r.source)]
        changes = [c for c in changes if only.wants(c.method, c.backbone, c.source)]
    return beside(found, rows, changes, show=show)


def _published_beside(table: Table, found: list[Block], show: bool | None) -> list[PublishedBlock]:
    """A table that declares no published rows shows them only when asked."""
    if table.published is None and not show:
        return []
    return _published(found, show, table.published)


def _known_metrics(names: Iterable[str]) -> None:
    from fusionbench.errors import UsageError
    from fusionbench.metrics.names import METRICS, is_known, listed
    from fusionbench.plugin.registry import unknown_name

    every = [metric.name for metric in listed()]
    for name in names:
        if is_known(name):
            continue
        # "auc" is no number of ours: its averaging, or its class, must be said.
        exact = [known for known in METRICS if name and name.lower() in known]
        exact += [known for known in every if known.startswith(f"{name.rstrip('/').lower()}/<")]
        message, remedy = unknown_name("metric", name, exact or every)
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


def _command(format_: str, metrics: str, published: bool | None, words: str = "") -> str:
    """The command that a generated file names; without folders, which say nothing elsewhere."""
    chosen = f" --metrics {metrics.replace(' ', '')}" if metrics.strip(" ,") else ""
    if published is not None:
        chosen += " --published" if published else " --no-published"
    return f"fusionbench leaderboard{words} --format {format_}{chosen}"
