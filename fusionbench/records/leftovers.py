"""What a store no longer needs, and its removal.

    leftovers(store) -> list[Leftover]      files that belong to no run any more
    leftovers(store, "failures", ...)       what is named instead
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

Kind = Literal["leftovers", "failures", "weights", "checkpoints"]
# What it is listed as, its folder, whether its record must be there (None: either way), why it can
# go.
_RULES: tuple[tuple[Kind, str, bool | None, str], ...] = (
    ("leftovers", "predictions", False, "belongs to no record"),
    ("leftovers", "weights", False, "belongs to no record"),
    ("leftovers", CONFLICTS, False, "belongs to no record"),
    ("leftovers", "locks", None, "is the lock of a process that has ended"),
    ("leftovers", "failed", True, "is the failure of a run that succeeded since"),
    ("leftovers", "checkpoints", True, "is the checkpoint of a run that is done"),
    ("failures", "failed", None, "is a failure"),
    ("weights", "weights", None, "holds weights"),
    ("checkpoints", "checkpoints", None, "is where a stopped run would go on"),
)


@dataclass(frozen=True)
class Leftover:
    """A file that can go as long as its record is there, or is not (None: either way). `run` is ""
    for a temporary file, which bears no run's name."""

    path: Path
    run: str
    recorded: bool | None
    message: str

    def can_go(self, store: Store) -> bool:
        return self.recorded in (None, store.beside(self.path, "records").exists())


def leftovers(store: Store, *kinds: Kind) -> list[Leftover]:
    """Files of these kinds, by path; those that belong to no run where none is named. Those of a
    run that is being computed now are not among them, nor is any temporary file while one is, nor a
    failure that cannot be read: it may be of a later version."""
    kinds = kinds or ("leftovers",)
    # Listed before the locks are tried: who writes holds a lock, so what was there before and is
    # still there when no lock is held is nobody's.
    files = {
        path: Leftover(path, "", None, "was left half written")
        for kind in (*KINDS, CONFLICTS)
        for path in _own(store, kind)
        if path.name[0] == "." and path.suffix == ".tmp"
    }
    running = store.busy()
    if running or "leftovers" not in kinds:
        files = {}
    for kind, folder, recorded, message in _RULES:
        suffixes = (".csv", ".safetensors") if folder == CONFLICTS else (KINDS[folder],)
        for path in _own(store, folder) if kind in kinds else ():
            run = path.stem.rpartition(".")[0] if folder == CONFLICTS else path.stem
            file = Leftover(path, run, recorded, message)
            if (
                path.suffix in suffixes
                and is_run_name(path.stem)
                and run not in running
                and file.can_go(store)
                and (kind != "failures" or _is_readable(path))
            ):
                files.setdefault(path, file)
    return [files[path] for path in sorted(files)]


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
                if not file.can_go(store):
                    continue
                if file.path.parent.name != "locks":  # a lock goes with its release
                    store.delete(file.path)
        except BusyError:
            continue
        gone.append(file.path)
    return gone


def _own(store: Store, kind: str) -> list[Path]:
    """Everything in a folder of the store that is its own, not a link to another."""
    folder = store.folder / kind
    return [] if folder.is_symlink() or not folder.is_dir() else sorted(folder.iterdir())


def _is_readable(path: Path) -> bool:
    try:
        return read_record(path).error is not None
    except RecordError:
        return False
