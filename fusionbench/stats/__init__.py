"""Is a difference more than chance? Intervals, tests and ranks over finished runs. No torch.

A run's value is keyed by (seed, fold): `Values = Mapping[tuple[int, int], float]`.

    t = resampled_t(values_a, values_b, ratio)      corrected resampled t-test over folds: a - b
    holm({name: p}) -> {name: adjusted p}           Holm's correction; an undefined p (NaN) stays so

    pooled = pool({seed: [predictions of each fold]})       out-of-fold rows, their patients
    intervals(pooled, metrics) -> {metric: Interval}        patient-cluster bootstrap
    paired(pooled_a, pooled_b, metrics) -> {metric: Paired} the same patients for both methods

    friedman(values, methods) -> Friedman                   ranks over datasets, Nemenyi's groups
    diagram(friedman, path)                                 critical-difference diagram, SVG or PNG
    spread(values) -> VarianceParts                         fold and seed parts of the variance
    smallest_difference(n_folds, sd, ratio) -> float        what the corrected t-test can show

`ratio` is n_test / n_train, mean over folds: `test_train_ratio(n_test, n_train)`.

What the two tests of a difference ask is not the same. The bootstrap resamples patients and keeps
the trained models: would these models differ on other patients? The corrected t-test compares over
folds, in each of which the models were trained anew: would the methods differ, trained again? The
second is the question of a comparison of methods, and the one that decides here.
"""

from __future__ import annotations

from fusionbench.stats.bootstrap import Interval, Paired, intervals, paired
from fusionbench.stats.pooled import Pooled, pool
from fusionbench.stats.power import smallest_difference
from fusionbench.stats.ranks import Friedman, diagram, friedman
from fusionbench.stats.resampled import (
    ResampledT,
    Values,
    holm,
    resampled_t,
    test_train_ratio,
)
from fusionbench.stats.variance import VarianceParts, spread

__all__ = [
    "Friedman",
    "Interval",
    "Paired",
    "Pooled",
    "ResampledT",
    "Values",
    "VarianceParts",
    "diagram",
    "friedman",
    "holm",
    "intervals",
    "paired",
    "pool",
    "resampled_t",
    "smallest_difference",
    "spread",
    "test_train_ratio",
]
