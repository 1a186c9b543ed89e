"""Split files: `id,part` rows, sorted by id. Reading, checking, writing, hashing."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from fusionbench.data.card import DatasetCard, ProtocolSpec
from fusionbench.data.csv_rows import read_rows
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
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    except FileNotFoundError:
        raise DataError(
            f"The split file {path} is missing.", "Restore it: it is part of the dataset's card."
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"The split file {path} cannot be read: {error}.") from error
    known = _part_names(spec)
    parts: dict[str, str] = {}
    bad: list[dict[str, object]] = []
    if not rows or rows[0] != HEADER:
        raise DataError(f"The split file {path} does not begin with the header {','.join(HEADER)}.")
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        problem = ""
        if len(row) != 2:
            problem = f"{len(row)} cells instead of 2"
        elif row[0] in parts:
            problem = "the id repeats"
        elif row[1] not in known:
            problem = f"no such part; known: {', '.join(known)}"
        else:
            parts[row[0]] = row[1]
        if problem:
            bad.append(
                {"file": path.name, "row": number, "value": ",".join(row), "problem": problem}
            )
    if bad:
        raise DataError(
            f"The split file {path} has {len(bad)} bad row(s), the first in line {bad[0]['row']}: "
            f"{bad[0]['value']!r}: {bad[0]['problem']}.",
            "Restore the file.",
            bad,
        )
    return parts


def read_indexes(card: DatasetCard, spec: ProtocolSpec, root: Path | None) -> dict[str, str]:
    """id -> part from files of row positions in the user's own copy of the data."""
    if root is None:
        raise DataError(f"The protocol {spec.name} of {card.name} needs the data folder.")
    path = metadata_file(card, root)
    if path is None:
        raise DataError(f"There is no {card.files.metadata} in {root}.")
    ids = read_rows(path)[0][card.id_column].tolist()
    parts: dict[str, str] = {}
    bad: list[dict[str, object]] = []
    for part, name in spec.index_files.items():
        for number, text in enumerate(_column(root / name, spec.index_column), start=2):
            where = int(text) if text.strip().isdecimal() and len(text) < 10 else -1
            problem = ""
            if not 0 <= where < len(ids):
                problem = f"no row position below {len(ids)}"
            elif ids[where] in parts:
                problem = f"already in {parts[ids[where]]}"
            else:
                parts[ids[where]] = part
            if problem:
                bad.append({"file": name, "row": number, "value": text, "problem": problem})
    if bad:
        raise DataError(
            f"{bad[0]['file']}, line {bad[0]['row']}: {bad[0]['value']!r}: {bad[0]['problem']} "
            f"({len(bad)} such row(s)).",
            "Restore the files of the original download.",
            bad,
        )
    return parts


def check_fit(
    parts: Mapping[str, str], ids: Sequence[str], complete: bool, source: str, remedy: str
) -> None:
    absent = [i for i in ids if i not in parts]
    surplus = sorted(set(parts) - set(ids)) if complete else []
    if not absent and not surplus:
        return
    said = [
        f"{len(rows)} {what} ({', '.join(rows[:3])}{', …' if len(rows) > 3 else ''})"
        for rows, what in ((absent, "of the table are not in it"), (surplus, "of it are no rows"))
        if rows
    ]
    problems: list[dict[str, object]] = [
        {"file": source, "id": i, "problem": what}
        for rows, what in ((absent, "not in the split"), (surplus, "not in the table"))
        for i in rows
    ]
    raise DataError(f"{source} was made for other rows: {' and '.join(said)}.", remedy, problems)


def _part_names(spec: ProtocolSpec) -> tuple[str, ...]:
    if spec.kind == "fixed":
        return ("train", "valid", "test")
    numbers = tuple(str(k) for k in range(spec.folds))
    return (*numbers, "holdout") if spec.kind == "kfold-holdout" else numbers


def _text(parts: Mapping[str, str]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(sorted(parts.items()))
    return out.getvalue()


def _column(path: Path, column: str) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if column not in (reader.fieldnames or ()):
                raise DataError(f"{path} has no column {column!r}.")
            return [row[column] or "" for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read: {error}.", "It belongs to the original download."
        ) from error
