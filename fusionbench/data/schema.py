"""What a metadata csv must look like, as a pandera schema made from the card."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pandera.pandas as pa

from fusionbench.data.card import Column, DatasetCard
from fusionbench.data.csv_rows import Problem, problem
from fusionbench.data.paths import unsafe_path

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_BOOLEAN = {"true": "True", "1": "True", "1.0": "True", "false": "False", "0": "False"}
_BOOLEAN["0.0"] = "False"


def check_rows(
    card: DatasetCard, frame: pd.DataFrame, path: Path, views: tuple[str, ...]
) -> list[Problem]:
    """Everything in `frame` (text, from read_rows) that does not fit the card: all of it, sorted
    by row. An empty list: it fits. A photograph must be named in the views that are used."""
    try:
        _schema(card, views).validate(frame, lazy=True)
    except pa.errors.SchemaErrors as errors:
        return _problems(errors.failure_cases, frame, path)
    return []


def unlisted_columns(card: DatasetCard, frame: pd.DataFrame) -> tuple[str, ...]:
    """Columns of the file that the card does not speak of: not an error, worth a note."""
    known = {c.name for c in card.columns} | {v.column for v in card.views}
    known |= {card.id_column, card.label.column, *card.group, *card.lesion, *card.ignore}
    return tuple(name for name in frame.columns if name and name not in known)


def canonical(column: Column, cell: str, unknown: tuple[str, ...]) -> str | None:
    """A cell of a categorical or boolean column as it is used: None for an empty one, unknown
    marks as they are, aliases resolved, booleans as 'True' / 'False'.

    Raises ValueError for a boolean that is none.
    """
    if cell == "":
        return None
    cell = column.aliases.get(cell, cell)
    if column.kind != "boolean" or cell in unknown:
        return cell
    if cell.lower() not in _BOOLEAN:
        raise ValueError(cell)
    return _BOOLEAN[cell.lower()]


def number(column: Column, cell: str, unknown: tuple[str, ...]) -> float:
    """A cell of a numeric column; NaN for an empty one and for an unknown mark.

    Raises ValueError for what is no finite decimal number ('nan', '1_000' and '5,0' are none).
    """
    cell = column.aliases.get(cell, cell)
    if cell == "" or cell in unknown:
        return math.nan
    value = float(cell) if _NUMBER.fullmatch(cell) else math.inf
    if not math.isfinite(value):
        raise ValueError(cell)
    return value


def _schema(card: DatasetCard, views: tuple[str, ...]) -> pa.DataFrameSchema:
    columns: dict[str, pa.Column] = {}

    def add(name: str, *checks: pa.Check, unique: bool = False) -> None:
        have = columns.get(name)
        columns[name] = pa.Column(
            None,
            checks=[*(have.checks if have else []), *checks],
            unique=unique or bool(have and have.unique),
            report_duplicates="all",
        )

    add(card.id_column, _each(lambda c: c != "", "is empty: every row needs an id"), unique=True)
    for view in card.views:
        for reason in _UNSAFE if view.name in views else _UNSAFE[:-1]:
            add(view.column, _each(lambda c, r=reason: unsafe_path(c) != r, reason))  # type: ignore[misc]
    known = ", ".join(card.classes)
    add(
        card.label.column,
        _each(lambda c: card.label.class_of(c) is not None, f"unknown class (known: {known})"),
    )
    for name in card.group:
        add(name, _each(lambda c: c != "", "is empty: the patient of every row must be known"))
    for name in card.lesion:
        add(name)
    for column in card.columns:
        add(column.name, *_column_checks(column, card.unknown))
    return pa.DataFrameSchema(columns)


_UNSAFE = (
    "holds control characters",
    "holds a backslash; use /",
    "is an absolute path",
    "leaves the image folder",
    "is empty",
)


def _column_checks(column: Column, unknown: tuple[str, ...]) -> list[pa.Check]:
    if column.kind == "numeric":

        def is_number(cell: str) -> bool:
            return _parses(lambda: number(column, cell, unknown))

        def within(cell: str) -> bool:
            value = number(column, cell, unknown) if is_number(cell) else math.nan
            low = -math.inf if column.minimum is None else column.minimum
            high = math.inf if column.maximum is None else column.maximum
            return math.isnan(value) or low <= value <= high

        checks = [_each(is_number, "is not a number")]
        if column.minimum is not None or column.maximum is not None:
            checks.append(_each(within, f"out of range ({_span(column)})"))
        return checks
    if column.kind == "boolean":
        return [
            _each(
                lambda cell: _parses(lambda: canonical(column, cell, unknown)),
                "is neither True nor False",
            )
        ]
    if not column.values:
        return []
    allowed = {"", *column.values, *unknown}
    return [
        _each(
            lambda cell: canonical(column, cell, unknown) in allowed or cell == "",
            f"unknown value (known: {', '.join(column.values)})",
        )
    ]


def _span(column: Column) -> str:
    if column.maximum is None:
        return f"at least {column.minimum:g}"
    if column.minimum is None:
        return f"at most {column.maximum:g}"
    return f"{column.minimum:g} to {column.maximum:g}"


def _parses(read: Callable[[], object]) -> bool:
    try:
        read()
    except ValueError:
        return False
    return True


def _each(passes: Callable[[str], bool], text: str) -> pa.Check:
    """A check of single cells; each distinct text is looked at once."""

    def series_passes(cells: pd.Series) -> pd.Series:
        verdict = {cell: passes(cell) for cell in cells.unique()}
        return cells.map(verdict).astype(bool)

    return pa.Check(series_passes, error=text)


def _problems(cases: pd.DataFrame, frame: pd.DataFrame, path: Path) -> list[Problem]:
    found: list[Problem] = []
    for case in cases.to_dict(orient="records"):
        text, column, cell = str(case["check"]), str(case["column"]), str(case["failure_case"])
        if text == "column_in_dataframe":
            found.append(problem(path, 1, cell, "", "column is missing"))
            continue
        row = int(case["index"])
        if text == "field_uniqueness":
            if cell == "":
                continue
            others = [str(i) for i in frame.index[frame[column] == cell] if i != row]
            more = ", …" if len(others) > 5 else ""
            text = f"duplicate id: also in row {', '.join(others[:5])}{more}"
        found.append(problem(path, row, column, cell, text))
    return sorted(found, key=lambda p: (p["row"], p["column"]))
