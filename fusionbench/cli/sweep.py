"""fusionbench sweep"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusionbench.cli.options import (
    SectionedCommand,
    at_once_option,
    data_option,
    device_options,
    json_option,
    listed,
    plugins_option,
    step_option,
    store_option,
)
from fusionbench.cli.sweep_output import (
    expectation,
    print_failures,
    print_plan,
    print_table,
    summary,
)
from fusionbench.cli.table_options import overrides_of, table_options, table_settings
from fusionbench.config.plugin_settings import parse_assignments
from fusionbench.config.run_config import Device, Execution, Step, default_of

if TYPE_CHECKING:
    from fusionbench.runs import Resources
    from fusionbench.tables import Table

SECTIONS = {
    "What runs": (
        *("small", "dataset", "protocol", "data", "allow-missing-images"),
        *("backbone", "weights", "epochs", "image-size", "batch-size", "lr", "setting"),
    ),
    "A grid, instead of TABLE": ("fusion", "loss", "seed", "fold", "set"),
    "How": (
        *("dry-run", "retry-failed", "device", "step", "workers", "folds-at-once", "store"),
        *("save-weights", "plugins", "json", "help"),
    ),
    "On a cluster": ("on", "gpus-per-run", "cpus-per-run", "memory-per-run"),
}
# Options that make a grid, by their names here.
GRID = ("fusions", "losses", "seeds", "folds", "assignments")


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
@data_option
@click.option(
    "--fusion",
    "fusions",
    default="",
    metavar="A,B,…",
    help="Methods, each on every --backbone A,B,… (default: resnet50) under every --loss.",
)
@click.option(
    "--loss", "losses", default="", metavar="A,B,…", help="Default: each method's own loss."
)
@click.option("--seed", "seeds", default="", metavar="N,M,…", help="Seeds. Default: 0.")
@click.option("--fold", "folds", default="", metavar="K,L,…", help="Folds. Default: all.")
@click.option(
    "--set",
    "assignments",
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
@device_options
@step_option
@at_once_option
@store_option
@click.option("--save-weights", is_flag=True, help="Keep the trained weights (safetensors).")
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
@click.option(
    "--memory-per-run", default="", metavar="SIZE", help="As in 8G. Default: not looked at."
)
@plugins_option
@json_option
def sweep_command(
    table: str | None,
    data: Path | None,
    dry_run: bool,
    retry_failed: bool,
    device: Device,
    step: Step,
    workers: int | None,
    folds_at_once: int,
    store: Path,
    save_weights: bool,
    on: str,
    gpus_per_run: float | None,
    cpus_per_run: float | None,
    memory_per_run: str,
    plugins: tuple[Path, ...],
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

    execution = Execution(
        data=data, store=store, plugins=plugins, device=device, step=step, workers=workers,
        save_weights=save_weights, folds_at_once=folds_at_once,
    )  # fmt: skip
    if table is None:
        declared, overrides = _grid(options, plugins), Overrides()
    else:
        if given := [name for name in GRID if options[name]]:
            flag = {"fusions": "fusion", "losses": "loss", "assignments": "set"}
            name = flag.get(given[0], given[0].removesuffix("s"))
            raise click.UsageError(f"--{name} belongs to a grid: leave out TABLE, or --{name}.")
        declared, overrides = read_table(table, plugins=plugins), overrides_of(options)
    resources = _resources(on, folds_at_once, gpus_per_run, cpus_per_run, memory_per_run)
    progress = terminal.progress()
    from fusionbench.records import Store
    from fusionbench.runs import Outcome, carry_out, forecast, plan

    found = plan(declared, execution, overrides, progress)
    expected = forecast(
        found.todo(retry_failed=retry_failed), Store(store), save_weights=save_weights
    )
    if dry_run:
        outcome = Outcome(found, failures=found.refused)
    else:
        if text := expectation(expected):
            progress.note(text)
        outcome = carry_out(
            found, execution, progress, retry_failed=retry_failed, on=on, resources=resources
        )
    if as_json:
        terminal.print_json(summary(declared.name, outcome, expected))
    elif dry_run:
        print_plan(found, expected, retry_failed)
    else:
        print_table(declared, overrides, execution)
    print_failures(outcome, store)
    return 1 if outcome.failures else 0


def _grid(options: dict[str, Any], plugins: tuple[Path, ...]) -> Table:
    """The table that --fusion and the other lists make."""
    fusions = listed(options["fusions"])
    if not fusions:
        raise click.UsageError("Name a TABLE, or the methods of a grid: --fusion A,B.")
    if options["small"]:
        raise click.UsageError("--small belongs to a TABLE.")
    from fusionbench.runs.grid import grid

    settings = table_settings(options)
    if params := parse_assignments(options["assignments"]):
        settings["params"] = params
    backbones = [name for item in options["backbones"] for name in listed(item)]
    return grid(
        fusions,
        backbones or [default_of("backbone")],
        listed(options["losses"]),
        dataset=options["dataset"] or default_of("dataset"),
        protocol=options["protocol"],
        seeds=_numbers("seed", options["seeds"]) or [0],
        folds=_numbers("fold", options["folds"]),
        settings=settings,
        plugins=plugins,
    )


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in listed(text)]
    except ValueError:
        raise click.UsageError(f"--{option} {text}: give numbers, as in 0,1.") from None


def _resources(
    on: str, at_once: int, gpus: float | None, cpus: float | None, memory: str
) -> Resources | None:
    if on != "here" and at_once > 1:
        raise click.UsageError("--folds-at-once is of this machine: leave out --on.")
    if on == "here":
        given = {"--gpus-per-run": gpus, "--cpus-per-run": cpus, "--memory-per-run": memory}
        for flag, value in given.items():
            if value not in (None, ""):
                raise click.UsageError(f"{flag} is of a run on a cluster: add --on ray.")
        return None
    from fusionbench.runs.resources import Resources, parse_size

    return Resources(gpus, cpus, parse_size(memory) if memory else None)
