"""Records -> blocks of comparable rows, with mean and spread. Knows nothing of how they look."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

from fusionbench.config.identity import RowIdentity
from fusionbench.leaderboard.block import (
    Block,
    LevelName,
    PartStats,
    Row,
    RunMetrics,
    Stat,
    Stats,
    stat,
)
from fusionbench.leaderboard.differences import with_differences
from fusionbench.leaderboard.gains import with_gains
from fusionbench.metrics.names import describe
from fusionbench.records import Record

__all__ = ["Block", "PartStats", "Row", "Sources", "Stat", "blocks", "has_level"]

Sources = Mapping[tuple[str, str], str]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Run:
    """Of a record, what a row is made of: ten thousand of them must not weigh much."""

    run_id: str
    fold: int
    seed: int
    cohort: str
    n_train: int
    n_test: int
    folds_expected: int
    data: tuple[bool, int, int]  # complete_data, n_rows_dataset, n_rows_used
    flags: tuple[str, ...]
    verdict: str
    parameters: int | None
    images_per_s: float | None
    parts: dict[str, _Counted]


class _Counted(NamedTuple):
    """One part of a run, by photograph or by lesion."""

    n: int
    metrics: RunMetrics


def has_level(record: Record, level: LevelName) -> bool:
    """Whether the record holds metrics at that level."""
    return record.result is not None and (
        level == "image" or record.result.parts["test"].lesions is not None
    )


def blocks(
    records: Iterable[Record],
    *,
    current_sources: Sources | None = None,
    sort: str = "bacc",
    level: LevelName = "image",
) -> list[Block]:
    """Group finished records into blocks of comparable rows.

    Failed records are left out: their folds are missing from the row; so are records without
    metrics at `level`. Within a block ranked rows come first, best `sort` metric of the test part
    first; then incomplete rows by name. Mean and std are over the values of the single runs: folds,
    or folds x seeds where there are several. Gains are in the `sort` metric.
    """
    # By name and once each, so that neither order nor a merged copy matters.
    finished: dict[str, tuple[tuple[str, ...], str, _Run]] = {}
    identities: dict[str, RowIdentity] = {}
    shared: dict[object, Any] = {}  # what thousands of records have in common, once
    for record in records:
        if not has_level(record, level):
            continue
        row, on = record.identity.row, record.identity.data
        row = identities.setdefault(row.digest, row)
        data: tuple[str, ...] = (on.dataset, on.protocol, on.fingerprint, on.split_hash, on.view)
        data = shared.setdefault(data, data)
        finished[record.run_id] = (data, row.digest, _slim(record, level, shared))
    by_data: dict[tuple[str, ...], dict[str, list[_Run]]] = defaultdict(lambda: defaultdict(list))
    views: dict[str, set[str]] = defaultdict(set)
    for _, (data, key, run) in sorted(finished.items()):
        by_data[data][key].append(run)
        views[data[0]].add(data[-1])

    found: list[Block] = []
    for data, configurations in by_data.items():
        candidates = [
            (
                _cohorts(runs),
                _row(key if i == 0 else f"{key}-{i}", identities[key], runs, current_sources),
                runs[0].data,
            )
            for key, all_runs in sorted(configurations.items())
            for i, runs in enumerate(_consistent([(_cohorts([r]), r) for r in all_runs]))
        ]
        candidates.sort(key=lambda item: (-len(item[0]), item[1].key))
        for rows in _consistent([(cohorts, (row, used)) for cohorts, row, used in candidates]):
            block = _block(data, [row for row, _ in rows], rows[0][1], sort, level)
            found.append(block if len(views[data[0]]) > 1 else replace(block, view=""))
    return sorted(
        found,
        key=lambda b: (
            b.dataset,
            not b.complete_data,
            b.protocol,
            b.data_fingerprint,
            -len(b.rows),
        ),
    )


def _slim(record: Record, level: LevelName, shared: dict[object, Any]) -> _Run:
    result = record.result
    assert result is not None
    levels = {
        name: part if level == "image" else part.lesions for name, part in result.parts.items()
    }
    data = (result.complete_data, result.n_rows_dataset, result.n_rows_used)
    return _Run(
        run_id=record.run_id,
        fold=record.identity.fold,
        seed=record.identity.seed,
        cohort=shared.setdefault(result.cohort, result.cohort),
        n_train=result.n_train,
        n_test=result.n_test,
        folds_expected=result.folds_expected,
        data=shared.setdefault(data, data),
        flags=shared.setdefault(result.flags, result.flags),
        verdict=shared.setdefault(result.verdict, result.verdict),
        parameters=result.parameters.get("total"),
        images_per_s=record.measured.images_per_s,
        parts={
            name: _Counted(one.n, RunMetrics(one.metrics))
            for name, one in levels.items()
            if one is not None
        },
    )


def _cohorts(runs: Iterable[_Run]) -> dict[int, str]:
    return {run.fold: run.cohort for run in runs}


def _consistent(items: Iterable[tuple[dict[int, str], T]]) -> list[list[T]]:
    """Sort items into groups within which every fold has one cohort; first fit, in order."""
    groups: list[tuple[dict[int, str], list[T]]] = []
    for cohorts, item in items:
        for known, members in groups:
            if all(known.get(fold, value) == value for fold, value in cohorts.items()):
                known.update(cohorts)
                members.append(item)
                break
        else:
            groups.append((dict(cohorts), [item]))
    return [members for _, members in groups]


def _row(key: str, identity: RowIdentity, runs: list[_Run], current: Sources | None) -> Row:
    runs = sorted(runs, key=lambda r: (r.seed, r.fold))
    seeds = tuple(sorted({run.seed for run in runs}))
    flags = dict.fromkeys(flag for run in runs for flag in run.flags)
    flags |= dict.fromkeys(_stale(identity, current))
    speeds = [run.images_per_s for run in runs if run.images_per_s is not None]
    return Row(
        key=key,
        identity=identity,
        fusion=identity.method.fusion.name,
        backbone=identity.method.backbone,
        loss=identity.method.loss,
        differences={},
        seeds=seeds,
        runs_done=len(runs),
        runs_expected=runs[0].folds_expected * len(seeds),
        parts={
            part: _part(part, [run for run in runs if part in run.parts])
            for part in dict.fromkeys(p for run in runs for p in run.parts)
        },
        parameters=runs[0].parameters,
        images_per_s=stat(speeds).mean if speeds else None,
        flags=tuple(flags),
        run_ids=tuple(run.run_id for run in runs),
        verdict=_verdict([run.verdict for run in runs]),
        shuffled=identity.data.shuffle_metadata,
        ratio=math.fsum(r.n_test / r.n_train for r in runs) / len(runs)
        if all(r.n_train and r.n_test for r in runs)
        else None,
    )


def _part(name: str, runs: list[_Run]) -> PartStats:
    # Several seeds evaluate the same photographs: count each fold once.
    sizes = {run.fold: run.parts[name].n for run in runs}
    return PartStats(
        # A part that every fold evaluates whole is no sum over folds.
        n=sum(sizes.values()) if name == "test" else max(sizes.values()),
        metrics=Stats(run.parts[name].metrics for run in runs),
        runs={(run.seed, run.fold): run.parts[name].metrics for run in runs},
    )


def _verdict(verdicts: Sequence[str]) -> str:
    """What the runs' audits say together; "" where none was audited."""
    found = dict.fromkeys(part for text in verdicts for part in text.split("; ") if part)
    if len(found) > 1:
        found.pop("clean", None)
    missing = Counter(verdicts)[""]
    if found and missing:
        found[f"not audited: {missing} of {len(verdicts)} runs"] = None
    return "; ".join(found)


def _stale(identity: RowIdentity, current: Sources | None) -> tuple[str, ...]:
    """A plugin that is not at hand now says nothing; one that is must be the one that ran."""
    if current is None:
        return ()
    changed = [
        plugin.name
        for plugin in identity.method.plugins
        if current.get((plugin.kind, plugin.name), plugin.source) != plugin.source
    ]
    return (f"stale: {', '.join(changed)}",) if changed else ()


def _block(
    data: tuple[str, ...], rows: list[Row], used: tuple[bool, int, int], sort: str, level: LevelName
) -> Block:
    sign = -1 if describe(sort).better == "high" else 1

    def rank(row: Row) -> tuple[object, ...]:
        found = row.parts["test"].metrics.get(sort)
        value = sign * found.mean if row.ranked and found else math.inf
        return (not row.ranked, value, row.fusion, row.backbone or "", row.loss or "", row.key)

    dataset, protocol, fingerprint, split, view = data
    return Block(
        dataset=dataset,
        data_fingerprint=fingerprint,
        protocol=protocol,
        split_hash=split,
        complete_data=used[0],
        n_rows_dataset=used[1],
        n_rows_used=used[2],
        rows=tuple(sorted(with_gains(with_differences(rows), sort), key=rank)),
        level=level,
        view=view,
    )


def without_controls(found: Iterable[Block]) -> list[Block]:
    """The blocks without metadata-only and shuffled rows. What the others gain over these stays."""
    kept = [
        replace(block, rows=tuple(row for row in block.rows if not row.control)) for block in found
    ]
    return [block for block in kept if block.rows]
