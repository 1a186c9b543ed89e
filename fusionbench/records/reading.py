"""Reading the files of a store without trusting them: strictly, and never more than can be meant.

Nothing that is read here can run code, and nothing but a plain file is opened: a pipe would wait
for ever. Every error is a RecordError that names the file.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError

from fusionbench.config.identity import Identity
from fusionbench.config.problems import problems_of
from fusionbench.errors import RecordError
from fusionbench.files import check_header
from fusionbench.records.predictions import Predictions
from fusionbench.records.schema import SCHEMA_VERSION, Record, decode

# A record holds an epoch a line, predictions a photograph a line: far below these, in bytes.
MOST_RECORD = 16 << 20
MOST_PREDICTIONS = 1 << 30

# The folder of second results of a run, which `merge` keeps. Nothing that counts runs looks there.
CONFLICTS = "conflicts"

_DAMAGED = "It was cut off or edited: delete it and run again, or copy it again from its source."
COPY_AGAIN = "Copy the file again, or compute the run again with --existing redo."


@dataclass(frozen=True)
class Problem:
    """A file of the store that cannot be trusted, or does not belong there."""

    path: Path
    message: str
    remedy: str = ""


def read_bytes(path: Path, most: int, *, follow: bool = True) -> bytes:
    """A plain file of at most `most` bytes; `follow=False` refuses a link. Raises RecordError."""
    try:
        # Not blocking: opening a pipe would wait for its writer.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise RecordError(f"{path} is not a plain file.", "Remove it from the store.")
            if found.st_size > most:
                raise RecordError(
                    f"{path} has {found.st_size:,} bytes; at most {most:,} can be meant.",
                    "Remove it from the store.",
                )
            # What is there now, not `most`: room is made for all that a read asks for.
            return os.read(handle, found.st_size)
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise RecordError(f"{path} is not readable: there is no such file.", COPY_AGAIN) from None
    except OSError as error:
        if path.is_symlink() and not follow:
            raise RecordError(f"{path} is a link; a store holds files.") from None
        raise RecordError(f"{path} is not readable: {error.strerror or error}.") from None


@contextmanager
def noted(problems: list[Problem] | None, path: Path) -> Iterator[None]:
    """Add a RecordError to `problems`, as one of that file; without a list it is raised."""
    try:
        yield
    except RecordError as error:
        if problems is None:
            raise
        problems.append(Problem(path, error.message, error.remedy))


def read_record(path: Path, *, follow: bool = True) -> Record:
    """Read one record file strictly: it is what its name and its folder say. `follow=False` refuses
    a link. Raises RecordError naming the file and the remedy."""
    record = parse_record(read_bytes(path, MOST_RECORD, follow=follow), path)
    folder = path.parent.name
    name = conflict_name(record) if folder == CONFLICTS else record.run_id
    if name != path.stem:
        raise RecordError(
            f"{path} holds the record of {record.run_id}.", f"Rename it to {name}.json."
        )
    if folder in ("records", CONFLICTS, "failed") and (folder == "failed") != bool(record.error):
        raise RecordError(
            f"{path} does not belong in {folder}/: its status is {record.status}.",
            f"Move it to {'failed' if record.error else 'records'}/.",
        )
    return record


def conflict_name(record: Record) -> str:
    """The stem of a second result of a run, by its content."""
    digest = hashlib.sha256(record.reproducible().encode()).hexdigest()[:12]
    return f"{record.run_id}.{digest}"


def parse_record(data: bytes, path: Path) -> Record:
    """The record that these bytes are; `path` is what an error names. Raises RecordError.

    A file that says exactly what its record says is done. Any other is read again, strictly: its
    spelling may differ, but a key that comes twice, of which another reader might take the other
    value, and NaN or Infinity, which are not JSON, are refused.
    """
    try:
        record = decode(data)
        if record.to_json().encode() == data:
            return record
    except (ValueError, RecursionError):
        pass  # the strict reading says what is wrong
    return _parse_strictly(data, path)


def _parse_strictly(data: bytes, path: Path) -> Record:
    """As `parse_record`, at a tenth of its speed."""
    try:
        sections = json.loads(
            data,
            parse_constant=_no_constant,
            parse_float=_finite,
            object_pairs_hook=_each_once,
        )
        if isinstance(sections, dict):
            version = sections.get("schema_version")
            if type(version) is not int or version != SCHEMA_VERSION:
                raise RecordError(
                    f"{path} has schema version {json.dumps(version)[:40]}; this fusionbench reads "
                    f"{SCHEMA_VERSION}.",
                    "Read it with the version of fusionbench that wrote it.",
                )
            if "identity" in sections:
                spelled = Identity.model_validate(sections["identity"]).spelled
                sections["identity"] = msgspec.Raw(spelled.encode())
        return decode(msgspec.json.encode(sections))
    except RecursionError:
        reason = "it is nested too deep"
    except ValidationError as error:
        reason = "identity.{}: {}".format(*problems_of(error)[0])
    except (ValueError, OverflowError) as error:  # of json and msgspec
        reason = str(error)
    raise RecordError(f"{path} cannot be trusted: {reason}.", _DAMAGED)


def parse_predictions(raw: bytes, record: Record, path: Path) -> Predictions:
    """The predictions of that record. Raises RecordError where they are not its own."""
    if hashlib.sha256(raw).hexdigest() != record.predictions_sha256:
        raise RecordError(f"{path} is not the file that its record was written with.", COPY_AGAIN)
    try:
        predictions = Predictions.from_csv(raw.decode())
    except (ValueError, IndexError, csv.Error) as error:
        raise RecordError(f"{path} is not a predictions file: {error}.", COPY_AGAIN) from None
    if reason := mismatch(record, predictions):
        raise RecordError(f"{path} does not belong to its record: {reason}.", COPY_AGAIN)
    return predictions


def mismatch(record: Record, predictions: Predictions) -> str:
    """Why these are not the predictions of that record, as far as counts tell; "" where they may
    be."""
    if record.result is None:
        return "the run has no result"
    rows = {part: predictions.parts.count(part) for part in set(predictions.parts)}
    for what, own, expected in (
        ("rows per part", rows, {name: part.n for name, part in record.result.parts.items()}),
        ("fold", predictions.fold, record.identity.fold),
        ("classes", predictions.classes, record.result.classes),
    ):
        if own != expected:
            return f"{what} {own} against {expected}"
    return ""


def unfit(path: Path) -> str:
    """Why a file is no complete safetensors file (by its header and length) or, for any other
    suffix, no complete archive of torch.save (by all its checksums); "" where it is one."""
    from safetensors import safe_open

    if path.is_symlink() or not path.is_file():
        return "it is not a plain file"
    try:
        if path.suffix == ".safetensors":
            check_header(path)
            with safe_open(path, framework="numpy"):
                return ""
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            # torch.save compresses nothing, so that no file can claim more than it has.
            if any(entry.compress_type for entry in entries):
                return "it is compressed"
            if sum(entry.file_size for entry in entries) > path.stat().st_size:
                return "its parts overlap"
            damaged = archive.testzip()
    except Exception as error:  # whatever a damaged header leads zipfile or safetensors to
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return f"{damaged} in it is damaged" if damaged else ""


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"{text[:40]} is no finite number")
    return number


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"the key {name[:80]!r} comes twice")
        values[name] = value
    return values
