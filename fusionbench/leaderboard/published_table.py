"""What papers report on a dataset as a sheet: the units and columns of ours, and the sources."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fusionbench.leaderboard.block import Stat
from fusionbench.leaderboard.published import GRADES, Change, Value
from fusionbench.leaderboard.published_comparison import Compared, PublishedBlock
from fusionbench.leaderboard.table_model import (
    BACKBONE,
    METHOD,
    Cell,
    Sheet,
    SheetColumn,
    SheetNote,
    SheetRow,
    metric_cell,
    metric_columns,
    plain,
    scaled,
)
from fusionbench.metrics.names import Metric, describe

COUNT = SheetColumn("n", "n", "count", lambda f: f"{f['n']:,}" if f["n"] else "-", right=True)
# Their cells are no facts: they depend on the metrics shown, and on the rows above.
DIFFERENCE = SheetColumn("delta", "Ours minus published", "gain")
SOURCE = SheetColumn("source", "Source", "count")


def published_sheet(
    block: PublishedBlock, metrics: Sequence[Metric], *, every: bool = False
) -> Sheet | None:
    """The rows that report one of `metrics`, or `every` row; None where there is none."""
    wanted = None if every else {m.name for m in metrics}
    rows, grades, numbers = [], set(), dict[str, int]()  # source -> its number
    for item in block.rows:
        values = {k: v for k, v in item.row.values.items() if wanted is None or k in wanted}
        if not values:
            continue
        grades |= {value.grade for value in values.values()}
        source = numbers.setdefault(_source(item, values), len(numbers) + 1)
        rows.append(_row(item, values, metrics, source))
    if not rows:
        return None
    changes = [c for c in block.changes if wanted is None or c.metric in wanted]
    grades |= {change.grade for change in changes}
    named = {(row.facts["source"], row.facts["url"]) for row in rows}
    differences = any(row.cells["delta"].text != "-" for row in rows)
    dataset = plain(block.dataset)
    return Sheet(
        heading=f"Published numbers: {dataset}",
        columns=(
            METHOD,
            BACKBONE,
            *metric_columns(metrics),
            *((COUNT, DIFFERENCE, SOURCE) if differences else (COUNT, SOURCE)),
        ),
        rows=tuple(rows),
        caption="Columns and units as in the table of ours; as the sources report them, not "
        "measured here, not ranked. "
        + "; ".join(f"{grade}: {text}" for grade, text in GRADES.items() if grade in grades)
        + "."
        + (
            " Difference: ours minus published, in points, for our best complete row with that "
            "method and backbone."
            if differences
            else ""
        ),
        notes=(SheetNote(f"Not comparable: ours is a subset of {dataset}", "warning"),)
        if block.subset
        else (),
        sources=tuple(numbers),
        remarks=tuple(_change(c, (c.source, c.url) in named) for c in changes),
    )


def _row(
    item: Compared, values: Mapping[str, Value], metrics: Sequence[Metric], source: int
) -> SheetRow:
    row = item.row
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
        "against": item.against or None,
        "not_compared": item.reason,
    }
    numbers: dict[str, dict[str, Any]] = {}
    for name, v in values.items():
        numbers[name] = {"mean": v.value, "std": v.std, "grade": v.grade, "note": v.note}
        if name in item.delta:
            numbers[name]["delta"] = item.delta[name]
    cells = {column.key: column.cell(facts) for column in (METHOD, BACKBONE, COUNT)}
    cells["source"] = Cell(str(source))
    difference = ", ".join(
        f"{plain(m.title)} {scaled(m, item.delta[m.name], sign='+')}"
        for m in metrics
        if m.name in item.delta
    )
    cells["delta"] = Cell(difference or "-", tone="accent")
    for m in metrics:
        value = values.get(m.name)
        cells[m.name] = metric_cell(m, Stat(value.value, value.std, 1) if value else None)
    return SheetRow("published", cells, facts, numbers)


def _source(item: Compared, values: Mapping[str, Value]) -> str:
    row = item.row
    samples = "not stated" if row.samples is None else f"{row.samples:,}"
    remarks = _remarks(values)
    return plain(
        f"{row.source}, {row.url} (grade: {_grades(values)}{f'; {remarks}' if remarks else ''}). "
        f"Protocol: {row.protocol}. Samples: {samples}."
        + (f" No difference to ours: {item.reason}." if item.reason else "")
    )


def _change(change: Change, source_named: bool) -> str:
    metric = describe(change.metric)
    return plain(
        f"{change.method}{'' if change.backbone == '-' else f' on {change.backbone}'} "
        f"{change.change}: {metric.title} {scaled(metric, change.delta, sign='+')} points "
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
