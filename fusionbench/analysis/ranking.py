"""Methods ranked over datasets: the numbers behind `fusionbench rank`. No torch.

Datasets must be independent of each other for Friedman's test, so one protocol stands for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from fusionbench.analysis.row_facts import place
from fusionbench.config.wording import method_name
from fusionbench.errors import FusionbenchError
from fusionbench.leaderboard.block import Block, Row
from fusionbench.leaderboard.table_model import means_over_fewer
from fusionbench.metrics.names import describe
from fusionbench.stats.ranks import Friedman, friedman

Method = tuple[str, str | None, str | None]  # fusion, backbone, loss


@dataclass(frozen=True)
class Ranking:
    """Every method that every dataset has, on every dataset."""

    metric: str
    values: dict[str, dict[str, float]]  # method, best average rank first -> place() -> value
    test: Friedman
    notes: tuple[str, ...]  # what was left out, and what weakens the result


def rank(blocks: Iterable[Block], metric: str = "bacc", *, alpha: float = 0.05) -> Ranking:
    """Rank the methods (fusion, backbone and loss) that are complete on every dataset.

    One block stands for each dataset: the one with complete data, without a leak, and with most
    complete rows, in this order of importance; then the first by protocol's name. Optimistic rows
    do not take part. A method with several rows in a block (other settings) has no one value there
    and is left out. Raises FusionbenchError where fewer than two datasets or three methods remain,
    with what is missing.
    """
    chosen, notes = [], []
    for _, same in groupby(sorted(blocks, key=_worth), key=lambda block: block.dataset):
        best, *others = same
        chosen.append(best)
        notes += [f"{place(other)} left out: {place(best)} stands for it" for other in others]
    names = [place(block) for block in chosen]
    if len(chosen) < 2:
        raise FusionbenchError(
            f"Ranks over datasets need two different ones at least; there is "
            f"{', '.join(names) or 'none'}.",
            "Run the same methods on another dataset, or see `fusionbench compare` for two methods "
            "on one.",
        )
    per_block = [_values(block, metric) for block in chosen]
    methods = dict.fromkeys(method for values in per_block for method in values)
    problems = {
        method: [
            f"{value} on {name}"
            for name, values in zip(names, per_block, strict=True)
            if isinstance(value := values.get(method, "no row"), str)
        ]
        for method in methods
    }
    notes += [f"{method_name(*m)} left out: {', '.join(why)}" for m, why in problems.items() if why]
    common = [method for method, why in problems.items() if not why]
    if len(common) < 3:
        raise FusionbenchError(
            f"Ranks need three methods that are complete on every dataset; there "
            f"{'is' if len(common) == 1 else 'are'} {len(common)} on {' and '.join(names)}.",
            "\n".join(notes) or "Run more methods.",
        )
    labels = _labels(common)
    test = friedman(
        [[values[m] for m in common] for values in per_block],
        labels,
        higher_is_better=describe(metric).better == "high",
        alpha=alpha,
    )
    if len(chosen) <= 10 or len(common) <= 5:
        notes.append(
            f"{len(chosen)} datasets and {len(common)} methods: the tests' critical values are "
            "those of many datasets (more than 10, with more than 5 methods), and are "
            "approximate here"
        )
    if test.p >= alpha:
        notes.append("Friedman's test finds no difference, so no pair should be told apart either")
    for name, block in zip(names, chosen, strict=True):
        rows = [row for row in block.rows if _method(row) in common]
        if fewer := means_over_fewer(rows, [describe(metric)]):
            notes.append(f"On {name},{fewer.removesuffix('.')}")
    by_label = dict(zip(labels, common, strict=True))
    return Ranking(
        metric,
        {
            label: {n: v[by_label[label]] for n, v in zip(names, per_block, strict=True)}
            for label in test.ranks
        },
        test,
        tuple(notes),
    )


def _values(block: Block, metric: str) -> dict[Method, Any]:
    """Method -> its value, or in words why it has none."""
    values: dict[Method, list[Any]] = {}
    for row in block.rows:
        stat = row.parts["test"].metrics.get(metric)
        value: float | str = stat.mean if stat else f"no {metric}"
        if row.optimistic or not row.ranked:
            value = "optimistic" if row.ranked else f"n={row.runs_done}/{row.runs_expected}"
        values.setdefault(_method(row), []).append(value)
    numbers = {m: [v for v in of if isinstance(v, float)] or of[-1:] for m, of in values.items()}
    return {
        method: of[0] if len(of) == 1 else f"{len(of)} rows with other settings"
        for method, of in numbers.items()
    }


def _method(row: Row) -> Method:
    return row.fusion, row.backbone, row.loss


def _worth(block: Block) -> tuple[object, ...]:
    leaky = any(flag.startswith("leaky") for row in block.rows for flag in row.flags)
    complete = sum(row.ranked for row in block.rows)
    order = (not block.complete_data, leaky, -complete, block.protocol, block.split_hash)
    return (block.dataset, *order)


def _labels(methods: Sequence[Method]) -> list[str]:
    """As short as tells them apart: without what all have in common."""
    for labels in ([m[0] for m in methods], [method_name(m[0], m[1]) for m in methods]):
        if len(set(labels)) == len(labels):
            return labels
    return [method_name(*method) for method in methods]
