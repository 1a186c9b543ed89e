"""fusionbench check, fusionbench new"""

from __future__ import annotations

from pathlib import Path

import click

from fusionbench.cli.options import json_option

STYLES = {"pass": "green", "fail": "bold red", "skip": "yellow"}


@click.command("check")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--thorough", is_flag=True, help="Compile on every backbone, not only on one.")
@json_option
def check_command(file: Path, thorough: bool, as_json: bool) -> int:
    """Check a plugin FILE against the contract of fusions or losses. Its code is run.

    Exit code 1 when a check fails.
    """
    from fusionbench.cli import terminal

    progress = terminal.progress()
    progress.note("loading PyTorch and timm")
    from fusionbench.testing import check_file

    checks = check_file(file, thorough=thorough)
    failed = [c for c in checks if c.status == "fail"]
    if as_json:
        terminal.print_json(
            [
                {"name": c.name, "subject": c.subject, "status": c.status, "detail": c.detail}
                for c in checks
            ]
        )
        return 1 if failed else 0

    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("check", "on", "result", ""):
        table.add_column(title, overflow="fold")
    for check in checks:
        style = STYLES[check.status]
        table.add_row(
            escape(check.name),
            escape(check.subject),
            f"[{style}]{check.status}[/]",
            escape(check.detail),
        )
    console = terminal.out()
    console.print(table)
    passed = sum(c.status == "pass" for c in checks)
    console.print(f"{passed} passed, {len(failed)} failed, {len(checks) - passed - len(failed)} "
                  "skipped")  # fmt: skip
    return 1 if failed else 0


@click.command("new")
@click.argument("kind", type=click.Choice(["fusion", "loss"]))
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
    from fusionbench.scaffold import write_plugin

    plugin, test = write_plugin(kind, name, folder)  # type: ignore[arg-type]
    if as_json:
        terminal.print_json({"plugin": str(plugin), "test": str(test)})
        return
    option = {"fusion": "--fusion", "loss": "--loss"}[kind]
    click.echo(f"wrote {plugin} and {test}\nnext:")
    click.echo(f"  fusionbench check {plugin}")
    click.echo(
        f"  fusionbench run {option} {plugin.stem.replace('_', '-')} --plugins {plugin} "
        "--dataset synthetic --backbone resnet18 --weights none"
    )
