"""fusionbench data status | prepare | verify"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusionbench.cli.options import data_option, json_option, plugins_option
from fusionbench.config.wording import plural

if TYPE_CHECKING:
    from fusionbench.data.prepare import PrepareReport
    from fusionbench.data.table import Table

SHOWN_NOTES = 10


@click.group("data", no_args_is_help=False)
def data_command() -> None:
    """Look at, prepare and verify a dataset."""


@data_command.command("status")
@click.argument("name")
@data_option
@plugins_option
@json_option
def status_command(name: str, data: Path | None, plugins: tuple[Path, ...], as_json: bool) -> int:
    """Say where a dataset is and how much of it; opens no photograph."""
    from fusionbench.data.locate import open_card
    from fusionbench.data.prepare import status

    return _show(status(open_card(name, plugins=plugins), data), as_json)


@data_command.command("verify")
@click.argument("name")
@data_option
@plugins_option
@json_option
def verify_command(name: str, data: Path | None, plugins: tuple[Path, ...], as_json: bool) -> int:
    """Check counts, columns, classes, every photograph and the splits that the card declares."""
    from fusionbench.cli import terminal
    from fusionbench.data.locate import find_data, open_card
    from fusionbench.data.prepare import inspect

    card = open_card(name, plugins=plugins)
    root = find_data(card, data)
    report, table = inspect(card, root, pixels=True, progress=terminal.progress())
    return _show(report if table is None else _with_splits(report, table, root), as_json)


def _with_splits(report: PrepareReport, table: Table, root: Path) -> PrepareReport:
    """The report with what is wrong with the splits that are there, or that nothing can replace."""
    from fusionbench.errors import DataError
    from fusionbench.progress import Progress
    from fusionbench.protocols import class_notes, split_of

    problems, notes = list(report.problems), [*class_notes(table)]

    class Noted(Progress):
        def note(self, message: str) -> None:
            notes.append(message)

    for spec in table.card.protocols:
        if spec.published or (table.card.folder / spec.file).exists():
            try:
                split_of(table, spec.name, root=root, progress=Noted())
            except DataError as error:
                where = f"protocol {spec.name}"
                problems.append({"file": where, "problem": error.message, "fix": error.remedy})
    unique = dict.fromkeys((*notes, *report.notes))
    return replace(report, problems=tuple(problems), notes=tuple(unique))


@data_command.command("prepare")
@click.argument("name")
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--image-size",
    default=224,
    type=click.IntRange(16, 2048),
    metavar="PIXELS",
    show_default=True,
    help="Side of the pictures in the cache.",
)
@click.option(
    "--to",
    "destination",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where an archive is unpacked. Default: datasets/<name>/data.",
)
@plugins_option
@json_option
def prepare_command(
    name: str,
    source: Path,
    image_size: int,
    destination: Path | None,
    plugins: tuple[Path, ...],
    as_json: bool,
) -> int:
    """Make a download usable: unpack, check, build the cache.

    SOURCE is the archive or the folder that was downloaded. Every problem is listed.
    """
    from fusionbench.cli import terminal
    from fusionbench.data.locate import open_card
    from fusionbench.data.prepare import prepare

    report = prepare(
        open_card(name, plugins=plugins),
        source,
        destination,
        image_size=image_size,
        progress=terminal.progress(),
    )
    return _show(report, as_json)


def _show(report: PrepareReport, as_json: bool) -> int:
    from fusionbench.cli import terminal

    if as_json:
        terminal.print_json(report.to_dict())
        return 0 if report.ok else 1
    if report.problems:
        terminal.print_problems(report.problems, report.root)
    console = terminal.out()
    if report.found:
        console.print(terminal.facts(_facts(report)))
    console.print(_verdict(report))
    return 0 if report.ok else 1


def _facts(report: PrepareReport) -> dict[str, object]:
    photographs = f"{report.images_found:,} found"
    if report.images_missing:
        photographs += f", {report.images_missing:,} missing"
    if report.images_damaged:
        photographs += f", {report.images_damaged:,} damaged"
    photographs += ", all opened" if report.checked_pixels else ", not opened (data verify does)"
    left_out = f"; {report.left_out:,} left out" if report.left_out else ""
    notes = [*report.notes[:SHOWN_NOTES]]
    if len(report.notes) > SHOWN_NOTES:
        notes.append(f"… and {len(report.notes) - SHOWN_NOTES:,} more")
    return {
        "dataset": report.dataset,
        "folder": report.root,
        "rows": f"{report.rows:,} in {report.groups:,} groups{left_out}",
        "photographs": photographs,
        "classes": ", ".join(f"{name} {n:,}" for name, n in report.classes.items()),
        "fingerprint": report.fingerprint,
        "cache": report.cache,
        "notes": "\n".join(notes),
    }


def _verdict(report: PrepareReport) -> str:
    if report.ok:
        return "[green]Nothing is wrong.[/]"
    if not report.found:
        return "[red]Not here.[/]"
    n = len(report.problems)
    text = plural(n, "problem")
    if report.fingerprint and report.images_missing + report.images_damaged == n:
        text += "; a run can use the rest with --allow-missing-images"
    return f"[red]{text}.[/]"
