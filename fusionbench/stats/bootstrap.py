"""Patient-cluster bootstrap of any metric on pooled out-of-fold predictions.

Patients, not photographs, are drawn with replacement, as many as there are (Field & Welsh, JRSS B
69 (2007) 369-390, https://doi.org/10.1111/j.1467-9868.2007.00593.x): photographs of one patient are
no independent evidence. Both methods of a comparison see the same draws.

What the numbers are:

* The metric is that of the pooled rows of all folds, not the mean over folds that tables show.
  The two differ a little, AUC most, since it then compares scores of different models.
* Several seeds: the metric of each seed, then their mean, under the same draw. Probabilities are
  not averaged: a table's number is a mean over runs, no ensemble.
* Intervals are percentile intervals.
* The trained models stay what they are: the interval covers the choice of test patients, not the
  choice of training patients or seeds. For that there is the corrected resampled t-test.
* A class that is absent from a draw is treated as the metric treats it (left out of the mean); how
  many draws lacked one is said. Draws where a metric has no value are left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusionbench.errors import RecordError
from fusionbench.metrics.weighted import Floats, Weighted
from fusionbench.stats.pooled import Pooled, difference

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Paired:
    """a minus b on the same resampled patients; NaN where undefined."""

    metric: str
    low: float  # percentile interval of the difference
    high: float
    confidence: float
    n_rows: int
    n_patients: int
    n_resamples: int
    lacking_class: int  # resamples without one of the classes
    undefined: int  # resamples without a value, left out
    value_a: float  # of the rows as they are
    value_b: float
    difference: float
    p: float  # two-sided: twice the smaller tail of the differences beyond 0, at most 1


def draw(n_patients: int, n_resamples: int, seed: int = 0) -> NDArray[np.int64]:
    """(n_resamples, n_patients) times that each patient is drawn; each row sums to n_patients."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=n_resamples)


def paired(
    a: Pooled, b: Pooled, metrics: Sequence[str], *, n_resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Paired]:
    """Metric -> difference a minus b, its interval and p, by resampling the patients of both.

    p is (1 + draws beyond 0) / (1 + draws), of the smaller tail, doubled: it is below 0.05 about
    where the interval leaves out 0. Raises RecordError where the two did not predict the same
    photographs of the same patients, KeyError for a metric that metrics.compute does not give.
    """
    if problem := difference(a, b):
        raise RecordError(f"The predictions cannot be paired: {problem}.")
    weights = draw(a.n_patients, n_resamples, seed)
    support = _weighted(a, weights, 0).counts[0][:, np.unique(a.y)]
    values_a, values_b = (evaluate(one, metrics) for one in (a, b))
    resampled_a, resampled_b = (evaluate(one, metrics, weights) for one in (a, b))
    pairs = {}
    for name in metrics:
        differences = resampled_a[name] - resampled_b[name]
        known = differences[~np.isnan(differences)]
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(known, [tail, 1 - tail]) if len(known) else (math.nan, math.nan)
        value_a, value_b = float(values_a[name][0]), float(values_b[name][0])
        pairs[name] = Paired(
            metric=name,
            low=float(low),
            high=float(high),
            confidence=CONFIDENCE,
            n_rows=len(a.rows),
            n_patients=a.n_patients,
            n_resamples=n_resamples,
            lacking_class=int((support == 0).any(axis=1).sum()),
            undefined=len(differences) - len(known),
            value_a=value_a,
            value_b=value_b,
            difference=value_a - value_b,
            p=two_sided(known),
        )
    return pairs


def evaluate(
    pooled: Pooled, metrics: Sequence[str], weights: NDArray[np.int64] | None = None
) -> dict[str, Floats]:
    """Metric -> (B,) values, one for each row of `weights` (B, G); mean over the seeds.

    Without weights the one value of the rows as they are. NaN where the metric is undefined in a
    resample. Raises KeyError for a metric that metrics.compute does not give.
    """
    by_seed = [_weighted(pooled, weights, seed) for seed in range(len(pooled.probabilities))]
    return {name: np.mean([one.metric(name) for one in by_seed], axis=0) for name in metrics}


def two_sided(differences: Floats) -> float:
    """p of "no difference" from resampled differences (B,) without NaN; NaN of nothing."""
    if not len(differences):
        return math.nan
    # What differs by rounding only does not differ.
    tails = (int((differences <= 1e-12).sum()), int((differences >= -1e-12).sum()))
    return min(1.0, 2 * (1 + min(tails)) / (1 + len(differences)))


def _weighted(pooled: Pooled, weights: NDArray[np.int64] | None, seed: int) -> Weighted:
    floats = None if weights is None else weights.astype(np.float64)
    probabilities = pooled.probabilities[seed]
    return Weighted(pooled.y, probabilities, pooled.classes, floats, pooled.patients)
