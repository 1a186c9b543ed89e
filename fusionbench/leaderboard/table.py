"""What every rendering of a block shows: the cells, the heading, the notes. No markup."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from fusionbench.errors import UsageError
from fusionbench.leaderboard.rows import Block, Row, Stat
from fusionbench.metrics import METRICS, RECALL, Metric, describe

# The columns of the papers' tables: ACC, precision, BACC, F1, AUC.
PAPER = ("acc", "precision_weighted", "bacc", "f1_weighted", "auc_ovr_macro")


@dataclass(frozen=True)
class Cell:
    """One cell. `spread` is the standard deviation's text; `best` asks for bold."""

    text: str
    spread: str = ""
    best: bool = False

    def joined(self, sign: str = " ± ") -> str:
        return f"{self.text}{sign}{self.spread}" if self.spread else self.text


@dataclass(frozen=True)
class Line:
    """One row of a table: a configuration on one part."""

    row: Row
    part: str
    settings: str
    notes: str
    metrics: tuple[Cell, ...]
    n: str
    parameters: str
    images_per_s: str


def plain(text: object) -> str:
    """A name as one line without control characters, whatever was in it."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def chosen(metrics: Sequence[str] | None) -> tuple[Metric, ...]:
    """The metrics to show. Raises UsageError for a name that does not exist."""
    found = []
    for name in metrics or PAPER:
        try:
            found.append(describe(name))
        except KeyError:
            near = difflib.get_close_matches(name, METRICS, 1, cutoff=0.4)
            raise UsageError(
                f"There is no metric {name!r}.",
                (f"Did you mean {near[0]}? " if near else "")
                + f"`fusionbench list metrics` names them all, and {RECALL}<CLASS> is one.",
            ) from None
    return tuple(found)


def lines(block: Block, metrics: Sequence[Metric]) -> list[Line]:
    """The block's rows in order, each on its parts."""
    best = {(m.name, part): block.best(m.name, part) for m in metrics for part in block.parts}
    found = []
    for row in block.rows:
        for part in block.parts:
            if part not in row.parts:
                continue
            stats = row.parts[part]
            cells = tuple(
                cell(m, stats.metrics.get(m.name), row.key in best[m.name, part]) for m in metrics
            )
            found.append(
                Line(
                    row=row,
                    part=plain(part),
                    settings=", ".join(
                        f"{plain(k)}={_short(v)}" for k, v in row.differences.items()
                    ),
                    notes="; ".join(plain(flag) for flag in row.flags),
                    metrics=cells,
                    n=f"{stats.n:,}" if row.ranked else f"n={row.runs_done}/{row.runs_expected}",
                    parameters="-" if row.parameters is None else f"{row.parameters / 1e6:.1f}",
                    images_per_s=_speed(row.images_per_s),
                )
            )
    return found


def cell(metric: Metric, stat: Stat | None, best: bool) -> Cell:
    """Percent with one decimal for fractions, three decimals for the rest."""
    if stat is None:
        return Cell("-")
    scale, digits = (100.0, 1) if metric.percent else (1.0, 3)
    spread = "" if stat.std is None else f"{stat.std * scale:.{digits}f}"
    return Cell(f"{stat.mean * scale:.{digits}f}", spread, best)


def heading(block: Block) -> str:
    title = f"{plain(block.title)}: " if block.title else ""
    return f"{title}{plain(block.dataset)} / {plain(block.protocol)}"


def warning(block: Block) -> str:
    """Why the block's numbers are not those of its dataset; "" where they are."""
    found = [plain(block.note)] if block.note else []
    if not block.complete_data:
        found.append(
            f"subset: {block.n_rows_used:,} of {block.n_rows_dataset:,} photographs "
            f"(not {plain(block.dataset)})"
        )
    return " ".join(found)


def caption(block: Block, metrics: Sequence[Metric]) -> str:
    """Which exact metrics the columns are, and how they were averaged."""
    names = ", ".join(
        plain(f"{m.title} = {m.name}{'' if m.better == 'high' else ' (lower is better)'}")
        for m in metrics
    )
    raw = [m.name for m in metrics if not m.percent]
    scale = "in percent" + (f" except {', '.join(raw)}" if raw else "")
    seeds = any(len(row.seeds) > 1 for row in block.rows)
    text = (
        f"{names}; {scale}. Mean ± sample standard deviation (ddof=1) over "
        f"{'folds x seeds' if seeds else 'folds'}; n photographs over all folds; parameters of the "
        f"model at inference; images/s in training, on the machine that each row ran on. "
        f"Data {plain(block.data_fingerprint)[:12]}, split {plain(block.split_hash)[:12]}."
    )
    if any(not row.ranked for row in block.rows):
        text += " Rows with n=done/expected are incomplete and not ranked."
    honest = {row.optimistic for row in block.rows if row.ranked}
    if len(honest) == 2:
        text += " Optimistic rows do not compete for the best value."
    return text


def _short(text: str, limit: int = 40) -> str:
    text = plain(text)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _speed(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
