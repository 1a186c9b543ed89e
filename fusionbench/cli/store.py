"""fusionbench store verify | list | merge | prune"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusionbench.cli.options import (
    card_option,
    data_option,
    executed_with,
    json_option,
    plugins_option,
    store_option,
)
from fusionbench.cli.reading import existing
from fusionbench.config.wording import plural

if TYPE_CHECKING:
    from fusionbench.config.run_config import Execution


@click.group("store", no_args_is_help=False)
def store_command() -> None:
    """Check, list, merge and tidy a folder of records."""


@store_command.command("verify")
@click.option(
    "--recompute",
    is_flag=True,
    help="Compute everything again that follows from predictions, split and data, and compare. "
    "The data are used where they are here.",
)
@executed_with(store_option, data_option, plugins_option)
@card_option
@json_option
def verify_command(execution: Execution, recompute: bool, dataset: str, as_json: bool) -> int:
    """Read every file strictly. Exit code 1 where something is wrong.

    Checked are records, their predictions and weights; named, too, is what an interrupted run left
    behind. Nothing in the store is written.
    """
    from fusionbench.analysis.against_data import AgainstData
    from fusionbench.cli import store_output, terminal
    from fusionbench.records.verify import verify

    folder, progress = existing(execution.store), terminal.progress()
    against = AgainstData(execution, dataset, progress) if recompute else None
    found = verify(folder, recompute=recompute, against_data=against, progress=progress)
    if as_json:
        terminal.print_json({"ok": found.ok, **vars(found)})
    else:
        store_output.print_verified(found, folder.folder)
    return 0 if found.ok else 1


@store_command.command("list")
@store_option
@json_option
def list_command(store: Path, as_json: bool) -> None:
    """A line per run: what it is, whether it succeeded, its size and date."""
    from fusionbench.cli import store_output, terminal

    lines = store_output.lines_of(existing(store))
    if as_json:
        terminal.print_json(lines)
    else:
        store_output.print_runs(lines)


@store_command.command("merge")
@click.argument("others", metavar="OTHER...", nargs=-1, required=True,
                type=click.Path(path_type=Path))  # fmt: skip
@store_option
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@json_option
def merge_command(others: tuple[Path, ...], store: Path, dry_run: bool, as_json: bool) -> int:
    """Copy the runs of OTHER stores into this one.

    A run that is here with the same content is left as it is. One with other numbers is a
    conflict: it is shown, kept in conflicts/ and never counted, and the exit code is 1.
    """
    from fusionbench.cli import store_output, terminal
    from fusionbench.records import Store
    from fusionbench.records.merge import merge

    merged = merge(Store(store), *map(Store, others), dry_run=dry_run, progress=terminal.progress())
    ok = all(one.ok for one in merged)
    if as_json:
        terminal.print_json({"ok": ok, "dry_run": dry_run, "runs": merged})
    else:
        store_output.print_merged(merged, store, dry_run)
    return 0 if ok else 1


@store_command.command("prune")
@store_option
@click.option("--leftovers", is_flag=True, help="What interrupted runs left behind.")
@click.option("--failures", is_flag=True, help="Records of failed runs.")
@click.option("--weights", is_flag=True, help="Trained weights; their records stay.")
@click.option("--checkpoints", is_flag=True, help="Of stopped runs, which then start again.")
@click.option("--yes", is_flag=True, help="Delete without asking.")
def prune_command(store: Path, yes: bool, **named: bool) -> None:
    """Delete what is no longer needed, after showing it.

    The record and the predictions of a finished run are never deleted, nor anything of a run that
    is computed now.
    """
    from fusionbench.cli import store_output, terminal
    from fusionbench.errors import UsageError
    from fusionbench.records.leftovers import leftovers, remove

    kinds: list[Any] = [kind for kind, is_named in named.items() if is_named]
    if not kinds:
        raise UsageError(
            "Nothing is named to be deleted.",
            "Give --leftovers, --failures, --weights or --checkpoints.",
        )
    folder = existing(store)
    files = leftovers(folder, *kinds)
    console = terminal.out()
    if not files:
        console.print("There is nothing to delete.")
        return
    store_output.print_leftovers(files, folder.folder)
    if not yes:
        if not terminal.err().is_terminal:
            raise UsageError("Nothing was deleted.", "Add --yes to delete what is listed.")
        click.confirm("Delete them?", abort=True, err=True)
    gone = remove(folder, files)
    kept = len(files) - len(gone)
    console.print(
        f"Deleted {plural(len(gone), 'file')}."
        + (f" {plural(kept, 'file')} in use by a run or changed meanwhile, kept." if kept else "")
    )
