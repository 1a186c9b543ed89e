"""Tests over folds: corrected resampled t-test and its power, mixed model, Holm's correction.

Nadeau & Bengio, Inference for the Generalization Error, Machine Learning 52 (2003) 239-281,
https://doi.org/10.1023/A:1024068626366. The folds of a cross-validation train on much the same
rows, so their differences are not independent and their variance is too small; the test takes
(1/n + n_test/n_train) s² for the variance of their mean in place of s²/n.

Several seeds are averaged within their fold first, and n counts folds. Repeats that draw new folds
each time may be counted one by one (Bouckaert & Frank, PAKDD 2004); seeds here train and test on
the very same rows, so counting them would raise the degrees of freedom by repetition alone. More
seeds still help: they take the seed's part out of every fold's difference.

That correction makes the test conservative. The mixed model leaves it out: folds and seeds are
random effects on the difference, and the rows that folds share in training are neglected. In the
simulations of docs/tests.md it keeps close to its level. It is shown beside; the corrected test
decides.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from fusionbench.config.wording import plural
from fusionbench.stats.variance import Values, layout, mean_squares

Key = TypeVar("Key", bound=Hashable)

EQUAL = 1e-12  # metrics that differ by less are the same number, computed twice


@dataclass(frozen=True)
class ResampledT:
    """a minus b over `n` folds. Where `undefined` says why, only `difference` holds a number."""

    difference: float  # mean over folds
    se: float  # of that mean, corrected
    t: float
    df: int
    p: float  # two-sided
    low: float  # 95 % confidence interval of the difference
    high: float
    n: int  # folds that both have
    ratio: float  # n_test / n_train
    undefined: str = ""


def resampled_t(a: Values, b: Values, ratio: float) -> ResampledT:
    """Compare two methods over the folds that both have; each fold's value is its seeds' mean.

    Runs without a value (NaN) are left out. Folds that are all equal give p = 1; folds that all
    differ by the same amount give an infinite t and p = 0, the limit of a small spread. With fewer
    than two folds in common there is no spread, and the test is undefined. Raises ValueError for a
    ratio that is not positive.
    """
    from scipy.special import stdtrit

    if not (ratio > 0 and math.isfinite(ratio)):
        raise ValueError(f"n_test / n_train must be positive, not {ratio}.")
    means_a, means_b = fold_means(a), fold_means(b)
    folds = sorted(means_a.keys() & means_b.keys())
    d = np.array([means_a[f] - means_b[f] for f in folds])
    n = len(d)
    if n < 2:
        nan = math.nan
        mean = float(d[0]) if n else nan
        why = f"{plural(n, 'fold')} in common: no spread to test against"
        return ResampledT(mean, nan, nan, n - 1, nan, nan, nan, n, ratio, why)
    mean = float(d.mean())
    if np.abs(d).max() <= EQUAL:
        return ResampledT(mean, 0.0, 0.0, n - 1, 1.0, mean, mean, n, ratio)
    se = math.sqrt((1 / n + ratio) * float(d.var(ddof=1)))
    t, p = _two_sided(mean, se, n - 1)
    half = float(stdtrit(n - 1, 0.975)) * se
    return ResampledT(mean, se, t, n - 1, p, mean - half, mean + half, n, ratio)


@dataclass(frozen=True)
class MixedT:
    """a minus b with folds and seeds as random effects; NaN with fewer than two folds in common."""

    difference: float
    se: float
    t: float
    df: float
    p: float  # two-sided
    n_folds: int
    n_seeds: int  # 1: the seeds are averaged within folds, as is one seed


def mixed_t(a: Values, b: Values) -> MixedT:
    """Compare two methods over folds and seeds, without a correction for shared training rows.

    Var(mean) = (MS_fold + max(0, MS_seed - MS_rest)) / (folds * seeds) of the differences run by
    run, its degrees of freedom after Satterthwaite (Biometrics Bulletin 2 (1946) 110-114). Where
    the two do not have the same seeds on the same folds, or one seed, it is the paired t-test over
    folds, each fold's value the mean of its seeds.
    """
    x, left_out = layout({key: a[key] - b[key] for key in a.keys() & b.keys()})
    if left_out or x.shape[1] < 2 or x.size < max(len(a), len(b)):
        means_a, means_b = fold_means(a), fold_means(b)
        common = sorted(means_a.keys() & means_b.keys())
        x = np.array([[means_a[f] - means_b[f]] for f in common]).reshape(-1, 1)
    f, s = x.shape
    if f < 2:
        nan = math.nan
        return MixedT(float(x.mean()) if f else nan, nan, nan, f - 1, nan, f, s)
    mean, df, among_seeds = float(x.mean()), float(f - 1), 0.0
    if s == 1:
        ms_fold = float(x.var(ddof=1))
    else:
        ms_fold, ms_seed, ms_rest = mean_squares(x)
        if (among_seeds := max(0.0, ms_seed - ms_rest)) > 0:
            parts = (ms_fold**2 / (f - 1), ms_seed**2 / (s - 1), ms_rest**2 / ((f - 1) * (s - 1)))
            df = (ms_fold + among_seeds) ** 2 / sum(parts)
    se = math.sqrt((ms_fold + among_seeds) / (f * s))
    if np.abs(x).max() <= EQUAL:
        return MixedT(mean, 0.0, 0.0, df, 1.0, f, s)
    t, p = _two_sided(mean, se, df)
    return MixedT(mean, se, t, df, p, f, s)


def _two_sided(mean: float, se: float, df: float) -> tuple[float, float]:
    """t and its p."""
    # Not scipy.stats: its import takes a second, and each call sixty times as long.
    from scipy.special import stdtr

    t = mean / se if se > 0 else math.copysign(math.inf, mean)
    return t, float(2 * stdtr(df, -abs(t)))


def smallest_difference(n_folds: int, sd: float, ratio: float, power: float, alpha: float) -> float:
    """The true difference that the test finds with probability `power`, of at least two folds.

    `sd`: standard deviation over folds of the paired differences, in the metric's unit; `ratio`:
    n_test / n_train. Taken from the noncentral t distribution, as if the corrected standard error
    were the true one. (statsmodels' TTestPower gives wrong numbers for two and three folds.)
    """
    from scipy import optimize, stats

    df = n_folds - 1
    critical = float(stats.t.ppf(1 - alpha / 2, df))

    def shortfall(shift: float) -> float:
        # The lower tail as its mirror image: the cdf itself is NaN far out.
        tails = stats.nct.sf(critical, df, shift) + stats.nct.sf(critical, df, -shift)
        return float(tails) - power

    shift = float(optimize.brentq(shortfall, 1e-9, 4 * critical))
    return shift * sd * math.sqrt(1 / n_folds + ratio)


def fold_means(values: Values) -> dict[int, float]:
    """Fold -> mean over the seeds that have a value there."""
    by_fold: dict[int, list[float]] = {}
    for (_, fold), value in values.items():
        if not math.isnan(value):
            by_fold.setdefault(fold, []).append(value)
    return {fold: math.fsum(found) / len(found) for fold, found in by_fold.items()}


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Adjusted p-values that keep the family-wise error rate (Holm, Scand. J. Statist. 6, 1979).

    NaN stays NaN and does not count as a test. statsmodels has this too, but collects garbage at
    each call: 45 ms for every column of a table.
    """
    known = ((key, p) for key, p in p_values.items() if not math.isnan(p))
    tested = sorted(known, key=lambda item: item[1])
    adjusted = dict.fromkeys(p_values, math.nan)
    highest = 0.0
    for done, (key, p) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - done) * p))
        adjusted[key] = highest
    return adjusted
