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
from dataclasses import dataclass

import numpy as np

from fusionbench.stats.resampled import Values


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
    cells = {key: value for key, value in values.items() if not math.isnan(value)}
    folds = sorted({fold for _, fold in cells})
    seeds = sorted({seed for seed, _ in values})
    whole = [s for s in seeds if folds and all((s, fold) in cells for fold in folds)]
    left_out = [s for s in seeds if s not in whole]
    note = f"without seed {', '.join(map(str, left_out))}: folds missing" if left_out else ""
    if len(folds) < 2 or len(whole) < 2:
        why = f"{len(folds)} fold(s) by {len(whole)} seed(s): two of each at least"
        why += f" ({note})" if note else ""
        return VarianceParts(None, None, None, len(folds), len(whole), why)
    x = np.array([[cells[seed, fold] for seed in whole] for fold in folds])
    f, s = x.shape
    by_fold, by_seed = x.mean(axis=1, keepdims=True), x.mean(axis=0, keepdims=True)
    ms_fold = s * float(by_fold.var(ddof=1))
    ms_seed = f * float(by_seed.var(ddof=1))
    rest = x - by_fold - by_seed + x.mean()
    ms_rest = float((rest**2).sum()) / ((f - 1) * (s - 1))
    return VarianceParts(
        fold=math.sqrt(max(0.0, (ms_fold - ms_rest) / s)),
        seed=math.sqrt(max(0.0, (ms_seed - ms_rest) / f)),
        rest=math.sqrt(ms_rest),
        n_folds=f,
        n_seeds=s,
        note=note,
    )
