"""Metadata as numbers: fitted on training rows, applied to any."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from fusionbench.data.card import Column
from fusionbench.data.choices import refuse_forbidden
from fusionbench.errors import DataError, UsageError

Encoding = Literal["onehot", "ordinal"]
Missing = Literal["zero", "indicator", "impute", "drop-rows"]

ENCODINGS: tuple[Encoding, ...] = ("onehot", "ordinal")
MISSING: tuple[Missing, ...] = ("zero", "indicator", "impute", "drop-rows")
# What a category that no training row had becomes in an ordinal code; not recorded is 0.
UNSEEN = -1.0
# Beyond any measurement; keeps squares finite in float64 and features finite in float32.
_FAR = 1e30


class MetadataEncoder:
    """Encodes the columns of `Table.metadata` as float32 features, column by column, in order.

    Numeric columns are standardised. `onehot`: one feature per category. `ordinal`: one feature per
    column, (position + 1) / number of categories; 0 where nothing was recorded. Categories are the
    card's `values` where it lists them (then the width is the same in every fold), otherwise those
    of the training rows; unknown marks that training rows hold are categories too. A category that
    was never seen is all zeros in one-hot, -1 in ordinal.

    `missing`, for cells where nothing was recorded (in numeric columns also unknown marks):

    * ``zero``: all zeros (one-hot), 0 (ordinal; after scaling, so the mean of a numeric column).
    * ``indicator``: as zero, plus one 0/1 feature per column that had such cells in training.
    * ``impute``: the training rows' most frequent category or median; unknown marks as well.
    * ``drop-rows``: `keeps` is False for rows with such a cell, and `fit` leaves them out.

    Unknown marks are a value of their own but for `impute`.

    A forbidden column is refused unless `forbidden` is true.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        encoding: Encoding = "onehot",
        missing: Missing = "zero",
        unknown: tuple[str, ...] = ("UNK",),
        forbidden: bool = False,
    ) -> None:
        if encoding not in ENCODINGS:
            raise UsageError(f"No encoding {encoding!r}.", f"Known: {', '.join(ENCODINGS)}.")
        if missing not in MISSING:
            raise UsageError(f"No missing policy {missing!r}.", f"Known: {', '.join(MISSING)}.")
        for column in () if forbidden else columns:
            refuse_forbidden(column)
        self.columns = tuple(columns)
        self.encoding = encoding
        self.missing = missing
        self.unknown = tuple(unknown)
        self._fitted: list[_FittedColumn] = []

    def fit(self, frame: pd.DataFrame) -> MetadataEncoder:
        """Learn categories, means, scales and fill values from training rows.

        Raises DataError where no row is left to learn from.
        """
        frame = frame[self.keeps(frame)]
        if len(frame) == 0:
            raise DataError(
                f"No training row is left under the missing-value policy {self.missing!r}.",
                "Choose another policy, or leave out the columns that are mostly empty.",
            )
        self._fitted = [self._fit_column(column, frame[column.name]) for column in self.columns]
        return self

    def transform(self, frame: pd.DataFrame) -> np.ndarray:
        """float32 (n, n_features), finite, for any rows; rows that `keeps` would drop read as with
        `zero`."""
        blocks = [f.transform(frame[f.column.name]) for f in self._ready()]
        if not blocks:
            return np.zeros((len(frame), 0), dtype=np.float32)
        return np.concatenate(blocks, axis=1).astype(np.float32)

    def blank(self) -> np.ndarray:
        """float32 (n_features,): a row in which nothing was recorded, as transform() encodes it."""
        kinds = {c.name: "float64" if c.kind == "numeric" else object for c in self.columns}
        cells = {name: pd.Series([None], dtype=kind) for name, kind in kinds.items()}
        row: np.ndarray = self.transform(pd.DataFrame(cells, index=[0]))[0]
        return row

    def keeps(self, frame: pd.DataFrame) -> np.ndarray:
        """bool (n,): rows that the policy keeps. Only `drop-rows` drops any."""
        if self.missing != "drop-rows" or not self.columns:
            return np.ones(len(frame), dtype=bool)
        empty = frame[[c.name for c in self.columns]].isna().to_numpy()
        return np.asarray(~empty.any(axis=1), dtype=bool)

    @property
    def n_features(self) -> int:
        return len(self.feature_names)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """`age`, `gender=FEMALE`, `gender:missing`: one name per feature."""
        return tuple(name for fitted in self._ready() for name in fitted.names)

    @property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """Column name -> positions of its features, its missing flag included."""
        positions: dict[str, tuple[int, ...]] = {}
        start = 0
        for fitted in self._ready():
            stop = start + len(fitted.names)
            positions[fitted.column.name] = tuple(range(start, stop))
            start = stop
        return positions

    @property
    def sources(self) -> np.ndarray:
        """int64 (n_features,): the position, in `columns`, of the column that a feature is of."""
        widths = [len(fitted.names) for fitted in self._ready()]
        return np.repeat(np.arange(len(widths)), widths)

    def state(self) -> dict[str, object]:
        """What was learnt, as plain JSON: the same state encodes the same way."""
        return {
            "encoding": self.encoding,
            "missing": self.missing,
            "unknown": list(self.unknown),
            "columns": [fitted.state for fitted in self._ready()],
        }

    @property
    def digest(self) -> str:
        """16 hex digits of `state()`."""
        text = json.dumps(self.state(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _ready(self) -> list[_FittedColumn]:
        if len(self._fitted) != len(self.columns):
            raise RuntimeError("MetadataEncoder is used before fit().")
        return self._fitted

    def _fit_column(self, column: Column, cells: pd.Series) -> _FittedColumn:
        empty = cells.isna().to_numpy()
        flag = self.missing == "indicator" and bool(empty.any())
        if column.kind == "numeric":
            names, encode, state = self._numeric(column, cells)
        else:
            names, encode, state = self._categories(column, cells)
        if flag:
            names = (*names, f"{column.name}:missing")
        return _FittedColumn(column, names, encode, flag, {**state, "missing_flag": flag})

    def _numeric(self, column: Column, cells: pd.Series) -> _Learnt:
        values = _numbers(cells)
        recorded = values[~np.isnan(values[:, 0])]
        state: dict[str, object] = {"name": column.name, "kind": column.kind}
        if len(recorded) == 0:  # nothing to learn: a constant 0
            return (column.name,), lambda cells: np.zeros((len(cells), 1)), state
        scaler = StandardScaler().fit(recorded)
        fill = SimpleImputer(strategy="median").fit(recorded) if self.missing == "impute" else None
        state |= {"mean": float(scaler.mean_[0]), "scale": float(scaler.scale_[0])}
        if fill is not None:
            state["fill"] = float(fill.statistics_[0])

        def encode(cells: pd.Series) -> np.ndarray:
            values = _numbers(cells)
            if fill is not None:
                values = fill.transform(values)
            return np.clip(np.nan_to_num(scaler.transform(values), nan=0.0), -_FAR, _FAR)

        return (column.name,), encode, state

    def _categories(self, column: Column, cells: pd.Series) -> _Learnt:
        marks = self.unknown if self.missing == "impute" else ()
        text = _text(cells, marks)
        seen = sorted(set(text[:, 0]) - {""})
        listed = column.values or (("False", "True") if column.kind == "boolean" else ())
        # Beyond the listed ones only unknown marks can occur: the rest was refused on reading.
        categories = [c for c in listed if c not in marks]
        categories += [c for c in seen if c not in categories]
        state: dict[str, object] = {
            "name": column.name,
            "kind": column.kind,
            "categories": categories,
        }
        fill = ""
        if self.missing == "impute" and seen:
            imputer = SimpleImputer(missing_values="", strategy="most_frequent").fit(text)
            fill = state["fill"] = str(imputer.statistics_[0])
        if not categories:
            width = 1 if self.encoding == "ordinal" else 0
            return (column.name,) * width, lambda cells: np.zeros((len(cells), width)), state

        def filled(cells: pd.Series) -> np.ndarray:
            text = _text(cells, marks)
            return np.where(text == "", fill, text).astype(object)

        if self.encoding == "onehot":
            onehot = OneHotEncoder(
                categories=[categories], handle_unknown="ignore", sparse_output=False
            ).fit(np.array([categories], dtype=object).T)
            names = tuple(f"{column.name}={c}" for c in categories)
            return names, lambda cells: onehot.transform(filled(cells)), state
        ordinal = OrdinalEncoder(
            categories=[categories], handle_unknown="use_encoded_value", unknown_value=-1
        ).fit(np.array([categories], dtype=object).T)

        def encode(cells: pd.Series) -> np.ndarray:
            text = filled(cells)
            codes = ordinal.transform(text)
            scaled = np.where(codes < 0, UNSEEN, (codes + 1) / len(categories))
            return np.where(text == "", 0.0, scaled)

        return (column.name,), encode, state


# Feature names, how a column's cells become (n, len(names)) numbers, and what was learnt.
_Learnt = tuple[tuple[str, ...], Callable[[pd.Series], np.ndarray], dict[str, object]]


@dataclass(frozen=True)
class _FittedColumn:
    column: Column
    names: tuple[str, ...]
    encode: Callable[[pd.Series], np.ndarray]
    flag: bool
    state: dict[str, object]

    def transform(self, cells: pd.Series) -> np.ndarray:
        features = self.encode(cells)
        if self.flag:
            features = np.column_stack([features, cells.isna().to_numpy(dtype=np.float64)])
        return features


def _numbers(cells: pd.Series) -> np.ndarray:
    """(n, 1) float64, NaN for nothing recorded."""
    return np.clip(cells.to_numpy(dtype=np.float64)[:, None], -_FAR, _FAR)


def _text(cells: pd.Series, as_missing: tuple[str, ...]) -> np.ndarray:
    """(n, 1) text, "" for nothing recorded: the encoders of scikit-learn take no mix with None."""
    text = cells.astype(object).where(cells.notna(), "")
    return text.where(~text.isin(as_missing), "").to_numpy(dtype=object)[:, None]
