"""fusionbench data status | prepare | verify"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusionbench.cli.options import data_option, json_option, plugins_option

if TYPE_CHECKING:
    from fusionbench.data.prepare import Report


@click.group("data")
def data_command() -> None:
    """Look at, prepare and verify a dataset."""


@data_command.command("status")
@click.argument("name")
@data_option
@plugins_option
@json_option
def status_command(name: str, data: Path | None, plugins: tuple[Path, ...], as_json: bool) -> int:
    """Where the dataset is and how much of it. Quick: opens no photograph."""
    from fusionbench.data.locate import open_card
    from fusionbench.data.prepare import status

    return _show(status(open_card(name, plugins=plugins), data), as_json)


@data_command.command("verify")
@click.argument("name")
@data_option
@plugins_option
@json_option
def verify_command(name: str, data: Path | None, plugins: tuple[Path, ...], as_json: bool) -> int:
    """Check counts, columns, classes, and that every photograph opens."""
    from fusionbench.cli import terminal
    from fusionbench.data.locate import find_data, open_card
    from fusionbench.data.prepare import verify

    card = open_card(name, plugins=plugins)
    return _show(verify(card, find_data(card, data), progress=terminal.progress()), as_json)


@data_command.command("prepare")
@click.argument("name")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--image-size", default=224, show_default=True, help="Of the cache, pixels.")
@click.option(
    "--to",
    "destination",
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
    """Take the downloaded archive or folder SOURCE: unpack, check everything, build the cache."""
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


def _show(report: Report, as_json: bool) -> int:
    from dataclasses import asdict

    from rich.markup import escape
    from rich.table import Table

    from fusionbench.cli import terminal

    if as_json:
        terminal.print_json(asdict(report))
        return 0 if report.ok else 1
    if report.problems:
        terminal.print_problems(report.problems)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in asdict(report).items():
        if name == "problems":
            value = len(report.problems)
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        table.add_row(name.replace("_", " "), escape(str(value)))
    terminal.out().print(table)
    return 0 if report.ok else 1
