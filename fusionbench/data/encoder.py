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
from fusionbench.plugin.columns import MetadataColumn

ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
MISSING: tuple[Missing, ...] = get_args(Missing)
# What a category that no training row had becomes in an ordinal code; not recorded is 0.
UNSEEN = -1.0
# What was learnt of a column.
_State = dict[str, Any]
# Of a number under `ple`; as in the authors' package (rtdl_num_embeddings).
BINS = 48
# Beyond any measurement; keeps squares finite in float64 and features finite in float32.
_FAR = 1e30


class MetadataEncoder:
    """Encodes the columns of `Table.metadata` as float32 features, column by column, in order.

    Numeric columns are standardised; under `ple` they are piecewise linear over BINS quantiles of
    the training rows: feature t rises from 0 to 1 over bin t (Y. Gorishniy, I. Rubachev, A.
    Babenko, "On embeddings for numerical features in tabular deep learning", NeurIPS 2022,
    https://arxiv.org/abs/2203.05556). `ordinal`: one feature per category column, (position + 1) /
    number of categories; 0 where nothing was recorded. Else: one feature per category; `periodic`
    and `tokens` are layers on top (fusionbench.models.metadata). Categories are the
    card's `values` where it lists them (then the width is the same in every fold), otherwise those
    of the training rows; unknown marks that training rows hold are categories too. A category that
    was never seen is all zeros in one-hot, -1 in ordinal.

    `missing`, for cells where nothing was recorded (in numeric columns also unknown marks):

    * ``zero``: all zeros (one-hot), 0 (ordinal; after scaling, so the mean of a numeric column).
    * ``indicator``: as zero, plus one 0/1 feature per column that had such cells in training.
    * ``impute``: the training rows' most frequent category or median; unknown marks as well.
    * ``drop-rows``: `keeps` is False for rows with such a cell, and `fit` leaves them out.

    Unknown marks are a value of their own but for `impute`.

    `recorded`: behind all columns' features follows one 0/1 feature per column, 1 where something
    was recorded (an unknown mark was, but for `impute`).

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
        recorded: bool = False,
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
        self.recorded = recorded
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
        blocks += [self._recorded(column, frame[column.name]) for column in self._flagged]
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
        names = [name for state in self._ready() for name in self._names(state)]
        return (*names, *(f"{column.name}:recorded" for column in self._flagged))

    @property
    def described(self) -> tuple[MetadataColumn, ...]:
        """The columns as a fusion is told of them (`Spec.columns`)."""
        described = []
        for i, (column, state) in enumerate(zip(self.columns, self._ready(), strict=True)):
            positions: list[int] = np.flatnonzero(self.sources == i).tolist()
            recorded = positions.pop() if self.recorded else None
            missing = positions.pop() if state["missing_flag"] else None
            values = state.get("categories", ()) if self.encoding != "ordinal" else ()
            described.append(
                MetadataColumn(
                    column.name, column.kind, tuple(positions), tuple(values), missing, recorded
                )
            )
        return tuple(described)

    @property
    def sources(self) -> np.ndarray:
        """int64 (n_features,): the position, in `columns`, of the column that a feature is of."""
        widths = [len(self._names(state)) for state in self._ready()]
        return np.concatenate(
            [np.repeat(np.arange(len(widths)), widths), np.arange(len(self._flagged))]
        ).astype(np.int64)

    @property
    def _flagged(self) -> tuple[Column, ...]:
        return self.columns if self.recorded else ()

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
                edges = np.unique(np.quantile(recorded, np.linspace(0, 1, BINS + 1)))
                if self.encoding == "ple" and len(edges) > 1:
                    state["edges"] = edges
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
        if categories is not None and self.encoding != "ordinal":
            names = [f"{name}={c}" for c in categories]
        elif "edges" in state:
            names = [f"{name}>{edge:g}" for edge in state["edges"][:-1]]
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
                if "edges" in state:
                    features = _piecewise_linear(values, state["edges"])
        else:
            text = self._text(cells)
            text = text.where(text != "", state.get("fill", ""))
            categories = state["categories"]
            # -1: none of the categories
            codes = pd.Index(categories, dtype=object).get_indexer(pd.Index(text))[:, None]
            if self.encoding != "ordinal":
                features = codes == np.arange(len(categories))
            else:
                scaled = np.where(codes < 0, UNSEEN, (codes + 1) / max(1, len(categories)))
                features = np.where((text == "").to_numpy()[:, None], 0.0, scaled)
        flags = [cells.isna().to_numpy()] * state["missing_flag"]
        return np.column_stack([features, *flags]).astype(np.float64)

    def _recorded(self, column: Column, cells: pd.Series) -> np.ndarray:
        """bool (n, 1): whether something was recorded."""
        text = column.kind != "numeric" and self.missing == "impute"
        empty = self._text(cells) == "" if text else cells.isna()
        return ~empty.to_numpy(dtype=bool)[:, None]

    def _text(self, cells: pd.Series) -> pd.Series:
        """Text, "" for nothing recorded."""
        text = cells.astype(object).where(cells.notna(), "")
        return text.where(~text.isin(self.unknown), "") if self.missing == "impute" else text


def _piecewise_linear(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(n,) numbers, (T + 1,) rising edges -> (n, T): how far each has come through each bin, below
    0 in the first and above 1 in the last where it lies outside; all 0 for NaN."""
    share = (values[:, None] - edges[:-1]) / np.diff(edges)
    share[:, 1:] = np.maximum(share[:, 1:], 0)
    share[:, :-1] = np.minimum(share[:, :-1], 1)
    return np.clip(np.nan_to_num(share, nan=0.0), -_FAR, _FAR)


def _numbers(cells: pd.Series) -> np.ndarray:
    """(n,) float64, NaN for nothing recorded."""
    return np.clip(cells.to_numpy(dtype=np.float64), -_FAR, _FAR)
