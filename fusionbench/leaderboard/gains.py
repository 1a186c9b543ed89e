"""What metadata bring a row: its gain over the network alone, and over its shuffled twin.

Both are differences per fold between rows of one block; a twin that has not run, or two that fit
equally well, leave the gain out.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fusionbench.leaderboard.block import ABSENT, Gain, Gains, Row
from fusionbench.leaderboard.differences import full_settings, spelled
from fusionbench.metrics.names import describe

IMAGE_ONLY = "none"  # the fusion that is given no metadata
PLAIN_LOSS = "ce"
# Settings of metadata: what they are changes nothing for a network that sees none. A recipe is a
# name only.
OF_METADATA = (
    *("columns", "encoding", "missing", "allow_forbidden", "shuffle_metadata"),
    *("metadata_dropout", "block_dropout", "recipe"),
)


def with_gains(rows: Sequence[Row], metric: str) -> list[Row]:
    """The rows, each with its gains in `metric` where a row to compare it with is complete too."""
    complete = [row for row in rows if row.ranked]
    alone: dict[str, list[Row]] = defaultdict(list)
    twins: dict[str, list[Row]] = defaultdict(list)
    for row in complete:
        if row.fusion == IMAGE_ONLY and not row.shuffled:
            alone[_network(row)].append(row)
        elif row.shuffled:
            twins[_itself(row)].append(row)
    if not alone and not twins:
        return list(rows)
    found = []
    for row in rows:
        gains = Gains(metric)
        if row.ranked and not row.shuffled and row.fusion != IMAGE_ONLY:
            if row.backbone != ABSENT:
                gains = replace(gains, image=_gain(row, _image_only(row, alone), metric))
            twin = twins.get(_itself(row), [])
            gains = replace(gains, shuffled=_gain(row, twin[0] if len(twin) == 1 else None, metric))
        found.append(replace(row, gains=gains if gains.image or gains.shuffled else None))
    return found


def _image_only(row: Row, alone: dict[str, list[Row]]) -> Row | None:
    """The same network without metadata: with the same loss, else with plain cross-entropy."""
    candidates = alone.get(_network(row), [])
    current = [c for c in candidates if not any(f.startswith("stale") for f in c.flags)]
    own = dict(row.config["loss_params"])

    def plain(other: Row, like: Any) -> bool:
        params = dict(other.config["loss_params"]).get(PLAIN_LOSS)
        return other.loss == PLAIN_LOSS and (like is None or params == like)

    for fits in (
        lambda c: c.loss == row.loss and dict(c.config["loss_params"]) == own,
        lambda c: plain(c, own.get(PLAIN_LOSS)),
    ):
        for group in (current, candidates):
            found = [c for c in group if fits(c)]
            if len(found) == 1:
                return found[0]
            if found:
                return None
    return None


def _network(row: Row) -> str:
    """What a row shares with its image-only one, but for the loss."""
    settings = {k: v for k, v in full_settings(row).items() if k not in OF_METADATA}
    return spelled([row.backbone, row.config["weights"], settings])


def _itself(row: Row) -> str:
    """What a row shares with its shuffled twin."""
    settings = {
        k: v for k, v in full_settings(row).items() if k not in ("shuffle_metadata", "recipe")
    }
    return spelled({**row.config, "settings": settings})


def _gain(row: Row, other: Row | None, metric: str) -> Gain | None:
    if other is None or row.ratio is None or other.ratio is None:
        return None
    from fusionbench.stats.resampled import fold_means, resampled_t

    a, b = (r.parts["test"].values(metric) for r in (row, other))
    if describe(metric).better == "low":
        a, b = b, a
    means = fold_means(a), fold_means(b)
    each = [means[0][fold] - means[1][fold] for fold in means[0].keys() & means[1].keys()]
    if not each:
        return None
    mean = math.fsum(each) / len(each)
    if len(each) == 1:
        return Gain(other.key, mean, None, None, None, None, 1)
    test = resampled_t(a, b, max(row.ratio, other.ratio))
    std = math.sqrt(math.fsum((d - mean) ** 2 for d in each) / (len(each) - 1))
    return Gain(other.key, mean, std, test.low, test.high, test.p, len(each))
