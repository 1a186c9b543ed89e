"""Out-of-fold predictions of one configuration, pooled: what patients are resampled from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fusionbench.errors import RecordError
from fusionbench.metrics.weighted import Floats, Ints
from fusionbench.records import Predictions


@dataclass(frozen=True)
class Pooled:
    """n rows of every fold together, S seeds, K classes; in the order of (fold, id)."""

    rows: tuple[tuple[int, str], ...]  # (fold, id)
    y: Ints  # (n,) class indices
    probabilities: Floats  # (S, n, K)
    patients: Ints  # (n,) 0..G-1
    classes: tuple[str, ...]

    @property
    def n_patients(self) -> int:
        return int(self.patients.max()) + 1


def pool(runs: Mapping[int, Sequence[Predictions]]) -> Pooled:
    """Put the test rows of every fold together. `runs`: seed -> the predictions of its folds.

    A row without a patient counts as another patient. Raises RecordError where a seed has no test
    rows, and where seeds disagree about rows, labels, patients or classes.
    """
    by_seed = {seed: _one_seed(folds, seed) for seed, folds in sorted(runs.items())}
    first = by_seed[min(runs)]
    for seed, other in by_seed.items():
        if problem := difference(first, other):
            raise RecordError(
                f"Seeds {min(runs)} and {seed} do not belong together: {problem}.",
                "Compute the runs of one of them again (--existing redo).",
            )
    stacked = np.concatenate([one.probabilities for one in by_seed.values()])
    return replace(first, probabilities=stacked)


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


def _one_seed(folds: Sequence[Predictions], seed: int) -> Pooled:
    classes = folds[0].classes
    if any(one.classes != classes for one in folds):
        raise RecordError(f"The folds of seed {seed} have different classes.")
    rows = sorted(
        ((one.fold, one.ids[i]), one.labels[i], one.groups[i] or one.ids[i], k, i)
        for k, one in enumerate(folds)
        for i, part in enumerate(one.parts)
        if part == "test"
    )
    if not rows:
        raise RecordError(f"Seed {seed} has no predictions of test rows to pool.")
    keys, labels, patients, *_ = zip(*rows, strict=True)
    if len(set(keys)) < len(keys):
        raise RecordError(f"Seed {seed} predicts a photograph twice in one fold.")
    probabilities = np.array([[folds[k].probabilities[i] for *_, k, i in rows]], dtype=np.float64)
    return Pooled(
        rows=keys,
        y=np.array([classes.index(label) for label in labels], dtype=np.int64),
        probabilities=probabilities,
        patients=np.unique(patients, return_inverse=True)[1].astype(np.int64),
        classes=classes,
    )
