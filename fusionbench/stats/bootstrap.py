"""Patient-cluster bootstrap of any metric on pooled out-of-fold predictions.

Patients, not photographs, are drawn with replacement, as many as there are (Field & Welsh, JRSS B
69 (2007) 369-390, https://doi.org/10.1111/j.1467-9868.2007.00593.x): photographs of one patient are
no independent evidence. Both methods of a comparison see the same draws.

What the numbers are:

* The metric is that of the pooled rows of all folds, not the mean over folds that tables show.
  The two differ a little, AUC most, since it then compares scores of different models.
* Several seeds: the metric of each seed, then their mean, under the same draw. Probabilities are
  not averaged: a table's number is a mean over runs, no ensemble.
* Intervals are percentile intervals. Simulated 95 % intervals held the truth 93 to 96 times of 100
  with 400 patients; with 150 of them and 15 in the rarest class 90 to 94 times, AUC least; with
  fewer still, or values near 1, less often: they are then too narrow.
* The ECE of a well-calibrated model is overestimated in every sample and more so in a resample: its
  interval lies too high and can miss the truth altogether. The difference of two ECEs is sound.
* The trained models stay what they are: the interval covers the choice of test patients, not the
  choice of training patients or seeds. For that there is the corrected resampled t-test.
* A class that is absent from a draw is treated as the metric treats it (left out of the mean); how
  many draws lacked one is said. Draws where a metric has no value are left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusionbench.errors import RecordError
from fusionbench.stats.pooled import Floats, Pooled, difference
from fusionbench.stats.weighted import estimates, evaluate, vanished

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Resampling:
    """The percentile interval of a number under resampled patients; NaN where undefined."""

    metric: str
    low: float
    high: float
    confidence: float
    n_rows: int
    n_patients: int
    n_resamples: int
    lacking_class: int  # resamples without one of the classes
    undefined: int  # resamples without a value, left out


@dataclass(frozen=True)
class Interval(Resampling):
    """A metric of pooled predictions."""

    value: float  # of the rows as they are


@dataclass(frozen=True)
class Paired(Resampling):
    """a minus b on the same patients."""

    value_a: float
    value_b: float
    difference: float
    p: float  # two-sided: twice the smaller tail of the differences beyond 0, at most 1


def draw(n_patients: int, n_resamples: int, seed: int = 0) -> NDArray[np.int64]:
    """(n_resamples, n_patients) times that each patient is drawn; each row sums to n_patients."""
    if n_patients < 1 or n_resamples < 1:
        raise ValueError(f"Cannot draw {n_resamples} resamples of {n_patients} patients.")
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=n_resamples)


def intervals(
    pooled: Pooled,
    metrics: Sequence[str],
    *,
    n_resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Interval]:
    """Metric -> estimate and interval. The same arguments give the same numbers.

    Raises KeyError for a metric that metrics.compute does not give.
    """
    weights = draw(pooled.n_patients, n_resamples, seed)
    values, resampled = estimates(pooled, metrics), evaluate(pooled, metrics, weights)
    facts = _resamplings(pooled, weights, resampled, confidence)
    return {name: Interval(value=values[name], **facts[name]) for name in metrics}


def paired(
    a: Pooled,
    b: Pooled,
    metrics: Sequence[str],
    *,
    n_resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Paired]:
    """Metric -> difference a minus b, its interval and p, by resampling the patients of both.

    p is (1 + draws beyond 0) / (1 + draws), of the smaller tail, doubled: it is below 0.05 about
    where the interval leaves out 0. Raises RecordError where the two did not predict the same
    photographs of the same patients.
    """
    if problem := difference(a, b):
        raise RecordError(f"The predictions cannot be paired: {problem}.")
    weights = draw(a.n_patients, n_resamples, seed)
    (values_a, values_b), (resampled_a, resampled_b) = (
        [estimates(one, metrics) for one in (a, b)],
        [evaluate(one, metrics, weights) for one in (a, b)],
    )
    differences = {name: resampled_a[name] - resampled_b[name] for name in metrics}
    facts = _resamplings(a, weights, differences, confidence)
    return {
        name: Paired(
            value_a=values_a[name],
            value_b=values_b[name],
            difference=values_a[name] - values_b[name],
            p=two_sided(differences[name]),
            **facts[name],
        )
        for name in metrics
    }


def two_sided(differences: Floats) -> float:
    """p of "no difference" from resampled differences (B,); NaN where none has a value."""
    known = differences[~np.isnan(differences)]
    if not len(known):
        return math.nan
    # What differs by rounding only does not differ.
    tails = (int((known <= 1e-12).sum()), int((known >= -1e-12).sum()))
    return min(1.0, 2 * (1 + min(tails)) / (1 + len(known)))


def _resamplings(
    pooled: Pooled, weights: NDArray[np.int64], resampled: Mapping[str, Floats], confidence: float
) -> dict[str, dict[str, Any]]:
    """Metric -> the fields of its Resampling."""
    if not 0 < confidence < 1:
        raise ValueError(f"A confidence must lie between 0 and 1, not {confidence}.")
    facts = {
        "confidence": confidence,
        "n_rows": len(pooled.rows),
        "n_patients": pooled.n_patients,
        "n_resamples": len(weights),
        "lacking_class": int(vanished(pooled, weights).sum()),
    }
    tail = (1 - confidence) / 2
    fields = {}
    for name, values in resampled.items():
        known = values[~np.isnan(values)]
        low, high = np.quantile(known, [tail, 1 - tail]) if len(known) else (math.nan, math.nan)
        undefined = len(values) - len(known)
        fields[name] = facts | {
            "metric": name, "low": float(low), "high": float(high), "undefined": undefined
        }  # fmt: skip
    return fields
