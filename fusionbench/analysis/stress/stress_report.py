"""The numbers of a stress test. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusionbench.analysis.row_facts import RowFacts

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
class Averaged:
    """Mean over runs (and mask seeds). `masks`: sample standard deviation over mask seeds of the
    mean over runs; `runs`: over runs of the mean over mask seeds; None for a single one."""

    mean: float
    masks: float | None = None
    runs: float | None = None


@dataclass(frozen=True)
class Point:
    """The metric where each cell was withheld with chance `share`."""

    share: float
    value: Averaged
    by_run: tuple[float, ...]  # in the order of StressReport.runs, mean over mask seeds


@dataclass(frozen=True)
class Effect:
    """Columns withheld in every row. `worse`: by how much the metric is worse than with them."""

    columns: tuple[str, ...]
    recorded: float  # share of cells that held anything
    value: Averaged
    worse: Averaged


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
    value: Averaged


@dataclass(frozen=True)
class StressReport(RowFacts):
    """`area` is the trapezoidal integral of the metric over the withheld share from 0 to 1."""

    folds_expected: int
    metadata_dropout: float
    block_dropout: float
    verdict: str  # of the audit; "" where none was made
    metric: str
    mask_seeds: int
    runs: tuple[Run, ...]
    undefined: tuple[str, ...]  # runs left out, where the metric is not defined
    base: Averaged
    curve: tuple[Point, ...]
    area: Averaged
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

    @property
    def effects(self) -> list[tuple[str, Effect]]:
        """Kind and effect of everything that was withheld from every row, the greatest first."""
        return [
            ("everything", self.everything),
            *(("block", block) for block in self.blocks),
            *(("column", column) for column in self.columns),
        ]


def spread(values: Floats) -> Averaged:
    """Of (runs, mask seeds)."""
    runs, masks = values.shape
    return Averaged(
        mean=float(values.mean()),
        masks=float(values.mean(0).std(ddof=1)) if masks > 1 else None,
        runs=float(values.mean(1).std(ddof=1)) if runs > 1 else None,
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
