"""A report as a file: JSON with everything, a csv of the numbers shown, or a picture."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from dataclasses import asdict
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from fusionbench.analysis.row_facts import place
from fusionbench.analysis.stress.stress_report import StressReport
from fusionbench.config.wording import plain, plural, shortened
from fusionbench.metrics.names import describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AREA = "trapezoidal integral of the metric over the withheld share of cells, from 0 to 1"
INK, QUIET, MARK = "#1f4e79", "#8a8a8a", "#c0504d"


def basis(report: StressReport) -> str:
    """Dataset, protocol, subset, folds, seeds: what any of the numbers rests on."""
    folds, seeds = ({getattr(run, name) for run in report.runs} for name in ("fold", "seed"))
    which = f"fold {min(folds)}" if len(folds) == 1 else plural(len(folds), "fold")
    more = f", {plural(len(seeds), 'seed')}" if len(seeds) > 1 else ""
    return (
        f"{place(report)}; {which} of {report.runs_expected // len(report.seeds)}{more}; "
        f"{sum(run.n for run in report.runs):,} test rows; {plural(report.mask_seeds, 'mask seed')}"
    )


def _json(report: StressReport) -> bytes:
    """Everything; null for what is not defined."""
    data = {"version": 2, "area_is": AREA, **asdict(report)}
    return (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()


def _csv(report: StressReport) -> bytes:
    """One line per effect and flip, the area and the reference between them; columns as in JSON."""
    import pandas as pd

    effects = (*report.curve, *report.blocks, *report.columns)
    lines = [asdict(effect) | {"columns": " ".join(effect.columns)} for effect in effects]
    lines.append({"kind": "area", "value": asdict(report.area)})
    if report.reference is not None:
        lines.append({"kind": "image only"} | asdict(report.reference))
    lines += [{"kind": "flip", "columns": flip.column} | asdict(flip) for flip in report.flips]
    frame = pd.json_normalize(lines).drop(columns=["by_run", "column"], errors="ignore")
    return frame.convert_dtypes().to_csv(index=False, lineterminator="\n").encode()


def _picture(report: StressReport, format_: str) -> bytes:
    """The curve, and what each characteristic is worth."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    file = io.BytesIO()
    # A fixed salt and no date: the same report, the same bytes.
    style: dict[Any, Any] = {"svg.hashsalt": "fusionbench", "font.size": 9, "svg.fonttype": "none"}
    style["text.parse_math"] = False  # a dollar sign in a name starts no formula
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for it
        height = max(4.2, 1.2 + 0.2 * len(report.columns))
        longest = max(len(shortened(column.columns[0])) for column in report.columns)
        figure = Figure(figsize=(8.5 + 0.075 * longest, height), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        _draw_curve(report, left)
        _draw_columns(report, right)
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
        figure.suptitle(
            f"{shortened(report.name)}\n{fill(plain(basis(report)), 120)}",
            fontsize=9,
            x=0.01,
            ha="left",
        )
        metadata = {"Date": None} if format_ == "svg" else {"Software": None}
        figure.savefig(file, format=format_, dpi=150, metadata=metadata)
    return file.getvalue()


def _draw_curve(report: StressReport, axes: Axes) -> None:
    metric = describe(report.metric)
    shares = [100 * p.share for p in report.curve]
    mean = metric.scale * np.array([p.value.mean for p in report.curve])
    if len(report.runs) > 1:
        by_run = metric.scale * np.array([p.by_run for p in report.curve])
        lines = axes.plot(shares, by_run, color=QUIET, alpha=0.5, linewidth=0.7)
        lines[0].set_label("each fold")
    if report.mask_seeds > 1:
        sd = metric.scale * np.array([p.value.masks for p in report.curve])
        axes.fill_between(shares, mean - sd, mean + sd, color=INK, alpha=0.2, linewidth=0,
                          label="± sd over mask seeds")  # fmt: skip
    axes.plot(shares, mean, color=INK, marker="o", markersize=3, label="random cells")
    for i, block in enumerate(report.blocks):
        x = 100 * len(block.columns) / len(report.columns)
        axes.plot(x, metric.scale * block.value.mean, "D", color=MARK, markersize=6,
                  label=f"{len(block.columns)} recorded together" if i == 0 else None)  # fmt: skip
    if report.reference is not None:
        axes.axhline(metric.scale * report.reference.value.mean, color=QUIET, linestyle="--",
                     linewidth=1, label="trained without metadata")  # fmt: skip
    axes.set(
        xlabel="metadata cells withheld (%)", ylabel=fill(plain(metric.axis), 40), xlim=(-2, 102)
    )
    axes.set_title(f"area under the curve {metric.scale * report.area.mean:.3g}", fontsize=9)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)


def _draw_columns(report: StressReport, axes: Axes) -> None:
    metric = describe(report.metric)
    columns = report.columns[::-1]
    worse = [metric.scale * column.worse.mean for column in columns]
    axes.barh(range(len(worse)), worse, color=INK, height=0.7)
    axes.set_yticks(range(len(worse)), [shortened(column.columns[0]) for column in columns])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_title("each characteristic withheld alone", fontsize=9)
    axes.set_xlabel(fill(f"{plain(metric.axis)}: worse by", 40))
    axes.margins(y=0.01)


# The ending of a file -> its content.
FORMATS: dict[str, Callable[[StressReport], bytes]] = {
    ".json": _json,
    ".csv": _csv,
    ".png": lambda report: _picture(report, "png"),
    ".svg": lambda report: _picture(report, "svg"),
}
