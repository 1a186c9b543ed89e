"""The row, photographs and split behind the numbers of an analysis."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from fusionbench.config.wording import subset
from fusionbench.errors import UsageError
from fusionbench.leaderboard.block import Block, Row


@dataclass(frozen=True)
class BlockFacts:
    """The photographs and the split of all rows of a block."""

    dataset: str
    protocol: str
    data_fingerprint: str
    split_hash: str
    complete_data: bool
    n_rows_used: int
    n_rows_dataset: int


@dataclass(frozen=True)
class RowFacts(BlockFacts):
    """One row of it."""

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


def block_facts(block: Block) -> dict[str, Any]:
    """The fields of BlockFacts."""
    return {field.name: getattr(block, field.name) for field in fields(BlockFacts)}


def row_facts(block: Block, row: Row) -> dict[str, Any]:
    """The fields of RowFacts."""
    shared = block_facts(block)
    own = (field.name for field in fields(RowFacts) if field.name not in shared)
    return shared | {name: getattr(row, name) for name in own}


def place(of: Block | BlockFacts) -> str:
    """`pad-ufes-20 / grouped-5fold`, with the warning where only a part of the data is here."""
    text = f"{of.dataset} / {of.protocol}"
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
