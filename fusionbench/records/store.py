"""A folder of records: atomic writing, strict reading."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from fusionbench.errors import FusionbenchError, RecordError
from fusionbench.records.predictions import Predictions
from fusionbench.records.schema import SCHEMA_VERSION, Record


class BusyError(FusionbenchError):
    """Another process is computing this run now."""


@dataclass(frozen=True)
class Problem:
    """A file of the store that cannot be trusted."""

    path: Path
    message: str


class Store:
    """A folder of records. Creates nothing until something is written."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def has(self, run: str) -> bool:
        """Whether the run is done (a failure is not)."""
        return self._path("records", run).is_file()

    def write(self, record: Record, predictions: Predictions) -> Record:
        """Write predictions, then the record; returns the record with its predictions' sha256.

        An earlier failure of the same run is removed. Raises RecordError where the two do not
        belong together, FusionbenchError where the folder cannot be written.
        """
        if record.result is None:
            raise RecordError(f"{record.run_id} has no result.", "Use write_failure.")
        rows = {part: predictions.parts.count(part) for part in set(predictions.parts)}
        expected = {name: part.n for name, part in record.result.parts.items()}
        if (
            rows != expected
            or predictions.classes != record.result.classes
            or predictions.fold != record.identity["fold"]
        ):
            raise RecordError(
                f"The predictions of {record.run_id} do not belong to its record: rows per part "
                f"{rows} against {expected}, fold {predictions.fold} against "
                f"{record.identity['fold']}, classes {predictions.classes} against "
                f"{record.result.classes}."
            )
        text = predictions.to_csv().encode()
        digest = hashlib.sha256(text).hexdigest()
        record = record.model_copy(update={"predictions_sha256": digest})
        with self._explained():
            # An earlier result of the same run goes first: stopped half-way, the run is not done,
            # rather than done with another one's predictions.
            self._path("records", record.run_id).unlink(missing_ok=True)
        self._write(self._path("predictions", record.run_id), text)
        self._write(self._path("records", record.run_id), record.to_json().encode())
        with self._explained():
            self._path("failed", record.run_id).unlink(missing_ok=True)
        return record

    def write_failure(self, record: Record) -> Record:
        """Write a record with status "failed" to `failed/`; it never hides a success."""
        if record.error is None:
            raise RecordError(f"{record.run_id} did not fail.", "Use write.")
        self._write(self._path("failed", record.run_id), record.to_json().encode())
        return record

    def write_weights(self, run: str, data: bytes) -> Path:
        """Write a serialised safetensors file; returns its path. Call it before write()."""
        path = self.weights_path(run)
        self._write(path, data)
        return path

    def weights_path(self, run: str) -> Path:
        """Where the run's weights are, or would be."""
        return self._path("weights", run)

    def read(self, run: str) -> Record:
        """The record of a run; its failure where there is no success. Raises RecordError."""
        path = self._path("records", run)
        if not path.is_file() and self._path("failed", run).is_file():
            path = self._path("failed", run)
        return read_record(path)

    def predictions(self, run: str) -> Predictions:
        """The predictions of a finished run. Raises RecordError where they are not its own."""
        record = read_record(self._path("records", run))
        path = self._path("predictions", run)
        remedy = "Copy the file again, or compute the run again with --existing redo."
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise RecordError(f"{path} is not readable: {error.strerror}.", remedy) from None
        if hashlib.sha256(raw).hexdigest() != record.predictions_sha256:
            raise RecordError(f"{path} is not the file that its record was written with.", remedy)
        try:
            return Predictions.from_csv(raw.decode())
        except (ValueError, IndexError, csv.Error) as error:
            raise RecordError(f"{path} is not a predictions file: {error}.", remedy) from None

    def records(self) -> Iterator[Record]:
        """Finished runs by name. Raises RecordError at the first file that cannot be trusted."""
        for path in self._files("records"):
            yield read_record(path)

    __iter__ = records

    def scan(self) -> tuple[list[Record], list[Problem]]:
        """Finished runs by name, and the files of `records/` that cannot be trusted."""
        good: list[Record] = []
        bad: list[Problem] = []
        for path in self._files("records"):
            try:
                good.append(read_record(path))
            except RecordError as error:
                bad.append(Problem(path, str(error)))
        return good, bad

    def problems(self) -> list[Problem]:
        """The files of `records/` that cannot be trusted; empty where all is well."""
        return self.scan()[1]

    def failures(self) -> list[str]:
        """run_ids under `failed/` that have no success."""
        return [p.stem for p in self._files("failed") if not self.has(p.stem)]

    def find(self, text: str) -> str:
        """The run_id that is `text`, or the only one that starts with it, or contains it.

        Failed runs count. Raises RecordError where none or several fit.
        """
        runs = sorted({p.stem for kind in ("records", "failed") for p in self._files(kind)})
        if text in runs:
            return text
        hits = [r for r in runs if r.startswith(text)] or [r for r in runs if text in r]
        if len(hits) == 1:
            return hits[0]
        if not hits:
            raise RecordError(
                f"No run in {self.folder} is called {text!r} ({len(runs)} are there).",
                "`fusionbench leaderboard` shows what the store holds; --store names another.",
            )
        shown = ", ".join(hits[:5]) + (", ..." if len(hits) > 5 else "")
        raise RecordError(
            f"{len(hits)} runs in {self.folder} fit {text!r}: {shown}.",
            "Give more of the name; its last 12 digits are enough.",
        )

    @contextmanager
    def lock(self, run: str) -> Iterator[None]:
        """Hold the run while computing it. Raises BusyError at once where another process does."""
        from filelock import FileLock, Timeout

        path = self._path("locks", run)
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            held = FileLock(path, timeout=0)
            try:
                held.acquire()
            except Timeout:
                raise BusyError(
                    f"Another process is computing {run} now.",
                    "Wait for it, or use another --store.",
                ) from None
        try:
            yield
        finally:
            held.release()

    def _path(self, kind: str, run: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", run):
            raise RecordError(f"{run!r} is not the name of a run.")
        suffix = {"predictions": "csv", "weights": "safetensors", "locks": "lock"}.get(kind, "json")
        return self.folder / kind / f"{run}.{suffix}"

    def _files(self, kind: str) -> list[Path]:
        found = (p for p in (self.folder / kind).glob("*.json") if p.name[0] != ".")
        return sorted(found, key=lambda p: p.name)

    def _write(self, path: Path, data: bytes) -> None:
        """All of the file or none of it, even if the machine stops half-way."""
        temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FusionbenchError(
                f"The store {self.folder} cannot be written: {error.strerror or error}.",
                "Free some space or permissions there, or name another folder with --store.",
            ) from error


def read_record(path: Path) -> Record:
    """Read one record file strictly. Raises RecordError naming the file and the remedy."""
    try:
        record = Record.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise RecordError(
            f"There is no record {path.stem} ({path}).", "Run it, or check --store."
        ) from None
    except OSError as error:
        raise RecordError(f"{path} is not readable: {error.strerror}.") from None
    except ValidationError as error:
        raise _unreadable(path, error) from None
    if record.run_id != path.stem:
        raise RecordError(
            f"{path} holds the record of {record.run_id}.", f"Rename it to {record.run_id}.json."
        )
    return record


def _unreadable(path: Path, error: ValidationError) -> RecordError:
    try:
        version = json.loads(path.read_bytes())["schema_version"]
    except (ValueError, KeyError, TypeError):
        version = SCHEMA_VERSION
    if version != SCHEMA_VERSION:
        return RecordError(
            f"{path} has schema version {version!r}; this fusionbench reads {SCHEMA_VERSION}.",
            "Read it with the version of fusionbench that wrote it.",
        )
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return RecordError(
        f"{path} cannot be trusted: {where + ': ' if where else ''}{first['msg']}"
        f"{f' (and {error.error_count() - 1} more)' if error.error_count() > 1 else ''}.",
        "It was cut off or edited: delete it and run again, or copy it anew from its source.",
    )
