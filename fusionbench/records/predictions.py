"""What one run predicted, as a csv file that reads back to the same bits."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BEFORE = ["id", "group", "lesion", "part", "fold", "label"]


@dataclass(frozen=True)
class Predictions:
    """What one run predicted, every evaluated part together. `probabilities`: (n, K) float64.

    `groups` and `lesions` name each row's patient and lesion: what resampling must keep together.
    """

    ids: tuple[str, ...]
    parts: tuple[str, ...]
    fold: int
    labels: tuple[str, ...]  # the true class's name
    probabilities: NDArray[np.float64]
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    lesions: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = (len(self.ids), len(self.classes))
        if self.probabilities.shape != shape or not (
            {len(self.parts), len(self.labels), len(self.groups), len(self.lesions)}
            == {len(self.ids)}
        ):
            raise ValueError(
                f"Predictions do not fit: {len(self.ids)} ids, {len(self.parts)} parts, "
                f"{len(self.labels)} labels, {len(self.groups)} groups, {len(self.lesions)} "
                f"lesions, probabilities {self.probabilities.shape}."
            )
        if not np.isfinite(self.probabilities).all():
            raise ValueError("Predictions hold a probability that is not finite.")
        if unknown := set(self.labels) - set(self.classes):
            raise ValueError(f"Predictions hold labels that are no class: {sorted(unknown)}.")

    def to_csv(self) -> str:
        """`id,group,lesion,part,fold,label,p_<CLASS>...`; floats read back to the same bits."""
        text = io.StringIO()
        # All text quoted: an id may hold a comma, a quote or a stray line break.
        write = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerow
        write([*_BEFORE, *(f"p_{c}" for c in self.classes)])
        rows = self.probabilities.astype(np.float64).tolist()
        for name, group, lesion, part, label, row in zip(
            self.ids, self.groups, self.lesions, self.parts, self.labels, rows, strict=True
        ):
            write([name, group, lesion, part, self.fold, label, *row])
        return text.getvalue()

    @classmethod
    def from_csv(cls, text: str) -> Predictions:
        """Raises ValueError where the text is not what to_csv writes."""
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        if header[: len(_BEFORE)] != _BEFORE:
            raise ValueError(f"unknown columns {header}")
        columns = zip(*(row[: len(_BEFORE)] for row in rows), strict=True)
        ids, groups, lesions, parts, folds, labels = columns
        if len(set(folds)) != 1:
            raise ValueError(f"{len(set(folds))} folds in one file")
        return cls(
            ids=ids,
            groups=groups,
            lesions=lesions,
            parts=parts,
            fold=int(folds[0]),
            labels=labels,
            probabilities=np.array([[float(p) for p in row[len(_BEFORE) :]] for row in rows]),
            classes=tuple(name.removeprefix("p_") for name in header[len(_BEFORE) :]),
        )
