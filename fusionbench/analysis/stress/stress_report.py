"""What was measured run by run -> the numbers of a stress test. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusionbench.analysis.row_facts import RowFacts, row_facts
from fusionbench.analysis.stress.scenarios import INVERSE, SHARES, Kind, Scenario
from fusionbench.errors import UsageError
from fusionbench.leaderboard import Block, Row
from fusionbench.leaderboard.gains import image_only_row
from fusionbench.leaderboard.table_model import means_over_fewer
from fusionbench.metrics.names import describe
from fusionbench.runs.study import Study


@dataclass(frozen=True)
class Run:
    """One run that was evaluated again."""

    run_id: str
    fold: int
    seed: int
    n: int  # test rows
    difference: float  # largest, of a probability with nothing withheld to the recorded one


@dataclass(frozen=True)
class StressedRun:
    """One run under every scenario."""

    run: Run
    scenarios: list[Scenario]
    metrics: list[dict[str, float | None]]  # of every scenario but the flips; None where undefined
    classes: NDArray[np.int64]  # (scenarios, n) predicted
    cells: pd.DataFrame  # (n, C) as recorded


@dataclass(frozen=True)
class Averaged:
    """Mean over runs (and mask seeds). `masks`: sample standard deviation over mask seeds of the
    mean over runs; `runs`: over runs of the mean over mask seeds; None for a single one."""

    mean: float
    masks: float | None = None
    runs: float | None = None


@dataclass(frozen=True)
class Effect:
    """Cells withheld: each of `columns` in every row, or of `kind` "cells" each with chance
    `share`. `worse`: by how much the metric is worse than with nothing withheld."""

    kind: Kind
    columns: tuple[str, ...]
    share: float
    recorded: float  # share of the columns' cells that held anything
    value: Averaged
    worse: Averaged
    by_run: tuple[float, ...]  # in the order of StressReport.runs, mean over mask seeds


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

    metadata_dropout: float
    block_dropout: float
    metric: str
    mask_seeds: int
    runs: tuple[Run, ...]
    undefined: tuple[str, ...]  # runs left out, where the metric is not defined
    over_fewer: str  # classes that the metric's mean leaves out, in a sentence
    curve: tuple[Effect, ...]  # random cells, from none to all
    area: Averaged
    blocks: tuple[Effect, ...]  # columns that go unrecorded together
    columns: tuple[Effect, ...]  # one each, the most needed first
    flips: tuple[Flip, ...]  # the most often changed first
    reference: Reference | None
    # One dict per run and scenario that withholds: every metric of it.
    values: tuple[dict[str, object], ...]


def summarise(
    block: Block,
    row: Row,
    stressed: Sequence[StressedRun],
    experiment: Study,
    metric: str,
    mask_seeds: int,
) -> StressReport:
    """The report of one metric. Raises UsageError for a metric that is not defined in any run."""
    undefined = [one for one in stressed if any(m[metric] is None for m in one.metrics)]
    stressed = [one for one in stressed if one not in undefined]
    if not stressed:
        raise UsageError(
            f"{metric} is not defined in any of these runs.",
            "`fusionbench list metrics` lists the others.",
        )
    runs, todo = tuple(one.run for one in stressed), stressed[0].scenarios
    part, keys = row.parts["test"], {(run.seed, run.fold) for run in runs}
    part = replace(part, runs={key: run for key, run in part.runs.items() if key in keys})
    evaluated = replace(row, parts={"test": part})
    # (runs, scenarios)
    values = np.array([[m[metric] for m in one.metrics] for one in stressed], dtype=np.float64)
    cells = pd.concat([one.cells for one in stressed])
    recorded, answered = cells.notna(), cells.isin(list(INVERSE))
    predicted = np.concatenate([one.classes for one in stressed], axis=1)
    card, training = experiment.table.card, experiment.config.training
    malignant = np.isin(card.classes, card.label.malignant)
    sign = 1 if describe(metric).better == "high" else -1

    def effect(kind: Kind, columns: Sequence[str], share: float, places: Sequence[int]) -> Effect:
        """`places`: of its scenario under each mask seed."""
        of_masks = values[:, places]
        return Effect(
            kind,
            tuple(columns),
            share,
            float(recorded[list(columns)].to_numpy().mean()),
            spread(of_masks),
            spread(sign * (values[:, [0]] - of_masks)),
            tuple(of_masks.mean(1).tolist()),
        )

    def whole(kind: Kind) -> list[Effect]:
        return [effect(kind, s.columns, 1.0, [i]) for i, s in enumerate(todo) if s.kind == kind]

    # (shares, mask seeds); the ends, where nothing is drawn, serve every mask seed.
    at = {(s.share, s.mask_seed): i for i, s in enumerate(todo) if s.kind == "cells"}
    drawn = [
        [at.get((share, seed), at.get((share, None), -1)) for seed in range(mask_seeds)]
        for share in SHARES
    ]
    flips = [
        flip(s.columns[0], predicted[0], predicted[i], answered[s.columns[0]].to_numpy(), malignant)
        for i, s in enumerate(todo)
        if s.kind == "flip"
    ]
    return StressReport(
        **row_facts(block, row),
        metadata_dropout=training.metadata_dropout,
        block_dropout=training.block_dropout,
        metric=metric,
        mask_seeds=mask_seeds,
        runs=runs,
        undefined=tuple(one.run.run_id for one in undefined),
        over_fewer=means_over_fewer([evaluated], [describe(metric)]).strip(),
        curve=tuple(
            effect("cells", [c.name for c in experiment.columns], share, places)
            for share, places in zip(SHARES, drawn, strict=True)
        ),
        area=spread(np.asarray(np.trapezoid(values[:, drawn], SHARES, axis=1))),
        blocks=tuple(whole("block")),
        columns=tuple(sorted(whole("column"), key=lambda e: (-e.worse.mean, e.columns))),
        flips=tuple(sorted(flips, key=lambda f: (-f.changed / max(f.n, 1), f.column))),
        reference=reference(block, row, runs, metric),
        values=tuple(
            {"run_id": one.run.run_id, "kind": s.kind, "columns": list(s.columns),
             "share": s.share, "mask_seed": s.mask_seed, "metrics": metrics}
            for one in stressed
            for s, metrics in zip(one.scenarios, one.metrics, strict=False)
        ),
    )  # fmt: skip


def spread(values: NDArray[np.float64]) -> Averaged:
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


def reference(block: Block, row: Row, runs: Sequence[Run], metric: str) -> Reference | None:
    """The row of the same network without metadata, over the same folds and seeds; None where the
    store has none, or not all of these. It is the row that the leaderboard compares with."""
    twin = image_only_row(row, block.rows)
    if twin is None:
        return None
    values = twin.parts["test"].values(metric)
    wanted = sorted({(run.seed, run.fold) for run in runs})
    if not values.keys() >= set(wanted):
        return None
    return Reference(twin.key, spread(np.array([[values[key]] for key in wanted])))
