"""Metrics of every scenario and run -> the numbers of a report. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusionbench.analysis.stress.scenarios import SHARES, Scenario
from fusionbench.errors import UsageError
from fusionbench.metrics.names import describe

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """One run that was evaluated again."""

    run_id: str
    fold: int
    seed: int
    n: int  # test rows
    difference: float  # largest, of a probability with nothing withheld to the recorded one


@dataclass(frozen=True)
class Spread:
    """Mean over runs (and mask seeds). `masks`: sample standard deviation over mask seeds of the
    mean over runs; `runs`: over runs of the mean over mask seeds; None for a single one."""

    mean: float
    masks: float | None = None
    runs: float | None = None


@dataclass(frozen=True)
class Point:
    """The metric where each cell was withheld with chance `share`."""

    share: float
    value: Spread
    by_run: tuple[float, ...]  # in the order of Report.runs, mean over mask seeds


@dataclass(frozen=True)
class Effect:
    """Columns withheld in every row. `worse`: by how much the metric is worse than with them."""

    columns: tuple[str, ...]
    recorded: float  # share of cells that held anything
    value: Spread
    worse: Spread


@dataclass(frozen=True)
class Flip:
    """An answer inverted in the `n` rows that have it, counted over runs."""

    column: str
    n: int
    changed: int  # rows that are called another class
    # Of these, across the card's line between malignant and benign; None where it draws none.
    to_malignant: int | None
    to_benign: int | None


@dataclass(frozen=True)
class Reference:
    """The same network without metadata, on the same folds and seeds."""

    key: str  # of its row on the leaderboard
    value: Spread


@dataclass(frozen=True)
class Report:
    """`area` is the trapezoidal integral of the metric over the withheld share from 0 to 1."""

    key: str
    fusion: str
    backbone: str | None
    loss: str | None
    dataset: str
    protocol: str
    data_fingerprint: str
    split_hash: str
    complete_data: bool
    n_rows_used: int
    n_rows_dataset: int
    folds_expected: int
    metadata_dropout: float
    block_dropout: float
    flags: tuple[str, ...]
    verdict: str  # of the audit; "" where none was made
    metric: str
    mask_seeds: int
    runs: tuple[Run, ...]
    undefined: tuple[str, ...]  # runs left out, where the metric is not defined
    base: Spread
    curve: tuple[Point, ...]
    area: Spread
    everything: Effect
    blocks: tuple[Effect, ...]
    columns: tuple[Effect, ...]  # the most needed first
    flips: tuple[Flip, ...]  # the most often changed first
    reference: Reference | None
    # One dict per run and scenario that withholds: every metric of it.
    values: tuple[dict[str, object], ...]

    @property
    def n(self) -> int:
        """Test rows, each counted once per seed that was trained."""
        return sum(run.n for run in self.runs)


@dataclass(frozen=True)
class Curve:
    """(runs, mask seeds, shares) of the metric."""

    values: Floats

    def points(self) -> tuple[Point, ...]:
        return tuple(
            Point(share, spread(self.values[:, :, i]), tuple(self.values[:, :, i].mean(1).tolist()))
            for i, share in enumerate(SHARES)
        )

    def area(self) -> Spread:
        return spread(np.asarray(np.trapezoid(self.values, SHARES, axis=2)))


def curve(scenarios: Sequence[Scenario], values: Floats, masks: int) -> Curve:
    """`values` (runs, scenarios) -> the curve; its ends, where nothing is drawn, serve every mask
    seed."""
    place = {(s.share, s.mask_seed): i for i, s in enumerate(scenarios) if s.kind == "cells"}
    order = [
        [place.get((share, seed), place.get((share, None), -1)) for share in SHARES]
        for seed in range(masks)
    ]
    return Curve(values[:, np.array(order)])


def spread(values: Floats) -> Spread:
    """Of (runs, mask seeds)."""
    runs, masks = values.shape
    return Spread(
        mean=float(values.mean()),
        masks=float(values.mean(0).std(ddof=1)) if masks > 1 else None,
        runs=float(values.mean(1).std(ddof=1)) if runs > 1 else None,
    )


def effect(columns: tuple[str, ...], recorded: float, values: Floats, base: Floats, metric: str,
) -> Effect:  # fmt: skip
    """`values` and `base`: (runs,) of the metric without the columns and with them."""
    sign = 1 if describe(metric).better == "high" else -1
    return Effect(
        columns, recorded, spread(values[:, None]), spread(sign * (base - values)[:, None])
    )


def flip(
    column: str,
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    answered: NDArray[np.bool_],
    malignant: NDArray[np.bool_],
) -> Flip:
    """`before`, `after` (n,): predicted class; `malignant` (K,): which classes are, none: unknown.

    Only rows that have `answered` count."""
    before, after = before[answered], after[answered]
    known = bool(malignant.any())
    was, is_now = malignant[before], malignant[after]
    return Flip(
        column=column,
        n=len(before),
        changed=int((before != after).sum()),
        to_malignant=int((~was & is_now).sum()) if known else None,
        to_benign=int((was & ~is_now).sum()) if known else None,
    )


def defined(values: Floats, metric: str) -> NDArray[np.bool_]:
    """(runs,): where the metric is defined in every scenario. Raises UsageError for nowhere."""
    good = np.asarray(np.isfinite(values).all(axis=1), dtype=bool)
    if not good.any():
        raise UsageError(
            f"{metric} is not defined in any of these runs.", "fusionbench list metrics names more."
        )
    return good
