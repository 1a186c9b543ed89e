"""fusionbench check, fusionbench new"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusionbench.cli.options import json_option, plugins_option

if TYPE_CHECKING:
    from rich.table import Table

    from fusionbench.contract import Check

STYLES = {"fail": "bold red", "skip": "yellow", "pass": "green"}  # the worst first


@click.command("check")
@click.argument("plugin")
@plugins_option
@click.option("--thorough", is_flag=True, help="Compile on every backbone, not only on one.")
@json_option
def check_command(plugin: str, plugins: tuple[Path, ...], thorough: bool, as_json: bool) -> int:
    """Check a PLUGIN against the contract of its kind: fusion, loss or control.

    PLUGIN is a file, or a name that `fusionbench list` shows: sgmc, or loss:focal where several
    kinds have one. Its code is run. Exit code 1 when a check fails.
    """
    from fusionbench.cli import terminal

    progress = terminal.progress()
    progress.note("loading PyTorch and timm")
    from fusionbench.contract import check_file

    checks = check_file(plugin, plugins=plugins, thorough=thorough, progress=progress)
    count = Counter(check.status for check in checks)
    if as_json:
        terminal.print_json(checks)
    else:
        console = terminal.out()
        console.print(_table(checks))
        console.print(f"{count['pass']} passed, {count['fail']} failed, {count['skip']} skipped")
    return 1 if count["fail"] else 0


def _table(checks: list[Check]) -> Table:
    """A row per check, and below it what was found on which backbones or losses."""
    from rich.text import Text

    from fusionbench.cli.terminal import grid

    rows: list[tuple[object, ...]] = []
    for name in dict.fromkeys(check.name for check in checks):
        statuses = [check.status for check in checks if check.name == name]
        subjects: dict[tuple[str, str], list[str]] = {}  # (status, detail) -> subjects
        for check in checks:
            if check.name == name and check.detail:
                subjects.setdefault((check.status, check.detail), []).append(check.subject)
        details = Text("\n").join(
            Text.assemble(
                "" if status == "pass" else (f"{', '.join(on)}: ", STYLES[status]), detail
            )
            for (status, detail), on in subjects.items()
        )
        worst = next(status for status in STYLES if status in statuses)
        count = Text(f"{statuses.count('pass')} of {len(statuses)}", style=STYLES[worst])
        rows.append((name, count, details))
    return grid(("check", "passed", ""), rows, fixed=("check", "passed"))


@click.command("new")
@click.argument("kind", type=click.Choice(["fusion", "loss", "control"]))
@click.argument("name")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=".",
    help="Where to write; default: here.",
)
@json_option
def new_command(kind: str, name: str, folder: Path, as_json: bool) -> None:
    """Write a working plugin called NAME, and its test."""
    from fusionbench.cli import terminal
    from fusionbench.plugin.scaffold import write_plugin

    plugin, test = write_plugin(kind, name, folder)
    if as_json:
        terminal.print_json({"plugin": str(plugin), "test": str(test)})
        return
    option = {"fusion": "--fusion", "loss": "--loss", "control": "--fusion"}[kind]
    click.echo(f"wrote {plugin} and {test}\nnext:")
    click.echo(f"  fusionbench check {plugin}")
    click.echo(
        f"  fusionbench run {option} {plugin.stem.replace('_', '-')} --plugins {plugin} "
        "--backbone resnet18 --quick"
    )
