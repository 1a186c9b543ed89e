"""Probabilities -> what a record says of them: metrics by photograph and by lesion, and the
predictions themselves."""

from __future__ import annotations

from typing import Any

import numpy as np

from fusionbench.metrics.calibration import fit_temperature
from fusionbench.protocols import Fold
from fusionbench.records import PartResult, Predictions, Result
from fusionbench.records.contradictions import part_of
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
        best_epoch=trained.best_epoch,
        epochs_run=len(trained.history),
        **of_data(study, rows),
        verdict=verdict,
        contract=trained.contract,
        temperature=temperature,
        parameters=trained.parameters,
        history=trained.history,
    )


def of_data(study: Study, rows: FoldRows) -> dict[str, Any]:
    """The fields of a Result that data, split and settings decide before anything is trained."""
    table = study.table
    return {
        "n_train": len(rows.train),
        "n_test": len(rows.parts["test"]),
        "folds_expected": len(study.protocol.folds),
        "cohort": study.cohort(rows),
        "complete_data": table.complete,
        "n_rows_dataset": table.card.expect.rows or len(table) + len(table.missing_images),
        "n_rows_used": int(study.keep.sum()),
        "flags": study.flags(),
    }


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
    lesions = table.lesions[part] if table.card.lesion else None
    return part_of(table.labels[part], probabilities, lesions, table.card.classes, temperature)
