"""Is a store whole? Every record with its predictions and weights, and what lies beside them.

verify(store) -> Verified       every problem, each with its file and what to do; writes nothing
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusionbench.errors import RecordError
from fusionbench.metrics.compute import compute, confusion
from fusionbench.metrics.lesions import by_lesion
from fusionbench.progress import SILENT, Progress
from fusionbench.records.leftovers import leftovers
from fusionbench.records.predictions import Predictions
from fusionbench.records.reading import (
    CONFLICTS,
    Problem,
    noted,
    read_record,
    unfit,
)
from fusionbench.records.schema import Level, Result
from fusionbench.records.store import KINDS, Store, is_run_name

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
            with noted(problems, path):
                record = read_record(path)
                with noted(problems, store.beside(path, "predictions")):
                    predictions = store.predictions(record)
                    records += 1
                    if recompute and record.result is not None:
                        count, wrong = _recomputed(record.result, predictions)
                        numbers += count
                        problems += [Problem(path, f"{path}, {text}", _REDO) for text in wrong]
    for path in store.files("failed"):
        with noted(problems, path):
            read_record(path)
            failures += 1
    for path in store.files(CONFLICTS):
        with noted(problems, path):
            run = read_record(path, follow=False).run_id
            raise RecordError(f"{path} is another result of {run}; it is not counted.", _SETTLE)
    for kind, what, remedy in (
        ("weights", "a whole safetensors file", "Delete it."),
        ("checkpoints", "a complete checkpoint", "Delete it: its run will start again."),
    ):
        for path in store.files(kind):
            if path.stem not in running and (reason := unfit(path)):
                problems.append(Problem(path, f"{path} is not {what}: {reason}.", remedy))
    remedy = "`fusionbench store prune --leftovers` removes it."
    problems += [Problem(e.path, f"{e.path} {e.message}.", remedy) for e in leftovers(store)]
    problems += [
        Problem(path, f"{path} is not a file of a store.", "Move it elsewhere.")
        for kind, suffix in KINDS.items()
        if (store.folder / kind).is_dir()
        for path in sorted((store.folder / kind).iterdir())
        if not (path.name[0] == "." and path.suffix == ".tmp")
        and not (path.suffix == suffix and is_run_name(path.stem) and path.is_file())
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
        levels: list[tuple[str, Level, NDArray, NDArray]] = [(name, part, labels, probabilities)]
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
    stored = {m: math.nan if x is None else x for m, x in level.metrics.items() if m in computed}
    differences += [
        f"{metric} {value:.6g} in the record, {computed[metric]:.6g} computed"
        for metric, value in stored.items()
        if not math.isclose(value, computed[metric], rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        and not (math.isnan(value) and math.isnan(computed[metric]))
    ]
    return len(stored), differences
