"""A report as a file: JSON with everything, a csv of the numbers shown, or a picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fusionbench.analysis.stress.stress_report import Effect, Report, Spread
from fusionbench.config.wording import method_name, plural, subset
from fusionbench.errors import UsageError
from fusionbench.metrics.names import describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VERSION = 1
AREA = "trapezoidal integral of the metric over the withheld share of cells, from 0 to 1"
INK, QUIET, MARK = "#1f4e79", "#8a8a8a", "#c0504d"
HEADER = [
    *("kind", "columns", "share", "recorded", "value", "sd_masks", "sd_runs", "worse_by"),
    *("n", "changed", "to_malignant", "to_benign"),
]


def render(report: Report, format_: str) -> bytes:
    """The content of a file. Raises UsageError for an unknown format."""
    if format_ not in FORMATS:
        raise UsageError(f"No format {format_!r}.", f"Known: {', '.join(FORMATS)}.")
    return FORMATS[format_](report)


def to_data(report: Report) -> dict[str, Any]:
    """Everything, as JSON values; null for what is not defined."""
    return {"version": VERSION, "area_is": AREA, **asdict(report)}


def title(report: Report) -> str:
    """`concat@resnet18`"""
    return method_name(report.fusion, report.backbone)


def basis(report: Report) -> str:
    """Dataset, protocol, subset, folds, seeds: what any of the numbers rests on."""
    data = f"{report.dataset} / {report.protocol}"
    if not report.complete_data:
        data += f", {subset(report.n_rows_used, report.n_rows_dataset, report.dataset)}"
    folds = sorted({run.fold for run in report.runs})
    seeds = {run.seed for run in report.runs}
    which = f"fold {folds[0]}" if len(folds) == 1 else plural(len(folds), "fold")
    runs = f"{which} of {report.folds_expected}"
    if len(seeds) > 1:
        runs += f", {len(seeds)} seeds"
    masks = plural(report.mask_seeds, "mask seed")
    return f"{data}; {runs}; {report.n:,} test rows; {masks}"


def _json(report: Report) -> bytes:
    return (json.dumps(_finite(to_data(report)), indent=1, allow_nan=False) + "\n").encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value


def _csv(report: Report) -> bytes:
    """One line per number shown; `share` is that of withheld cells."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HEADER, lineterminator="\n")
    writer.writeheader()

    def line(kind: str, spread: Spread | None = None, **more: object) -> None:
        shown = {} if spread is None else {
            "value": spread.mean, "sd_masks": spread.masks, "sd_runs": spread.runs
        }  # fmt: skip
        writer.writerow({"kind": kind, **shown, **more})

    for point in report.curve:
        line("cells", point.value, share=point.share)
    line("area", report.area)
    for kind, effects in _effects(report):
        for e in effects:
            line(kind, e.value, columns=" ".join(e.columns), recorded=e.recorded,
                 worse_by=e.worse.mean)  # fmt: skip
    for f in report.flips:
        line("flip", columns=f.column, n=f.n, changed=f.changed, to_malignant=f.to_malignant,
             to_benign=f.to_benign)  # fmt: skip
    if report.reference is not None:
        line("image only", report.reference.value)
    return text.getvalue().encode()


def _effects(report: Report) -> list[tuple[str, tuple[Effect, ...]]]:
    return [
        ("everything", (report.everything,)),
        ("block", report.blocks),
        ("column", report.columns),
    ]


def _picture(report: Report, format_: str) -> bytes:
    """The curve, and what each characteristic is worth."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    file = io.BytesIO()
    # A fixed salt and no date: the same report, the same bytes.
    with mpl.rc_context({"svg.hashsalt": "fusionbench", "font.size": 9}):
        height = max(4.2, 1.2 + 0.2 * len(report.columns))
        figure = Figure(figsize=(10, height), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        _draw_curve(report, left)
        _draw_columns(report, right)
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
        figure.suptitle(f"{title(report)}\n{basis(report)}", fontsize=9, x=0.01, ha="left")
        figure.savefig(file, format=format_, dpi=150, metadata={"Date": None} if format_ == "svg"
                       else {"Software": None})  # fmt: skip
    return file.getvalue()


def _draw_curve(report: Report, axes: Axes) -> None:
    scale = scale_of(report.metric)
    shares = [100 * p.share for p in report.curve]
    mean = [scale * p.value.mean for p in report.curve]
    if len(report.runs) > 1:
        for i in range(len(report.runs)):
            runs = [scale * p.by_run[i] for p in report.curve]
            axes.plot(shares, runs, color=QUIET, alpha=0.5, linewidth=0.7,
                      label="each fold" if i == 0 else None)  # fmt: skip
    if report.mask_seeds > 1:
        sd = [scale * (p.value.masks or 0) for p in report.curve]
        low = [m - s for m, s in zip(mean, sd, strict=True)]
        high = [m + s for m, s in zip(mean, sd, strict=True)]
        axes.fill_between(shares, low, high, color=INK, alpha=0.2, linewidth=0,
                          label="± sd over mask seeds")  # fmt: skip
    axes.plot(shares, mean, color=INK, marker="o", markersize=3, label="random cells")
    for i, block in enumerate(report.blocks):
        x = 100 * len(block.columns) / len(report.columns)
        axes.plot(x, scale * block.value.mean, "D", color=MARK, markersize=6,
                  label=f"{len(block.columns)} recorded together" if i == 0 else None)  # fmt: skip
    axes.plot(100, scale * report.everything.value.mean, "s", color=MARK, label="everything")
    if report.reference is not None:
        axes.axhline(scale * report.reference.value.mean, color=QUIET, linestyle="--",
                     linewidth=1, label="trained without metadata")  # fmt: skip
    axes.set(xlabel="metadata cells withheld (%)", ylabel=axis_of(report.metric), xlim=(-2, 102))
    axes.set_title(f"area under the curve {scale * report.area.mean:.3g}", fontsize=9)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)


def _draw_columns(report: Report, axes: Axes) -> None:
    scale = scale_of(report.metric)
    effects = report.columns[::-1]
    axes.barh([e.columns[0] for e in effects], [scale * e.worse.mean for e in effects], color=INK,
              height=0.7)  # fmt: skip
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_title("each characteristic withheld alone", fontsize=9)
    axes.set_xlabel(f"{axis_of(report.metric)}: worse by")
    axes.margins(y=0.01)


def scale_of(metric: str) -> int:
    """What a number is multiplied by to be shown."""
    return 100 if describe(metric).percent else 1


def axis_of(metric: str) -> str:
    """`BACC (%)`"""
    found = describe(metric)
    return f"{found.title} (%)" if found.percent else found.title


FORMATS: dict[str, Callable[[Report], bytes]] = {
    "json": _json,
    "csv": _csv,
    "png": lambda report: _picture(report, "png"),
    "svg": lambda report: _picture(report, "svg"),
}
