"""How much of the spread between runs is the fold's, and how much the seed's.

A two-way layout, folds by seeds, one run a cell: x = mean + fold + seed + rest. The components come
from the mean squares by the method of moments (Searle, Casella & McCulloch, Variance Components,
1992, chapter 4): rest = MS_rest, fold = (MS_fold - MS_rest) / seeds, seed = (MS_seed - MS_rest) /
folds; a negative estimate is reported as 0.

`seed` is what a seed does to every fold alike; `rest` is what it does to each fold by itself, the
larger part as a rule. Training one fold again with another seed moves its value by both together:
`rerun` = sqrt(seed² + rest²).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = Mapping[tuple[int, int], float]  # (seed, fold) -> a metric of that run


@dataclass(frozen=True)
class VarianceParts:
    """Standard deviations, in the metric's unit. All None where `note` says there is no layout."""

    fold: float | None
    seed: float | None
    rest: float | None
    n_folds: int  # of the layout that was used
    n_seeds: int
    note: str = ""  # what was left out, or why there is nothing

    @property
    def rerun(self) -> float | None:
        """What another seed does to one fold's value."""
        if self.seed is None or self.rest is None:
            return None
        return math.hypot(self.seed, self.rest)


def spread(values: Values) -> VarianceParts:
    """Split the variance of (seed, fold) values.

    Only a full rectangle has mean squares: a seed that lacks a fold (or has NaN there) is left out
    with a note. Fewer than two folds or two whole seeds: nothing can be told apart.
    """
    x, left_out = layout(values)
    f, s = x.shape
    note = f"without seed {', '.join(map(str, left_out))}: folds missing" if left_out else ""
    if f < 2 or s < 2:
        why = f"{f} fold(s) by {s} seed(s): two of each at least"
        why += f" ({note})" if note else ""
        return VarianceParts(None, None, None, f, s, why)
    ms_fold, ms_seed, ms_rest = mean_squares(x)
    return VarianceParts(
        fold=math.sqrt(max(0.0, (ms_fold - ms_rest) / s)),
        seed=math.sqrt(max(0.0, (ms_seed - ms_rest) / f)),
        rest=math.sqrt(ms_rest),
        n_folds=f,
        n_seeds=s,
        note=note,
    )


def layout(values: Values) -> tuple[NDArray[np.float64], list[int]]:
    """(folds, seeds) values of the seeds that have every fold, and the seeds that have not."""
    cells = {key: value for key, value in values.items() if not math.isnan(value)}
    folds = sorted({fold for _, fold in cells})
    seeds = sorted({seed for seed, _ in values})
    whole = [s for s in seeds if folds and all((s, fold) in cells for fold in folds)]
    x = [[cells[seed, fold] for seed in whole] for fold in folds]
    return np.array(x).reshape(len(folds), len(whole)), [s for s in seeds if s not in whole]


def mean_squares(x: NDArray[np.float64]) -> tuple[float, float, float]:
    """Of folds, of seeds and of the rest; x: (folds, seeds), two of each at least."""
    f, s = x.shape
    by_fold, by_seed = x.mean(axis=1, keepdims=True), x.mean(axis=0, keepdims=True)
    rest = x - by_fold - by_seed + x.mean()
    ms_rest = float((rest**2).sum()) / ((f - 1) * (s - 1))
    return s * float(by_fold.var(ddof=1)), f * float(by_seed.var(ddof=1)), ms_rest
