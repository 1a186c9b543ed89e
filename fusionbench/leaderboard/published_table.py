"""What every rendering of published numbers shows: the cells, the sources, the notes. No markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusionbench.leaderboard.block import Stat
from fusionbench.leaderboard.published import GRADES
from fusionbench.leaderboard.published_comparison import Compared, PublishedBlock
from fusionbench.leaderboard.table_model import Cell, cell, plain
from fusionbench.metrics.compute import Metric, describe


@dataclass(frozen=True)
class PublishedLine:
    """One published row."""

    method: str
    backbone: str
    metrics: tuple[Cell, ...]
    samples: str
    difference: str  # "" where there is none; its note says why
    note: int  # which of the notes is its own, from 1


@dataclass(frozen=True)
class PublishedTable:
    """A block as text: in the units and columns of the table of ours above it."""

    heading: str
    warning: str  # "" where the whole dataset was evaluated
    lines: tuple[PublishedLine, ...]
    notes: tuple[str, ...]  # source, protocol, samples, grade, reason; shared by lines
    changes: tuple[str, ...]
    caption: str

    @property
    def differences(self) -> bool:
        """Whether any line may be compared with ours."""
        return any(line.difference for line in self.lines)


def published_table(block: PublishedBlock, metrics: Sequence[Metric]) -> PublishedTable | None:
    """The block's rows that report one of `metrics`; None where no row does."""
    wanted = {m.name for m in metrics}
    rows = [item for item in block.rows if wanted & item.row.values.keys()]
    if not rows:
        return None
    numbers: dict[str, int] = {}  # note -> its number
    lines = tuple(
        PublishedLine(
            method=plain(item.row.method),
            backbone=plain(item.row.backbone),
            metrics=tuple(cell(m, _stat(item, m.name), best=False) for m in metrics),
            samples="-" if item.row.samples is None else f"{item.row.samples:,}",
            difference=", ".join(
                f"{plain(m.title)} {_points(m, item.delta[m.name])}"
                for m in metrics
                if m.name in item.delta
            ),
            note=numbers.setdefault(_note(item, wanted), len(numbers) + 1),
        )
        for item in rows
    )
    named = {(item.row.source, item.row.url) for item in rows}
    changes = tuple(
        plain(
            f"{c.method}{'' if c.backbone == '-' else f' on {c.backbone}'} {c.change}: "
            f"{describe(c.metric).title} {_points(describe(c.metric), c.delta)} points "
            f"({c.source}{'' if (c.source, c.url) in named else f', {c.url}'}; "
            f"grade: {c.grade}{f'; {c.note}' if c.note else ''})."
        )
        for c in block.changes
        if c.metric in wanted
    )
    grades = {v.grade for item in rows for name, v in item.row.values.items() if name in wanted}
    grades |= {c.grade for c in block.changes if c.metric in wanted}
    caption = (
        "Columns and units as in the table of ours; as the sources report them, not measured here, "
        "not ranked. "
        + "; ".join(f"{grade}: {text}" for grade, text in GRADES.items() if grade in grades)
        + "."
    )
    if any(line.difference for line in lines):
        caption += (
            " Difference: ours minus published, in points, for our best complete row with that "
            "method and backbone."
        )
    return PublishedTable(
        heading=f"Published numbers: {plain(block.dataset)}",
        warning=(
            f"Not comparable: ours is a subset of {plain(block.dataset)}" if block.subset else ""
        ),
        lines=lines,
        notes=tuple(numbers),
        changes=changes,
        caption=caption,
    )


def grades(item: Compared, wanted: set[str] | None = None) -> str:
    """How the row's numbers came to us: one grade, or several with their metrics."""
    found: dict[str, list[str]] = {}
    for name, value in item.row.values.items():
        if wanted is None or name in wanted:
            found.setdefault(value.grade, []).append(name)
    if len(found) == 1:
        return next(iter(found))
    return ", ".join(f"{grade} ({', '.join(names)})" for grade, names in found.items())


def remarks(item: Compared, wanted: set[str] | None = None) -> str:
    """The row's remarks, each once, with the metrics they belong to where that is not all."""
    found: dict[str, list[str]] = {}
    shown = {k: v for k, v in item.row.values.items() if wanted is None or k in wanted}
    for name, value in shown.items():
        for remark in value.note.split("; "):
            found.setdefault(remark, []).append(name)
    return "; ".join(
        remark if len(names) == len(shown) else f"{', '.join(names)}: {remark}"
        for remark, names in found.items()
        if remark
    )


def _note(item: Compared, wanted: set[str]) -> str:
    row = item.row
    samples = "not stated" if row.samples is None else f"{row.samples:,}"
    said = remarks(item, wanted)
    text = (
        f"{row.source}, {row.url} (grade: {grades(item, wanted)}{f'; {said}' if said else ''}). "
        f"Protocol: {row.protocol}. Samples: {samples}."
    )
    if item.reason:
        text += f" No difference to ours: {item.reason}."
    return plain(text)


def _stat(item: Compared, metric: str) -> Stat | None:
    value = item.row.values.get(metric)
    return None if value is None else Stat(value.value, value.std, 1)


def _points(metric: Metric, delta: float) -> str:
    scale, digits = (100.0, 1) if metric.percent else (1.0, 3)
    return f"{delta * scale:+.{digits}f}"
