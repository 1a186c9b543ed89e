"""Bring the runs of other stores into one.

    merge(store, other) -> list[Merged]         what became of each run of `other`

The same run with the same reproducible content is kept once; a success beats a failure. The same
run with other numbers is a conflict: the record here stays, the other is laid beside it in

    conflicts/<run_id>.<12 hex of its content>.json, .csv, .safetensors

which no leaderboard, `records()` or `scan()` reads. Each run is copied as Store.write writes one,
predictions first and the record last: stopped half-way, the run is not there, and the same
command goes on. The other store is material to judge: its files are read strictly, links in it are
not followed, and a name that is no run's cannot become a path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fusionbench.errors import RecordError, UsageError
from fusionbench.progress import SILENT, Progress
from fusionbench.records.reading import (
    MOST_PREDICTIONS,
    MOST_RECORD,
    conflict_name,
    parse_predictions,
    parse_record,
    read_bytes,
    unfit_weights,
)
from fusionbench.records.schema import Record, leaves
from fusionbench.records.store import CONFLICTS, KINDS, BusyError, Store

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


@dataclass(frozen=True)
class _Found:
    """One run as the other store has it, checked."""

    record: Record
    raw: bytes
    predictions: bytes | None
    weights: Path | None
    source: Path


def merge(
    store: Store, other: Store, *, dry_run: bool = False, progress: Progress = SILENT
) -> list[Merged]:
    """Copy into `store` the runs of `other` that it lacks, by name. `dry_run` writes nothing.

    Raises UsageError where `other` is no store or is the same one, FusionbenchError where the
    store cannot be written: what was copied by then is whole.
    """
    check_other(store, other)
    paths = [
        *((path, "records") for path in other.files("records")),
        *((path, CONFLICTS) for path in other.files(CONFLICTS)),
        *((path, "failed") for path in other.files("failed")),
    ]
    merged: list[Merged] = []
    with progress.task(f"merging {other.folder.name}", total=len(paths), unit="run") as task:
        for path, kind in paths:
            task.advance()
            try:
                found = _read(other, path, kind)
                if dry_run:
                    merged.append(_bring(store, found, dry_run))
                    continue
                with store.lock(found.record.run_id):
                    merged.append(_bring(store, found, dry_run))
            except BusyError as error:
                merged.append(Merged(path.stem, "busy", path, error.message))
            except RecordError as error:
                merged.append(Merged(path.stem, "refused", path, str(error)))
    return merged


def check_other(store: Store, other: Store) -> None:
    """Raises UsageError where `other` is no store, or is `store` itself."""
    if other.folder.resolve() == store.folder.resolve():
        raise UsageError(f"{other.folder} is the store itself.", "Name another one.")
    if not any((other.folder / kind).is_dir() for kind in ("records", "failed")):
        raise UsageError(f"{other.folder} is no store: it has no records.", "Name its folder.")


def compare(here: Record, there: Record) -> tuple[Difference, ...]:
    """Where two results of one run differ: metrics first, in their own order."""
    a, b = (dict(leaves(json.loads(record.reproducible()))) for record in (here, there))
    names = [name for name in dict.fromkeys((*a, *b)) if a.get(name) != b.get(name)]
    names.sort(key=lambda name: ".metrics." not in name)
    return tuple(Difference(_short(name), a.get(name), b.get(name)) for name in names)


def _read(other: Store, path: Path, kind: str) -> _Found:
    """Everything of one run, checked before anything is copied. Raises RecordError."""
    if path.parent.is_symlink():
        raise RecordError(f"{path.parent} is a link; a store holds files.")
    try:
        raw = read_bytes(path, MOST_RECORD, follow=False)
        record = parse_record(raw, path)
        name = conflict_name(record) if kind == CONFLICTS else record.run_id
        if path.name != f"{name}.json":
            raise RecordError(f"{path} holds the record of {record.run_id}.")
        if (kind == "failed") != (record.result is None):
            raise RecordError(f"{path} does not belong into {kind}/.")
        if record.result is None:
            return _Found(record, raw, None, None, path)
        beside = CONFLICTS if kind == CONFLICTS else ""
        table = other.folder / (beside or "predictions") / f"{name}.csv"
        predictions = read_bytes(table, MOST_PREDICTIONS, follow=False)
        parse_predictions(predictions, record, table)
    except FileNotFoundError as error:
        raise RecordError(f"There is no {error.filename}.", "Its record is not copied.") from None
    weights = other.folder / (beside or "weights") / f"{name}.safetensors"
    return _Found(record, raw, predictions, weights if _usable(weights) else None, path)


def _usable(weights: Path) -> bool:
    if not (weights.exists() or weights.is_symlink()):
        return False
    if weights.parent.is_symlink() or (reason := unfit_weights(weights)):
        raise RecordError(f"{weights} is no safetensors file: {reason}.", "Delete it there.")
    return True


def _bring(store: Store, found: _Found, dry_run: bool) -> Merged:
    """Decide, and copy unless `dry_run`. Raises RecordError where the record here is unreadable."""
    record, run = found.record, found.record.run_id
    known = store.has(run) or store.has_failure(run)
    here = store.read(run) if known else None
    if record.result is None:
        if here is not None:
            why = "here it succeeded" if here.result is not None else "here it failed too"
            return Merged(run, "superseded", found.source, why)
        if not dry_run:
            store.write_file(store.path("failed", run), found.raw)
        return Merged(run, "failure", found.source)
    if here is None or here.result is None:
        if not dry_run:
            _copy(store, found, {kind: store.path(kind, run) for kind in _PARTS})
            store.delete(store.path("failed", run))
            store.delete_checkpoint(run)
        return Merged(run, "copied", found.source, "" if here is None else "here it had failed")
    if here.reproducible() == record.reproducible():
        lacking = found.weights is not None and not store.path("weights", run).exists()
        if lacking and not dry_run:
            store.write_file(store.path("weights", run), _pieces(found.weights))
        return Merged(run, "same", found.source, "its weights are new here" if lacking else "")
    beside = store.folder / CONFLICTS / conflict_name(record)
    kept_at = Path(f"{beside}.json")
    if not dry_run and not kept_at.exists():
        _copy(store, found, {kind: Path(f"{beside}{KINDS[kind]}") for kind in _PARTS})
    return Merged(run, "conflict", found.source, differences=compare(here, record), kept_at=kept_at)


_PARTS = ("weights", "predictions", "records")


def _copy(store: Store, found: _Found, places: Mapping[str, Path]) -> None:
    """A finished run's files, the record last, as Store.write does."""
    assert found.predictions is not None
    if found.weights is not None:
        store.write_file(places["weights"], _pieces(found.weights))
    else:  # weights without a record are of a run that was stopped: not those of this one
        store.delete(places["weights"])
    store.write_file(places["predictions"], found.predictions)
    store.write_file(places["records"], found.raw)


def _pieces(path: Path | None) -> Iterator[bytes]:
    assert path is not None
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
