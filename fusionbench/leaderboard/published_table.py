"""What papers report, below our blocks of the same dataset: where it stands, whether a difference
to ours means anything, and its sheet, in the units and columns of ours.

A difference is computed only where the protocol has the very name of ours, the number of samples
is the same and our data are complete; everywhere else the row says what stands in the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fusionbench.config.wording import listed, plain
from fusionbench.leaderboard.block import Block, Stat
from fusionbench.leaderboard.published import GRADES, Change, PublishedRow, Value
from fusionbench.leaderboard.table_model import (
    BACKBONE,
    METHOD,
    Cell,
    Sheet,
    SheetColumn,
    SheetRow,
    metric_cell,
    metric_columns,
)
from fusionbench.metrics.names import Metric, describe
from fusionbench.plugin.registry import key_of

COUNT = SheetColumn(
    "n", "n", "count", lambda f: f"{f['n']:,}" if f["n"] else "-", right=True, spare=True
)
# Their cells are no facts: they depend on the metrics shown, and on the rows above.
DIFFERENCE = SheetColumn("delta", "Ours minus published", "gain", spare=True)
SOURCE = SheetColumn("source", "Source", "count")


@dataclass(frozen=True)
class PublishedBlock:
    """What papers report on a dataset. In the order of their file: such rows are not ranked."""

    dataset: str
    below: int  # position of the block of ours that it stands below
    subset: bool  # all that we have of this dataset is a part of its photographs
    rows: tuple[PublishedRow, ...]
    changes: tuple[Change, ...]


def beside(
    blocks: Sequence[Block],
    published: Sequence[PublishedRow],
    changes: Sequence[Change] = (),
    *,
    show: bool | None = None,
) -> list[PublishedBlock]:
    """One block for each dataset of ours that papers report on.

    `show`: True for every such dataset, False for none. By default only where the whole dataset
    was evaluated: beside a part of its photographs the papers' numbers would be misread.
    """
    result = []
    for dataset in dict.fromkeys(block.dataset for block in blocks):
        ours = {i: block for i, block in enumerate(blocks) if block.dataset == dataset}
        whole = [i for i, block in ours.items() if block.complete_data]
        rows = [_compared(row, [*ours.values()]) for row in published if row.dataset == dataset]
        by_image = all(block.level == "image" for block in ours.values())
        if rows and (bool(whole) and by_image if show is None else show):
            own = tuple(c for c in changes if c.dataset == dataset)
            below = max(whole or ours)
            result.append(PublishedBlock(dataset, below, not whole, tuple(rows), own))
    return result


def _compared(row: PublishedRow, blocks: Sequence[Block]) -> PublishedRow:
    """The row against the blocks of its dataset."""
    whole = [block for block in blocks if block.complete_data]
    candidates = whole or blocks
    same_protocol = [block for block in candidates if block.protocol == row.protocol]
    counts = {block.n_rows_used for block in same_protocol or candidates}
    reasons = []
    if any(block.level != "image" for block in candidates):
        reasons.append("ours is by lesion")
    if not whole:
        reasons.append("ours is a subset of the photographs")
    if not same_protocol:
        protocols = listed(dict.fromkeys(block.protocol for block in candidates))
        reasons.append(f"other protocol than {protocols}")
    if row.samples is None:
        reasons.append("samples unknown")
    elif row.samples not in counts:
        ours = listed(f"{n:,}" for n in sorted(counts))
        reasons.append(f"{row.samples:,} samples, ours {ours}")
    rivals = [
        mine
        for block in same_protocol
        if block.n_rows_used == row.samples
        for mine in block.rows
        if (key_of(mine.fusion), mine.backbone or "-") == (key_of(row.method), row.backbone)
        and mine.ranked
        and not mine.optimistic
    ]
    if not (reasons or rivals):
        reasons.append("no complete row of ours with that method and backbone")
    if reasons:
        return replace(row, reason="; ".join(reasons))
    # The block's order: the best by the metric that sorts it.
    stats = rivals[0].parts["test"].metrics
    delta = {
        name: stats[name].mean - value.value for name, value in row.values.items() if name in stats
    }
    if not delta:
        return replace(row, reason="no metric in common with our row")
    return replace(row, delta=delta, against=rivals[0].key)


def published_sheet(
    block: PublishedBlock, metrics: Sequence[Metric], *, every: bool = False, digits: int = 1
) -> Sheet | None:
    """The rows that report one of `metrics`, or `every` row; None where there is none."""
    wanted = None if every else {m.name for m in metrics}
    rows, grades, numbers = [], set(), dict[str, int]()  # source -> its number
    for row in block.rows:
        values = {k: v for k, v in row.values.items() if wanted is None or k in wanted}
        if not values:
            continue
        grades |= {value.grade for value in values.values()}
        source = numbers.setdefault(_source(row, values), len(numbers) + 1)
        rows.append(_row(row, values, metrics, source, digits))
    if not rows:
        return None
    changes = [c for c in block.changes if wanted is None or c.metric in wanted]
    grades |= {change.grade for change in changes}
    sources = {(row.facts["source"], row.facts["url"]) for row in rows}
    differences = any(row.cells["delta"].text != "-" for row in rows)
    dataset = plain(block.dataset)
    legend = "; ".join(f"{grade}: {text}" for grade, text in GRADES.items() if grade in grades)
    caption = (
        "Columns and units as in the table of ours; as the sources report them, not measured here, "
        f"not ranked. {legend}."
    )
    if differences:
        caption += (
            " Difference: ours minus published, in points, for our best complete row with that "
            "method and backbone."
        )
    last = (COUNT, DIFFERENCE, SOURCE) if differences else (COUNT, SOURCE)
    warning = Cell(f"Not comparable: ours is a subset of {dataset}", tone="warning")
    return Sheet(
        heading=f"Published numbers: {dataset}",
        columns=(METHOD, BACKBONE, *metric_columns(metrics), *last),
        rows=tuple(rows),
        caption=caption,
        brief=caption,
        notes=(warning,) if block.subset else (),
        sources=tuple(numbers),
        remarks=tuple(_change(c, (c.source, c.url) in sources) for c in changes),
    )


def _row(
    row: PublishedRow,
    values: Mapping[str, Value],
    metrics: Sequence[Metric],
    source: int,
    digits: int,
) -> SheetRow:
    facts = {
        "dataset": row.dataset,
        "protocol": row.protocol,
        "fusion": row.method,
        "backbone": None if row.backbone == "-" else row.backbone,
        "ranked": False,
        "n": row.samples,
        "source": row.source,
        "url": row.url,
        "grade": _grades(values),
        "note": _remarks(values),
        "against": row.against or None,
        "not_compared": row.reason,
    }
    cells = {column.key: column.cell(facts) for column in (METHOD, BACKBONE, COUNT)}
    differences = [
        f"{plain(m.title)} {m.text(row.delta[m.name], '+')}" for m in metrics if m.name in row.delta
    ]
    cells["delta"] = Cell(", ".join(differences) or "-", tone="accent")
    cells["source"] = Cell(str(source))
    for m in metrics:
        value = values.get(m.name)
        cells[m.name] = metric_cell(m, Stat(value.value, value.std, 1) if value else None, digits)

    def numbers(names: Sequence[str] | None) -> dict[str, dict[str, Any]]:
        return {
            name: {"mean": v.value, "std": v.std, "grade": v.grade, "note": v.note}
            | ({"delta": row.delta[name]} if name in row.delta else {})
            for name in names or values
            if (v := values.get(name))
        }

    return SheetRow("published", cells, facts, numbers)


def _source(row: PublishedRow, values: Mapping[str, Value]) -> str:
    samples = "not stated" if row.samples is None else f"{row.samples:,}"
    remarks = _remarks(values)
    return plain(
        f"{row.source}, {row.url} (grade: {_grades(values)}{f'; {remarks}' if remarks else ''}). "
        f"Protocol: {row.protocol}. Samples: {samples}."
        + (f" No difference to ours: {row.reason}." if row.reason else "")
    )


def _change(change: Change, source_named: bool) -> str:
    metric = describe(change.metric)
    return plain(
        f"{change.method}{'' if change.backbone == '-' else f' on {change.backbone}'} "
        f"{change.change}: {metric.title} {metric.difference(change.delta)} "
        f"({change.source}{'' if source_named else f', {change.url}'}; "
        f"grade: {change.grade}{f'; {change.note}' if change.note else ''})."
    )


def _grades(values: Mapping[str, Value]) -> str:
    """How the row's numbers came to us: one grade, or several with their metrics."""
    metrics = _metrics_by(values, lambda value: [value.grade])
    if len(metrics) == 1:
        return next(iter(metrics))
    return ", ".join(f"{grade} ({', '.join(names)})" for grade, names in metrics.items())


def _remarks(values: Mapping[str, Value]) -> str:
    """The row's remarks, each once, with the metrics they belong to where that is not all."""
    return "; ".join(
        remark if len(names) == len(values) else f"{', '.join(names)}: {remark}"
        for remark, names in _metrics_by(values, lambda value: value.note.split("; ")).items()
        if remark
    )


def _metrics_by(
    values: Mapping[str, Value], texts: Callable[[Value], Iterable[str]]
) -> dict[str, list[str]]:
    """Each text, and the metrics whose values have it."""
    metrics: dict[str, list[str]] = {}
    for name, value in values.items():
        for text in texts(value):
            metrics.setdefault(text, []).append(name)
    return metrics
