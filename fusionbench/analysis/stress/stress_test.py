"""Evaluating a row's saved weights under every scenario."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, device

from fusionbench.analysis.row_facts import values_of
from fusionbench.analysis.stress.evaluate import (
    REDO,
    ROUNDING,
    fold_of,
    probabilities,
    reopen_network,
    require_weights,
    trained_model,
)
from fusionbench.analysis.stress.scenarios import Cells, scenarios
from fusionbench.analysis.stress.stress_report import Run, StressedRun, StressReport, summarise
from fusionbench.config.run_config import Execution
from fusionbench.data.blocks import recorded_together
from fusionbench.errors import FusionbenchError, RecordError, UsageError
from fusionbench.leaderboard import Block, Row
from fusionbench.metrics.calibration import scaled
from fusionbench.metrics.compute import compute
from fusionbench.metrics.names import METRICS, SCALED
from fusionbench.progress import SILENT, Progress
from fusionbench.protocols import Fold
from fusionbench.records import Record, Store
from fusionbench.runs.network_study import NetworkStudy
from fusionbench.training.placement import Placement, choose_device


def stress(
    store: Store,
    block: Block,
    row: Row,
    execution: Execution,
    *,
    runs: Sequence[str] = (),
    metric: str = "bacc",
    mask_seeds: int = 3,
    dataset: str = "",
    progress: Progress = SILENT,
) -> StressReport:
    """Evaluate finished runs of `store` again, with metadata withheld and inverted.

    runs         of `row`, a row of `block`; by default every fold and seed of it
    mask_seeds   how often random cells are drawn
    dataset      path of the card, where its name is not known here

    Raises RecordError where weights are not there or do not give the record's predictions, and
    UsageError where the run cannot be evaluated again or has no metadata, and for a metric that is
    not defined.
    """
    values_of(row, metric)  # refuses a metric that no run has
    records = [store.read(run) for run in runs or row.run_ids]
    if not records[0].identity.method.uses_images:
        raise UsageError(
            f"{row.name} is a control: no network, so no weights were kept.", "Name a fusion's row."
        )
    require_weights(records, store)
    experiment = reopen_network(records[0], execution, dataset, progress)
    names = [c.name for c in experiment.columns]
    if not names:
        raise UsageError(f"{row.fusion} has no metadata columns: there is nothing to withhold.")
    studies = [
        replace(experiment, config=experiment.config.changed(seed=record.identity.seed))
        for record in records
    ]
    folds = [fold_of(*pair) for pair in zip(studies, records, strict=True)]
    where = choose_device(execution.device)
    # Of all rows, so that every fold withholds the same; no label is looked at.
    together = recorded_together(experiment.table.metadata.loc[experiment.keep, names])
    images = experiment.images(execution.workers, progress)
    stressed = [
        _stressed(*run, images, store, where, together, mask_seeds, metric, progress)
        for run in zip(studies, folds, records, strict=True)
    ]
    return summarise(block, row, stressed, experiment, metric, mask_seeds)


def _stressed(
    experiment: NetworkStudy,
    fold: Fold,
    record: Record,
    images: Tensor,
    store: Store,
    where: device,
    blocks: tuple[tuple[str, ...], ...],
    mask_seeds: int,
    metric: str,
    progress: Progress,
) -> StressedRun:
    table, rows = experiment.table, experiment.rows(fold)
    metadata = experiment.metadata(fold, rows)
    encoder = experiment.encoder(metadata, rows.train)
    model, placement = trained_model(experiment, rows, encoder, record, store, where)
    test = rows.parts["test"]
    frame = metadata.iloc[test][[c.name for c in experiment.columns]].reset_index(drop=True)
    todo = scenarios(frame, experiment.columns, blocks, mask_seeds, [fold.index])
    with progress.task(f"fold {fold.index}", total=len(test), unit="img") as task:
        found = probabilities(model, images, test, Cells.of(frame, encoder), todo, placement, task)
    if not np.isfinite(found).all():
        raise FusionbenchError(
            f"{record.run_id} gives probabilities that are not finite when metadata are withheld."
        )
    difference = _reproduced(found[0], table.ids[test], record, store, placement)
    labels = table.labels[test]
    temperature = record.result.temperature if record.result is not None else None
    wanted = dict.fromkeys((*METRICS, *(SCALED if temperature is not None else ()), metric))
    metrics: list[dict[str, float | None]] = []
    for scenario, p in zip(todo, found, strict=True):
        if scenario.kind == "flip":
            continue  # (they come last) whether the diagnosis would be the same is not known
        values = dict(compute(labels, p, table.card.classes))
        if temperature is not None:
            values |= scaled(labels, p, temperature)
        numbers = {name: float(values.get(name, np.nan)) for name in wanted}
        metrics.append({name: v if np.isfinite(v) else None for name, v in numbers.items()})
    return StressedRun(
        Run(record.run_id, fold.index, experiment.config.seed, len(test), difference),
        todo,
        metrics,
        found.argmax(axis=2),
        frame,
    )


def _reproduced(
    found: NDArray[np.float64],
    ids: NDArray[np.str_],
    record: Record,
    store: Store,
    placement: Placement,
) -> float:
    """The largest difference to a recorded probability. Raises RecordError for too large a one."""
    predictions = store.predictions(record.run_id)
    test = [i for i, part in enumerate(predictions.parts) if part == "test"]
    if [predictions.ids[i] for i in test] != ids.tolist():
        raise RecordError(f"The predictions of {record.run_id} are of other photographs.", REDO)
    difference = float(np.abs(predictions.probabilities[test] - found).max())
    if not difference <= ROUNDING[placement.precision]:
        raise RecordError(
            f"The saved weights of {record.run_id} do not give its predictions: a probability "
            f"differs by {difference:.3g}.",
            REDO,
        )
    return difference
