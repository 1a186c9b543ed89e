"""fusionbench stress"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusionbench.cli.options import (
    data_option,
    device_options,
    json_option,
    plugins_option,
    store_option,
)
from fusionbench.config.run_config import Device
from fusionbench.config.wording import percent

if TYPE_CHECKING:
    from rich.table import Table

    from fusionbench.analysis.stress.stress_report import Averaged, StressReport
    from fusionbench.records import Problem

BAR = 20  # characters of the longest bar


@click.command("stress", context_settings={"max_content_width": 100})
@click.argument("run")
@store_option
@data_option
@click.option("--metric", default="bacc", show_default=True, metavar="NAME",
              help="What is followed (fusionbench list metrics).")  # fmt: skip
@click.option("--mask-seeds", default=3, show_default=True, type=click.IntRange(1), metavar="N",
              help="How often random cells are drawn.")  # fmt: skip
@click.option(
    "--output",
    "outputs",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    metavar="FILE",
    help="Write .json (everything), .csv, or a plot as .png or .svg. May be given several times.",
)
@click.option(
    "--dataset",
    default="",
    metavar="PATH",
    help="The dataset's card, where its name is not known here.",
)
@device_options
@plugins_option
@json_option
def stress_command(
    run: str,
    store: Path,
    data: Path | None,
    metric: str,
    mask_seeds: int,
    outputs: tuple[Path, ...],
    dataset: str,
    device: Device,
    workers: int | None,
    plugins: tuple[Path, ...],
    as_json: bool,
) -> int:
    """Evaluate a finished run's saved weights again, with metadata withheld and inverted.

    RUN is a run id or part of one, or a row of the leaderboard with all its folds: a method
    (concat), a method on a backbone (concat@resnet18), its key of 12 digits. Its weights must have
    been kept: fusionbench run … --save-weights.

    A withheld cell is set to not recorded and encoded by the run's own encoder: random cells from
    0 to 100 %, each characteristic alone, columns that go unrecorded together, everything. Then
    answers of yes and no are inverted, one at a time. Nothing is trained.
    """
    from fusionbench.analysis.stress.stress_text import FORMATS, render, to_data
    from fusionbench.cli import terminal
    from fusionbench.config.run_config import Execution
    from fusionbench.files import write_output
    from fusionbench.metrics.names import is_known
    from fusionbench.records import Store

    if not is_known(metric):
        raise click.UsageError(f"--metric {metric}: no such metric (fusionbench list metrics).")
    for path in outputs:
        if path.suffix.lower().lstrip(".") not in FORMATS:
            raise click.UsageError(f"--output {path}: the name must end in .{', .'.join(FORMATS)}.")
    found = Store(store)
    problems: list[Problem] = []
    progress = terminal.progress()
    progress.note("loading PyTorch and timm")
    from fusionbench.analysis.stress.stress_test import stress

    execution = Execution(data=data, store=store, plugins=plugins, device=device, workers=workers)
    try:
        report = stress(
            found, run, execution, metric=metric, mask_seeds=mask_seeds, dataset=dataset,
            progress=progress, problems=problems,
        )  # fmt: skip
    finally:
        for problem in problems:
            terminal.print_error(f"Not counted: {problem.message}", problem.remedy)
    for path in outputs:
        write_output(path, render(report, path.suffix.lower().lstrip(".")))
        progress.note(f"wrote {path}")
    if as_json:
        terminal.print_json(to_data(report))
    else:
        _print(report)
    return 1 if problems else 0


def _print(report: StressReport) -> None:
    from rich.text import Text

    from fusionbench.analysis.stress.stress_text import basis
    from fusionbench.cli import terminal
    from fusionbench.metrics.names import describe

    console, metric = terminal.out(), describe(report.metric)
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
        "left out": f"{', '.join(report.undefined)}: {report.metric} is not defined there"
        if report.undefined
        else "",
    }
    console.print(terminal.facts(facts))
    console.print(Text(f"\n{metric.axis}, random metadata cells withheld", style="bold"))
    console.print(_curve(report))
    console.print(
        Text(f"Area under the curve {_value(report, report.area)}: the mean height, by trapezoids.")
    )
    if report.reference is not None:
        console.print(Text(
            f"The same network trained without metadata (none, row {report.reference.key}): "
            f"{_value(report, report.reference.value)}."
        ))  # fmt: skip
    console.print(Text(f"\n{metric.axis}, columns withheld from every row", style="bold"))
    console.print(_effects(report))
    if not report.blocks:
        console.print(Text("No columns go unrecorded together in these data.", style="dim"))
    if report.flips:
        console.print(Text("\nOne answer inverted, where it is yes or no", style="bold"))
        console.print(_flips(report))
    console.print(Text(f"\n{_note(report)}", style="dim"))


def _curve(report: StressReport) -> Table:
    from rich.text import Text

    from fusionbench.cli import terminal

    top = max(p.value.mean for p in report.curve) or 1
    rows: list[list[str | Text]] = []
    for p in report.curve:
        cells = (_number(report, n) for n in (p.value.mean, p.value.masks, p.value.runs))
        bar = "█" * round(BAR * max(p.value.mean, 0) / top)
        rows.append([percent(p.share, 0), *cells, Text(bar, style="cyan")])
    numbers = (report.metric, "± masks", "± folds")
    return terminal.grid(("withheld", *numbers, ""), rows, right=numbers)


def _effects(report: StressReport) -> Table:
    from rich.text import Text

    from fusionbench.cli import terminal

    rows: list[list[str | Text]] = []
    for kind, e in report.effects:
        name = e.columns[0] if kind == "column" else kind
        if kind == "block":
            some = ", ".join(e.columns[:3]) + (", …" if len(e.columns) > 3 else "")
            name = f"{len(e.columns)} columns together: {some}"
        cells = (_number(report, n) for n in (e.value.mean, e.worse.mean, e.worse.runs))
        style = "" if kind == "column" else "bold"
        rows.append([Text(name, style), percent(e.recorded, 0), *cells])
    numbers = ("recorded", report.metric, "worse by", "± folds")
    return terminal.grid(("withheld", *numbers), rows, right=numbers, fixed=numbers)


def _flips(report: StressReport) -> Table:
    from fusionbench.cli import terminal

    split = any(f.to_malignant is not None for f in report.flips)
    more = ("to malignant", "to benign") if split else ()
    rows = []
    for f in report.flips:
        counts = (f.changed, f.to_malignant, f.to_benign) if split else (f.changed,)
        shares = ("" if c is None or not f.n else percent(c / f.n, 1) for c in counts)
        rows.append((f.column, f"{f.n:,}", *shares))
    numbers = ("n", "other class", *more)
    return terminal.grid(("answer", *numbers), rows, right=numbers)


def _number(report: StressReport, value: float | None) -> str:
    from fusionbench.metrics.names import describe

    return "" if value is None else describe(report.metric).text(value)


def _value(report: StressReport, value: Averaged) -> str:
    """`43.2 ± 0.4 over mask seeds, ± 2.1 over folds`"""
    spreads = {"mask seeds": value.masks, "folds": value.runs}
    parts = [f"± {_number(report, sd)} over {of}" for of, sd in spreads.items() if sd is not None]
    return " ".join([_number(report, value.mean), ", ".join(parts)]).rstrip()


def _note(report: StressReport) -> str:
    note = (
        "Withheld: the cell is set to not recorded and encoded as the run encodes such cells. "
        "Random cells: each with that chance, those that hold nothing included. Recorded: share "
        "of cells that hold anything. Standard deviations are of the sample (ddof=1)"
    )
    if len({run.seed for run in report.runs}) > 1:
        note += "; folds: folds and seeds"
    if report.flips:
        note += (
            ". Inverted answers: share of the n rows whose predicted class changes; how a model "
            "reacts, not what would be true of the patient"
        )
    return note + "."
