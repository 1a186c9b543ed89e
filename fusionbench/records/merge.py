"""Bring the runs of other stores into one.

    merge(store, *others) -> list[Merged]       what became of each run of the others

The same run with the same reproducible content is kept once; a success beats a failure. The same
run with other numbers is a conflict: the record here stays, the other is laid beside it in

    conflicts/<run_id>.<12 hex of its content>.json, .csv, .safetensors

which no leaderboard, or `records()` reads. Each run is copied as Store.write writes one,
predictions first and the record last: stopped half-way, the run is not there, and the same
command goes on. The other store is material to judge: its files are read strictly, links in it are
not followed, and a name that is no run's cannot become a path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fusionbench.config.identity import changes
from fusionbench.errors import RecordError, UsageError
from fusionbench.progress import SILENT, Progress
from fusionbench.records.reading import (
    CONFLICTS,
    MOST_PREDICTIONS,
    conflict_name,
    parse_predictions,
    read_bytes,
    read_record,
    unfit,
)
from fusionbench.records.schema import Record
from fusionbench.records.store import BusyError, Store

Action = Literal["copied", "same", "failure", "superseded", "conflict", "refused", "busy"]
_CHUNK = 8 << 20


@dataclass(frozen=True)
class Difference:
    """A number that two results of one run do not share; None where one has none."""

    name: str
    here: float | str | None
    there: float | str | None


@dataclass(frozen=True)
class Merged:
    """What became of one run of the other store.

    action  copied      it was not here
            same        it is here, with the same content
            failure     a failure, copied: nothing is known of the run here
            superseded  a failure there; here the run succeeded, or failed as well
            conflict    it is here with other numbers; both are kept
            refused     its files cannot be trusted, or the record here cannot be read
            busy        a process computes it here just now
    """

    run: str
    action: Action
    source: Path
    detail: str = ""
    differences: tuple[Difference, ...] = ()
    kept_at: Path | None = None  # of a conflict: where the other result lies

    @property
    def ok(self) -> bool:
        return self.action not in ("conflict", "refused", "busy")


def merge(
    store: Store, *others: Store, dry_run: bool = False, progress: Progress = SILENT
) -> list[Merged]:
    """Copy into `store` the runs of `others` that it lacks, by name. `dry_run` writes nothing.

    Raises UsageError where one of `others` is no store or is the same one, FusionbenchError where
    the store cannot be written: what was copied by then is whole.
    """
    for other in others:  # all of them, before the first is copied
        if other.folder.resolve() == store.folder.resolve():
            raise UsageError(f"{other.folder} is the store itself.", "Name another one.")
        if not any((other.folder / kind).is_dir() for kind in ("records", "failed")):
            raise UsageError(f"{other.folder} is no store: it has no records.", "Name its folder.")
    merged: list[Merged] = []
    for other in others:
        paths = [p for kind in ("records", CONFLICTS, "failed") for p in other.files(kind)]
        with progress.task(f"merging {other.folder.name}", len(paths), "run") as task:
            for path in paths:
                task.advance()
                try:
                    merged.append(_bring(store, _read(other, path), dry_run))
                except BusyError as error:
                    merged.append(Merged(path.stem, "busy", path, error.message))
                except RecordError as error:
                    merged.append(Merged(path.stem, "refused", path, str(error)))
    return merged


def compare(here: Record, there: Record) -> tuple[Difference, ...]:
    """Where two results of one run differ: metrics first, in their own order."""
    pairs = changes(*(json.loads(record.reproducible()) for record in (here, there)))
    in_order = sorted(pairs, key=lambda change: ".metrics." not in change[0])
    return tuple(Difference(_short(name), *values) for name, *values in in_order)


@dataclass(frozen=True)
class _Run:
    """One run as the other store has it, checked."""

    source: Path
    record: Record
    predictions: bytes = b""
    weights: Path | None = None


def _read(other: Store, path: Path) -> _Run:
    """Everything of one run, checked before anything is copied. Raises RecordError."""
    table, weights = (other.beside(path, kind) for kind in ("predictions", "weights"))
    for folder in (path.parent, table.parent, weights.parent):
        if folder.is_symlink():
            raise RecordError(f"{folder} is a link; a store holds files.")
    record = read_record(path, follow=False)
    if record.result is None:
        return _Run(path, record)
    predictions = read_bytes(table, MOST_PREDICTIONS, follow=False)
    parse_predictions(predictions, record, table)
    if not (weights.exists() or weights.is_symlink()):
        return _Run(path, record, predictions)
    if reason := unfit(weights):
        raise RecordError(f"{weights} is no safetensors file: {reason}.", "Delete it there.")
    return _Run(path, record, predictions, weights)


def _bring(store: Store, run: _Run, dry_run: bool) -> Merged:
    """Decide, and copy unless `dry_run`. Raises BusyError where a process computes it here,
    RecordError where the record here is unreadable."""
    if dry_run:
        return _decided(store, run)
    name = run.record.run_id
    with store.lock(name):
        merged = _decided(store, run)
        match merged.action:
            case "failure":
                store.write_file(store.path("failed", name), run.record.to_json().encode())
            case "copied":
                _copy(store, run, store.path("records", name))
                store.delete(store.path("failed", name))
                store.delete_checkpoint(name)
            case "same" if merged.detail and run.weights is not None:
                store.write_file(store.path("weights", name), _pieces(run.weights))
            case "conflict" if merged.kept_at is not None and not merged.kept_at.exists():
                _copy(store, run, merged.kept_at)
    return merged


def _decided(store: Store, run: _Run) -> Merged:
    """What is to become of it."""
    record, name, source = run.record, run.record.run_id, run.source
    known = store.has(name) or store.path("failed", name).is_file()
    here = store.read(name) if known else None
    if record.result is None:
        if here is None:
            return Merged(name, "failure", source)
        why = "here it succeeded" if here.result is not None else "here it failed too"
        return Merged(name, "superseded", source, why)
    if here is None or here.result is None:
        return Merged(name, "copied", source, "" if here is None else "here it had failed")
    if here.reproducible() == record.reproducible():
        lacking = run.weights is not None and not store.path("weights", name).exists()
        return Merged(name, "same", source, "its weights are new here" if lacking else "")
    kept_at = store.folder / CONFLICTS / f"{conflict_name(record)}.json"
    return Merged(name, "conflict", source, differences=compare(here, record), kept_at=kept_at)


def _copy(store: Store, run: _Run, target: Path) -> None:
    """A finished run's files, the record last, as Store.write does."""
    weights = store.beside(target, "weights")
    if run.weights is not None:
        store.write_file(weights, _pieces(run.weights))
    else:  # weights without a record are of a run that was stopped: not those of this one
        store.delete(weights)
    store.write_file(store.beside(target, "predictions"), run.predictions)
    store.write_file(target, run.record.to_json().encode())


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            yield piece


def _short(name: str) -> str:
    """`result.parts.test.metrics.acc` as `acc`; other parts keep their name: `holdout acc`."""
    found = re.fullmatch(r"result\.parts\.([^.]+)(\.lesions)?\.metrics\.(.+)", name)
    if found is None:
        return name.removeprefix("result.")
    part, lesions, metric = found.groups()
    words = ["" if part == "test" else part, "by lesion" if lesions else "", metric]
    return " ".join(word for word in words if word)
