"""The smallest difference that so many folds can show."""

from __future__ import annotations

import math


def smallest_difference(
    n_folds: int, sd: float, ratio: float, power: float = 0.8, alpha: float = 0.05
) -> float:
    """The true difference that the corrected resampled t-test finds with probability `power`.

    `sd`: standard deviation over folds of the paired differences, in the metric's unit; `ratio`:
    n_test / n_train. Taken from the noncentral t distribution with n_folds - 1 degrees of freedom
    and standard error sd * sqrt(1/n_folds + ratio), as if that standard error were the true one.
    Raises ValueError for fewer than two folds, a negative sd, a ratio that is not positive, or a
    power that is not above alpha.
    """
    from scipy import optimize, stats

    if n_folds < 2:
        raise ValueError(f"A difference over {n_folds} fold has no spread: two folds at least.")
    if not (sd >= 0 and math.isfinite(sd)):
        raise ValueError(f"A standard deviation cannot be {sd}.")
    if not (ratio > 0 and math.isfinite(ratio)):
        raise ValueError(f"n_test / n_train must be positive, not {ratio}.")
    if not 0 < alpha < power < 1:
        raise ValueError(f"Expected 0 < alpha < power < 1, not alpha {alpha}, power {power}.")
    df = n_folds - 1
    critical = float(stats.t.ppf(1 - alpha / 2, df))

    def shortfall(shift: float) -> float:
        # The lower tail as its mirror image: the cdf itself is NaN far out.
        found = stats.nct.sf(critical, df, shift) + stats.nct.sf(critical, df, -shift)
        return float(found) - power

    # Ever larger until it is found; with one degree of freedom that is far out.
    high = 4.0
    while shortfall(high) < 0:
        high *= 2
    shift = float(optimize.brentq(shortfall, 1e-9, high))
    return shift * sd * math.sqrt(1 / n_folds + ratio)
