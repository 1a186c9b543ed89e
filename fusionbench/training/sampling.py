"""Which training rows an epoch sees, and in which order: plain functions of labels and a generator.

    shuffle          every row once
    class-balanced   rows with replacement, with odds of 1 / n_k: every class alike
    square-root      rows with replacement, with odds of 1 / sqrt(n_k): between the two

n_k is how many training rows the row's class has. An epoch has as many rows either way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fusionbench.config.run_config import Sampler

# Sampler -> the power of n_k by which a row is less likely. Not here: no replacement.
POWERS: dict[Sampler, float] = {"class-balanced": 1.0, "square-root": 0.5}


def epoch_rows(
    rows: NDArray[np.integer],
    labels: NDArray[np.integer],
    sampler: Sampler,
    generator: np.random.Generator,
) -> NDArray[np.integer]:
    """`len(rows)` of the `rows` in the order of one epoch. `labels` (len(rows),) are theirs."""
    if sampler == "shuffle":
        return generator.permutation(rows)
    odds = row_odds(labels, POWERS[sampler])
    return generator.choice(rows, size=len(rows), replace=True, p=odds)


def row_odds(labels: NDArray[np.integer], power: float) -> NDArray[np.float64]:
    """(n,) probability of each row, proportional to (number of rows of its class) ** -power."""
    counts = np.bincount(labels)
    odds = counts[labels].astype(np.float64) ** -power
    return odds / odds.sum()
