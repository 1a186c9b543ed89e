"""What was measured run by run -> the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusionbench.analysis.row_facts import row_facts
from fusionbench.analysis.stress.scenarios import SHARES, Scenario
from fusionbench.analysis.stress.stress_report import (
    Effect,
    Point,
    Reference,
    Run,
    StressReport,
    flip,
    spread,
)
from fusionbench.errors import UsageError
from fusionbench.leaderboard import Block, Row
from fusionbench.leaderboard.gains import image_only_row
from fusionbench.metrics.names import describe
from fusionbench.records import Record
from fusionbench.runs.study import Study


@dataclass(frozen=True)
class StressedRun:
    """One run under every scenario."""

    run: Run
    scenarios: list[Scenario]
    metrics: list[dict[str, float | None]]  # of every scenario but the flips; None where undefined
    classes: NDArray[np.int64]  # (scenarios, n) predicted
    recorded: pd.DataFrame  # (n, C) bool: cells that hold anything
    answered: pd.DataFrame  # (n, C) bool: cells that are True or False


def summarise(
    block: Block,
    row: Row,
    records: Sequence[Record],
    stressed: list[StressedRun],
    experiment: Study,
    metric: str,
    mask_seeds: int,
) -> StressReport:
    """The report of one metric. `records` are those of the measured runs.
    Raises UsageError for a metric that is not defined in any run."""
    undefined = [one for one in stressed if any(m[metric] is None for m in one.metrics)]
    stressed = [one for one in stressed if one not in undefined]
    if not stressed:
        raise UsageError(
            f"{metric} is not defined in any of these runs.", "fusionbench list metrics names more."
        )
    runs, todo = tuple(one.run for one in stressed), stressed[0].scenarios
    # (runs, scenarios)
    values = np.array([[m[metric] for m in one.metrics] for one in stressed], dtype=np.float64)
    recorded = pd.concat([one.recorded for one in stressed])
    answered = pd.concat([one.answered for one in stressed])
    predicted = np.concatenate([one.classes for one in stressed], axis=1)
    card = experiment.table.card
    malignant = np.isin(card.classes, card.label.malignant)
    sign = 1 if describe(metric).better == "high" else -1

    def effects(kind: str) -> list[Effect]:
        return [
            Effect(
                s.columns,
                float(recorded[list(s.columns)].to_numpy().mean()),
                spread(values[:, [i]]),
                spread(sign * (values[:, [0]] - values[:, [i]])),
            )
            for i, s in enumerate(todo)
            if s.kind == kind and s.columns and s.mask_seed is None
        ]

    # (runs, mask seeds, shares); the ends, where nothing is drawn, serve every mask seed.
    at = {(s.share, s.mask_seed): i for i, s in enumerate(todo) if s.kind == "cells"}
    curve = values[:, [
        [at.get((share, seed), at.get((share, None), -1)) for share in SHARES]
        for seed in range(mask_seeds)
    ]]  # fmt: skip
    flips = [
        flip(s.columns[0], predicted[0], predicted[i], answered[s.columns[0]].to_numpy(), malignant)
        for i, s in enumerate(todo)
        if s.kind == "flip"
    ]
    used = {run.run_id for run in runs}
    verdicts = dict.fromkeys(
        r.result.verdict for r in records if r.run_id in used and r.result and r.result.verdict
    )
    return StressReport(
        **row_facts(block, row),
        folds_expected=len(experiment.protocol.folds),
        metadata_dropout=experiment.config.training.metadata_dropout,
        block_dropout=experiment.config.training.block_dropout,
        verdict="; ".join(verdicts),
        metric=metric,
        mask_seeds=mask_seeds,
        runs=runs,
        undefined=tuple(one.run.run_id for one in undefined),
        base=spread(values[:, [0]]),
        curve=tuple(
            Point(share, spread(curve[:, :, i]), tuple(curve[:, :, i].mean(1).tolist()))
            for i, share in enumerate(SHARES)
        ),
        area=spread(np.asarray(np.trapezoid(curve, SHARES, axis=2))),
        everything=effects("cells")[0],
        blocks=tuple(effects("block")),
        columns=tuple(sorted(effects("column"), key=lambda e: (-e.worse.mean, e.columns))),
        flips=tuple(sorted(flips, key=lambda f: (-f.changed / max(f.n, 1), f.column))),
        reference=reference(block, row, runs, metric),
        values=tuple(
            {"run_id": one.run.run_id, "kind": s.kind, "columns": list(s.columns),
             "share": s.share, "mask_seed": s.mask_seed, "metrics": metrics}
            for one in stressed
            for s, metrics in zip(one.scenarios, one.metrics, strict=False)
        ),
    )  # fmt: skip


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
