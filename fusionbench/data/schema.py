"""What the cells of a metadata csv must look like, from the card."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from fusionbench.data.card import Column, DatasetCard
from fusionbench.data.csv_rows import Problem, problem
from fusionbench.data.paths import unsafe_path

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_BOOLEAN = {"true": "True", "1": "True", "1.0": "True", "false": "False", "0": "False"}
_BOOLEAN["0.0"] = "False"


def check_rows(
    card: DatasetCard, frame: pd.DataFrame, path: Path, views: Sequence[str]
) -> list[Problem]:
    """Everything in `frame` (text, from read_rows) that does not fit the card: all of it, sorted
    by row. An empty list: it fits. A photograph must be named in the views that are used."""
    problems: list[Problem] = []
    for name, fault_of in _checks(card, views):
        if name not in frame:
            problems.append(problem(path, 1, name, "", "column is missing"))
            continue
        # Each distinct text is looked at once.
        faults = {cell: fault for cell in frame[name].unique() if (fault := fault_of(cell))}
        bad = frame[name][frame[name].isin(faults.keys())]
        problems += [problem(path, row, name, cell, faults[cell]) for row, cell in bad.items()]
    if card.id_column in frame:
        problems += _repeated(frame[card.id_column], path)
    unique = {(p["row"], p["column"], p["problem"]): p for p in problems}
    return sorted(unique.values(), key=lambda p: (p["row"], p["column"]))


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


Fault = Callable[[str], str]  # what is wrong with a cell; "" where nothing is


def _checks(card: DatasetCard, views: Sequence[str]) -> Iterator[tuple[str, Fault]]:
    """The columns that must be there, and what their cells may not be."""
    yield card.id_column, lambda cell: "" if cell else "is empty: every row needs an id"
    for view in card.views:
        used = view.name in views
        yield view.column, unsafe_path if used else lambda cell: cell and unsafe_path(cell)
    unknown = f"unknown class (known: {', '.join(card.classes)})"
    yield card.label.column, lambda cell: unknown if card.label.class_of(cell) is None else ""
    for name in card.group:
        yield name, lambda cell: "" if cell else "is empty: the patient of every row must be known"
    for name in card.lesion:
        yield name, lambda cell: ""
    for column in card.columns:
        yield column.name, partial(_fault, column, card.unknown)


def _fault(column: Column, unknown: tuple[str, ...], cell: str) -> str:
    try:
        if column.kind == "numeric":
            value = number(column, cell, unknown)
            low = -math.inf if column.minimum is None else column.minimum
            high = math.inf if column.maximum is None else column.maximum
            return f"out of range ({_span(column)})" if value < low or value > high else ""
        text = canonical(column, cell, unknown)
    except ValueError:
        return "is not a number" if column.kind == "numeric" else "is neither True nor False"
    if (
        column.kind == "boolean"
        or not column.values
        or text in (None, "", *column.values, *unknown)
    ):
        return ""
    return f"unknown value (known: {', '.join(column.values)})"


def _span(column: Column) -> str:
    if column.maximum is None:
        return f"at least {column.minimum:g}"
    if column.minimum is None:
        return f"at most {column.maximum:g}"
    return f"{column.minimum:g} to {column.maximum:g}"


def _repeated(ids: pd.Series, path: Path) -> Iterator[Problem]:
    for cell, same in ids[(ids != "") & ids.duplicated(keep=False)].groupby(ids):
        for row in same.index:
            others = [str(i) for i in same.index if i != row]
            more = ", …" if len(others) > 5 else ""
            text = f"duplicate id: also in row {', '.join(others[:5])}{more}"
            yield problem(path, row, str(ids.name), cell, text)
