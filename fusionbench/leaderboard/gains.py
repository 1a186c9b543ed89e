"""What metadata bring a row: its gain over the network alone, and over its shuffled twin.

Both are differences per fold between rows of one block; a twin that has not run, or two that fit
equally well, leave the gain out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from fusionbench.config.identity import RowIdentity
from fusionbench.leaderboard.block import Gain, Gains, Row, stat
from fusionbench.metrics.names import describe


def with_gains(rows: Sequence[Row], metric: str) -> list[Row]:
    """The rows, each with its gains in `metric` where a row to compare it with is complete too."""
    shuffled = [row for row in rows if row.shuffled]
    alike: dict[str, list[Row]] = defaultdict(list)  # of the same network: few of many rows
    for row in rows:
        alike[_identity(row).network].append(row)
    return [
        replace(row, gains=_gains(row, alike[_identity(row).network], shuffled, metric))
        for row in rows
    ]


def image_only_row(row: Row, rows: Sequence[Row]) -> Row | None:
    """The row of the same network without metadata (RowIdentity.image_only_twin). A row whose
    plugins have changed since counts only where no current one fits."""
    if row.identity is None or row.shuffled or not row.identity.method.uses_metadata:
        return None
    others = [other for other in rows if other.identity is not None and other.key != row.key]
    for candidates in ([other for other in others if not other.stale], others):
        twin = row.identity.image_only_twin(candidates, _identity)
        if twin is not None:
            return twin
    return None


def shuffled_row(row: Row, rows: Sequence[Row]) -> Row | None:
    """The row of the same method on other patients' metadata; None where there is not just one."""
    if row.identity is None or row.shuffled:
        return None
    wanted = row.identity.shuffled_twin()
    twins = [r for r in rows if r.shuffled and r.identity and r.identity.same_runs(wanted)]
    return twins[0] if len(twins) == 1 else None


def _identity(row: Row) -> RowIdentity:
    assert row.identity is not None
    return row.identity


def _gains(row: Row, alike: Sequence[Row], shuffled: Sequence[Row], metric: str) -> Gains | None:
    if not row.ranked:
        return None
    gains = Gains(
        metric,
        image=_gain(row, image_only_row(row, alike), metric),
        shuffled=_gain(row, shuffled_row(row, shuffled), metric),
    )
    return gains if gains.image or gains.shuffled else None


def _gain(row: Row, other: Row | None, metric: str) -> Gain | None:
    if other is None or not other.ranked or row.ratio is None or other.ratio is None:
        return None
    from fusionbench.stats.resampled import fold_means, resampled_t

    a, b = (r.parts["test"].values(metric) for r in (row, other))
    if describe(metric).better == "low":
        a, b = b, a
    means = fold_means(a), fold_means(b)
    each = [means[0][fold] - means[1][fold] for fold in means[0].keys() & means[1].keys()]
    if not each:
        return None
    own = stat(each)
    if own.std is None:
        return Gain(other.key, own.mean, None, None, None, None, 1)
    test = resampled_t(a, b, max(row.ratio, other.ratio))
    return Gain(other.key, own.mean, own.std, test.low, test.high, test.p, own.n)
