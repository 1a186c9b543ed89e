"""Which values of a column do not differ significantly from the best one."""

from __future__ import annotations

import math

from fusionbench.leaderboard.block import Block

ALPHA = 0.05
SIGN = "°"
SAYS = (
    f"{SIGN}: not significantly different from the best of its column (corrected resampled t-test "
    f"over folds, Nadeau and Bengio 2003; Holm over the rows; alpha {ALPHA:.2f})."
)


def alike(block: Block, metric: str) -> frozenset[str]:
    """Keys of the rows whose test values do not differ significantly from the best mean's.

    Only rows that compete for the best value are tested; one without two folds in common with the
    best row cannot be, and is not among them. The best ones themselves are not, either.
    """
    best = block.best(metric)
    rivals = block.rivals(metric)
    if len(rivals) <= len(best):
        return frozenset()
    from fusionbench.stats.resampled import holm, resampled_t

    top = next(row for row in rivals if row.key in best)
    values = top.parts["test"].values(metric)
    p_values = {
        row.key: resampled_t(values, row.parts["test"].values(metric), max(top.ratio, row.ratio)).p
        if top.ratio and row.ratio
        else math.nan
        for row in rivals
        if row.key not in best
    }
    return frozenset(key for key, p in holm(p_values).items() if p >= ALPHA)
