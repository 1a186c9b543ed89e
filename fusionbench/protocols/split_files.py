"""Split files as others write them: csv, lists of ids without a header, and json.

Columns are found by what they hold: one the ids of the table, one the parts. Ids may have another
extension, a folder before them, or other capitals, as long as they mean one row of the table.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fusionbench.config.wording import listed
from fusionbench.data.card import DatasetCard, ProtocolSpec
from fusionbench.data.csv_rows import Problem, bad_rows, problem, read_rows
from fusionbench.data.images import EXTENSIONS
from fusionbench.data.locate import metadata_file
from fusionbench.errors import DataError
from fusionbench.files import reading

HEADER = ["id", "part"]
# Usual names, where what a column holds does not tell.
ID_NAMES = ("id", "image", "image_id", "img", "img_id", "file", "filename", "name", "isic_id")
PART_NAMES = ("part", "split", "set", "subset", "partition", "fold", "kfold", "folder", "fold_id")
POSITION_NAMES = ("indexes", "indices", "index", "idx", "row", "rows", "position")
NO_HEADER = "column 1"  # the first column of a file without a header
WORDS = {"training": "train", "val": "valid", "validation": "valid", "dev": "valid"}
WORDS |= {"testing": "test"}
FOLD = re.compile(r"(?:k?folds?|part|split)?[ _-]*0*([0-9]+)(?:\.0)?", re.ASCII)


class RowNames:
    """The ids of a table, and how others write them."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self.exact = dict.fromkeys(ids)
        self._like: dict[str, set[str]] = {}
        for name in self.exact:
            for like in {_path(name), _path(name).rpartition("/")[2]}:
                self._like.setdefault(like, set()).add(name)

    def of(self, text: str) -> str:
        """The id that is meant; the text itself where none is, or several are."""
        if text in self.exact:
            return text
        for like in (_path(text), _path(text).rpartition("/")[2]):
            if len(names := self._like.get(like, ())) == 1:
                return next(iter(names))
        return text

    def known(self, cells: Iterable[str]) -> int:
        """How many of these mean a row of the table."""
        return sum(self.of(cell) in self.exact for cell in cells)

    def matched(self, parts: Mapping[str, str], source: str) -> dict[str, str]:
        """The parts by the table's ids. Raises DataError where two texts mean the same row."""
        found: dict[str, str] = {}
        for text, part in parts.items():
            if (name := self.of(text)) in found:
                raise DataError(
                    f"{source} names the row {name} twice, once as {text}.", "Name it once."
                )
            found[name] = part
        return found


def _path(text: str) -> str:
    """A file name without its extension and with plain letters and separators."""
    text = unicodedata.normalize("NFC", text).replace("\\", "/").casefold()
    stem, _, suffix = text.rpartition(".")
    return stem if stem and f".{suffix}" in EXTENSIONS else text


def read_split(
    path: Path,
    spec: ProtocolSpec,
    names: Collection[str] = (),
    order: Callable[[], Sequence[str]] = tuple,
) -> dict[str, str]:
    """id, as the file spells it -> part. `names` are the table's ids; `order` gives those of the
    whole metadata file, whose positions the file may hold.

    Raises DataError with every row that does not fit."""
    if not path.exists():
        raise DataError(
            f"The split file {path} is missing.", "Restore it: it is part of the dataset's card."
        )
    known, should = RowNames(names), _should_hold(spec, names)
    frame, problems = _rows(path, known, spec)
    ids, parts = HEADER if list(frame) == HEADER else _columns(path, frame, known, spec, should)
    if ids.lower() in (*POSITION_NAMES, NO_HEADER) and not known.known(frame[ids]):
        frame[ids] = frame[ids].replace(_at(frame[ids], order()))
    frame[parts] = _parts(frame[parts], spec)
    fits = frame[parts].isin(spec.parts)
    text = f"no such part; known: {', '.join(spec.parts)}"
    problems += [problem(path, row, parts, part, text) for row, part in frame[parts][~fits].items()]
    twice = frame[fits][frame[fits][ids].duplicated()]
    problems += [problem(path, row, ids, i, "the id repeats") for row, i in twice[ids].items()]
    if problems:
        raise bad_rows(path, problems, should)
    return dict(zip(frame[ids], frame[parts], strict=True))


def read_indexes(
    card: DatasetCard, spec: ProtocolSpec, root: Path | None, names: Collection[str] = ()
) -> dict[str, str]:
    """id -> part from a file for each part, in the data folder or beside the card. Each lists ids
    of the table (`names`), or positions of rows in the metadata file, from 0 or from 1."""
    if root is None:
        raise DataError(f"The protocol {spec.name} of {card.name} needs the data folder.")
    order = read_rows(metadata_file(card, root))[0][card.id_column].tolist()
    known, lists = RowNames([*names, *order]), list[tuple[Path, str, str, pd.Series]]()
    broken: list[tuple[Path, list[Problem]]] = []
    for part, file in spec.index_files.items():
        beside = card.folder / file
        path = beside if beside.is_file() and not (root / file).exists() else root / file
        frame, problems = _rows(path, known, spec)
        broken.append((path, problems))
        column = _listing(path, frame, known, spec.index_column)
        lists.append((path, part, column, frame[column]))
    cells = [cell for *_, column in lists for cell in column]
    headers = {column for _, _, column, _ in lists}
    usual = {name for name in headers if name.lower() in POSITION_NAMES} - {card.id_column}
    by_position = headers <= (
        usual if known.known(cells) else usual | {spec.index_column, NO_HEADER}
    )
    at = _at(cells, order) if by_position else {cell: cell for cell in cells}
    parts: dict[str, str] = {}
    for (path, of, column, listing), (_, problems) in zip(lists, broken, strict=True):
        for row, text in listing.items():
            name = at.get(text, "")
            if name and name not in parts:
                parts[name] = of
                continue
            reason = f"already in {parts[name]}" if name else f"no row position below {len(order)}"
            problems.append(problem(path, row, column, text, reason))
        if problems:
            should = f"It should list ids ({_examples(names or order)}) or positions of rows."
            raise bad_rows(path, problems, f"Restore the file as it was published. {should}")
    return parts


def _at(cells: Iterable[str], order: Sequence[str]) -> dict[str, str]:
    """Positions of rows, from 0 or from 1 -> the ids of those rows, as far as there are any."""
    numbers = {cell: int(cell) for cell in cells if cell.isdecimal() and len(cell) < 10}
    first = int(0 not in numbers.values() and len(order) in numbers.values())
    return {c: order[n - first] for c, n in numbers.items() if 0 <= n - first < len(order)}


def _should_hold(spec: ProtocolSpec, names: Collection[str]) -> str:
    return (
        f"It should have the header id,part and a row for each row of the table: its id "
        f"({_examples(names)}) and its part ({', '.join(spec.parts)})."
    )


def _examples(names: Collection[str]) -> str:
    return f"as {next(iter(names))}" if names else "as in the metadata file"


def _rows(path: Path, known: RowNames, spec: ProtocolSpec) -> tuple[pd.DataFrame, list[Problem]]:
    """The cells of a file as text. What looks like a header, but names a row or a part, is one."""
    if path.suffix.lower() == ".json":
        return _json_rows(path, spec), []
    frame, problems = read_rows(path)
    header = [str(name) for name in frame]
    if known.known(header) or any(n.isdecimal() or n.lower() in spec.parts for n in header):
        first = pd.DataFrame([header], columns=header, index=[1], dtype=object)
        frame = pd.concat([first, frame])
        frame.columns = pd.Index([f"column {i + 1}" for i in range(frame.shape[1])])
    return frame, problems


def _columns(
    path: Path, frame: pd.DataFrame, known: RowNames, spec: ProtocolSpec, should: str
) -> tuple[str, str]:
    """The column of ids and the column of parts. Raises DataError where it is not clear which."""
    columns = [str(name) for name in frame]
    ids = _listing(path, frame, known, "", should)
    others = [name for name in columns if name != ids]
    fitting = [name for name in others if _fits(frame[name], spec)]
    usual = [name for name in fitting or others if name.lower() in PART_NAMES]
    if len(fitting) != 1 and len(usual) == 1:
        fitting = usual
    if len(fitting) != 1:
        what = f"{listed(fitting)} may all be" if fitting else f"none of {listed(columns)} is"
        raise DataError(f"{path}: {what} the column of parts.", should)
    return ids, fitting[0]


def _listing(
    path: Path, frame: pd.DataFrame, known: RowNames, stated: str, should: str = ""
) -> str:
    """The column that names rows."""
    columns = [str(name) for name in frame]
    if stated in columns:
        return stated
    counts = {name: known.known(frame[name]) for name in columns}
    best = max(counts, key=lambda name: counts[name])
    usual = [name for name in columns if name.lower() in ID_NAMES + POSITION_NAMES]
    if counts[best] or usual or len(columns) == 1:
        return best if counts[best] or not usual else usual[0]
    should = should or f"It should list ids ({_examples(known.exact)}) or positions of rows."
    raise DataError(f"{path}: none of {listed(columns)} holds ids of the table.", should)


def _parts(cells: pd.Series, spec: ProtocolSpec) -> pd.Series:
    """Cells as the names of parts, as far as they mean some; folds may count from 1."""
    words = cells.str.lower()
    if spec.kind == "fixed":
        return words.replace(WORDS)
    found = words.map(lambda word: m[1] if (m := FOLD.fullmatch(word)) else word)
    held = found.isin(["hold-out", "test"]) & ("holdout" in spec.parts)
    found = found.mask(held, "holdout")
    if {*found} - {"holdout"} == {str(k + 1) for k in range(spec.folds)}:
        found = found.map(lambda part: str(int(part) - 1) if part != "holdout" else part)
    return found


def _fits(cells: pd.Series, spec: ProtocolSpec) -> bool:
    """Whether a column holds parts: nothing else, and all folds, or training and test rows."""
    wanted = {"train", "test"} if spec.kind == "fixed" else {str(k) for k in range(spec.folds)}
    return wanted <= {*_parts(cells, spec)} <= {*spec.parts}


def _json_rows(path: Path, spec: ProtocolSpec) -> pd.DataFrame:
    """{part: [ids]}, {id: part}, [{"id": …, "part": …}], [ids], or for folds
    [{"train": [ids], "test": [ids]}]."""
    try:
        with reading(path):
            content = json.loads(path.read_text(encoding="utf-8-sig"))
        pairs = list(_json_pairs(content, spec))
    except (ValueError, RecursionError) as error:
        text = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DataError(
            f"{path} is no split in json: {text}.", 'Write {"train": [ids], "test": [ids]}.'
        ) from None
    frame = pd.DataFrame(pairs)
    if frame.empty:
        raise DataError(f"{path} holds no rows.")
    return frame.map(lambda cell: str(cell).strip()).set_axis(range(1, len(frame) + 1))


def _json_pairs(content: Any, spec: ProtocolSpec) -> Iterable[dict[str, Any]]:
    if isinstance(content, dict):
        lists = {key: v for key, v in content.items() if isinstance(v, list)}
        if lists:
            content = [{_named(i): i, "part": key} for key, ids in lists.items() for i in ids]
        else:
            content = [{"id": key, "part": value} for key, value in content.items()]
    if not isinstance(content, list) or not content:
        raise ValueError("it holds no list")
    for k, entry in enumerate(content):
        if not isinstance(entry, dict):
            entry = {_named(entry): entry}
        elif any(isinstance(value, list) for value in entry.values()) and spec.kind != "fixed":
            tested: Any = next((entry[n] for n in ("test", "valid", "val") if n in entry), [])
            yield from ({_named(i): i, "part": k} for i in tested)
            continue
        if any(isinstance(value, list | dict) for value in entry.values()):
            raise ValueError(f"entry {k + 1} is no row")
        yield entry


def _named(cell: object) -> str:
    return "index" if isinstance(cell, int) else "id"
