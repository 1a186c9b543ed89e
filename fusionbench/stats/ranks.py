"""Several methods over several datasets: Friedman's test, Nemenyi's critical difference, diagram.

Demšar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006) 1-30,
https://jmlr.org/papers/v7/demsar06a.html. Datasets are the blocks; folds of one dataset are not,
since they share their rows.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fusionbench.config.wording import shortened
from fusionbench.files import write_output

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".svg", ".pdf", ".png")


@dataclass(frozen=True)
class Friedman:
    """Ranks of k methods over N datasets; rank 1 is best, ties share the mean of their ranks."""

    ranks: dict[str, float]  # method -> average rank, best first
    n_datasets: int
    chi2: float  # Friedman's, k - 1 degrees of freedom; without a correction for ties, as printed
    p_chi2: float
    f: float  # Iman & Davenport's, less conservative; infinite where all datasets agree
    df: tuple[int, int]
    p: float  # of f
    critical_difference: float  # Nemenyi: average ranks that differ by less are not told apart
    alpha: float
    p_pairs: dict[tuple[str, str], float]  # Nemenyi, every pair once, the better-ranked first
    groups: tuple[tuple[str, ...], ...]  # largest sets whose ranks lie within that difference


def friedman(
    values: ArrayLike, methods: Sequence[str], *, higher_is_better: bool = True, alpha: float = 0.05
) -> Friedman:
    """`values`: (N datasets, k methods), finite. Raises ValueError for less than 2 by 3.

    The critical values are those of many datasets; with few (Demšar: N <= 10 or k <= 5) both tests
    are approximations.
    """
    from scipy import stats

    x = np.asarray(values, dtype=np.float64)
    n, k = x.shape
    if n < 2 or k < 3 or len(set(methods)) < k or not np.isfinite(x).all():
        raise ValueError(f"Expected finite values of 2 datasets by 3 methods at least, not {x}.")
    ranks = stats.rankdata(-x if higher_is_better else x, axis=1).mean(axis=0)
    chi2 = 12 * n / (k * (k + 1)) * float(((ranks - (k + 1) / 2) ** 2).sum())
    room = n * (k - 1) - chi2
    f = (n - 1) * chi2 / room if room > 1e-9 else math.inf
    df = (k - 1, (k - 1) * (n - 1))
    # Of the studentized range with infinite degrees of freedom, which is in units of this.
    unit = math.sqrt(k * (k + 1) / (12 * n))
    critical = float(stats.studentized_range.ppf(1 - alpha, k, np.inf)) * unit
    order = sorted(range(k), key=lambda i: (ranks[i], methods[i]))
    names = [methods[i] for i in order]
    by_rank = [float(ranks[i]) for i in order]
    gaps = np.abs(np.subtract.outer(by_rank, by_rank)) / unit
    p = stats.studentized_range.sf(gaps, k, np.inf)
    pairs = {(names[i], names[j]): float(p[i, j]) for i in range(k) for j in range(i + 1, k)}
    return Friedman(
        ranks=dict(zip(names, by_rank, strict=True)),
        n_datasets=n,
        chi2=chi2,
        p_chi2=float(stats.chi2.sf(chi2, k - 1)),
        f=f,
        df=df,
        p=float(stats.f.sf(f, *df)) if math.isfinite(f) else 0.0,
        critical_difference=critical,
        alpha=alpha,
        p_pairs=pairs,
        groups=_groups(names, by_rank, critical),
    )


def _groups(names: list[str], ranks: list[float], critical: float) -> tuple[tuple[str, ...], ...]:
    """Maximal runs of two methods and more, from best to worst, that span less than `critical`."""
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(i for i, other in enumerate(ranks) if other - rank < critical)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return tuple(tuple(names[first : last + 1]) for first, last in found)


def diagram(result: Friedman, path: Path, title: str = "") -> None:
    """Draw the critical-difference diagram as .svg, .pdf or .png. The same result gives the same
    file; text stays text in vector formats."""
    import matplotlib

    format_ = path.suffix.lower()[1:]
    fixed = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(format_, {"Software": None})
    style: dict[Any, Any] = {"svg.fonttype": "none", "pdf.fonttype": 42, "text.usetex": False}
    style |= {"svg.hashsalt": "fusionbench", "font.family": ["DejaVu Sans", "sans-serif"]}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for it
        picture = io.BytesIO()
        figure_of(result, title).savefig(picture, format=format_, dpi=200, metadata=fixed)
    write_output(path, picture.getvalue())


def figure_of(result: Friedman, title: str = "") -> Figure:
    """Demšar's figure 1 with every name at the left, the best on top, and as wide as they need.

    A line leads from each name to its average rank on the axis, which spans the ranks there are.
    Below the axis bars join methods that Nemenyi's test does not tell apart; the bar above it is
    the critical difference.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # In inches, from the left and from the top; text of 9 points.
    axis_width, line, bar, gap, border = 4.5, 0.19, 0.08, 0.12, 0.15
    figure = Figure()
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    renderer = FigureCanvasAgg(figure).get_renderer()

    def write(x: float, y: float, text: str, **how: Any) -> float:
        """Its width in inches."""
        words = axes.text(x, y, text, fontsize=9, va="center", parse_math=False, **how)
        return float(words.get_window_extent(renderer).width) / figure.dpi

    width_of = {text: write(0, 0, text) for text in map(shortened, (*result.ranks, title))}
    for text in [*axes.texts]:
        text.remove()
    names, ranks = [shortened(name) for name in result.ranks], [*result.ranks.values()]
    room = 0.03 * (ranks[-1] - ranks[0]) or 0.5
    low, high = ranks[0] - room, ranks[-1] + room
    left = border + max(width_of[name] for name in names) + gap + 0.45
    right = left + axis_width

    def at(rank: float) -> float:
        return left + axis_width * (rank - low) / (high - low)

    top = border + line * bool(title)
    write(border, border + line / 2, shortened(title), ha="left")
    critical = at(low + result.critical_difference)
    words = (
        f"critical difference {result.critical_difference:.2f} (Nemenyi, {result.alpha:g} level)"
    )
    wide = critical > right
    write(left, top + line / 2, words + ", wider than the axis" * wide, ha="left")
    axes.plot([left, min(critical, right)], [top + 1.3 * line] * 2, color="black", linewidth=2)
    axes.plot([right] * wide, [top + 1.3 * line] * wide, ">", color="black", markersize=6)
    axis = top + 2.8 * line
    ticks = [t for t in MaxNLocator(8, steps=[1, 2, 5, 10]).tick_values(low, high)
             if low <= t <= high]  # fmt: skip
    axes.plot([left, right], [axis, axis], color="black", linewidth=0.8)
    for tick in ticks:
        axes.plot([at(tick)] * 2, [axis, axis - 0.05], color="black", linewidth=0.8)
        write(at(tick), axis - 0.05 - line / 2, f"{tick:g}", ha="center")
    first = axis + bar * (len(result.groups) + 1)
    for i, (name, rank) in enumerate(zip(names, ranks, strict=True)):
        x, y = at(rank), first + line * (i + 0.5)
        axes.plot([x, x, left], [axis, y, y], color="0.6", linewidth=0.8, zorder=1)
        axes.plot([x], [axis], "o", color="black", markersize=3)
        write(left - gap, y, f"{rank:.2f}", ha="right")
        write(left - gap - 0.45, y, name, ha="right")
    for i, group in enumerate(result.groups):
        ends = [at(result.ranks[group[0]]) - 0.03, at(result.ranks[group[-1]]) + 0.03]
        axes.plot(ends, [axis + bar * (i + 1)] * 2, color="#0072B2", linewidth=3)
    width = max(right, border + width_of[shortened(title)], left + 4) + border
    height = first + line * len(names) + border
    figure.set_size_inches(width, height)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure
