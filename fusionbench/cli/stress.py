"""fusionbench stress"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusionbench.cli.options import (
    card_option,
    data_option,
    device_options,
    ending_of,
    executed_with,
    json_option,
    plugins_option,
    store_option,
)
from fusionbench.config.wording import percent

if TYPE_CHECKING:
    from rich.table import Table

    from fusionbench.analysis.stress.stress_report import Averaged, Effect, StressReport
    from fusionbench.config.run_config import Execution

NOTE = (
    "A withheld cell is set to not recorded and encoded as the run encodes such cells. Of random "
    "cells each is withheld with that chance, whether it holds anything or not. Recorded is the "
    "share of cells that hold anything. The area is the mean height of the curve over the withheld "
    "share, by trapezoids. Standard deviations are of the sample (ddof=1), over mask seeds and "
    "over folds and seeds."
)
FLIPPED = (
    "The table shows in what share of the n rows the predicted class changes. This is how the "
    "model reacts; it does not say what would be true of the patient."
)


@click.command("stress", context_settings={"max_content_width": 100})
@click.argument("run")
@executed_with(store_option, data_option, device_options, plugins_option)
@click.option("--metric", default="bacc", show_default=True, metavar="NAME",
              help="The metric that is followed (see fusionbench list metrics).")  # fmt: skip
@click.option("--mask-seeds", default=3, show_default=True, type=click.IntRange(1), metavar="N",
              help="The number of times that random cells are drawn.")  # fmt: skip
@click.option(
    "--output",
    "outputs",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    metavar="FILE",
    help="Write .json (everything), .csv, or a plot as .png or .svg. May be given several times.",
)
@card_option
@json_option
def stress_command(
    run: str,
    execution: Execution,
    metric: str,
    mask_seeds: int,
    outputs: tuple[Path, ...],
    dataset: str,
    as_json: bool,
) -> int:
    """Evaluate a finished run's saved weights again, with metadata withheld and inverted.

    RUN is a run id or part of one, or a row of the leaderboard with all its folds: a method
    (concat), a method on a backbone (concat@resnet18), its key of 12 digits. The run must have
    saved its weights: fusionbench run … --save-weights.

    A withheld cell is set to not recorded and encoded by the run's own encoder: random cells from
    0 to 100 %, each characteristic alone, columns that go unrecorded together, everything. Then
    answers of yes and no are inverted, one at a time. Nothing is trained.
    """
    from fusionbench.analysis.stress.stress_text import FORMATS
    from fusionbench.cli import terminal
    from fusionbench.cli.reading import Reading
    from fusionbench.files import write_output
    from fusionbench.leaderboard.select import select_row
    from fusionbench.leaderboard.table_model import chosen
    from fusionbench.records import Store

    chosen([metric])  # refuses an unknown name before anything is read
    for path in outputs:
        ending_of(path, FORMATS)
    reading = Reading(execution.store)
    block, row = select_row(reading.blocks(), run)
    named = [run_id for run_id in row.run_ids if run in run_id]
    progress = terminal.progress()
    progress.note("loading PyTorch and timm")
    from fusionbench.analysis.stress.stress_test import stress
    from fusionbench.cli.streams import write_result
    from fusionbench.plugin.containment import contained

    with contained(row.name):
        report = stress(
            Store(execution.store), block, row, execution, runs=named if len(named) == 1 else (),
            metric=metric, mask_seeds=mask_seeds, dataset=dataset, progress=progress,
        )  # fmt: skip
    for path in outputs:
        write_output(path, FORMATS[path.suffix.lower()](report))
        progress.note(f"wrote {path}")
    if as_json:
        write_result(FORMATS[".json"](report).decode())
    else:
        _print(report)
    return 1 if reading.problems else 0


def _print(report: StressReport) -> None:
    from rich.text import Text

    from fusionbench.analysis.stress.stress_text import basis
    from fusionbench.cli import terminal
    from fusionbench.metrics.names import describe

    console = terminal.out()
    rates = {"metadata": report.metadata_dropout, "block": report.block_dropout}
    worst = max(run.difference for run in report.runs)
    how = "exactly" if worst == 0 else f"to within {worst:.0e} of a probability"
    console.print(Text(report.name, style="bold"), Text(f"row {report.key}", style="dim"))
    facts = {
        "on": basis(report),
        "trained with": ", ".join(f"{k} dropout {rate:g}" for k, rate in rates.items() if rate),
        "remarks": "; ".join(report.flags),
        "audit": report.verdict,
        "weights": f"reproduce the recorded predictions {how}",
        "not defined in": ", ".join(report.undefined),
        "classes": report.over_fewer,
    }
    console.print(terminal.facts(facts))
    console.print(Text(f"\n{describe(report.metric).axis}, metadata withheld", style="bold"))
    numbers = (report.metric, "± masks", "± folds", "recorded", "worse by", "± folds")
    effects = terminal.grid(("", *numbers), _effects(report), right=numbers, fixed=numbers)
    console.print(effects, Text(f"\n{NOTE}", style="dim"))
    if report.flips:
        console.print(Text("\nOne answer inverted, where it is yes or no", style="bold"))
        console.print(_flips(report), Text(f"\n{FLIPPED}", style="dim"))


def _effects(report: StressReport) -> Iterator[tuple[str, ...]]:
    """Rows: the curve, its area, the network without metadata, blocks, columns."""
    from fusionbench.metrics.names import describe

    def texts(*values: float | None) -> list[str]:
        metric = describe(report.metric)
        return ["" if value is None else metric.text(value) for value in values]

    def row(name: str, value: Averaged, effect: Effect | None = None) -> tuple[str, ...]:
        cells = (name, *texts(value.mean, value.masks, value.runs))
        if effect is None:
            return (*cells, "", "", "")
        worse = effect.worse
        return (*cells, percent(effect.recorded, 0), *texts(worse.mean, worse.runs))

    for point in report.curve:
        name = f"random cells, {percent(point.share, 0)}" if point.share < 1 else "everything"
        yield row(name, point.value, point)
    yield row("area under the curve", report.area)
    if report.reference is not None:
        yield row(f"image only, row {report.reference.key}", report.reference.value)
    for block in report.blocks:
        some = ", ".join(block.columns[:3]) + (", …" if len(block.columns) > 3 else "")
        yield row(f"{len(block.columns)} columns together: {some}", block.value, block)
    for column in report.columns:
        yield row(column.columns[0], column.value, column)


def _flips(report: StressReport) -> Table:
    from fusionbench.cli import terminal

    known = any(f.to_malignant is not None for f in report.flips)
    numbers = ("n", "other class", *(("to malignant", "to benign") if known else ()))
    rows = []
    for f in report.flips:
        counts = (f.changed, f.to_malignant, f.to_benign)[: len(numbers) - 1]
        shares = (percent((count or 0) / f.n, 1) if f.n else "" for count in counts)
        rows.append((f.column, f"{f.n:,}", *shares))
    return terminal.grid(("answer", *numbers), rows, right=numbers)
