"""Split files: `id,part` rows, sorted by id. Reading, checking, writing, hashing."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

from fusionbench.data.card import DatasetCard, ProtocolSpec
from fusionbench.data.csv_rows import bad_rows, problem, read_rows
from fusionbench.data.locate import metadata_file
from fusionbench.errors import DataError
from fusionbench.files import write_atomically

HEADER = ["id", "part"]


def hash_of(parts: Mapping[str, str]) -> str:
    """sha256 of the split as `write_split` writes it, whatever the order of the rows."""
    return hashlib.sha256(_text(parts).encode("utf-8")).hexdigest()


def write_split(path: Path, parts: Mapping[str, str]) -> None:
    """Write `id,part` rows, sorted by id; the whole file or nothing."""
    write_atomically(path, _text(parts))


def read_split(path: Path, spec: ProtocolSpec) -> dict[str, str]:
    """id -> part of a split file. Raises DataError with every row that does not fit."""
    if not path.exists():
        raise DataError(
            f"The split file {path} is missing.", "Restore it: it is part of the dataset's card."
        )
    frame, problems = read_rows(path)
    if list(frame) != HEADER:
        raise DataError(f"The split file {path} does not begin with the header {','.join(HEADER)}.")
    known = spec.parts
    fits = frame["part"].isin(known)
    text = f"no such part; known: {', '.join(known)}"
    problems += [
        problem(path, row, "part", part, text) for row, part in frame["part"][~fits].items()
    ]
    twice = frame[fits][frame[fits]["id"].duplicated()]
    problems += [problem(path, row, "id", i, "the id repeats") for row, i in twice["id"].items()]
    if problems:
        raise bad_rows(path, problems, "Restore the file.")
    return dict(zip(frame["id"], frame["part"], strict=True))


def read_indexes(card: DatasetCard, spec: ProtocolSpec, root: Path | None) -> dict[str, str]:
    """id -> part from files of row positions in the user's own copy of the data."""
    if root is None:
        raise DataError(f"The protocol {spec.name} of {card.name} needs the data folder.")
    ids = read_rows(metadata_file(card, root))[0][card.id_column].tolist()
    remedy = "Restore the files of the original download."
    parts: dict[str, str] = {}
    for part, name in spec.index_files.items():
        frame, problems = read_rows(root / name)
        if spec.index_column not in frame:
            raise DataError(f"{root / name} has no column {spec.index_column!r}.", remedy)
        for row, text in frame[spec.index_column].items():
            where = int(text) if text.isdecimal() and len(text) < 10 else len(ids)
            reason = "" if where < len(ids) else f"no row position below {len(ids)}"
            if not reason and ids[where] in parts:
                reason = f"already in {parts[ids[where]]}"
            if reason:
                problems.append(problem(root / name, row, spec.index_column, text, reason))
            else:
                parts[ids[where]] = part
        if problems:
            raise bad_rows(root / name, problems, remedy)
    return parts


def _text(parts: Mapping[str, str]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(sorted(parts.items()))
    return out.getvalue()
