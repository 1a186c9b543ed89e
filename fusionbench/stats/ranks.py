"""Several methods over several datasets: Friedman's test, Nemenyi's critical difference, diagram.

Demšar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006) 1-30,
https://jmlr.org/papers/v7/demsar06a.html. Datasets are the blocks; folds of one dataset are not,
since they share their rows.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from fusionbench.files import write_output

FORMATS = (".svg", ".png")


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
    """Draw the critical-difference diagram (Demšar's figure 1) as .svg or .png, best at the left.

    Bars join methods that Nemenyi's test does not tell apart; the scale bar is the critical
    difference. The same result gives the same file.
    """
    import matplotlib
    import pandas as pd
    import scikit_posthocs
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(result.ranks)
    p = pd.DataFrame(1.0, index=names, columns=names)
    for (a, b), value in result.p_pairs.items():
        p.loc[a, b] = p.loc[b, a] = value
    with matplotlib.rc_context({"svg.hashsalt": "fusionbench", "text.usetex": False}):
        figure = Figure(figsize=(7, 1.4 + 0.25 * len(names)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        scikit_posthocs.critical_difference_diagram(
            {_escaped(name): rank for name, rank in result.ranks.items()},
            p.rename(index=_escaped, columns=_escaped),
            alpha=result.alpha,
            ax=axes,
            label_fmt_left="{label} ({rank:.2f})",
            label_fmt_right="({rank:.2f}) {label}",
        )
        # The library's own scale bar lies across the ticks' labels.
        start, width = min(result.ranks.values()), result.critical_difference
        axes.plot([start, start + width], [1.1, 1.1], color="k", linewidth=2)
        axes.text(start + width / 2, 1.25, f"CD = {width:.2f}", ha="center")
        if title:
            axes.set_title(_escaped(title), fontsize="medium")
        picture = io.BytesIO()
        date = {"Date": None} if path.suffix.lower() == ".svg" else {"Software": "fusionbench"}
        figure.savefig(picture, format=path.suffix.lower()[1:], dpi=200, metadata=date)
    write_output(path, picture.getvalue())


def _escaped(name: str) -> str:
    """A dollar sign would start a formula."""
    return name.replace("$", r"\$")
