"""Is a store whole? Every record with its predictions and weights, and what lies about besides.

verify(store) -> Verified       every problem, each with its file and what to do; writes nothing
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusionbench.errors import RecordError
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
from fusionbench.records.schema import Level, Record
from fusionbench.records.store import CONFLICTS, KINDS, Store, is_run_name

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float64]
# metrics.compute.compute: labels (n,), probabilities (n, K), classes -> metrics by name.
Compute = Callable[[Labels, Probabilities, Sequence[str]], Mapping[str, float]]
# metrics.lesions.by_lesion: labels (n,), probabilities (n, K), lesion keys (n,) -> labels,
# probabilities and keys of the lesions.
ByLesion = Callable[[Labels, Probabilities, NDArray[np.str_]], tuple[Labels, Probabilities, object]]

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


@dataclass
class _Findings:
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)

    def add(self, path: Path, message: str, remedy: str = "") -> None:
        self.problems.append(Problem(path, message, remedy))


def verify(
    store: Store,
    *,
    compute: Compute | None = None,
    by_lesion: ByLesion | None = None,
    progress: Progress = SILENT,
) -> Verified:
    """Read every file of the store. With `compute` the metrics are computed again from the
    predictions, with `by_lesion` those of lesions too; those of the same name must agree to
    TOLERANCE, counts exactly."""
    running = store.busy()
    found = _Findings()
    paths = store.files("records")
    with progress.task("reading records", total=len(paths), unit="record") as task:
        for path in paths:
            task.advance()
            _check_record(store, path, compute, by_lesion, found)
    for path in store.files("failed"):
        try:
            if read_record(path).error is None:
                found.add(path, f"{path} is no failure.", "Move it to records/.")
            found.counts["failures"] += 1
        except RecordError as error:
            found.add(path, error.message, error.remedy)
    for path in store.files("weights"):
        if path.stem in running:
            continue
        found.counts["weights"] += 1
        if reason := unfit_weights(path):
            found.add(path, f"{path} is no safetensors file: {reason}.", "Delete it.")
    for path in store.files("checkpoints"):
        if path.stem not in running and (reason := unfit_checkpoint(path)):
            remedy = "Delete it: its run will start from the beginning."
            found.add(path, f"{path} is no complete checkpoint: {reason}.", remedy)
    for path in store.files(CONFLICTS):
        _check_conflict(path, found)
    for left in leftovers(store):
        remedy = "`fusionbench store prune --leftovers` removes it."
        found.add(left.path, f"{left.path} {left.message}.", remedy)
    _strangers(store, found)
    return Verified(
        found.counts["records"],
        found.counts["failures"],
        found.counts["weights"],
        found.counts["numbers"],
        tuple(found.problems),
        tuple(sorted(running)),
    )


def _check_record(
    store: Store,
    path: Path,
    compute: Compute | None,
    by_lesion: ByLesion | None,
    found: _Findings,
) -> None:
    file = path
    try:
        record = read_record(path)
        if record.result is None:
            found.add(path, f"{path} is the record of a failed run.", "Move it to failed/.")
            return
        file = store.folder / "predictions" / f"{record.run_id}.csv"
        predictions = store.predictions(record.run_id)
    except RecordError as error:
        found.add(file, error.message, error.remedy)
        return
    found.counts["records"] += 1
    for name, part in record.result.parts.items() if compute is not None else ():
        rows = np.array([p == name for p in predictions.parts])
        labels, probabilities = _labels(predictions)[rows], predictions.probabilities[rows]
        _recompute(path, name, part, labels, probabilities, record, compute, found)
        if part.lesions is not None and by_lesion is not None:
            keys = np.array(predictions.lesions)[rows]
            labels, probabilities, _ = by_lesion(labels, probabilities, keys)
            name = f"{name} by lesion"
            _recompute(path, name, part.lesions, labels, probabilities, record, compute, found)


def _labels(predictions: Predictions) -> Labels:
    position = {name: k for k, name in enumerate(predictions.classes)}
    return np.array([position[name] for name in predictions.labels], dtype=np.int64)


def _recompute(
    path: Path,
    name: str,
    level: Level,
    labels: Labels,
    probabilities: Probabilities,
    record: Record,
    compute: Compute | None,
    found: _Findings,
) -> None:
    """Compare what is stored with what the predictions give."""
    assert compute is not None and record.result is not None
    classes = record.result.classes
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (labels, probabilities.argmax(axis=1)), 1)
    wrong = []
    if level.n != len(labels):
        wrong.append(f"n {level.n} in the record, {len(labels)} computed")
    if [list(row) for row in level.confusion] != counts.tolist():
        wrong.append("the confusion matrix")
    try:
        again = compute(labels, probabilities, classes)
    except ValueError as error:  # probabilities that do not sum to one, say
        again = {}
        wrong.append(str(error).rstrip("."))
    both = [metric for metric in level.metrics if metric in again]
    found.counts["numbers"] += len(both)
    wrong += [
        f"{m} {_text(level.metrics[m])} in the record, {_text(again[m])} computed"
        for m in both
        if not _equal(level.metrics[m], again[m])
    ]
    if wrong:
        more = f" (and {len(wrong) - 4} more)" if len(wrong) > 4 else ""
        found.add(
            path,
            f"{path}, {name}: its predictions give other numbers: {'; '.join(wrong[:4])}{more}.",
            "Do not trust it: compute the run again with --existing redo.",
        )


def _equal(stored: float | None, computed: float) -> bool:
    if stored is None or math.isnan(computed):
        return stored is None and math.isnan(computed)
    return math.isclose(stored, computed, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _text(value: float | None) -> str:
    return "undefined" if value is None or math.isnan(value) else f"{value:.6g}"


def _check_conflict(path: Path, found: _Findings) -> None:
    try:
        record = read_conflict(path)
    except RecordError as error:
        found.add(path, error.message, error.remedy)
        return
    found.add(
        path,
        f"{path} is another result of {record.run_id}; it is not counted.",
        "Find out which is right. Delete this file and the .csv beside it, or put both in the "
        "place of the record and its predictions.",
    )


def _strangers(store: Store, found: _Findings) -> None:
    """Files that no store writes."""
    for kind, suffix in KINDS.items():
        for path in _entries(store.folder / kind):
            temporary = path.name[0] == "." and path.suffix == ".tmp"
            fits = path.suffix == suffix and is_run_name(path.stem) and path.is_file()
            if not temporary and not fits:
                found.add(path, f"{path} is no file of a store.", "Move it elsewhere.")


def _entries(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.iterdir()) if folder.is_dir() else ()
