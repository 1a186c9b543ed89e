"""What a store no longer needs, and its removal.

    leftovers(store) -> list[Leftover]      files that belong to no run any more
    unneeded(store, kind) -> list[Leftover]     failures, weights or checkpoints, when asked for
    remove(store, found) -> list[Path]      deletes them; returns which

A valid record is never among them. A folder that is a link is passed over, and a file that is one
goes itself, not what it points to. Times of files are not asked: clocks jump.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fusionbench.errors import RecordError
from fusionbench.records.reading import read_record
from fusionbench.records.store import CONFLICTS, KINDS, BusyError, Store, is_run_name

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
    temporary = [
        Leftover(path, "temporary", "", "was left half written")
        for kind in (*KINDS, CONFLICTS)
        for path in _own(store, kind)
        if path.name[0] == "." and path.suffix == ".tmp"
    ]
    running = store.busy()
    done = {path.stem for path in store.files("records")}
    beside = [
        path
        for path in _own(store, CONFLICTS)
        if path.suffix in (".csv", ".safetensors") and is_run_name(path.stem)
    ]
    result = [] if running else temporary
    result += [
        Leftover(path, "orphan", run, "belongs to no record")
        for path, run in (
            *((p, p.stem) for kind in ("predictions", "weights") for p in _files(store, kind)),
            *((p, p.stem.rpartition(".")[0]) for p in beside),
        )
        if run not in running and not _record_of(store, path).exists()
    ]
    old: list[tuple[str, Why, set[str] | None, str]] = [
        ("locks", "lock", None, "is the lock of a process that has ended"),
        ("failed", "superseded", done, "is the failure of a run that succeeded since"),
        ("checkpoints", "superseded", done, "is the checkpoint of a run that is done"),
    ]
    for kind, why, runs, message in old:
        result += [
            Leftover(path, why, path.stem, message)
            for path in _files(store, kind)
            if path.stem not in running and (runs is None or path.stem in runs)
        ]
    return sorted(result, key=lambda one: one.path)


def unneeded(store: Store, kind: Literal["failed", "weights", "checkpoints"]) -> list[Leftover]:
    """Every file of that kind, by path, but for those of runs that are computed now. A failure that
    cannot be read stays: it may be of a later version."""
    running = store.busy()
    result = []
    for path in _files(store, kind):
        why, message = _UNNEEDED[kind]
        if kind == "failed":
            try:
                error = read_record(path).error
            except RecordError:
                continue
            if error is None:
                continue
            message = f"{message}, {error.type}"
        if path.stem not in running:
            result.append(Leftover(path, why, path.stem, message))
    return result


_UNNEEDED: dict[str, tuple[Why, str]] = {
    "failed": ("failure", "is a failure"),
    "weights": ("weights", "holds weights"),
    "checkpoints": ("checkpoint", "is where a stopped run would go on"),
}


def remove(store: Store, found: Sequence[Leftover]) -> list[Path]:
    """Delete what still is what it was found to be, each under its run's lock; returns the paths.

    Passed over: files of a run that is computed now, what has gone or got its record meanwhile.
    Raises FusionbenchError where a file cannot be deleted.
    """
    gone = []
    for one in found:
        if not one.run:
            store.delete(one.path)
            gone.append(one.path)
            continue
        try:
            with store.lock(one.run):
                # A lock's file goes with its release.
                kept = one.why == "orphan" and _record_of(store, one.path).exists()
                if not kept and one.why != "lock":
                    store.delete(one.path)
        except BusyError:
            continue
        if not kept:
            gone.append(one.path)
    return gone


def _record_of(store: Store, path: Path) -> Path:
    """The record that a file of predictions or weights goes with."""
    folder = path.parent if path.parent.name == CONFLICTS else store.folder / "records"
    return folder / f"{path.stem}.json"


def _own(store: Store, kind: str) -> list[Path]:
    """Everything in a folder of the store that is its own, not a link to another."""
    folder = store.folder / kind
    return [] if folder.is_symlink() or not folder.is_dir() else sorted(folder.iterdir())


def _files(store: Store, kind: str) -> list[Path]:
    if (store.folder / kind).is_symlink():
        return []
    return [path for path in store.files(kind) if is_run_name(path.stem)]
