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
from typing import Any, Literal

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
from fusionbench.records.schema import Record
from fusionbench.records.store import CONFLICTS, BusyError, Store

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
    a, b = (json.loads(record.reproducible()) for record in (here, there))
    flat = [dict(_flat(part)) for part in (a, b)]
    names = [n for n in dict.fromkeys((*flat[0], *flat[1])) if flat[0].get(n) != flat[1].get(n)]
    names.sort(key=lambda name: ".metrics." not in name)
    return tuple(Difference(_short(n), flat[0].get(n), flat[1].get(n)) for n in names)


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
            store.copy_failure(run, found.raw)
        return Merged(run, "failure", found.source)
    if here is None or here.result is None:
        if not dry_run:
            assert found.predictions is not None
            store.copy(run, found.raw, found.predictions, _chunks(found.weights))
        return Merged(run, "copied", found.source, "" if here is None else "here it had failed")
    if here.reproducible() == record.reproducible():
        lacking = found.weights is not None and not store.weights_path(run).exists()
        if lacking and not dry_run:
            store.copy_weights(run, _chunks(found.weights) or ())
        return Merged(run, "same", found.source, "its weights are new here" if lacking else "")
    kept_at = store.folder / CONFLICTS / f"{conflict_name(record)}.json"
    if not dry_run and not kept_at.exists():
        assert found.predictions is not None
        store.copy_conflict(
            conflict_name(record), found.raw, found.predictions, _chunks(found.weights)
        )
    return Merged(run, "conflict", found.source, differences=compare(here, record), kept_at=kept_at)


def _chunks(path: Path | None) -> Iterator[bytes] | None:
    return None if path is None else _pieces(path)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            yield piece


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, float | str | None]]:
    """(dotted name, value) of everything in plain JSON."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _flat(inner, f"{name}[{i}]")
    else:
        yield name, value


def _short(name: str) -> str:
    """`result.parts.test.metrics.acc` as `acc`; other parts keep their name: `holdout acc`."""
    found = re.fullmatch(r"result\.parts\.([^.]+)(\.lesions)?\.metrics\.(.+)", name)
    if found is None:
        return name.removeprefix("result.")
    part, lesions, metric = found.groups()
    words = ["" if part == "test" else part, "by lesion" if lesions else "", metric]
    return " ".join(word for word in words if word)
