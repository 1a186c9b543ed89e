"""fusionbench bench"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape

from fusionbench.cli.options import (
    SectionedCommand,
    device_options,
    ending_of,
    executed_with,
    json_option,
    listed,
    plugins_option,
    step_option,
)
from fusionbench.cli.run import names_a_network
from fusionbench.cli.setting_options import config_of, setting_options
from fusionbench.config.run_config import Execution, default_of
from fusionbench.files import write_output

if TYPE_CHECKING:
    from fusionbench.bench.measure import SpeedMeasurement

TRAINING = ("image_size", "batch_size", "augment", "precision", "optimizer")
SECTIONS = {
    "What is measured": ("fusion", "backbone", "steps", "rounds"),
    "Training": (*(name.replace("_", "-") for name in TRAINING), "device", "step"),
    "Where, and what is written": ("workers", "plugins", "output", "json", "help"),
}
SUFFIXES = (".md", ".csv", ".json")


@click.command(
    "bench", cls=SectionedCommand, sections=SECTIONS, context_settings={"max_content_width": 100}
)
@click.option(
    "--fusion",
    "fusions",
    default=default_of("fusion"),
    show_default=True,
    metavar="A,B:LOSS,…",
    help="Methods; a loss after a colon replaces the method's own. The others are compared with "
    "the first.",
)
@setting_options(("backbone", *TRAINING))
@click.option(
    "--steps", type=click.IntRange(1), metavar="N", help="Of a round. Default: 50 on a GPU, else 4."
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    metavar="N",
    help="Each round trains every method once.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write the result to a .md, .csv or .json file.",
)
@json_option
@executed_with(device_options, step_option, plugins_option)
def bench_command(
    fusions: str,
    execution: Execution,
    steps: int | None,
    rounds: int,
    output: Path | None,
    as_json: bool,
    **settings: Any,
) -> int:
    """Measure how fast methods train, beside the bare network.

    Prints images/s, the milliseconds of a step, peak memory on a GPU, and ratios of speed to the
    bare timm model and to the first method. Methods take turns, so that a busy moment slows all of
    them; quote ratios, not images/s.
    """
    from fusionbench.cli import terminal

    ending = ending_of(output, SUFFIXES) if output is not None else ""
    names = listed(fusions)
    if not names:
        raise click.UsageError("--fusion: name at least one method.")
    for name in names:
        fusion, _, loss = name.partition(":")
        if not names_a_network(fusion, loss, execution.plugins):
            raise click.UsageError(
                f"{fusion} sees no photograph and trains no network: there is no step to measure. "
                "Name a fusion (fusionbench list fusions)."
            )
    config = config_of(settings | {"dataset": "synthetic", "weights": "none"})
    progress = terminal.progress()
    progress.note("loading PyTorch and timm")
    from fusionbench.bench import speed_table
    from fusionbench.bench.measure import bench
    from fusionbench.cli.streams import write_result
    from fusionbench.plugin.containment import contained

    with contained(", ".join(names)):
        measured = bench(names, config, execution, steps=steps, rounds=rounds, progress=progress)
    if output is not None:
        if ending == ".md":
            command = terminal.command_line(click.get_current_context())
            text = speed_table.markdown(measured, command)
        else:
            text = (speed_table.csv if ending == ".csv" else speed_table.as_json)(measured)
        write_output(output, text)
    if as_json:
        write_result(speed_table.as_json(measured))
    else:
        print_speeds(measured, terminal.out())
    return 0


def print_speeds(measured: SpeedMeasurement, console: Console) -> None:
    from fusionbench.bench.speed_table import NOTES, TEXT_COLUMNS, displayed, stated
    from fusionbench.cli.terminal import grid

    frame = displayed(measured)
    # Lines within a cell, so that all of it fits on 80 columns.
    frame[["path", "loss"]] = frame[["path", "loss"]].replace(r"([+-])", r"\1\n", regex=True)
    ranges = [name for name in frame.columns if name.startswith("vs ")]
    frame[ranges] = frame[ranges].replace(r" \((.*)\)", r"\n\1", regex=True)
    numbers = [name for name in frame.columns if name not in TEXT_COLUMNS]
    console.print(f"[dim]{escape(stated(measured))}[/]\n")
    table = grid(list(frame.columns), frame.to_numpy(), right=numbers, fixed=numbers)
    table.padding = (0, 1, 0, 0)
    console.print(table)
    console.print("", *NOTES, sep="\n", style="dim")
