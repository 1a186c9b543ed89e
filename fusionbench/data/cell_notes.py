"""What is worth knowing of a csv's cells although they fit the card: texts that look as if nothing
was recorded, one value in two spellings, columns that tell nothing."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from fusionbench.config.wording import listed, plural
from fusionbench.data.card import Column, DatasetCard
from fusionbench.data.schema import looks_empty, value_of

_BOOLEAN = dict.fromkeys(("true", "t", "yes", "y", "1"), "true")
_BOOLEAN |= dict.fromkeys(("false", "f", "no", "n", "0"), "false")
_SHOWN = 3  # spellings per column


def cell_notes(card: DatasetCard, frame: pd.DataFrame) -> list[str]:
    """Notes on all columns that the card names; `frame` is text, as read_rows gives it."""
    notes: list[str] = []
    for column in card.columns:
        if column.name in frame:
            notes += _of_column(column, frame[column.name], card.unknown)
    groups = [name for name in card.group if name in frame]
    lesions = [name for name in card.lesion if name in frame and name not in groups]
    for what, names, keys in (
        ("sample", [card.id_column], [card.id_column]),
        ("patient", groups, groups),
        ("lesion", lesions, [*groups, *lesions]),
    ):
        if not names or not set(names) <= {*frame}:
            continue
        cells = Counter(frame[keys].itertuples(index=False, name=None))
        title = " and ".join(names)
        for key, rows in cells.items():
            if any(looks_empty(cell) for cell in key[-len(names) :]):
                notes.append(
                    f"{title}: {_spelled(key)} is read as one {what} of {plural(rows, 'row')}; "
                    "leave the cell empty where it is not known"
                )
        notes += (
            f"{title}: {text} are read as different {what}s; write the same one alike"
            for text in _spellings(cells)
        )
    return notes


def _of_column(column: Column, cells: pd.Series, unknown: Sequence[str]) -> Iterator[str]:
    counts: Counter[str] = Counter()
    for cell, rows in cells.value_counts().items():
        try:
            value = value_of(column, str(cell), unknown)
        except ValueError:  # a problem, not a note
            return
        if value is not None and value == value:
            counts[str(value)] += rows
    name = column.name
    if not counts:
        yield f"{name}: nothing is recorded in any row"
    elif len(counts) == 1 and sum(counts.values()) == len(cells):
        yield f"{name}: every row says {next(iter(counts))!r}"
    if column.kind != "categorical" or column.values:
        return
    for value in counts:
        if looks_empty(value) and value not in unknown:
            yield (
                f"{name}: {value!r} ({plural(counts[value], 'row')}) is a value like others; if it "
                f'means "not recorded", add aliases = {{ "{value}" = "" }} to the column, if it '
                f'means "asked, not known", list it in `unknown`'
            )
    for text in _spellings({(value,): rows for value, rows in counts.items()}):
        yield f"{name}: {text} are different values; if they mean the same, add aliases to the card"


Key = tuple[str, ...]


def _spellings(counts: dict[Key, int] | Counter[Key]) -> Iterator[str]:
    """`'1' (20 rows) and '1.0' (10 rows)` for every value that is written in several ways."""
    alike: dict[Key, list[Key]] = {}
    words = {_plain(cell) for key in counts for cell in key} - {""}
    booleans = _BOOLEAN if words <= {*_BOOLEAN} else {}
    for key in counts:
        plain = tuple(map(_plain, key))
        alike.setdefault(tuple(booleans.get(cell, cell) for cell in plain), []).append(key)
    several = [keys for keys in alike.values() if len(keys) > 1]
    for keys in several[:_SHOWN]:
        yield listed(f"{_spelled(key)} ({plural(counts[key], 'row')})" for key in sorted(keys))
    if len(several) > _SHOWN:
        yield f"{len(several) - _SHOWN} more such groups of values"


def _spelled(key: Iterable[str]) -> str:
    return repr(" / ".join(key))


def _plain(cell: str) -> str:
    """A cell without case, Unicode form, blanks, separators and leading zeros."""
    if re.fullmatch(r"\d+\.\d*", cell):
        cell = cell.rstrip("0").rstrip(".")
    text = unicodedata.normalize("NFKC", cell).casefold()
    text = re.sub(r"[\s_-]+", " ", text).strip()
    return re.sub(r"(?<![\d.])0+(?=\d)", "", text)
