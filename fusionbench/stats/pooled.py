"""Out-of-fold predictions of one configuration, pooled: what patients are resampled from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusionbench.errors import RecordError
from fusionbench.records import Predictions

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pooled:
    """n rows of every fold together, S seeds, K classes; in the order of (fold, id)."""

    rows: tuple[tuple[int, str], ...]  # (fold, id)
    y: Ints  # (n,) class indices
    probabilities: Floats  # (S, n, K)
    patients: Ints  # (n,) 0..G-1
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = self.probabilities.shape
        n = len(self.rows)
        fits = len(shape) == 3 and shape[0] > 0 and shape[1:] == (n, len(self.classes)) and n > 0
        if not fits or self.y.shape != (n,) or self.patients.shape != (n,):
            raise ValueError(
                f"Pooled predictions do not fit: {n} rows, labels {self.y.shape}, patients "
                f"{self.patients.shape}, probabilities {shape}, {len(self.classes)} classes."
            )

    @property
    def n_patients(self) -> int:
        return int(self.patients.max()) + 1


def pool(runs: Mapping[int, Sequence[Predictions]], part: str = "test") -> Pooled:
    """Put the folds of each seed together. `runs`: seed -> the predictions of its folds.

    A row without a patient counts as another patient. Raises RecordError where there is
    nothing of `part`, and where seeds disagree about rows, labels, patients or classes.
    """
    found = [_one_seed(folds, part, seed) for seed, folds in sorted(runs.items())]
    if not found or not found[0].rows:
        raise RecordError(f"There are no predictions of the part {part!r} to pool.")
    first = found[0]
    for (seed, _), other in zip(sorted(runs.items()), found, strict=True):
        if problem := difference(first, other):
            raise RecordError(
                f"Seeds {min(runs)} and {seed} do not belong together: {problem}.",
                "Compute the runs of one of them again (--existing redo).",
            )
    stacked = np.concatenate([one.probabilities for one in found])
    return Pooled(first.rows, first.y, stacked, first.patients, first.classes)


def difference(a: Pooled, b: Pooled) -> str:
    """What keeps two sets of predictions from being compared row by row; "" where nothing does."""
    if a.classes != b.classes:
        return f"classes {', '.join(a.classes)} against {', '.join(b.classes)}"
    if a.rows != b.rows:
        only = set(a.rows) ^ set(b.rows)
        example = f", for example {min(only)[1]} in fold {min(only)[0]}" if only else ""
        return f"{len(only)} photographs that only one of them predicted{example}"
    if not np.array_equal(a.y, b.y):
        return f"{int((a.y != b.y).sum())} photographs with different labels"
    if not np.array_equal(a.patients, b.patients):
        return "the same photographs with different patients"
    return ""


def _one_seed(folds: Sequence[Predictions], part: str, seed: int) -> Pooled:
    if len({one.classes for one in folds}) > 1:
        raise RecordError(f"The folds of seed {seed} have different classes.")
    rows = [
        ((one.fold, one.ids[i]), one.labels[i], one.groups[i] or one.ids[i], one.probabilities[i])
        for one in folds
        for i, where in enumerate(one.parts)
        if where == part
    ]
    rows.sort(key=lambda row: row[0])
    keys = tuple(key for key, _, _, _ in rows)
    if len(set(keys)) < len(keys):
        raise RecordError(f"Seed {seed} predicts a photograph twice in one fold.")
    if not rows:
        raise RecordError(f"There are no predictions of the part {part!r} to pool.")
    classes = folds[0].classes
    place = {name: k for k, name in enumerate(classes)}
    return Pooled(
        rows=keys,
        y=np.array([place[label] for _, label, _, _ in rows], dtype=np.int64),
        probabilities=np.array([[p for _, _, _, p in rows]], dtype=np.float64),
        patients=np.unique([group for _, _, group, _ in rows], return_inverse=True)[1].astype(
            np.int64
        ),
        classes=classes,
    )
