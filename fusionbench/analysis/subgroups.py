"""A finished run looked at group by group: Fitzpatrick type, sex, age, body region. No torch.

The groups are those that the dataset's card declares.

Groups differ in which diagnoses they have: nearly every mole of PAD-UFES-20 is a young patient's,
so accuracy by age compares moles with carcinomas. What is compared here is conditional on the
class: the recall of a class in one group against its recall in another, and the mean of such
recalls over classes that every compared group has. Only rows where the attribute was recorded
count; that nothing was recorded is a matter of the clinic, and of the label, not of the patient.

So that a tiny group is no finding:

* A recall is compared where the group has at least `min_n` photographs of the class. The mean
  compares as many groups as have enough of any one class, over every class that all of these have.
* Intervals count patients, not photographs: Wilson's score interval with Kish's effective size
  (sum m)^2 / sum m^2, m the photographs of each patient: as if a patient's photographs were all
  right or all wrong. For a difference Newcombe's hybrid of the two intervals (Statistics in
  Medicine 17 (1998) 873-890, https://pubmed.ncbi.nlm.nih.gov/9595617/), for a mean over classes the
  same step for a sum (Zou & Donner, Statistics in Medicine 27 (2008) 1693-1702,
  https://pubmed.ncbi.nlm.nih.gov/17592708/); both take the parts as independent.
* The lowest and the highest group are picked by looking, so the interval of a gap is widened for
  every pair that could have been picked (Bonferroni): 95 % for all pairs of groups together in the
  mean, and for all pairs in all classes together in the comparison by class. Where it reaches 0,
  the gap is not distinguishable from none. Every pair for which it does not is named, for the
  widest gap may be that of the smallest group. Attributes are not corrected for one another.
* With several seeds a recall is the mean over seeds; the patients are the same, so n is not larger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusionbench.analysis.row_facts import RowFacts, pooled, row_facts
from fusionbench.data.card import Subgroup
from fusionbench.data.table import Table
from fusionbench.errors import DataError
from fusionbench.leaderboard import Block, Row
from fusionbench.records import Store
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


@dataclass(frozen=True)
class SubgroupReport(RowFacts):
    """What `fusionbench subgroups` shows of one row."""

    classes: tuple[str, ...]
    n: int  # photographs, of every fold
    patients: int
    min_n: int
    attributes: tuple[Attribute, ...]


def report(
    store: Store, block: Block, row: Row, table: Table, min_n: int = MIN_N
) -> SubgroupReport:
    """The row's out-of-fold predictions, every fold and seed, by the subgroups of `table.card`.

    Raises RecordError for predictions that cannot be trusted or pooled, DataError as attributes.
    """
    predictions = pooled(store, row)
    return SubgroupReport(
        **row_facts(block, row),
        classes=predictions.classes,
        n=len(predictions.rows),
        patients=predictions.n_patients,
        min_n=min_n,
        attributes=attributes(predictions, table, min_n),
    )


def attributes(predictions: Pooled, table: Table, min_n: int = MIN_N) -> tuple[Attribute, ...]:
    """Every subgroup that the table's card declares; see the package's text.

    Raises DataError where the card declares none, and where the table lacks a predicted row.
    """
    declared = table.card.subgroups
    if not declared:
        raise DataError(
            f"The card of {table.card.name} declares no subgroups.",
            "Add [[subgroups]] with name and column to it (datasets/README.md).",
        )
    names = [name for _, name in predictions.rows]
    places = pd.Index(table.ids).get_indexer(names)
    if lacking := [name for name, i in zip(names, places, strict=True) if i < 0]:
        raise DataError(
            f"{len(lacking)} predicted photographs are not in the data, for example {lacking[0]}.",
            "Name the folder of the data that the run was made on with --data.",
        )
    rows = table.take(places)
    found = []
    for subgroup in declared:
        values, order = group_values(rows, subgroup)
        found.append(compare(predictions, values, order, subgroup, min_n))
    return tuple(found)


def group_values(table: Table, subgroup: Subgroup) -> tuple[NDArray[np.object_], tuple[str, ...]]:
    """(n,) group of each row, None where nothing was recorded; and the groups in order."""
    raw = table.metadata[subgroup.column]
    recorded = raw.notna() & ~raw.isin(table.card.unknown)
    values = np.full(len(raw), None, dtype=object)
    values[recorded.to_numpy()] = [subgroup.group_of(v) for v in raw[recorded]]
    # Numbers and bands rise; names in the order of the alphabet.
    first = raw[recorded].groupby(values[recorded.to_numpy()]).min()
    numeric = pd.api.types.is_numeric_dtype(raw)
    return values, tuple((first.sort_values() if numeric else first.sort_index()).index)


def compare(
    pooled: Pooled,
    values: NDArray[np.object_],
    order: Sequence[str],
    subgroup: Subgroup,
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
        name=subgroup.name,
        column=subgroup.column,
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
    classes = dict.fromkeys(c for able in enough.values() for c in able)
    holders = {c: [g for g, able in enough.items() if c in able] for c in classes}
    ranked = {c: (len(able), sum(sizes[g][c] for g in able)) for c, able in holders.items()}
    groups = holders[max(ranked, key=lambda c: ranked[c])] if ranked else []
    if len(groups) < 2:
        return (), ()
    return tuple(groups), tuple(c for c in enough[groups[0]] if {*holders[c]} >= {*groups})


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

    def share(self, group: str, classes: Sequence[str], pairs: int = 1) -> Share:
        """The mean recall of the classes in a group; its interval holds in `pairs` comparisons."""
        from statsmodels.stats.proportion import proportion_confint

        rows = [self.rows[group][c] for c in classes]
        value = np.array([self.right[members].mean() for members in rows])
        size = np.array([effective_size(self.patients[members]) for members in rows])
        alpha = (1 - CONFIDENCE) / pairs
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
    recalls = {c: cells.share(value, (c,)) for c in cells.rows[value]}
    return Group(
        value=value,
        n=len(rows),
        patients=len(np.unique(cells.patients[rows])),
        acc=float(cells.right[rows].mean()),
        bacc=float(np.mean([share.value for share in recalls.values()])),
        recalls=recalls,
        mean=cells.share(value, common) if common else None,
    )


def _gap(cells: _Recalls, groups: Sequence[str], classes: Sequence[str], pairs: int) -> RecallGap:
    """Every pair of groups; the intervals hold for `pairs` comparisons together."""
    wide = {g: cells.share(g, classes, pairs) for g in groups}
    found = []
    for lower, higher in combinations(sorted(groups, key=lambda g: wide[g].value), 2):
        worse, better = wide[lower], wide[higher]
        gap = better.value - worse.value
        low = gap - math.hypot(better.value - better.low, worse.high - worse.value)
        high = gap + math.hypot(better.high - better.value, worse.value - worse.low)
        found.append(Pair(lower, higher, gap, low, high))
    widest, *_ = found = sorted(found, key=lambda pair: -pair.gap)
    return RecallGap(
        lowest=cells.share(widest.lower, classes),
        highest=cells.share(widest.higher, classes),
        widest=widest,
        findings=tuple(pair for pair in found if pair.low > 0),
        pairs=pairs,
        groups=tuple(groups),
    )
