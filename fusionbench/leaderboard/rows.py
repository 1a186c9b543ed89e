"""Records -> blocks of comparable rows, with mean and spread. Knows nothing of how they look."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec

from fusionbench.config.identity import RowIdentity
from fusionbench.leaderboard.block import Block, LevelName, PartStats, Row, RunMetrics, stat
from fusionbench.leaderboard.differences import with_differences
from fusionbench.leaderboard.gains import with_gains
from fusionbench.metrics.names import describe
from fusionbench.records import NOT_CHECKED, PartResult, Record, Result

Sources = Mapping[tuple[str, str], str]
T = TypeVar("T")
_NO_PARTS = {"test": PartResult(n=1, metrics={}, confusion=())}


@dataclass(frozen=True, slots=True)
class _FoldRun:
    """Of a record, what a row is made of: ten thousand of them must not weigh much."""

    run_id: str
    fold: int
    seed: int
    identity: RowIdentity
    shared: Result  # what many runs have in common, the rest left out
    images_per_s: float | None
    parts: dict[str, RunMetrics]


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
    finished: dict[str, _FoldRun] = {}
    shared: dict[object, Any] = {}  # what thousands of records have in common, once
    for record in records:
        if has_level(record, level):
            finished[record.run_id] = _slim(record, level, shared)
    by_data: dict[tuple[str, ...], dict[str, list[_FoldRun]]] = defaultdict(
        lambda: defaultdict(list)
    )
    views: dict[str, set[str]] = defaultdict(set)
    for _, run in sorted(finished.items()):
        data = run.identity.data
        where = (data.dataset, data.protocol, data.fingerprint, data.split_hash, data.view)
        by_data[where][run.identity.digest].append(run)
        views[data.dataset].add(data.view)

    found: list[Block] = []
    for configurations in by_data.values():
        candidates = [
            (_row(key if i == 0 else f"{key}-{i}", runs, current_sources), runs)
            for key, all_runs in sorted(configurations.items())
            for i, runs in enumerate(_consistent([([run], run) for run in all_runs]))
        ]
        candidates.sort(key=lambda item: (-len({run.fold for run in item[1]}), item[0].key))
        for rows in _consistent([(runs, (row, runs)) for row, runs in candidates]):
            block = _block([row for row, _ in rows], rows[0][1][0], sort, level)
            several = len(views[block.dataset]) > 1
            found.append(block if several else replace(block, view=""))
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


def _slim(record: Record, level: LevelName, shared: dict[object, Any]) -> _FoldRun:
    result = record.result
    assert result is not None
    levels = {
        name: part if level == "image" else part.lesions for name, part in result.parts.items()
    }
    row = record.identity.row
    common = msgspec.structs.replace(
        result, parts=_NO_PARTS, best_epoch=None, epochs_run=0, temperature=None, history=()
    )
    return _FoldRun(
        run_id=record.run_id,
        fold=record.identity.fold,
        seed=record.identity.seed,
        identity=shared.setdefault(row.digest, row),
        shared=shared.setdefault(msgspec.json.encode(common), common),
        images_per_s=record.measured.images_per_s,
        parts={
            name: RunMetrics(one.n, one.metrics) for name, one in levels.items() if one is not None
        },
    )


def _consistent(items: Iterable[tuple[Sequence[_FoldRun], T]]) -> list[list[T]]:
    """Sort items into groups within which every fold has one cohort; first fit, in order."""
    groups: list[tuple[dict[int, str], list[T]]] = []
    for runs, item in items:
        cohorts = {run.fold: run.shared.cohort for run in runs}
        for known, members in groups:
            if all(known.get(fold, value) == value for fold, value in cohorts.items()):
                known.update(cohorts)
                members.append(item)
                break
        else:
            groups.append((cohorts, [item]))
    return [members for _, members in groups]


def _row(key: str, runs: list[_FoldRun], current: Sources | None) -> Row:
    runs = sorted(runs, key=lambda r: (r.seed, r.fold))
    first, identity = runs[0].shared, runs[0].identity
    seeds = tuple(sorted({run.seed for run in runs}))
    flags = dict.fromkeys(flag for run in runs for flag in run.shared.flags)
    contract = _contract({run.shared.contract for run in runs})
    if contract.startswith("failed"):
        flags[f"contract {contract}"] = None
    flags |= dict.fromkeys(_stale(identity, current))
    speeds = [run.images_per_s for run in runs if run.images_per_s is not None]
    sizes = [(run.shared.n_test, run.shared.n_train) for run in runs]
    return Row(
        key=key,
        identity=identity,
        fusion=identity.method.fusion.name,
        backbone=identity.method.backbone,
        loss=identity.method.loss,
        seeds=seeds,
        runs_expected=first.folds_expected * len(seeds),
        parts={
            part: _part(part, [run for run in runs if part in run.parts])
            for part in dict.fromkeys(p for run in runs for p in run.parts)
        },
        parameters=first.parameters.get("total"),
        images_per_s=stat(speeds).mean if speeds else None,
        flags=tuple(flags),
        run_ids=tuple(run.run_id for run in runs),
        verdict=_verdict([run.shared.verdict for run in runs]),
        contract=contract,
        shuffled=bool(identity.data.shuffle_metadata),
        ratio=math.fsum(test / train for test, train in sizes) / len(runs)
        if all(map(all, sizes))
        else None,
    )


def _part(name: str, runs: list[_FoldRun]) -> PartStats:
    # Several seeds evaluate the same photographs: count each fold once.
    sizes = {run.fold: run.parts[name].n for run in runs}
    return PartStats(
        # A part that every fold evaluates whole is no sum over folds.
        n=sum(sizes.values()) if name == "test" else max(sizes.values()),
        runs={(run.seed, run.fold): run.parts[name] for run in runs},
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


def _contract(answers: set[str]) -> str:
    """What the runs' checks say together: the worst of it."""
    failed = sorted(answer for answer in answers if answer.startswith("failed"))
    return "; ".join(failed) or (NOT_CHECKED if NOT_CHECKED in answers else "passed")


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


def _block(rows: list[Row], run: _FoldRun, sort: str, level: LevelName) -> Block:
    """`run`: any of the first row."""
    sign = -1 if describe(sort).better == "high" else 1

    def rank(row: Row) -> tuple[object, ...]:
        mean = row.parts["test"].metrics.get(sort)
        value = sign * mean.mean if row.ranked and mean else math.inf
        return (not row.ranked, value, row.fusion, row.backbone or "", row.loss or "", row.key)

    data = run.identity.data
    return Block(
        dataset=data.dataset,
        data_fingerprint=data.fingerprint,
        protocol=data.protocol,
        split_hash=data.split_hash,
        complete_data=run.shared.complete_data,
        n_rows_dataset=run.shared.n_rows_dataset,
        n_rows_used=run.shared.n_rows_used,
        rows=tuple(sorted(with_gains(with_differences(rows), sort), key=rank)),
        level=level,
        view=data.view,
    )


def without_controls(found: Iterable[Block]) -> list[Block]:
    """The blocks without metadata-only and shuffled rows. What the others gain over these stays."""
    kept = [
        replace(block, rows=tuple(row for row in block.rows if not row.control)) for block in found
    ]
    return [block for block in kept if block.rows]
