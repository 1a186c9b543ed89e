"""Every metric of fusionbench.metrics.compute under many resamples of the patients at once.

A resample is a whole-number weight for each patient; the metric of a resample is what
metrics.compute gives for the rows repeated that often. Counts and means are matrix products with
the weights, AUCs are weighted rank sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from fusionbench.metrics.compute import confidence_bins
from fusionbench.metrics.names import ECE_BINS, SPECIFICITIES
from fusionbench.stats.pooled import Floats, Ints, Pooled

CHUNK = 128  # resamples whose rows are weighted at a time: they stay in the processor's cache


def evaluate(
    pooled: Pooled, metrics: Sequence[str], weights: NDArray[np.generic]
) -> dict[str, Floats]:
    """Metric -> (B,) values, one for each row of `weights` (B, G); mean over the seeds.

    NaN where the metric is undefined in a resample. Raises KeyError for a metric that compute()
    does not know.
    """
    given = np.asarray(weights, dtype=np.float64)
    if given.ndim != 2 or given.shape[1] != pooled.n_patients:
        raise ValueError(f"Expected weights (B, {pooled.n_patients}), not {given.shape}.")
    by_seed = [
        _evaluate_seed(Resampled(pooled, probabilities, given), metrics)
        for probabilities in pooled.probabilities
    ]
    return {name: np.mean([one[name] for one in by_seed], axis=0) for name in metrics}


def estimates(pooled: Pooled, metrics: Sequence[str]) -> dict[str, float]:
    """The metrics of the rows as they are, every patient once; mean over the seeds."""
    once = evaluate(pooled, metrics, np.ones((1, pooled.n_patients)))
    return {name: float(values[0]) for name, values in once.items()}


def vanished(pooled: Pooled, weights: NDArray[np.generic]) -> NDArray[np.bool_]:
    """(B,) whether a class that the rows hold is absent from the resample."""
    classes = np.unique(pooled.y)
    holds = np.zeros((pooled.n_patients, len(pooled.classes)))
    np.add.at(holds, (pooled.patients, pooled.y), 1)
    return ((np.asarray(weights) @ holds)[:, classes] == 0).any(axis=1)


class Resampled:
    """One seed's predictions under B resamples; each intermediate is made once, when asked for."""

    def __init__(self, pooled: Pooled, probabilities: Floats, weights: Floats) -> None:
        self.y, self.p, self.weights = pooled.y, probabilities, weights  # (n,), (n, K), (B, G)
        self.patients, self.classes = pooled.patients, pooled.classes
        self.k = len(pooled.classes)

    def totals(self, per_row: Floats) -> Floats:
        """(n,) or (n, c) values -> (B,) or (B, c) sums over the resampled rows."""
        sums = np.zeros((self.weights.shape[1], *per_row.shape[1:]))
        np.add.at(sums, self.patients, per_row)
        return self.weights @ sums

    @cached_property
    def n(self) -> Floats:
        return self.totals(np.ones(len(self.y)))

    @cached_property
    def counts(self) -> Floats:
        """(B, K, K): row true class, column prediction."""
        cell = self.y * self.k + self.p.argmax(axis=1)
        return self.totals(np.eye(self.k * self.k)[cell]).reshape(-1, self.k, self.k)

    @cached_property
    def support(self) -> Floats:
        return self.counts.sum(axis=2)

    @cached_property
    def right(self) -> Floats:
        return np.diagonal(self.counts, axis1=1, axis2=2)

    @cached_property
    def recall(self) -> Floats:
        return _ratio(self.right, self.support)

    @cached_property
    def precision(self) -> Floats:
        """(B, K), 0 for a class that is never predicted, NaN where it is not there either."""
        claimed = self.counts.sum(axis=1)
        never = np.where(self.support > 0, 0.0, np.nan)
        return np.where(claimed > 0, _ratio(self.right, claimed), never)

    @cached_property
    def f1(self) -> Floats:
        return _ratio(2 * self.right, self.support + self.counts.sum(axis=1))

    @cached_property
    def auc(self) -> Floats:
        """(B, K), NaN for a class that the resample lacks or has alone."""
        found = np.empty_like(self.support)
        ordered = [_Order(self.p[:, c], self.y == c) for c in range(self.k)]
        for rows, at in self._row_weights():
            for c, order in enumerate(ordered):
                found[at, c] = order.auc(rows)
        return found

    def sensitivity(self, c: int, specificity: int) -> Floats:
        """(B,) of class `c` at a specificity in percent."""
        order = _Order(self.p[:, c], self.y == c)
        found = np.empty(len(self.weights))
        for rows, at in self._row_weights():
            found[at] = order.sensitivity(rows, specificity)
        return found

    def _row_weights(self) -> Iterator[tuple[Floats, slice]]:
        """The rows' weights (b, n), a few resamples at a time."""
        for start in range(0, len(self.weights), CHUNK):
            at = slice(start, start + CHUNK)
            yield self.weights[at][:, self.patients], at

    def acc(self) -> Floats:
        return self.right.sum(axis=1) / self.n

    def bacc(self) -> Floats:
        return _mean_of_known(self.recall)

    def weighted(self, per_class: Floats) -> Floats:
        """Mean over the classes by their counts among the labels; undefined ones left out."""
        known = ~np.isnan(per_class)
        weights = np.where(known, self.support, 0.0)
        total = weights.sum(axis=1)
        return _ratio((np.where(known, per_class, 0.0) * weights).sum(axis=1), total)

    def nll(self) -> Floats:
        truth = np.take_along_axis(self.p, self.y[:, None], axis=1)[:, 0]
        return self.totals(-np.log(np.maximum(truth, np.finfo(np.float64).eps))) / self.n

    def brier(self) -> Floats:
        return self.totals(((self.p - np.eye(self.k)[self.y]) ** 2).sum(axis=1)) / self.n

    def ece(self) -> Floats:
        top = self.p.max(axis=1)
        gaps = np.zeros((len(top), ECE_BINS))
        right = self.p.argmax(axis=1) == self.y
        gaps[np.arange(len(top)), confidence_bins(top)] = right - top
        return np.abs(self.totals(gaps)).sum(axis=1) / self.n


class _Order:
    """Rows in ascending order of one class's probability, with the bounds of ties."""

    def __init__(self, score: Floats, positive: NDArray[np.bool_]) -> None:
        self.order: Ints = np.argsort(score, kind="stable")
        self.positive = positive[self.order]
        by_score = score[self.order]
        among = by_score[self.positive]
        # A threshold at each score that occurs, and one above them all.
        self.thresholds = np.append(np.flatnonzero(np.diff(by_score, prepend=-1.0)), len(score))
        self.below = np.searchsorted(by_score, among, side="left")
        self.upto = np.searchsorted(by_score, among, side="right")

    def auc(self, rows: Floats) -> Floats:
        """(b, n) weights -> (b,): the share of pairs in order, ties half; NaN without pairs."""
        weights = rows[:, self.order]
        negative = _running(np.where(self.positive, 0.0, weights))
        positive = weights[:, self.positive]
        won = (positive * (negative[:, self.below] + negative[:, self.upto])).sum(axis=1) / 2
        return _ratio(won, positive.sum(axis=1) * negative[:, -1])

    def sensitivity(self, rows: Floats, specificity: int) -> Floats:
        """(b, n) weights -> (b,): the greatest one at that specificity in percent and more."""
        weights = rows[:, self.order]
        negative = _running(np.where(self.positive, 0.0, weights))
        positive = _running(np.where(self.positive, weights, 0.0))
        below = negative[:, self.thresholds]
        # The lowest threshold that is specific enough; the last one always is.
        lowest = (100 * below >= specificity * negative[:, -1:]).argmax(axis=1)
        total = positive[:, -1]
        called = total - positive[np.arange(len(rows)), self.thresholds[lowest]]
        return np.where(negative[:, -1] > 0, _ratio(called, total), np.nan)


WHOLE: Mapping[str, Callable[[Resampled], Floats]] = {
    "acc": Resampled.acc,
    "bacc": Resampled.bacc,
    "precision_weighted": lambda r: r.weighted(r.precision),
    "precision_macro": lambda r: _mean_of_known(r.precision),
    "f1_weighted": lambda r: r.weighted(r.f1),
    "f1_macro": lambda r: _mean_of_known(r.f1),
    "auc_ovr_macro": lambda r: _mean_of_known(r.auc),
    "auc_ovr_weighted": lambda r: r.weighted(r.auc),
    "nll": Resampled.nll,
    "brier": Resampled.brier,
    "ece": Resampled.ece,
}


OF_CLASS: Mapping[str, Callable[[Resampled, int], Floats]] = {
    "recall": lambda r, c: r.recall[:, c],
    "precision": lambda r, c: r.precision[:, c],
    "f1": lambda r, c: r.f1[:, c],
    "auc": lambda r, c: r.auc[:, c],
    **{f"sens_at_spec{s}": partial(Resampled.sensitivity, specificity=s) for s in SPECIFICITIES},
}


def _evaluate_seed(resampled: Resampled, metrics: Sequence[str]) -> dict[str, Floats]:
    found: dict[str, Floats] = {}
    for name in metrics:
        kind, _, label = name.partition("/")
        if label in resampled.classes:
            found[name] = OF_CLASS[kind](resampled, resampled.classes.index(label))
        else:
            found[name] = WHOLE[name](resampled)
    return found


def _running(weights: Floats) -> Floats:
    """(b, n) -> (b, n + 1) sums of what comes before each place."""
    sums = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


def _ratio(above: Floats, below: Floats) -> Floats:
    """NaN where there is nothing below."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def _mean_of_known(per_class: Floats) -> Floats:
    known = ~np.isnan(per_class)
    return _ratio(np.where(known, per_class, 0.0).sum(axis=1), known.sum(axis=1))
