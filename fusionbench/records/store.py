"""A folder of records: atomic writing, strict reading."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec.structs import replace

from fusionbench.errors import FusionbenchError, RecordError
from fusionbench.files import Contents, write_atomically
from fusionbench.records.predictions import Predictions
from fusionbench.records.reading import (
    CONFLICTS,
    MOST_PREDICTIONS,
    Problem,
    mismatch,
    noted,
    parse_predictions,
    read_bytes,
    read_record,
)
from fusionbench.records.schema import Record

# The folders of a store, and what their files end in.
KINDS = {
    "records": ".json",
    "predictions": ".csv",
    "weights": ".safetensors",
    "checkpoints": ".pt",
    "failed": ".json",
    "locks": ".lock",
}


class BusyError(FusionbenchError):
    """Another process is computing this run now."""


class Store:
    """A folder of records. Creates nothing until something is written."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder).absolute()  # wherever the process goes afterwards

    def has(self, run: str) -> bool:
        """Whether the run is done (a failure is not). Raises RecordError where that cannot be
        read."""
        path = self.path("records", run)
        with _read(path.parent):
            try:
                return stat.S_ISREG(path.stat().st_mode)
            except FileNotFoundError:
                return False

    def write(self, record: Record, predictions: Predictions) -> Record:
        """Write predictions, then the record; returns the record with its predictions' sha256.

        An earlier failure of the same run and its checkpoint are removed. Raises RecordError where
        the two do not belong together, FusionbenchError where the folder cannot be written.
        """
        if record.result is None:
            raise RecordError(f"{record.run_id} has no result.", "Use write_failure.")
        if reason := mismatch(record, predictions):
            raise RecordError(
                f"The predictions of {record.run_id} do not belong to its record: {reason}."
            )
        text = predictions.to_csv().encode()
        record = replace(record, predictions_sha256=hashlib.sha256(text).hexdigest())
        # An earlier result of the same run goes first: stopped half-way, the run is not done,
        # rather than done with another one's predictions.
        self.delete(self.path("records", record.run_id))
        self.write_file(self.path("predictions", record.run_id), text)
        self.write_file(self.path("records", record.run_id), record.to_json().encode())
        self.delete(self.path("failed", record.run_id))
        self.delete_checkpoint(record.run_id)
        return record

    def write_failure(self, record: Record) -> Record:
        """Write a record with status "failed" to `failed/`; it never hides a success. The run's
        checkpoint goes: going on from there would fail again."""
        if record.error is None:
            raise RecordError(f"{record.run_id} did not fail.", "Use write.")
        self.write_file(self.path("failed", record.run_id), record.to_json().encode())
        self.delete_checkpoint(record.run_id)
        return record

    def delete(self, path: Path) -> None:
        """Delete a file of the store, or the link that it is; none there: nothing to do."""
        with self._explained():
            path.unlink(missing_ok=True)

    def write_weights(self, run: str, data: bytes) -> Path:
        """Write a serialised safetensors file; returns its path. Call it before write()."""
        path = self.path("weights", run)
        self.write_file(path, data)
        return path

    def write_checkpoint(self, run: str, data: Iterable[bytes | memoryview]) -> None:
        """Replace the run's checkpoint (training.checkpoints). Call it with the run's lock held.

        A process that is killed while it writes leaves the one before, and at most one temporary
        file: these are large, so that each run has its own, written over by the next attempt.
        """
        path = self.path("checkpoints", run)
        self.write_file(path, data, path.with_name(f".{run}.tmp"))

    def delete_checkpoint(self, run: str) -> None:
        """And what is left of an attempt to write it."""
        path = self.path("checkpoints", run)
        self.delete(path)
        self.delete(path.with_name(f".{run}.tmp"))

    def read(self, run: str) -> Record:
        """The record of a run; its failure where there is no success. Raises RecordError."""
        path = self.path("records", run)
        if not path.is_file() and self.path("failed", run).is_file():
            path = self.path("failed", run)
        return read_record(path)

    def predictions(self, run: str | Record) -> Predictions:
        """The predictions of a finished run, by name or of a record that was read already. Raises
        RecordError where they are not its own."""
        record = read_record(self.path("records", run)) if isinstance(run, str) else run
        path = self.path("predictions", record.run_id)
        return parse_predictions(read_bytes(path, MOST_PREDICTIONS), record, path)

    def records(self, problems: list[Problem] | None = None) -> Iterator[Record]:
        """Finished runs by name, one after the other: thousands need not be held at once.

        A file that cannot be trusted is left out and added to `problems`; without that list it
        raises RecordError.
        """
        for path in self.files("records"):
            with noted(problems, path):
                yield read_record(path)

    __iter__ = records

    def files(self, kind: str) -> list[Path]:
        """The files of a folder of the store (KINDS, CONFLICTS) that bear a run's name, by name.
        Raises RecordError for a folder that cannot be read; one that is not there is empty."""
        folder, suffix = self.folder / kind, KINDS.get(kind, ".json")
        with _read(folder):
            try:
                found = [p for p in folder.iterdir() if p.suffix == suffix and p.name[0] != "."]
            except FileNotFoundError:
                if folder.is_symlink():
                    raise
                found = []
        return sorted(found, key=lambda p: p.name)

    def failures(self) -> list[str]:
        """run_ids under `failed/` that have no success."""
        return [p.stem for p in self.files("failed") if not self.beside(p, "records").is_file()]

    def find(self, text: str) -> str:
        """The run_id that is `text`, or the only one that starts with it, or contains it.

        Failed runs count. Raises RecordError where none or several fit.
        """
        runs = sorted({p.stem for kind in ("records", "failed") for p in self.files(kind)})
        if text in runs:
            return text
        hits = [r for r in runs if r.startswith(text)] or [r for r in runs if text in r]
        if len(hits) == 1:
            return hits[0]
        shown = f": {', '.join(hits[:5])}{', …' if len(hits) > 5 else ''}" if hits else ""
        raise RecordError(
            f"{len(hits)} of {len(runs)} runs in {self.folder} fit {text!r}{shown}.",
            "`fusionbench show` lists them, --store names another store; the last 12 digits of a "
            "run are enough.",
        )

    @contextmanager
    def lock(self, run: str) -> Iterator[None]:
        """Hold the run while computing it. Raises BusyError at once where another process does.

        The lock is the kernel's on an open file: that of a process that died is free. Where nothing
        was written, no folder stays behind.
        """
        from filelock import FileLock, Timeout

        path, is_new = self.path("locks", run), not self.folder.exists()
        # Not at once: another process may look whether it is held, which takes a moment.
        lock = FileLock(path, timeout=0.1, poll_interval=0.02)
        with self._explained():
            try:
                while not lock.is_locked:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with suppress(FileNotFoundError):  # another process has just removed it
                        lock.acquire()
            except Timeout:
                raise BusyError(
                    f"Another process is computing {run} now.",
                    "Wait for it, or use another --store.",
                ) from None
        try:
            yield
        finally:
            # While it is still held: who waits for the file finds it gone and makes it again.
            with suppress(OSError):
                path.unlink()
            lock.release()
            with suppress(OSError):
                if [*self.folder.iterdir()] == [path.parent]:
                    path.parent.rmdir()
                    if is_new:
                        self.folder.rmdir()

    def busy(self) -> set[str]:
        """Runs that a living process computes now. Creates and changes nothing."""
        return {path.stem for path in self.files("locks") if _is_held(path)}

    def path(self, kind: str, run: str) -> Path:
        """Where that file (of KINDS) of the run is, or would be."""
        if not is_run_name(run):
            raise RecordError(f"{run[:300]!r} is not the name of a run.")
        return self.folder / kind / f"{run}{KINDS[kind]}"

    def beside(self, path: Path, kind: str) -> Path:
        """The file (of KINDS) that goes with `path`, a file of the same run, or of the same second
        result of a run."""
        folder = path.parent if path.parent.name == CONFLICTS else self.folder / kind
        return folder / f"{path.stem}{KINDS[kind]}"

    def write_file(self, path: Path, data: Contents, temporary: Path | None = None) -> None:
        """All of the file or none of it, even if the machine stops half-way."""
        with self._explained():
            write_atomically(path, data, temporary)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FusionbenchError(
                f"The store {self.folder} cannot be written: {error.strerror or error}.",
                "Free some space or permissions there, or name another folder with --store.",
            ) from error


@contextmanager
def _read(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"{folder} cannot be read: {error.strerror or error}.",
            "Nothing is known of the runs in it: mend it, or name another folder with --store.",
        ) from error


def is_run_name(text: str) -> bool:
    """Whether a run could be called so; what could not never becomes part of a path."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,239}", text) is not None


def _is_held(path: Path) -> bool:
    import fcntl

    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False  # it has gone, or is no file of ours
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True  # held; or a disk without such locks, where the file itself is the lock
    finally:
        os.close(handle)
    return False
