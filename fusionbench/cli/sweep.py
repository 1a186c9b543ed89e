"""fusionbench sweep"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from fusionbench.cli.options import (
    SectionedCommand,
    data_option,
    json_option,
    plugins_option,
    store_option,
)
from fusionbench.cli.table_options import overrides_of, table_options
from fusionbench.config import Device, Execution

if TYPE_CHECKING:
    from fusionbench.sweep import Job, Plan, SweepOutcome
    from fusionbench.tables import Overrides, Table

SECTIONS = {
    "What runs": (
        *("small", "dataset", "protocol", "data", "allow-missing-images"),
        *("backbone", "weights", "epochs", "image-size", "batch-size", "lr"),
    ),
    "How": ("dry-run", "device", "workers", "store", "plugins", "json", "help"),
}


@click.command(
    "sweep",
    cls=SectionedCommand,
    sections=SECTIONS,
    context_settings={"max_content_width": 100},
)
@click.argument("table")
@table_options
@click.option("--dataset", default="", metavar="NAME", help="Another dataset than the table's.")
@click.option(
    "--protocol", default="", metavar="NAME", help="Another way to split than the table's."
)
@data_option
@click.option("--dry-run", is_flag=True, help="Show what would run, and run nothing.")
@click.option(
    "--device",
    type=click.Choice(get_args(Device)),
    default="auto",
    show_default=True,
    help="auto: a GPU if any.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="Decoding threads. Default: one per core.",
)
@store_option
@plugins_option
@json_option
def sweep_command(
    table: str,
    data: Path | None,
    dry_run: bool,
    device: Device,
    workers: int | None,
    store: Path,
    plugins: tuple[Path, ...],
    as_json: bool,
    **options: Any,
) -> int:
    """Run what TABLE still lacks: every row on every fold, fold 0 of every row first.

    TABLE is the name of a built-in table (fusionbench list tables) or a file. Runs that are in the
    store already are not computed again. A failing run is recorded and does not stop the others.
    """
    from fusionbench.cli import terminal
    from fusionbench.tables import read_table

    declared = read_table(table, plugins=plugins)
    overrides = overrides_of(options)
    execution = Execution(data=data, store=store, plugins=plugins, device=device, workers=workers)
    progress = terminal.progress()
    progress.note("loading PyTorch and timm")
    from fusionbench.sweep import SweepOutcome, carry_out, plan

    found = plan(declared, execution, overrides, progress)
    nothing = SweepOutcome((), found.refused)
    outcome = nothing if dry_run else carry_out(found, execution, progress)
    if as_json:
        terminal.print_json(summary(declared.name, found, outcome))
    elif dry_run:
        _print_plan(found)
    else:
        _print_table(declared, overrides, execution)
    for failure in outcome.failures:
        where = f" fold {failure.fold}," if failure.fold is not None else ""
        look = f"fusionbench show {failure.run_id} --store {store}" if failure.run_id else ""
        terminal.print_error(
            f"{failure.label},{where} seed {failure.seed}: {failure.message}",
            f"({look})" if look else "",
        )
    return 1 if outcome.failures else 0


def summary(name: str, found: Plan, outcome: SweepOutcome) -> dict[str, Any]:
    """What --json prints. A run's state: done (earlier), finished (now), failed or missing."""
    finished = {record.run_id for record in outcome.records}
    failed = {failure.run_id for failure in outcome.failures}

    def state(run_id: str, done: bool) -> str:
        if done:
            return "done"
        return "finished" if run_id in finished else "failed" if run_id in failed else "missing"

    return {
        "table": name,
        "runs": [
            {
                "label": job.label,
                "fold": job.fold,
                "seed": job.config.seed,
                "run_id": job.run_id,
                "state": state(job.run_id, job.done),
            }
            for job in found.jobs
        ],
        "failures": [
            {
                "label": failure.label,
                "fold": failure.fold,
                "seed": failure.seed,
                "message": failure.message,
                "run_id": failure.run_id or None,
            }
            for failure in outcome.failures
        ],
    }


def _print_plan(found: Plan) -> None:
    """Rows x folds: what is there, and what would run."""
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    from fusionbench.cli import terminal

    folds = sorted({job.fold for job in found.jobs})
    several = len({job.config.seed for job in found.jobs}) > 1
    grid = Grid(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    grid.add_column("Row", overflow="fold")
    grid.add_column("Method", overflow="fold")
    if several:
        grid.add_column("seed", justify="right")
    for k in folds:
        grid.add_column(f"fold {k}", justify="right", no_wrap=True)
    rows: dict[tuple[int, int], dict[int, bool]] = {}
    first: dict[tuple[int, int], Job] = {}
    for job in found.jobs:
        key = (job.row, job.config.seed)
        rows.setdefault(key, {})[job.fold] = job.done
        first.setdefault(key, job)
    for key in sorted(rows):
        config = first[key].config
        cells = ["done" if rows[key].get(k) else "to run" for k in folds]
        method = f"{config.fusion}, {config.backbone}, {config.loss}"
        seed = [str(config.seed)] if several else []
        grid.add_row(Text(first[key].label), Text(method), *seed, *cells)
    out = terminal.out()
    out.print(grid)
    done = len(found.jobs) - len(found.missing)
    out.print(f"{len(found.jobs)} runs: {done} done, {len(found.missing)} to run.")


def _print_table(declared: Table, overrides: Overrides, execution: Execution) -> None:
    from fusionbench.cli.leaderboard import print_declared
    from fusionbench.records import Store

    records, _ = Store(execution.store).scan()
    print_declared(declared, overrides, records, plugins=execution.plugins)
