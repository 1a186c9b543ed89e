"""Recall by class and group, and which differences can be told from none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from fusionbench.stats.pooled import Pooled

MIN_N = 20
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Share:
    """A recall (or a mean of recalls) of `n` photographs of `patients`, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    patients: int


@dataclass(frozen=True)
class Group:
    """The rows of one value. `acc` and `bacc` describe it; its class mix is its own."""

    value: str
    n: int
    patients: int
    acc: float
    bacc: float  # over the classes that it has
    recalls: dict[str, Share]  # class -> recall, of the classes that it has
    mean: Share | None  # over Attribute.common; None where the group is not compared


@dataclass(frozen=True)
class Pair:
    """How far one group's recall is below another's, with its widened interval."""

    lower: str
    higher: str
    gap: float
    low: float  # above 0: the two are told apart
    high: float


@dataclass(frozen=True)
class RecallGap:
    """The lowest and the highest of the compared groups, and the pairs that are told apart."""

    lowest: Share
    highest: Share
    widest: Pair  # of these two
    findings: tuple[Pair, ...]  # every pair that is told apart, widest first
    pairs: int  # for which together the intervals hold at 95 %
    groups: tuple[str, ...]  # that were compared


@dataclass(frozen=True)
class Attribute:
    """One attribute of a finished run."""

    name: str
    column: str
    n_rows: int
    n_recorded: int
    groups: tuple[Group, ...]
    common: tuple[str, ...]  # classes that every compared group has enough of
    mean: RecallGap | None  # None: no two groups share such a class
    by_class: dict[str, RecallGap]  # of classes that two groups or more have enough of


def compare(
    pooled: Pooled,
    values: NDArray[np.object_],
    order: Sequence[str],
    name: str,
    column: str,
    min_n: int = MIN_N,
) -> Attribute:
    """One attribute: `values` is the group of each pooled row, None for those that have none."""
    cells = _Recalls(pooled, values, order)
    sizes = {g: {c: len(r) for c, r in by_class.items()} for g, by_class in cells.rows.items()}
    compared, common = comparable(sizes, min_n)
    groups = tuple(_group(cells, g, common if g in compared else ()) for g in order)
    by_class = {
        c: able
        for c in pooled.classes
        if len(able := [g for g in order if sizes[g].get(c, 0) >= min_n]) > 1
    }
    in_all = sum(math.comb(len(able), 2) for able in by_class.values())
    return Attribute(
        name=name,
        column=column,
        n_rows=len(values),
        n_recorded=sum(g.n for g in groups),
        groups=groups,
        common=common,
        mean=_gap(cells, compared, common, math.comb(len(compared), 2)) if common else None,
        by_class={c: _gap(cells, able, (c,), in_all) for c, able in by_class.items()},
    )


def comparable(
    sizes: Mapping[str, Mapping[str, int]], min_n: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(groups, classes) such that every one of the groups has at least `min_n` of each class.

    As many groups as have enough of any one class (of several such, the class with the most
    photographs in them), and every class that all of these have enough of. `sizes`: group -> class
    -> photographs. Both are empty where no two groups share a class.
    """
    enough = {g: [c for c, n in by.items() if n >= min_n] for g, by in sizes.items()}
    holders: dict[str, list[str]] = {}
    for g, classes in enough.items():
        for c in classes:
            holders.setdefault(c, []).append(g)
    if not any(len(able) > 1 for able in holders.values()):
        return (), ()
    first = max(holders, key=lambda c: (len(holders[c]), sum(sizes[g][c] for g in holders[c])))
    groups = holders[first]
    return tuple(groups), tuple(c for c in enough[groups[0]] if all(c in enough[g] for g in groups))


class _Recalls:
    """Rows, patients and recall of each group's classes."""

    def __init__(self, pooled: Pooled, values: NDArray[np.object_], order: Sequence[str]) -> None:
        # group -> class -> positions, in class order
        self.rows = {
            g: {
                name: members
                for c, name in enumerate(pooled.classes)
                if len(members := np.flatnonzero((values == g) & (pooled.y == c)))
            }
            for g in order
        }
        # (n,) how many of the seeds are right, and whose photograph it is
        self.right = (pooled.probabilities.argmax(axis=2) == pooled.y).mean(axis=0)
        self.patients = pooled.patients

    def share(self, group: str, classes: Sequence[str], alpha: float) -> Share:
        """The mean recall of the classes in a group, with its 1 - alpha interval."""
        from statsmodels.stats.proportion import proportion_confint

        rows = [self.rows[group][c] for c in classes]
        value = np.array([self.right[members].mean() for members in rows])
        size = np.array([effective_size(self.patients[members]) for members in rows])
        low, high = proportion_confint(value * size, size, alpha=alpha, method="wilson")
        mean, everyone = float(value.mean()), np.concatenate(rows)
        return Share(
            value=mean,
            low=mean - float(np.linalg.norm(value - low)) / len(classes),
            high=mean + float(np.linalg.norm(high - value)) / len(classes),
            n=len(everyone),
            patients=len(np.unique(self.patients[everyone])),
        )


def effective_size(patients: NDArray[np.int64]) -> float:
    """Kish's (sum m)^2 / sum m^2 of the photographs per patient; (n,) patient of each."""
    _, sizes = np.unique(patients, return_counts=True)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def _group(cells: _Recalls, value: str, common: Sequence[str]) -> Group:
    rows = np.concatenate(list(cells.rows[value].values()))
    recalls = {c: cells.share(value, (c,), 1 - CONFIDENCE) for c in cells.rows[value]}
    return Group(
        value=value,
        n=len(rows),
        patients=len(np.unique(cells.patients[rows])),
        acc=float(cells.right[rows].mean()),
        bacc=float(np.mean([share.value for share in recalls.values()])),
        recalls=recalls,
        mean=cells.share(value, common, 1 - CONFIDENCE) if common else None,
    )


def _gap(cells: _Recalls, groups: Sequence[str], classes: Sequence[str], pairs: int) -> RecallGap:
    """Every pair of groups; the intervals hold for `pairs` comparisons together."""
    wide = {g: cells.share(g, classes, (1 - CONFIDENCE) / pairs) for g in groups}
    found = []
    for lower, higher in combinations(sorted(groups, key=lambda g: wide[g].value), 2):
        worse, better = wide[lower], wide[higher]
        gap = better.value - worse.value
        low = gap - math.hypot(better.value - better.low, worse.high - worse.value)
        high = gap + math.hypot(better.high - better.value, worse.value - worse.low)
        found.append(Pair(lower, higher, gap, low, high))
    widest, *_ = found = sorted(found, key=lambda pair: -pair.gap)
    return RecallGap(
        lowest=cells.share(widest.lower, classes, 1 - CONFIDENCE),
        highest=cells.share(widest.higher, classes, 1 - CONFIDENCE),
        widest=widest,
        findings=tuple(pair for pair in found if pair.low > 0),
        pairs=pairs,
        groups=tuple(groups),
    )
