"""Evaluating a configuration's saved weights under every scenario."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, device

from fusionbench.analysis.stress.evaluate import probabilities
from fusionbench.analysis.stress.reopen import (
    REDO,
    ROUNDING,
    fold_of,
    of_seed,
    reopen,
    require_weights,
    trained_model,
)
from fusionbench.analysis.stress.scenarios import INVERSE, Cells, scenarios
from fusionbench.analysis.stress.stress_report import Run, StressReport
from fusionbench.analysis.stress.summary import StressedRun, summarise
from fusionbench.config.run_config import Execution
from fusionbench.data.blocks import recorded_together
from fusionbench.errors import FusionbenchError, RecordError, UsageError
from fusionbench.leaderboard import Block, Row, blocks
from fusionbench.leaderboard.select import select_row
from fusionbench.metrics.calibration import scaled
from fusionbench.metrics.compute import compute
from fusionbench.metrics.names import METRICS, SCALED
from fusionbench.plugin.registry import unknown_name
from fusionbench.progress import SILENT, Progress
from fusionbench.records import Problem, Record, Store
from fusionbench.runs.network_study import NetworkStudy
from fusionbench.training.placement import Placement, choose_device


def stress(
    store: Store,
    text: str,
    execution: Execution,
    *,
    metric: str = "bacc",
    mask_seeds: int = 3,
    dataset: str = "",
    progress: Progress = SILENT,
    problems: list[Problem] | None = None,
) -> StressReport:
    """Evaluate finished runs of `store` again, with metadata withheld and inverted.

    text         what no other finished run's name contains: that run. Else a row of the
                 leaderboard (fusionbench.leaderboard.select): all its folds and seeds
    mask_seeds   how often random cells are drawn
    dataset      path of the card, where its name is not known here
    problems     files of the store that cannot be trusted are added to it

    Raises RecordError where weights are not there or do not give the record's predictions, and
    UsageError where nothing or several things are meant, where the run cannot be evaluated again or
    has no metadata, and for a metric that is not defined.
    """
    block, row, chosen = choose(store, text, [] if problems is None else problems)
    _check_metric(metric, chosen)
    require_weights(chosen, store)
    experiment = reopen(chosen[0], execution, dataset, progress)
    names = [c.name for c in experiment.columns]
    if not names:
        raise UsageError(f"{row.fusion} has no metadata columns: there is nothing to withhold.")
    where = choose_device(execution.device)
    # Of all rows, so that every fold withholds the same; no label is looked at.
    together = recorded_together(experiment.table.metadata.loc[experiment.keep, names])
    images = experiment.images(execution.workers, progress)
    measured = [
        _measure(of_seed(experiment, r.identity.seed), images, r, store, where, together,
                 mask_seeds, metric, progress)
        for r in chosen
    ]  # fmt: skip
    return summarise(block, row, chosen, measured, experiment, metric, mask_seeds)


def _check_metric(metric: str, records: Sequence[Record]) -> None:
    """Raises UsageError for a metric that no record has: misspelt, or of a class that is none."""
    known = {name for r in records if r.result is not None for name in r.result.metrics}
    if metric not in known:
        raise UsageError(*unknown_name("metric of this run", metric, sorted(known)))


def choose(store: Store, text: str, problems: list[Problem]) -> tuple[Block, Row, list[Record]]:
    """What `text` means among finished records: the one whose name contains it, or all of a row.

    Raises UsageError where it means nothing or several rows.
    """
    found = blocks(store.records(problems))
    rows = [(block, row) for block in found for row in block.rows]
    hits = [(*both, run) for both in rows for run in both[1].run_ids if text and text in run]
    if len(hits) == 1:
        block, row, run = hits[0]
        return block, row, [store.read(run)]
    block, row = select_row(found, text)
    return block, row, [store.read(run) for run in row.run_ids]


def _measure(
    experiment: NetworkStudy,
    images: Tensor,
    record: Record,
    store: Store,
    where: device,
    blocks: tuple[tuple[str, ...], ...],
    mask_seeds: int,
    metric: str,
    progress: Progress,
) -> StressedRun:
    fold, table = fold_of(experiment, record), experiment.table
    rows = experiment.rows(fold)
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
        frame.notna(),
        frame.isin(list(INVERSE)),
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
