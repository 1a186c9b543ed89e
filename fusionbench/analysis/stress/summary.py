"""What was measured run by run -> the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusionbench.analysis.stress import stress_report as numbers
from fusionbench.analysis.stress.scenarios import Scenario
from fusionbench.analysis.stress.stress_report import Reference, Report, Run
from fusionbench.leaderboard import Block, Row
from fusionbench.leaderboard.gains import image_only_row
from fusionbench.records import Record
from fusionbench.runs.study import Study


@dataclass(frozen=True)
class Measured:
    """One run under every scenario."""

    run: Run
    scenarios: list[Scenario]
    metrics: list[dict[str, float]]  # of every scenario but the flips; NaN where undefined
    classes: NDArray[np.int64]  # (scenarios, n) predicted
    recorded: pd.DataFrame  # (n, C) bool: cells that hold anything
    answered: pd.DataFrame  # (n, C) bool: cells that are True or False


def summarise(
    block: Block,
    row: Row,
    records: Sequence[Record],
    measured: list[Measured],
    experiment: Study,
    metric: str,
    mask_seeds: int,
) -> Report:
    """The report of one metric. `records` are those of the measured runs.
    Raises UsageError for a metric that is not defined in any run."""
    matrix = np.array([[m[metric] for m in one.metrics] for one in measured])
    good = numbers.defined(matrix, metric)
    undefined = tuple(one.run.run_id for one, fine in zip(measured, good, strict=True) if not fine)
    measured = [one for one, fine in zip(measured, good, strict=True) if fine]
    values, todo = matrix[good], measured[0].scenarios
    base = values[:, 0]
    recorded = pd.concat([one.recorded for one in measured])
    answered = pd.concat([one.answered for one in measured])
    predicted = np.concatenate([one.classes for one in measured], axis=1)
    card = experiment.table.card
    malignant = np.isin(card.classes, card.label.malignant)

    def effects(kind: str) -> list[numbers.Effect]:
        return [
            numbers.effect(
                s.columns, float(recorded[list(s.columns)].to_numpy().mean()), values[:, i], base,
                metric,
            )
            for i, s in enumerate(todo)
            if s.kind == kind and s.columns and s.mask_seed is None
        ]  # fmt: skip

    curve = numbers.curve(todo, values, mask_seeds)
    flips = [
        numbers.flip(s.columns[0], predicted[0], predicted[i],
                     answered[s.columns[0]].to_numpy(), malignant)
        for i, s in enumerate(todo)
        if s.kind == "flip"
    ]  # fmt: skip
    config, used = experiment.config, {one.run.run_id for one in measured}
    verdicts = dict.fromkeys(
        r.result.verdict for r in records if r.run_id in used and r.result and r.result.verdict
    )
    return Report(
        key=row.key,
        fusion=row.fusion,
        backbone=row.backbone,
        loss=row.loss,
        dataset=block.dataset,
        protocol=block.protocol,
        data_fingerprint=block.data_fingerprint,
        split_hash=block.split_hash,
        complete_data=block.complete_data,
        n_rows_used=block.n_rows_used,
        n_rows_dataset=block.n_rows_dataset,
        folds_expected=len(experiment.protocol.folds),
        metadata_dropout=config.training.metadata_dropout,
        block_dropout=config.training.block_dropout,
        flags=row.flags,
        verdict="; ".join(verdicts),
        metric=metric,
        mask_seeds=mask_seeds,
        runs=tuple(one.run for one in measured),
        undefined=undefined,
        base=numbers.spread(base[:, None]),
        curve=curve.points(),
        area=curve.area(),
        everything=effects("cells")[0],
        blocks=tuple(effects("block")),
        columns=tuple(sorted(effects("column"), key=lambda e: (-e.worse.mean, e.columns))),
        flips=tuple(sorted(flips, key=lambda f: (-f.changed / max(f.n, 1), f.column))),
        reference=reference(block, row, [one.run for one in measured], metric),
        values=tuple(
            {"run_id": one.run.run_id, "kind": s.kind, "columns": list(s.columns),
             "share": s.share, "mask_seed": s.mask_seed, "metrics": metrics}
            for one in measured
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
    return Reference(twin.key, numbers.spread(np.array([[values[key]] for key in wanted])))
