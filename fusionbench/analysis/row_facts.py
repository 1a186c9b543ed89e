"""The row, photographs and split behind the numbers of an analysis."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from fusionbench.config.wording import subset
from fusionbench.errors import UsageError
from fusionbench.leaderboard.block import Block, Row
from fusionbench.metrics.calibration import apply_temperature
from fusionbench.records import Predictions, Store
from fusionbench.stats.pooled import Pooled, pool


@dataclass(frozen=True)
class RowFacts:
    """One row, and the photographs and the split of its block."""

    dataset: str
    protocol: str
    data_fingerprint: str
    split_hash: str
    complete_data: bool
    n_rows_used: int
    n_rows_dataset: int
    key: str
    name: str  # `concat@resnet18`
    fusion: str
    backbone: str | None
    loss: str | None
    seeds: tuple[int, ...]
    runs_done: int
    runs_expected: int
    flags: tuple[str, ...]
    verdict: str  # of the audit; "": not audited


def row_facts(block: Block, row: Row) -> dict[str, Any]:
    """The fields of RowFacts."""
    names = [field.name for field in fields(RowFacts)]
    return {name: getattr(row if hasattr(row, name) else block, name) for name in names}


def place(of: Block | RowFacts) -> str:
    """`pad-ufes-20 / grouped-5fold`, with the warning where only a part of the data is here."""
    text = of.place if isinstance(of, Block) else f"{of.dataset} / {of.protocol}"
    if of.complete_data:
        return text
    return f"{text}, {subset(of.n_rows_used, of.n_rows_dataset, of.dataset)}"


def values_of(row: Row, metric: str) -> dict[tuple[int, int], float]:
    """(seed, fold) -> value on the test part. Raises UsageError where no run of the row has one."""
    part = row.parts["test"]
    values = part.values(metric)
    if not values:
        held = any(metric in metrics for metrics in part.runs.values())
        why = "is undefined in every run" if held else "is not among the metrics"
        raise UsageError(
            f"{metric} {why} of {row.name} ({row.key}).",
            f"`fusionbench show {row.run_ids[0]}` lists what its records hold.",
        )
    return values


def pooled(store: Store, row: Row, *, scaled: bool = False) -> Pooled:
    """The row's out-of-fold predictions, every fold and seed; `scaled` by each run's temperature.

    Raises RecordError for predictions that cannot be trusted or pooled, UsageError where a run
    fitted no temperature.
    """
    by_seed: dict[int, list[Predictions]] = {}
    for run in row.run_ids:
        record, predictions = store.read(run), store.predictions(run)
        if scaled:
            temperature = record.result.temperature if record.result else None
            if temperature is None:
                raise UsageError(f"{run} fitted no temperature.", "Name a metric without _scaled.")
            probabilities = apply_temperature(predictions.probabilities, temperature)
            predictions = replace(predictions, probabilities=probabilities)
        by_seed.setdefault(record.identity.seed, []).append(predictions)
    return pool(by_seed)
