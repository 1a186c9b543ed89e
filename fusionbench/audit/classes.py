"""How many rows of each class a fold has, and how small a difference that can show."""

from __future__ import annotations

import math

import numpy as np

from fusionbench.audit.findings import Classes, FoldClasses, Smallest
from fusionbench.config.wording import percent
from fusionbench.data.table import Table
from fusionbench.protocols import Split
from fusionbench.stats.resampled import smallest_difference

POWER, ALPHA = 0.80, 0.05
RECALL = 0.7  # assumed of both methods, for every class
ALIKE = 0.5  # assumed correlation of what two methods get right
ASSUMPTIONS = (
    f"Power {percent(POWER)}, two-sided alpha {ALPHA:.2f}. Assumed: both methods find "
    f"{percent(RECALL)} of every class, what they get right correlates by {ALIKE}, rows are "
    "independent (several rows of a patient make the true values larger). A recall over n_k rows "
    "then has the variance r(1-r)/n_k (binomial), bacc the mean of those over K classes divided by "
    f"K, and a difference 2(1-{ALIKE}) of that. Over folds: corrected resampled t-test (Nadeau & "
    "Bengio 2003), standard error sd * sqrt(1/J + n_test/n_train) with J - 1 degrees of freedom; "
    "the spread between trainings comes on top. Pooled: normal approximation, all evaluated rows "
    "once, models as given."
)


def find_classes(table: Table, protocol: Split) -> Classes:
    """Counts per fold and part, and the smallest differences of the test parts."""
    names = table.card.classes
    folds = []
    for fold in protocol.folds:
        parts = {"train": fold.train, "valid": fold.valid, "test": fold.test, **fold.extra}
        for part, rows in parts.items():
            if rows is not None:
                counts = dict(zip(names, _counts(table, rows).tolist(), strict=True))
                folds.append(FoldClasses(fold=fold.index, part=part, counts=counts))
    return Classes(folds=tuple(folds), smallest=_smallest(table, protocol))


def _counts(table: Table, rows: np.ndarray) -> np.ndarray:
    return np.bincount(table.labels[rows], minlength=len(table.card.classes))


def difference_sd(counts: np.ndarray, metric: str) -> float:
    """Standard deviation of the difference of two methods' `metric` ("acc" or "bacc") over test
    rows with those counts per class; classes without rows count for nothing."""
    counts = counts[counts > 0]
    spread = RECALL * (1 - RECALL)
    if metric == "bacc":
        variance = spread * float((1 / counts).sum()) / len(counts) ** 2
    else:
        variance = spread / float(counts.sum())
    return math.sqrt(2 * (1 - ALIKE) * variance)


def _smallest(table: Table, protocol: Split) -> tuple[Smallest, ...]:
    from scipy.stats import norm

    counts = [_counts(table, fold.test) for fold in protocol.folds]
    pooled = np.sum(counts, axis=0)
    ratio = float(np.mean([len(f.test) / len(f.train) for f in protocol.folds]))
    reach = float(norm.ppf(1 - ALPHA / 2) + norm.ppf(POWER))
    rarest = int(np.where(pooled > 0, pooled, np.inf).argmin())
    smallest = []
    for metric, classes in (
        ("bacc", slice(None)),
        ("acc", slice(None)),
        (f"recall/{table.card.classes[rarest]}", [rarest]),
    ):
        kind = "bacc" if metric == "bacc" else "acc"
        sds = [difference_sd(c[classes], kind) for c in counts if c[classes].sum()]
        sd = math.sqrt(float(np.mean(np.square(sds))))
        over = smallest_difference(len(sds), sd, ratio, POWER, ALPHA) if len(sds) > 1 else None
        at_once = reach * difference_sd(pooled[classes], kind)
        smallest.append(Smallest(metric=metric, over_folds=over, pooled=at_once))
    return tuple(smallest)
