"""Probabilities -> what a record says of them: metrics by photograph and by lesion, and the
predictions themselves."""

from __future__ import annotations

import numpy as np
from msgspec import structs

from fusionbench.metrics.calibration import fit_temperature, scaled
from fusionbench.metrics.compute import compute, confusion
from fusionbench.metrics.lesions import by_lesion
from fusionbench.protocols import Fold
from fusionbench.records import Level, PartResult, Predictions, Result
from fusionbench.runs.study import FoldRows, Study, Trained


def result_of(study: Study, rows: FoldRows, trained: Trained, verdict: str = "") -> Result:
    """Everything that the run found."""
    table = study.table
    temperature = None
    if rows.inner is not None and trained.inner is not None:
        temperature = fit_temperature(table.labels[rows.inner], trained.inner)
    return Result(
        classes=table.card.classes,
        parts={
            name: _part(study, part, trained.probabilities[name], temperature)
            for name, part in rows.parts.items()
        },
        n_train=len(rows.train),
        n_test=len(rows.parts["test"]),
        best_epoch=trained.best_epoch,
        epochs_run=len(trained.history),
        folds_expected=len(study.protocol.folds),
        cohort=study.cohort(rows),
        complete_data=table.complete,
        n_rows_dataset=table.card.expect.rows or len(table) + len(table.missing_images),
        n_rows_used=int(study.keep.sum()),
        flags=study.flags(),
        verdict=verdict,
        contract=trained.contract,
        temperature=temperature,
        parameters=trained.parameters,
        history=trained.history,
    )


def predictions_of(study: Study, fold: Fold, rows: FoldRows, trained: Trained) -> Predictions:
    """Every evaluated part together, as it is stored."""
    table, order = study.table, np.concatenate(list(rows.parts.values()))
    return Predictions(
        ids=tuple(table.ids[order].tolist()),
        parts=tuple(name for name, part in rows.parts.items() for _ in part),
        fold=fold.index,
        labels=tuple(table.card.classes[k] for k in table.labels[order]),
        probabilities=np.concatenate([trained.probabilities[name] for name in rows.parts]),
        classes=table.card.classes,
        groups=tuple(table.groups[order].tolist()),
        lesions=tuple(table.lesions[order].tolist()),
    )


def _part(
    study: Study, part: np.ndarray, probabilities: np.ndarray, temperature: float | None
) -> PartResult:
    table = study.table
    whole = _level(table.labels[part], probabilities, table.card.classes, temperature)
    lesions = None
    if table.card.lesion:
        labels, averaged, _ = by_lesion(table.labels[part], probabilities, table.lesions[part])
        lesions = _level(labels, averaged, table.card.classes, temperature)
    return PartResult(**structs.asdict(whole), lesions=lesions)


def _level(
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: tuple[str, ...],
    temperature: float | None,
) -> Level:
    metrics: dict[str, float | None] = dict(compute(labels, probabilities, classes))
    if temperature is not None:
        metrics |= scaled(labels, probabilities, temperature)
    counts = confusion(labels, probabilities, len(classes))
    return Level(n=len(labels), metrics=metrics, confusion=tuple(map(tuple, counts.tolist())))
