"""fusionbench sweep"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fusionbench.cli.leaderboard import print_blocks
from fusionbench.cli.options import (
    SectionedCommand,
    execution_options,
    json_option,
    list_option,
    listed,
)
from fusionbench.cli.sweep_output import expectation, print_failures, print_plan, summary
from fusionbench.cli.table_options import overrides_of, table_options, table_settings
from fusionbench.config.plugin_settings import parse_assignments
from fusionbench.config.run_config import Execution, default_of

if TYPE_CHECKING:
    from fusionbench.runs import Resources
    from fusionbench.tables import DeclaredTable

# Options that make a grid.
GRID = ("fusion", "loss", "set")
SECTIONS = {
    "What runs": (
        *("small", "dataset", "protocol", "seed", "fold", "data", "allow-missing-images"),
        *("backbone", "weights", "epochs", "image-size", "batch-size", "lr", "setting"),
    ),
    "A grid, instead of TABLE": GRID,
    "How": (
        *("dry-run", "retry-failed", "device", "step", "workers", "folds-at-once", "store"),
        *("save-weights", "plugins", "json", "help"),
    ),
    "On a cluster": ("on", "gpus-per-run", "cpus-per-run", "memory-per-run"),
}


@click.command(
    "sweep",
    cls=SectionedCommand,
    sections=SECTIONS,
    context_settings={"max_content_width": 100},
)
@click.argument("table", required=False)
@table_options
@click.option("--dataset", default="", metavar="NAME", help="Another dataset than the table's.")
@click.option(
    "--protocol", default="", metavar="NAME", help="Another way to split than the table's."
)
@list_option(
    "--fusion",
    metavar="A,B,…",
    help="Methods, each on every --backbone A,B,… (default: resnet50) under every --loss.",
)
@list_option("--loss", metavar="A,B,…", help="Default: each method's own loss.")
@click.option(
    "--set",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting of a plugin, as for fusionbench run, for every row.",
)
@click.option("--dry-run", is_flag=True, help="Show what would run and for how long; run nothing.")
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Repeat runs that failed before. Without it they are listed, and left.",
)
@click.option(
    "--on",
    default="here",
    show_default=True,
    metavar="WHERE",
    help="here: on this machine. ray: many at once, on the Ray cluster of $RAY_ADDRESS or "
    "one that is started on this machine; also auto, HOST:PORT or ray://HOST:PORT.",
)
@click.option(
    "--gpus-per-run",
    type=click.FloatRange(0),
    metavar="X",
    help="0.25: four runs share a GPU. Default: 1 where there are any.",
)
@click.option(
    "--cpus-per-run",
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    help="Cores, and threads, of a run. Default: as many as a run here has; 1 beside a GPU.",
)
@click.option("--memory-per-run", metavar="SIZE", help="As in 8G. Default: not looked at.")
@json_option
@execution_options
def sweep_command(
    table: str | None,
    execution: Execution,
    dry_run: bool,
    retry_failed: bool,
    on: str,
    as_json: bool,
    **options: Any,
) -> int:
    """Run what TABLE still lacks: every row on every fold, row by row.

    TABLE is the name of a built-in table (fusionbench list tables) or a file; --fusion A,B makes
    one on the spot. Runs that are in the store already are not computed again. A failing run is
    recorded and does not stop the others. Stop it when you like: the same command goes on.
    """
    from fusionbench.cli import terminal
    from fusionbench.tables import Overrides, read_table

    if table is None:
        declared, overrides = _grid(options, execution), Overrides()
    else:
        if given := [name for name in GRID if options[name]]:
            flag = f"--{given[0]}"
            raise click.UsageError(f"{flag} belongs to a grid: leave out TABLE, or {flag}.")
        declared, overrides = read_table(table, plugins=execution.plugins), overrides_of(options)
    resources = _resources(on, execution, options)
    progress = terminal.progress()
    from fusionbench.records import Store
    from fusionbench.runs import Outcome, carry_out, forecast, plan

    planned = plan(declared, execution, overrides, progress)
    store = Store(execution.store)
    todo = planned.todo(retry_failed=retry_failed)
    expected = forecast(todo, store, save_weights=execution.save_weights)
    if dry_run:
        outcome = Outcome(planned, failures=planned.refused)
    else:
        if text := expectation(expected):
            progress.note(text)
        outcome = carry_out(
            planned, execution, progress, retry_failed=retry_failed, on=on, resources=resources
        )
    if as_json:
        terminal.print_json(summary(declared.name, outcome, expected))
    elif dry_run:
        print_plan(planned, expected, retry_failed)
    else:
        print_blocks(store.records([]), execution.plugins, declared, overrides)
    print_failures(outcome, execution.store)
    return 1 if outcome.failures else 0


def _grid(options: dict[str, Any], execution: Execution) -> DeclaredTable:
    """The table that --fusion and the other lists make."""
    if not options["fusion"]:
        raise click.UsageError("Name a TABLE, or the methods of a grid: --fusion A,B.")
    if options["small"]:
        raise click.UsageError("--small belongs to a TABLE.")
    from fusionbench.runs.grid import grid

    settings = table_settings(options)
    if params := parse_assignments(options["set"]):
        settings["params"] = params
    backbones = [name for item in options["backbones"] for name in listed(item)]
    return grid(
        options["fusion"],
        backbones or [default_of("backbone")],
        options["loss"] or (),
        dataset=options["dataset"] or default_of("dataset"),
        protocol=options["protocol"],
        seeds=options["seed"] or (0,),
        folds=options["fold"] or (),
        settings=settings,
        plugins=execution.plugins,
    )


def _resources(on: str, execution: Execution, options: dict[str, Any]) -> Resources | None:
    flags = {f"--{name}-per-run": options[f"{name}_per_run"] for name in ("gpus", "cpus", "memory")}
    if on == "here":
        if stated := [flag for flag, value in flags.items() if value is not None]:
            raise click.UsageError(f"{stated[0]} is of a run on a cluster: add --on ray.")
        return None
    from fusionbench.runs.ray_connection import Resources, check_place, parse_size

    check_place(on, execution)
    gpus, cpus, memory = flags.values()
    return Resources(gpus, cpus, None if memory is None else parse_size(memory))
