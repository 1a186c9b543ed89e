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

if TYPE_CHECKING:
    from rich.table import Table

    from fusionbench.analysis.stress import Effect, Report
    from fusionbench.analysis.stress.stress_report import Spread
    from fusionbench.records import Problem

BAR = 20  # characters of the longest bar
FORMATS = ("json", "csv", "png", "svg")


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
    from fusionbench.analysis.stress import render, stress, to_data

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


def _print(report: Report) -> None:
    from rich.text import Text

    from fusionbench.analysis.stress.stress_text import axis_of, basis, title
    from fusionbench.cli import terminal

    console = terminal.out()
    console.print(Text(title(report), style="bold"), Text(f"row {report.key}", style="dim"))
    facts = {
        "on": basis(report),
        "trained with": _dropout(report),
        "remarks": "; ".join(report.flags),
        "audit": report.verdict,
        "weights": _reproduced(report),
        "left out": f"{', '.join(report.undefined)}: {report.metric} is not defined there"
        if report.undefined
        else "",
    }
    console.print(terminal.facts(facts))
    name = axis_of(report.metric)
    console.print(Text(f"\n{name}, random metadata cells withheld", style="bold"))
    console.print(_curve(report))
    area = f"Area under the curve {_value(report, report.area)}: the mean height, by trapezoids."
    console.print(Text(area))
    if report.reference is not None:
        console.print(Text(
            f"The same network trained without metadata (none, row {report.reference.key}): "
            f"{_value(report, report.reference.value)}."
        ))  # fmt: skip
    console.print(Text(f"\n{name}, columns withheld from every row", style="bold"))
    console.print(_effects(report))
    if not report.blocks:
        console.print(Text("No columns go unrecorded together in these data.", style="dim"))
    if report.flips:
        console.print(Text("\nOne answer inverted, where it is yes or no", style="bold"))
        console.print(_flips(report))
    console.print(Text(f"\n{_note(report)}", style="dim"))


def _dropout(report: Report) -> str:
    rates = {"metadata": report.metadata_dropout, "block": report.block_dropout}
    return ", ".join(f"{name} dropout {rate:g}" for name, rate in rates.items() if rate)


def _reproduced(report: Report) -> str:
    worst = max(run.difference for run in report.runs)
    how = "exactly" if worst == 0 else f"to within {worst:.0e} of a probability"
    return f"reproduce the recorded predictions {how}"


def _curve(report: Report) -> Table:
    from rich.text import Text

    rows = _table(("withheld", True), (report.metric, True), ("± masks", True), ("± folds", True))
    rows.add_column("")
    top = max(p.value.mean for p in report.curve) or 1
    for p in report.curve:
        bar = "█" * round(BAR * max(p.value.mean, 0) / top)
        spreads = (_number(report, sd) for sd in (p.value.masks, p.value.runs))
        rows.add_row(
            f"{100 * p.share:.0f} %", _number(report, p.value.mean), *spreads,
            Text(bar, style="cyan"),
        )  # fmt: skip
    return rows


def _effects(report: Report) -> Table:
    from rich.text import Text

    rows = _table(
        ("withheld", False), ("recorded", True), (report.metric, True), ("worse by", True),
        ("± folds", True),
    )  # fmt: skip

    def add(name: str, effect: Effect, style: str = "") -> None:
        rows.add_row(
            Text(name, style=style),
            f"{100 * effect.recorded:.0f} %",
            _number(report, effect.value.mean),
            _number(report, effect.worse.mean),
            _number(report, effect.worse.runs),
        )

    add("everything", report.everything, "bold")
    for block in report.blocks:
        add(f"{len(block.columns)} columns together: {_listed(block.columns)}", block, "bold")
    for column in report.columns:
        add(column.columns[0], column)
    return rows


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _flips(report: Report) -> Table:
    split = any(f.to_malignant is not None for f in report.flips)
    more = (("to malignant", True), ("to benign", True)) if split else ()
    rows = _table(("answer", False), ("n", True), ("other class", True), *more)
    for f in report.flips:
        crossings = (f.to_malignant, f.to_benign) if split else ()
        rows.add_row(
            f.column, f"{f.n:,}", *(_share(count, f.n) for count in (f.changed, *crossings))
        )
    return rows


def _table(*columns: tuple[str, bool]) -> Table:
    """(heading, whether numbers stand below it)"""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for heading, right in columns:
        table.add_column(heading, justify="right" if right else "left", no_wrap=right,
                         overflow="fold")  # fmt: skip
    return table


def _number(report: Report, value: float | None) -> str:
    from fusionbench.analysis.stress.stress_text import scale_of

    if value is None:
        return ""
    scale = scale_of(report.metric)
    # No "-0.0".
    return f"{round(scale * value, 1 if scale == 100 else 3) + 0.0:.{1 if scale == 100 else 3}f}"


def _value(report: Report, spread: Spread) -> str:
    """`43.2 ± 0.4 over mask seeds, ± 2.1 over folds`"""
    parts = [_number(report, spread.mean)]
    if spread.masks is not None:
        parts.append(f"± {_number(report, spread.masks)} over mask seeds")
    if spread.runs is not None:
        parts.append(f"± {_number(report, spread.runs)} over folds")
    return parts[0] + (" " + ", ".join(parts[1:]) if parts[1:] else "")


def _share(count: int | None, n: int) -> str:
    if count is None or not n:
        return ""
    return f"{100 * count / n:.1f} %"


def _note(report: Report) -> str:
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
