"""Metadata as numbers: fitted on training rows, applied to any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd
from sklearn.preprocessing import StandardScaler

from fusionbench.config.run_config import Encoding, Missing
from fusionbench.data.card import Column
from fusionbench.data.choices import refuse_forbidden
from fusionbench.errors import DataError, UsageError

ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
MISSING: tuple[Missing, ...] = get_args(Missing)
# What a category that no training row had becomes in an ordinal code; not recorded is 0.
UNSEEN = -1.0
# What was learnt of a column.
_State = dict[str, Any]
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
        self._states: list[_State] | None = None

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
        self._states = [self._learn(column, frame[column.name]) for column in self.columns]
        return self

    def transform(self, frame: pd.DataFrame) -> np.ndarray:
        """float32 (n, n_features), finite, for any rows; rows that `keeps` would drop read as with
        `zero`."""
        blocks = [self._encode(state, frame[str(state["name"])]) for state in self._ready()]
        return np.column_stack([np.zeros((len(frame), 0)), *blocks]).astype(np.float32)

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
        return tuple(name for state in self._ready() for name in self._names(state))

    @property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """Column name -> positions of its features, its missing flag included."""
        return {
            column.name: tuple(np.flatnonzero(self.sources == i).tolist())
            for i, column in enumerate(self.columns)
        }

    @property
    def sources(self) -> np.ndarray:
        """int64 (n_features,): the position, in `columns`, of the column that a feature is of."""
        widths = [len(self._names(state)) for state in self._ready()]
        return np.repeat(np.arange(len(widths)), widths)

    def _ready(self) -> list[_State]:
        if self._states is None:
            raise RuntimeError("MetadataEncoder is used before fit().")
        return self._states

    def _learn(self, column: Column, cells: pd.Series) -> _State:
        """What the training cells of a column tell."""
        flag = self.missing == "indicator" and bool(cells.isna().any())
        state: _State = {"name": column.name, "kind": column.kind, "missing_flag": flag}
        if column.kind == "numeric":
            values = _numbers(cells)
            recorded = values[~np.isnan(values)]
            if len(recorded):
                scaler = StandardScaler().fit(recorded[:, None])
                state |= {"mean": float(scaler.mean_[0]), "scale": float(scaler.scale_[0])}
                if self.missing == "impute":
                    state["fill"] = float(np.median(recorded))
            return state
        text = self._text(cells)
        seen = text[text != ""]
        listed = column.values or (("False", "True") if column.kind == "boolean" else ())
        # Beyond the listed ones only unknown marks can occur: the rest was refused on reading.
        marks = self.unknown if self.missing == "impute" else ()
        categories = [c for c in dict.fromkeys(listed) if c not in marks]
        state["categories"] = categories + sorted(set(seen) - set(categories))
        if self.missing == "impute" and len(seen):
            state["fill"] = str(seen.mode()[0])  # of equally frequent ones the first by name
        return state

    def _names(self, state: _State) -> list[str]:
        """The features of a column."""
        name, categories = state["name"], state.get("categories")
        if categories is not None and self.encoding == "onehot":
            names = [f"{name}={c}" for c in categories]
        else:
            names = [name]
        return names + [f"{name}:missing"] * state["missing_flag"]

    def _encode(self, state: _State, cells: pd.Series) -> np.ndarray:
        """float64 (n, len(_names(state)))."""
        if state["kind"] == "numeric":
            features = np.zeros((len(cells), 1))
            if "mean" in state:
                values = np.nan_to_num(_numbers(cells), nan=state.get("fill", np.nan))
                scaled = (values - state["mean"]) / state["scale"]
                features = np.clip(np.nan_to_num(scaled, nan=0.0), -_FAR, _FAR)[:, None]
        else:
            text = self._text(cells)
            text = text.where(text != "", state.get("fill", ""))
            categories = state["categories"]
            # -1: none of the categories
            codes = pd.Index(categories, dtype=object).get_indexer(pd.Index(text))[:, None]
            if self.encoding == "onehot":
                features = codes == np.arange(len(categories))
            else:
                scaled = np.where(codes < 0, UNSEEN, (codes + 1) / max(1, len(categories)))
                features = np.where((text == "").to_numpy()[:, None], 0.0, scaled)
        flags = [cells.isna().to_numpy()] * state["missing_flag"]
        return np.column_stack([features, *flags]).astype(np.float64)

    def _text(self, cells: pd.Series) -> pd.Series:
        """Text, "" for nothing recorded."""
        text = cells.astype(object).where(cells.notna(), "")
        return text.where(~text.isin(self.unknown), "") if self.missing == "impute" else text


def _numbers(cells: pd.Series) -> np.ndarray:
    """(n,) float64, NaN for nothing recorded."""
    return np.clip(cells.to_numpy(dtype=np.float64), -_FAR, _FAR)
