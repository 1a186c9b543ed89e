"""Is a store whole? Every record with its predictions and weights, and what lies beside them.

verify(store) -> Verified       every problem, each with its file and what to do; writes nothing
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusionbench.errors import RecordError
from fusionbench.metrics.compute import compute, confusion
from fusionbench.metrics.lesions import by_lesion
from fusionbench.progress import SILENT, Progress
from fusionbench.records.leftovers import leftovers
from fusionbench.records.predictions import Predictions
from fusionbench.records.reading import (
    Problem,
    read_conflict,
    read_record,
    unfit_checkpoint,
    unfit_weights,
)
from fusionbench.records.schema import Level, Result
from fusionbench.records.store import CONFLICTS, KINDS, Store, is_run_name

# How far a number may be from the one that its predictions give.
TOLERANCE = 1e-12


@dataclass(frozen=True)
class Verified:
    """What a store holds, and what is wrong with it."""

    records: int  # that can be trusted
    failures: int
    weights: int
    numbers: int  # that were computed again from predictions
    problems: tuple[Problem, ...]
    busy: tuple[str, ...]  # runs that are computed now; what only they can explain is passed over

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(store: Store, *, recompute: bool = False, progress: Progress = SILENT) -> Verified:
    """Read every file of the store. `recompute`: the metrics, too, are computed again from the
    predictions; those of the same name must agree to TOLERANCE, counts exactly."""
    running = store.busy()
    problems: list[Problem] = []
    records = failures = numbers = 0
    paths = store.files("records")
    with progress.task("reading records", total=len(paths), unit="record") as task:
        for path in paths:
            task.advance()
            try:
                record = read_record(path)
                if record.result is None:
                    raise RecordError(
                        f"{path} is the record of a failed run.", "Move it to failed/."
                    )
                path = store.path("predictions", record.run_id)
                predictions = store.predictions_of(record)
            except RecordError as error:
                problems.append(Problem(path, error.message, error.remedy))
                continue
            records += 1
            if recompute:
                count, wrong = _recomputed(record.result, predictions)
                numbers += count
                path = store.path("records", record.run_id)
                problems += [Problem(path, f"{path}, {text}", _REDO) for text in wrong]
    for path in store.files("failed"):
        try:
            if read_record(path).error is None:
                raise RecordError(f"{path} is not a failure.", "Move it to records/.")
            failures += 1
        except RecordError as error:
            problems.append(Problem(path, error.message, error.remedy))
    for path in store.files("weights"):
        if path.stem not in running and (reason := unfit_weights(path)):
            message = f"{path} is not a whole safetensors file: {reason}."
            problems.append(Problem(path, message, "Delete it."))
    for path in store.files("checkpoints"):
        if path.stem not in running and (reason := unfit_checkpoint(path)):
            message = f"{path} is no complete checkpoint: {reason}."
            problems.append(Problem(path, message, "Delete it: its run will start again."))
    for path in store.files(CONFLICTS):
        try:
            message = (
                f"{path} is another result of {read_conflict(path).run_id}; it is not counted."
            )
            problems.append(Problem(path, message, _SETTLE))
        except RecordError as error:
            problems.append(Problem(path, error.message, error.remedy))
    remedy = "`fusionbench store prune --leftovers` removes it."
    problems += [Problem(e.path, f"{e.path} {e.message}.", remedy) for e in leftovers(store)]
    problems += [
        Problem(path, f"{path} is not a file of a store.", "Move it elsewhere.")
        for path in _strangers(store)
    ]
    weights = sum(path.stem not in running for path in store.files("weights"))
    busy = tuple(sorted(running))
    return Verified(records, failures, weights, numbers, tuple(problems), busy)


_REDO = "Do not trust it: compute the run again with --existing redo."
_SETTLE = (
    "Find out which is right. Delete this file and the .csv beside it, or put both in the place of "
    "the record and its predictions."
)


def _recomputed(result: Result, predictions: Predictions) -> tuple[int, list[str]]:
    """How many numbers were computed again, and what is wrong with those of each part."""
    position = {name: k for k, name in enumerate(predictions.classes)}
    every_label = np.array([position[name] for name in predictions.labels], dtype=np.int64)
    count, wrong = 0, []
    for name, part in result.parts.items():
        rows = np.array([p == name for p in predictions.parts])
        labels, probabilities = every_label[rows], predictions.probabilities[rows]
        levels: list[tuple[str, Level, NDArray[np.int64], NDArray[np.float64]]] = [
            (name, part, labels, probabilities)
        ]
        if part.lesions is not None:
            of_lesions = by_lesion(labels, probabilities, np.array(predictions.lesions)[rows])
            levels.append((f"{name} by lesion", part.lesions, *of_lesions[:2]))
        for title, level, labels, probabilities in levels:
            again, differences = _differences(level, labels, probabilities, result.classes)
            count += again
            if differences:
                more = f" (and {len(differences) - 4} more)" if len(differences) > 4 else ""
                text = "; ".join(differences[:4])
                wrong.append(f"{title}: its predictions give other numbers: {text}{more}.")
    return count, wrong


def _differences(
    level: Level,
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    classes: tuple[str, ...],
) -> tuple[int, list[str]]:
    """How many metrics were compared, and where what is stored and what is computed differ."""
    differences = []
    if level.n != len(labels):
        differences.append(f"n {level.n} in the record, {len(labels)} computed")
    try:
        computed = compute(labels, probabilities, classes)
        counts = confusion(labels, probabilities, len(classes)).tolist()
    except ValueError as error:  # probabilities that do not sum to one, say
        return 0, [*differences, str(error).rstrip(".")]
    if level.confusion != tuple(map(tuple, counts)):
        differences.append("the confusion matrix")
    both = {m: (level.metrics[m], computed[m]) for m in level.metrics if m in computed}
    differences += [
        f"{metric} {_text(stored)} in the record, {_text(value)} computed"
        for metric, (stored, value) in both.items()
        if not _equal(stored, value)
    ]
    return len(both), differences


def _equal(stored: float | None, computed: float) -> bool:
    if stored is None or math.isnan(computed):
        return stored is None and math.isnan(computed)
    return math.isclose(stored, computed, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _text(value: float | None) -> str:
    return "undefined" if value is None or math.isnan(value) else f"{value:.6g}"


def _strangers(store: Store) -> list[Path]:
    """Files that no store writes."""
    return [
        path
        for kind, suffix in KINDS.items()
        if (store.folder / kind).is_dir()
        for path in sorted((store.folder / kind).iterdir())
        if not (path.name[0] == "." and path.suffix == ".tmp")
        and not (path.suffix == suffix and is_run_name(path.stem) and path.is_file())
    ]
