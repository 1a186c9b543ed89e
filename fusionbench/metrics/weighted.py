"""The definitions of the metrics, for rows that count once and for many resamples at once.

A resample is a whole-number weight for each group of rows (the photographs of a patient); its
metrics are those of the rows repeated that often. Counts and means are matrix products with the
weights, AUCs are weighted rank sums: all resamples of a bootstrap cost little more than one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fusionbench.metrics.names import ECE_BINS, METRICS, SPECIFICITIES

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

CHUNK = 128  # resamples whose rows are weighted at a time: they stay in the processor's cache
SENSITIVITIES = {f"sens_at_spec{s}/": s for s in SPECIFICITIES}


class Weighted:
    """Checked labels (n,) and probabilities (n, K) under B resamples.

    `classes`: the K names, for metric(); `weights`: (B, G) and `groups`: (n,) 0..G-1, the group of
    each row; without them B is 1 and every row counts once. Intermediates are made once, when asked
    for. Numbers are NaN where a resample does not define them.
    """

    def __init__(
        self,
        y: Ints,
        p: Floats,
        classes: Sequence[str] = (),
        weights: Floats | None = None,
        groups: Ints | None = None,
    ) -> None:
        self.y, self.p, self.weights = y, p, weights
        self.places = {name: c for c, name in enumerate(classes)}
        self.groups = np.arange(len(y)) if groups is None else groups
        self.k = p.shape[1]
        self.truth = np.eye(self.k)[y]  # (n, K)
        self.right_row = p.argmax(axis=1) == y
        self._of_class: dict[tuple[str, int], Floats] = {}

    def totals(self, per_row: Floats) -> Floats:
        """(n,) or (n, c) values -> (B,) or (B, c) sums over the resampled rows."""
        if self.weights is None:
            return np.asarray(per_row.sum(axis=0, keepdims=True))
        sums = np.zeros((self.weights.shape[1], *per_row.shape[1:]))
        np.add.at(sums, self.groups, per_row)
        return self.weights @ sums

    def mean(self, per_row: Floats) -> Floats:
        """(n,) values -> (B,) means over the resampled rows."""
        return self.totals(per_row) / self.totals(np.ones(len(self.y)))

    @cached_property
    def counts(self) -> tuple[Floats, Floats, Floats]:
        """(B, K) rows of each class, rows predicted to be of it, and rows that are both."""
        predicted = np.eye(self.k)[self.p.argmax(axis=1)]
        return self.totals(self.truth), self.totals(predicted), self.totals(self.truth * predicted)

    def metric(self, name: str) -> Floats:
        """(B,) values of a metric of names.METRICS or PER_CLASS. Raises KeyError for others."""
        family, slash, label = name.partition("/")
        if slash:
            return self.of_class(family + slash, self.places[label])
        if name in WHOLE:
            return WHOLE[name](self)
        if name not in METRICS:
            raise KeyError(name)
        family, _, average = name.rpartition("_")
        per_class = self.per_class(f"{family.removesuffix('_ovr')}/")
        return _average(per_class, self.counts[0] if average == "weighted" else None)

    def per_class(self, family: str) -> Floats:
        """(B, K) values of one of names.PER_CLASS."""
        return np.stack([self.of_class(family, c) for c in range(self.k)], axis=1)

    def of_class(self, family: str, c: int) -> Floats:
        """(B,) values of class `c`."""
        if (family, c) not in self._of_class:
            self._of_class[family, c] = self._compute(family, c)
        return self._of_class[family, c]

    def _compute(self, family: str, c: int) -> Floats:
        support, claimed, right = (counts[:, c] for counts in self.counts)
        if family == "recall/":
            return _ratio(right, support)
        if family == "precision/":  # 0 for a class that is never predicted
            never = np.where(support > 0, 0.0, np.nan)
            return np.where(claimed > 0, _ratio(right, claimed), never)
        if family == "f1/":
            return _ratio(2 * right, support + claimed)
        specificity = None if family == "auc/" else SENSITIVITIES[family]
        order = _Order(self.p[:, c], self.y == c)
        weights = np.ones((1, len(self.y))) if self.weights is None else self.weights
        columns = self.groups[order.order]
        chunks = (weights[i : i + CHUNK][:, columns] for i in range(0, len(weights), CHUNK))
        return np.concatenate([
            order.auc(chunk) if specificity is None else order.sensitivity(chunk, specificity)
            for chunk in chunks
        ])  # fmt: skip

    @cached_property
    def cost(self) -> Floats:
        """(n,) -ln p of each row's class."""
        truth = np.take_along_axis(self.p, self.y[:, None], axis=1)[:, 0]
        return np.asarray(-np.log(np.maximum(truth, np.finfo(np.float64).eps)))

    def ece(self) -> Floats:
        top = self.p.max(axis=1)
        # Bin i holds (i/bins, (i+1)/bins]: 1 falls in the last one, and 0 cannot be a maximum.
        bin_ = np.clip(np.ceil(top * ECE_BINS).astype(np.intp) - 1, 0, ECE_BINS - 1)
        gaps = np.eye(ECE_BINS)[bin_] * (self.right_row - top)[:, None]
        return np.abs(self.totals(gaps)).sum(axis=1) / self.totals(np.ones(len(top)))


WHOLE: dict[str, Callable[[Weighted], Floats]] = {
    "acc": lambda w: w.mean(w.right_row.astype(np.float64)),
    "bacc": lambda w: _average(w.per_class("recall/"), None),
    "nll": lambda w: w.mean(w.cost),
    "brier": lambda w: w.mean(((w.p - w.truth) ** 2).sum(axis=1)),
    "ece": Weighted.ece,
}


class _Order:
    """Rows in ascending order of one class's probability, with the bounds of ties.

    The methods take the rows' weights (b, n) in that order and give (b,) numbers.
    """

    def __init__(self, score: Floats, positive: NDArray[np.bool_]) -> None:
        self.order = np.argsort(score, kind="stable")
        self.positive = positive[self.order]
        by_score = score[self.order]
        among = by_score[self.positive]
        # A threshold at each score that occurs, and one above them all.
        self.thresholds = np.append(np.flatnonzero(np.diff(by_score, prepend=-1.0)), len(score))
        self.below = np.searchsorted(by_score, among, side="left")
        self.upto = np.searchsorted(by_score, among, side="right")

    def auc(self, weights: Floats) -> Floats:
        """The share of pairs in order, ties half; NaN without pairs."""
        negative = _running(np.where(self.positive, 0.0, weights))
        positive = weights[:, self.positive]
        won = (positive * (negative[:, self.below] + negative[:, self.upto])).sum(axis=1) / 2
        return _ratio(won, positive.sum(axis=1) * negative[:, -1])

    def sensitivity(self, weights: Floats, specificity: int) -> Floats:
        """The greatest one at that specificity in percent and more."""
        negative = _running(np.where(self.positive, 0.0, weights))
        positive = _running(np.where(self.positive, weights, 0.0))
        below = negative[:, self.thresholds]
        # The lowest threshold that is specific enough; the last one always is.
        lowest = (100 * below >= specificity * negative[:, -1:]).argmax(axis=1)
        total = positive[:, -1]
        called = total - positive[np.arange(len(weights)), self.thresholds[lowest]]
        return np.where(negative[:, -1] > 0, _ratio(called, total), np.nan)


def _running(weights: Floats) -> Floats:
    """(b, n) -> (b, n + 1) sums of what comes before each place."""
    sums = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


def _ratio(above: Floats, below: Floats) -> Floats:
    """NaN where there is nothing below."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def _average(per_class: Floats, weights: Floats | None) -> Floats:
    """(B, K) -> (B,) means over the defined classes, by their weights (B, K) or alike."""
    shares = np.where(np.isnan(per_class), 0.0, 1.0 if weights is None else weights)
    return _ratio((np.nan_to_num(per_class) * shares).sum(axis=1), shares.sum(axis=1))
