"""What the cells of a metadata csv must look like, from the card."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import pandas as pd

from fusionbench.data.card import Column, DatasetCard, Label
from fusionbench.data.csv_rows import Problem, problem
from fusionbench.data.paths import is_file, unsafe_path
from fusionbench.files import reading

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_BOOLEAN = {"true": "True", "1": "True", "1.0": "True", "false": "False", "0": "False"}
_BOOLEAN["0.0"] = "False"
# As other programs write that nothing was recorded, or is known; without case.
_EMPTY_WORDS = {
    *("na", "n/a", "n.a.", "#n/a", "<na>", "nan", "nat", "none", "null", "nil", "-", "--", "---"),
    *(".", "?", "missing", "unknown", "unk", "undefined", "unspecified", "not recorded"),
    *("not known", "not available", "not specified", "not reported", "no data"),
}


def check_rows(
    card: DatasetCard, frame: pd.DataFrame, path: Path, views: Sequence[str]
) -> list[Problem]:
    """Everything in `frame` (text, from read_rows) that does not fit the card: all of it, sorted
    by row. An empty list: it fits. A photograph must be named in the views that are used."""
    problems: list[Problem] = []
    for name, fault_of in _checks(card, views):
        if name not in frame:
            problems.append(problem(path, 1, name, "", "column is missing"))
            problems[-1]["fix"] = _where_else(card, name, frame, path)
            continue
        # Each distinct text is looked at once.
        faults = {cell: fault for cell in frame[name].unique() if (fault := fault_of(cell))}
        bad = frame[name][frame[name].isin(faults.keys())]
        for row, cell in bad.items():
            problems.append(problem(path, row, name, cell, faults[cell]))
            if looks_empty(cell) and any(column.name == name for column in card.columns):
                problems[-1]["fix"] = (
                    f'If {cell!r} in {name} means "not recorded", add to that column of the card: '
                    f'aliases = {{ "{cell}" = "" }}'
                )
    if card.id_column in frame:
        problems += _repeated(card, frame, path)
    unique = {(p["row"], p["column"], p["problem"]): p for p in problems}
    return sorted(unique.values(), key=lambda p: (p["row"], p["column"]))


def unlisted_columns(card: DatasetCard, frame: pd.DataFrame) -> tuple[str, ...]:
    """Columns of the file that the card does not speak of: not an error, worth a note."""
    known = {c.name for c in card.columns} | {v.column for v in card.views}
    known |= {card.id_column, card.label.column, *card.group, *card.lesion, *card.ignore}
    return tuple(name for name in frame.columns if name not in known)


def looks_empty(cell: str) -> bool:
    """Whether a text is one by which other programs say that nothing was recorded."""
    return cell.strip().lower() in _EMPTY_WORDS


def value_of(column: Column, cell: str, unknown: Sequence[str]) -> str | float | None:
    """A cell as it is used, aliases resolved.

    Numeric: a float, NaN for an empty cell and for an unknown mark. Otherwise text, None for an
    empty cell, unknown marks as they are, booleans as 'True' / 'False'. Raises ValueError that says
    why the card does not allow it; 'nan', '1_000' and '5,0' are no numbers.
    """
    cell = column.aliases.get(cell, cell)
    if column.kind == "numeric":
        if cell in ("", *unknown):
            return math.nan
        value = float(cell) if _NUMBER.fullmatch(cell) else math.inf
        if not math.isfinite(value):
            raise ValueError("is not a number")
        low = -math.inf if column.minimum is None else column.minimum
        high = math.inf if column.maximum is None else column.maximum
        if not low <= value <= high:
            bounds = f"{low:g} to {high:g}"
            if math.inf in (-low, high):
                bounds = f"at most {high:g}" if low == -math.inf else f"at least {low:g}"
            raise ValueError(f"out of range ({bounds})")
        return value
    if cell in ("", *unknown):
        return cell or None
    if column.kind == "boolean":
        if cell.lower() not in _BOOLEAN:
            raise ValueError("is neither True nor False")
        return _BOOLEAN[cell.lower()]
    if column.values and cell not in column.values:
        raise ValueError(f"unknown value (known: {', '.join(column.values)})")
    return cell


Fault = Callable[[str], str]  # what is wrong with a cell; "" where nothing is


def _checks(card: DatasetCard, views: Sequence[str]) -> Iterator[tuple[str, Fault]]:
    """The columns that must be there, and what their cells may not be."""
    yield card.id_column, lambda cell: "" if cell else "is empty: every row needs an id"
    for view in card.views:
        used = view.name in views
        yield view.column, partial(_path_fault, used)
    yield card.label.column, partial(_label_fault, card.label)
    patient = "is empty: the patient of every row must be known, or the card say group_missing"
    for name in card.group:
        yield name, lambda cell: "" if cell or card.group_missing else patient
    for name in card.lesion:
        yield name, lambda cell: ""
    for column in card.columns:
        yield column.name, partial(_fault, column, card.unknown)


def _fault(column: Column, unknown: Sequence[str], cell: str) -> str:
    try:
        value_of(column, cell, unknown)
    except ValueError as error:
        return str(error)
    return ""


def _path_fault(used: bool, cell: str) -> str:
    return unsafe_path(cell.replace("\\", "/")) if cell or used else ""


def _label_fault(label: Label, cell: str) -> str:
    classes = label.classes_of(cell)
    if len(classes) > 1:
        return f"fits {' and '.join(classes)}: list it, letter by letter, in the patterns of one"
    known = ", ".join(label.classes)
    return "" if classes else f"unknown class (known: {known}); label.ignore leaves rows out"


def _where_else(card: DatasetCard, name: str, frame: pd.DataFrame, path: Path) -> str:
    """What may be meant by a column that is not there: another one, or one of another csv."""
    label = name == card.label.column
    for other in (path, *sorted(path.parent.glob("*.csv"))[:50]) if label else ():
        if not is_file(other):  # such as a pipe, which would be waited for
            continue
        with reading(other), other.open(encoding="utf-8-sig", errors="replace") as file:
            header = {cell.strip(' "\r\n') for cell in file.readline(65536).split(",")}
        if name in header or set(card.classes) <= header:
            what = f"the column {name!r}" if name in header else "one column per class"
            return (
                f"{other.name} has {what}. Write the class of each row into a column {name!r} of "
                f"{path.name}: labels are read from there only."
            )
    columns = [str(column) for column in frame]
    if near := get_close_matches(name.lower(), columns, cutoff=0.5):
        return f"{path.name} has no column {name!r}: did you mean {' or '.join(near)}?"
    more = ", …" if len(columns) > 30 else ""
    return f"The columns of {path.name}: {', '.join(columns[:30])}{more}."


def _repeated(card: DatasetCard, frame: pd.DataFrame, path: Path) -> Iterator[Problem]:
    ids, photographs = frame[card.id_column], [view.column for view in card.views]
    fix = "An id names one row: one photograph, or the photographs of one sample in one column each"
    for name in photographs:
        if name != card.id_column and name in frame and frame[name].is_unique:
            fix += (
                f". Where each row is a photograph, take id = {name!r} in the card, and name what "
                f'its rows share in `lesion` and `group`: group = ["{card.id_column}"] keeps them '
                "on one side of a split"
            )
            break
    for cell, same in ids[(ids != "") & ids.duplicated(keep=False)].groupby(ids):
        for row in same.index:
            others = [str(i) for i in same.index if i != row]
            more = ", …" if len(others) > 5 else ""
            text = f"duplicate id: also in row {', '.join(others[:5])}{more}"
            yield {**problem(path, row, str(ids.name), cell, text), "fix": f"{fix}."}
