"""The metadata csv as text, cell by cell: nothing is guessed, nothing is lost.

Everything is read as text, so that an empty cell ("not recorded"), `UNK` ("asked, not known") and
`NA` stay what they are. The index of the frame is the line of the file (header = 1), so that a
finding can name it.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pandas as pd

from fusionbench.errors import DataError
from fusionbench.files import reading

Problem = dict[str, object]
# What a file that is no csv begins with, what it is, and what to do.
_SAVE = "Save it as UTF-8, comma separated."
_OTHERS: dict[bytes, tuple[str, str]] = {
    b"PK\x03\x04": ("binary: an Excel workbook or a zip archive", _SAVE),
    b"\xd0\xcf\x11\xe0": ("binary: an Excel workbook", _SAVE),
    b"\x1f\x8b": ("compressed (gzip)", "Unpack it."),
    b"\xff\xfe": ("UTF-16", _SAVE),
    b"\xfe\xff": ("UTF-16", _SAVE),
    b"version https://git-lfs": ("a pointer of Git LFS", "Fetch the file: git lfs pull."),
    b"<": ("a web page or XML", "Download the csv file itself."),
    b"[{": ("JSON", _SAVE),
    b"{": ("JSON", _SAVE),
}


def read_rows(path: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """All rows of a csv file as stripped text, and the rows that have too few or too many cells.
    Columns without a name are left out, and so is the line `sep=,` that Excel writes.

    Raises DataError where the file cannot be read as a csv at all: absent, empty, binary, not
    UTF-8, a header with repeated names or another separator than a comma.
    """
    records: list[list[str]] = []
    lines: list[int] = []
    problems: list[Problem] = []
    try:
        with reading(path), path.open("rb") as raw:
            start = raw.read(64).lstrip()
        for begins, (what, remedy) in _OTHERS.items():
            if start.startswith(begins):
                raise DataError(f"{path} is not a UTF-8 csv file but {what}.", remedy)
        with reading(path), path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            if header and header[0].lower() == "sep=":
                header = [name.strip() for name in next(reader, [])]
            _check_header(path, header)
            line = reader.line_num + 1
            for record in reader:
                here, line = line, reader.line_num + 1
                record = [cell.strip() for cell in record]
                if not any(record[len(header) :]):
                    record = record[: len(header)]
                if len(record) == len(header) and any(record):
                    records.append(record)
                    lines.append(here)
                elif any(record):
                    text = f"has {len(record)} cells, the header has {len(header)}"
                    problems.append(problem(path, here, "(row)", record[0], text))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not a UTF-8 csv file ({error.reason} at byte {error.start}).",
            _SAVE,
        ) from None
    except csv.Error as error:
        _check_separator(path)
        raise DataError(
            f"{path} is not a readable csv file: line {reader.line_num}: {error}.",
            "Check the quotation marks around that line.",
        ) from None
    if not records and not problems:
        raise DataError(f"{path} has a header but no rows.")
    index = pd.Index(lines, dtype="int64")
    frame = pd.DataFrame(records, columns=header, index=index, dtype=object)
    return frame.loc[:, frame.columns != ""], problems


def problem(path: Path, row: object, column: str, value: object, text: str) -> Problem:
    """One finding, in the form that the command line prints as a table."""
    return {
        "file": path.name,
        "row": row,
        "column": column,
        "value": "" if value is None else str(value)[:80],
        "problem": text,
    }


def bad_rows(path: Path, problems: list[Problem], remedy: str) -> DataError:
    """One error of all findings in a file's rows."""
    problems = sorted(problems, key=lambda p: int(str(p["row"])))
    first, rows = problems[0], {p["row"] for p in problems}
    return DataError(
        f"{path} does not fit: {len(problems)} problem(s) in {len(rows)} row(s); the first: "
        f"row {first['row']}, {first['column']} {first['value']!r}: {first['problem']}.",
        remedy,
        problems,
    )


def _check_separator(path: Path) -> None:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = file.readline(65536).strip()
    if "," not in header and any(mark in header for mark in ";\t|"):
        raise DataError(
            f"{path} is not separated by commas (its header is one cell: {header[:60]!r}).",
            "Save it comma separated.",
        ) from None


def _check_header(path: Path, header: list[str]) -> None:
    if not any(header):
        raise DataError(f"{path} is empty.", "A header line and one line per sample are needed.")
    if any("\x00" in name for name in header):
        raise DataError(f"{path} is a binary file, not a csv.", _SAVE)
    if len(header) == 1:
        _check_separator(path)
    repeated = sorted(name for name, n in Counter(header).items() if n > 1 and name)
    if repeated:
        raise DataError(f"{path} has columns of the same name: {', '.join(map(repr, repeated))}.")
