"""What a store no longer needs, and its removal.

    leftovers(store) -> list[Leftover]      files that belong to no run any more
    unneeded(store, kind) -> list[Leftover]     failures, weights or checkpoints, when asked for
    remove(store, files) -> list[Path]      deletes them; returns which

A valid record is never among them. A folder that is a link is passed over, and a file that is one
goes itself, not what it points to. Times of files are not asked: clocks jump.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fusionbench.errors import RecordError
from fusionbench.records.reading import CONFLICTS, read_record
from fusionbench.records.store import KINDS, BusyError, Store, is_run_name

Why = Literal["temporary", "orphan", "lock", "superseded", "failure", "weights", "checkpoint"]


@dataclass(frozen=True)
class Leftover:
    """A file that can go. `run` is "" for a temporary file, which bears no run's name."""

    path: Path
    why: Why
    run: str
    message: str


def leftovers(store: Store) -> list[Leftover]:
    """Files that belong to no run any more, by path. Those of a run that is being computed now are
    not among them, nor is any temporary file while one is."""
    # Listed before the locks are tried: who writes holds a lock, so what was there before and is
    # still there when no lock is held is nobody's.
    result = [
        Leftover(path, "temporary", "", "was left half written")
        for kind in (*KINDS, CONFLICTS)
        for path in _own(store, kind)
        if path.name[0] == "." and path.suffix == ".tmp"
    ]
    if running := store.busy():
        result = []
    for kind, why, recorded, message in _LEFTOVERS:
        result += [
            Leftover(path, why, run, message)
            for path, run in _files(store, kind)
            if run not in running and store.beside(path, "records").exists() in recorded
        ]
    return sorted(result, key=lambda file: file.path)


# Folder, why, whether there is a record, message.
_LEFTOVERS: tuple[tuple[str, Why, tuple[bool, ...], str], ...] = (
    ("predictions", "orphan", (False,), "belongs to no record"),
    ("weights", "orphan", (False,), "belongs to no record"),
    (CONFLICTS, "orphan", (False,), "belongs to no record"),
    ("locks", "lock", (False, True), "is the lock of a process that has ended"),
    ("failed", "superseded", (True,), "is the failure of a run that succeeded since"),
    ("checkpoints", "superseded", (True,), "is the checkpoint of a run that is done"),
)
_UNNEEDED: dict[str, tuple[Why, str]] = {
    "failed": ("failure", "is a failure"),
    "weights": ("weights", "holds weights"),
    "checkpoints": ("checkpoint", "is where a stopped run would go on"),
}


def unneeded(store: Store, kind: Literal["failed", "weights", "checkpoints"]) -> list[Leftover]:
    """Every file of that kind, by path, but for those of runs that are computed now. A failure that
    cannot be read stays: it may be of a later version."""
    running, result = store.busy(), []
    why, message = _UNNEEDED[kind]
    for path, run in _files(store, kind):
        if run in running:
            continue
        text = message
        if kind == "failed":
            try:
                error = read_record(path).error
            except RecordError:
                continue
            text += f", {error.type}" if error else ""
        result.append(Leftover(path, why, run, text))
    return result


def remove(store: Store, files: Sequence[Leftover]) -> list[Path]:
    """Delete what still is what it was when it was listed, each under its run's lock; returns the
    paths.

    Passed over: files of a run that is computed now, what has gone or got its record meanwhile.
    Raises FusionbenchError where a file cannot be deleted.
    """
    gone = []
    for file in files:
        try:
            with store.lock(file.run) if file.run else nullcontext():
                if file.why == "orphan" and store.beside(file.path, "records").exists():
                    continue
                if file.why != "lock":  # which goes with its release
                    store.delete(file.path)
        except BusyError:
            continue
        gone.append(file.path)
    return gone


def _own(store: Store, kind: str) -> list[Path]:
    """Everything in a folder of the store that is its own, not a link to another."""
    folder = store.folder / kind
    return [] if folder.is_symlink() or not folder.is_dir() else sorted(folder.iterdir())


def _files(store: Store, kind: str) -> list[tuple[Path, str]]:
    """The files that go with a record, and the run of each."""
    suffixes = (".csv", ".safetensors") if kind == CONFLICTS else (KINDS[kind],)
    return [
        (path, path.stem.rpartition(".")[0] if kind == CONFLICTS else path.stem)
        for path in _own(store, kind)
        if path.suffix in suffixes and is_run_name(path.stem)
    ]
