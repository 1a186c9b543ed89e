"""Records -> blocks of comparable rows, with mean and spread. Knows nothing of how they look."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from fusionbench.config import ADDED_LATER, RunConfig
from fusionbench.metrics import describe
from fusionbench.records import Record, canonical_json

Sources = Mapping[tuple[str, str], str]
T = TypeVar("T")


@dataclass(frozen=True)
class Stat:
    """Mean and sample standard deviation (ddof=1) over `n` runs; runs without a value left out."""

    mean: float
    std: float | None  # None for a single run
    n: int


@dataclass(frozen=True)
class PartStats:
    """One evaluated part of a row: "test", or what a protocol keeps besides."""

    n: int  # photographs, over the folds of one seed
    metrics: dict[str, Stat]


@dataclass(frozen=True)
class Row:
    """One configuration: what ran, over which folds and seeds, and what came out."""

    key: str  # 12 hex digits of the configuration
    fusion: str
    backbone: str
    loss: str
    config: dict[str, Any]  # the identity without fold and seed
    differences: dict[str, str]  # settings that tell this row from others of its block
    seeds: tuple[int, ...]
    runs_done: int
    runs_expected: int  # folds of the protocol times seeds
    parts: dict[str, PartStats]
    parameters: int | None  # of the model at inference
    images_per_s: float | None  # mean over runs, in training, on whatever they ran on
    flags: tuple[str, ...]
    run_ids: tuple[str, ...]
    label: str = ""  # what a declared table calls the row

    @property
    def ranked(self) -> bool:
        """Every fold of every seed is there."""
        return self.runs_done == self.runs_expected

    @property
    def optimistic(self) -> bool:
        """The epoch or a setting was chosen on the test rows."""
        return any(flag.startswith("optimistic") for flag in self.flags)


@dataclass(frozen=True)
class Block:
    """Rows that were evaluated on the same photographs under the same split. Best first."""

    dataset: str
    data_fingerprint: str
    protocol: str
    split_hash: str
    complete_data: bool
    n_rows_dataset: int
    n_rows_used: int
    rows: tuple[Row, ...]
    title: str = ""  # of the declared table that the block is
    note: str = ""  # what a reader of that table must know first

    @property
    def parts(self) -> tuple[str, ...]:
        """Every evaluated part, "test" first."""
        names = {part for row in self.rows for part in row.parts}
        return tuple(sorted(names, key=lambda p: (p != "test", p)))

    def best(self, metric: str, part: str = "test") -> frozenset[str]:
        """Keys of the rows with the best mean, ties included.

        Only ranked rows compete, and one that is marked optimistic only with its like.
        """
        rivals = [r for r in self.rows if r.ranked and metric in _metrics(r, part)]
        rivals = [r for r in rivals if not r.optimistic] or rivals
        if not rivals:
            return frozenset()
        sign = 1 if describe(metric).better == "high" else -1
        top = max(sign * _metrics(r, part)[metric].mean for r in rivals)
        return frozenset(
            r.key
            for r in rivals
            if math.isclose(sign * _metrics(r, part)[metric].mean, top, rel_tol=1e-12, abs_tol=0)
        )


def blocks(
    records: Iterable[Record], *, current_sources: Sources | None = None, sort: str = "bacc"
) -> list[Block]:
    """Group finished records into blocks of comparable rows.

    Failed records are left out: their folds are missing from the row. Within a block ranked rows
    come first, best `sort` metric of the test part first; then incomplete rows by name. Mean and
    std are over the values of the single runs: folds, or folds x seeds where there are several.
    """
    by_data: dict[tuple[str, ...], dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    # By name and once each, so that neither order nor a merged copy matters.
    finished = {r.run_id: r for r in records if r.result is not None}
    for _, record in sorted(finished.items()):
        config = {k: v for k, v in record.identity.items() if k not in ("fold", "seed")}
        data = tuple(
            str(config[k]) for k in ("dataset", "protocol", "data_fingerprint", "split_hash")
        )
        by_data[data][_digest(config)].append(record)

    found: list[Block] = []
    for configurations in by_data.values():
        candidates = [
            (_cohorts(runs), _row(key if i == 0 else f"{key}-{i}", runs, current_sources))
            for key, all_runs in sorted(configurations.items())
            for i, runs in enumerate(_consistent([(_cohorts([r]), r) for r in all_runs]))
        ]
        candidates.sort(key=lambda item: (-len(item[0]), item[1].key))
        found += [_block(rows, configurations, sort) for rows in _consistent(candidates)]
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


def _cohorts(runs: Iterable[Record]) -> dict[int, str]:
    return {r.identity["fold"]: r.result.cohort for r in runs if r.result is not None}


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


def _row(key: str, runs: list[Record], current: Sources | None) -> Row:
    runs = sorted(runs, key=lambda r: (r.identity["seed"], r.identity["fold"]))
    results = [r.result for r in runs if r.result is not None]
    config = {k: v for k, v in runs[0].identity.items() if k not in ("fold", "seed")}
    seeds = tuple(sorted({r.identity["seed"] for r in runs}))
    flags = dict.fromkeys(flag for result in results for flag in result.flags)
    flags |= dict.fromkeys(_stale(config, current))
    speeds = [r.measured.images_per_s for r in runs if r.measured.images_per_s is not None]
    parts: dict[str, PartStats] = {}
    for part in dict.fromkeys(p for result in results for p in result.parts):
        # Several seeds evaluate the same photographs: count each fold once.
        sizes = {
            run.identity["fold"]: result.parts[part].n
            for run, result in zip(runs, results, strict=True)
            if part in result.parts
        }
        values: dict[str, list[float]] = defaultdict(list)
        for result in results:
            if part in result.parts:
                for name, value in result.parts[part].metrics.items():
                    if value is not None:
                        values[name].append(value)
        # A part that every fold evaluates whole is no sum over folds.
        n = sum(sizes.values()) if part == "test" else max(sizes.values())
        parts[part] = PartStats(n, {name: _stat(v) for name, v in values.items()})
    return Row(
        key=key,
        fusion=str(config["fusion"]),
        backbone=str(config["backbone"]),
        loss=str(config["loss"]),
        config=config,
        differences={},
        seeds=seeds,
        runs_done=len(runs),
        runs_expected=results[0].folds_expected * len(seeds),
        parts=parts,
        parameters=results[0].parameters.get("total"),
        images_per_s=_stat(speeds).mean if speeds else None,
        flags=tuple(flags),
        run_ids=tuple(r.run_id for r in runs),
    )


def _stat(values: Sequence[float]) -> Stat:
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Stat(mean, None, 1)
    squares = math.fsum((v - mean) ** 2 for v in values)
    return Stat(mean, math.sqrt(squares / (len(values) - 1)), len(values))


def _stale(config: Mapping[str, Any], current: Sources | None) -> tuple[str, ...]:
    """A plugin that is not at hand now says nothing; one that is must be the one that ran."""
    if current is None:
        return ()
    used = {("fusions", config["fusion"]): config["fusion_source"]}
    used |= {("losses", name): digest for name, digest in dict(config["loss_sources"]).items()}
    changed = [key[1] for key, digest in used.items() if current.get(key, digest) != digest]
    return (f"stale: {', '.join(changed)}",) if changed else ()


def _block(rows: list[Row], configurations: Mapping[str, list[Record]], sort: str) -> Block:
    record = configurations[rows[0].key.partition("-")[0]][0]
    assert record.result is not None
    sign = -1 if describe(sort).better == "high" else 1

    def rank(row: Row) -> tuple[object, ...]:
        stat = _metrics(row, "test").get(sort)
        value = sign * stat.mean if row.ranked and stat else math.inf
        return (not row.ranked, value, row.fusion, row.backbone, row.loss, row.key)

    return Block(
        dataset=record.identity["dataset"],
        data_fingerprint=record.identity["data_fingerprint"],
        protocol=record.identity["protocol"],
        split_hash=record.identity["split_hash"],
        complete_data=record.result.complete_data,
        n_rows_dataset=record.result.n_rows_dataset,
        n_rows_used=record.result.n_rows_used,
        rows=tuple(sorted(_with_differences(rows), key=rank)),
    )


def _with_differences(rows: Sequence[Row]) -> list[Row]:
    """Give each row the settings that its like in the block do not share.

    A fusion's settings are compared among rows of that fusion, a loss's among rows of that loss,
    the weights among rows of that backbone, and training and data settings among all rows.
    """
    peers: dict[tuple[str, str], set[str | None]] = defaultdict(set)
    settings = [(row, _settings(row)) for row in rows]
    keys: dict[str, set[str]] = defaultdict(set)  # owner -> every setting that one of its rows has
    for _, own in settings:
        for owner, values in own.items():
            keys[owner] |= values.keys()
    for _, own in settings:
        for owner, values in own.items():
            for key in keys[owner]:
                peers[owner, key].add(values.get(key))
    return [
        replace(
            row,
            differences={
                key: values.get(key, "-")
                for owner, values in own.items()
                for key in sorted(keys[owner])
                if len(peers[owner, key]) > 1
            },
        )
        for row, own in settings
    ]


def _settings(row: Row) -> dict[str, dict[str, str]]:
    """Owner -> its settings, flat, as text. Owners that two rows share are compared."""
    config = row.config
    sources = {f"{name}.source": str(v)[:8] for name, v in dict(config["loss_sources"]).items()}
    fusion = _flat(config["fusion_params"], "fusion")
    # A record leaves such a setting out while it is at its default.
    later = {name: RunConfig.model_fields[name].default for name in ADDED_LATER}
    return {
        f"fusion {row.fusion}": fusion | {"fusion.source": str(config["fusion_source"])[:8]},
        f"loss {row.loss}": _flat(config["loss_params"], "loss") | sources,
        f"backbone {row.backbone}": _flat(config["weights"], "weights"),
        "": _flat(later | config["settings"], ""),
    }


def _flat(value: object, path: str) -> dict[str, str]:
    if isinstance(value, dict):
        found: dict[str, str] = {}
        for key, inner in value.items():
            found |= _flat(inner, f"{path}.{key}" if path else str(key))
        return found
    return {path: value if isinstance(value, str) else canonical_json(value)}


def _metrics(row: Row, part: str) -> dict[str, Stat]:
    return row.parts[part].metrics if part in row.parts else {}


def _digest(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()[:12]
