"""What every rendering of a block shows: the cells, the heading, the notes. No markup."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from fusionbench.errors import UsageError
from fusionbench.leaderboard.block import Block, Gain, PartStats, Row, Stat
from fusionbench.leaderboard.marks import SAYS, SIGN, alike
from fusionbench.metrics.names import METRICS, Metric, describe, listed

# The columns of the papers' tables: ACC, precision, BACC, F1, AUC.
PAPER = ("acc", "precision_weighted", "bacc", "f1_weighted", "auc_ovr_macro")
NOT_AUDITED = "not audited"
GAINS = ("vs image", "vs shuffled")  # titles of the two columns


@dataclass(frozen=True)
class Cell:
    """One cell. `spread` is the standard deviation's text; `best` asks for bold."""

    text: str
    spread: str = ""
    best: bool = False
    alike: bool = False  # not significantly different from the best
    split: str = ""  # the spread's parts, where there are several seeds

    def joined(self, sign: str = " ± ", *, split: bool = False) -> str:
        text = f"{self.text}{sign}{self.spread}" if self.spread else self.text
        text += SIGN if self.alike else ""
        return f"{text} ({self.split})" if split and self.split else text


@dataclass(frozen=True)
class Line:
    """One row of a table: a configuration on one part."""

    row: Row
    part: str
    settings: str
    notes: str
    audit: str  # the badge: short where the heading says all of it
    metrics: tuple[Cell, ...]
    gains: tuple[str, str]  # vs image, vs shuffled; "" where there is none
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
            families = [m.name for m in listed() if m.name.endswith("/<CLASS>")]
            raise UsageError(
                f"There is no metric {name!r}.",
                (f"Did you mean {near[0]}? " if near else "")
                + f"`fusionbench list metrics` names them all, {', '.join(families)} included.",
            ) from None
    return tuple(found)


def lines(block: Block, metrics: Sequence[Metric]) -> list[Line]:
    """The block's rows in order, each on its parts."""
    parts, short = block.parts, block.verdict is not None
    best = {(m.name, part): block.best(m.name, part) for m in metrics for part in parts}
    like = {m.name: alike(block, m.name) for m in metrics}
    # The warning above the rows says how many.
    said = () if block.complete_data else ("images missing",)
    found = []
    for row in block.rows:
        for part in parts:
            if part not in row.parts:
                continue
            stats = row.parts[part]
            cells = tuple(
                cell(
                    m,
                    stats.metrics.get(m.name),
                    row.key in best[m.name, part],
                    part == "test" and row.key in like[m.name],
                    _split(m, stats),
                )
                for m in metrics
            )
            found.append(
                Line(
                    row=row,
                    part=plain(part),
                    settings=", ".join(
                        f"{plain(k)}={_short(v)}" for k, v in row.differences.items()
                    ),
                    notes="; ".join(plain(flag) for flag in row.remarks if flag not in said),
                    audit=badge(row, short=short),
                    metrics=cells,
                    gains=gain_texts(row) if part == "test" else ("", ""),
                    n=f"{stats.n:,}" if row.ranked else f"n={row.runs_done}/{row.runs_expected}",
                    parameters="-" if row.parameters is None else f"{row.parameters / 1e6:.1f}",
                    images_per_s=_speed(row.images_per_s),
                )
            )
    return found


def cell(
    metric: Metric, stat: Stat | None, best: bool, alike: bool = False, split: str = ""
) -> Cell:
    """Percent with one decimal for fractions, three decimals for the rest."""
    if stat is None:
        return Cell("-")
    spread = "" if stat.std is None else _scaled(metric, stat.std)
    return Cell(_scaled(metric, stat.mean), spread, best, alike, split)


def badge(row: Row, *, short: bool = False) -> str:
    """The audit's verdict; `short`: without what stands behind each word."""
    if not row.runs_done:
        return "-"
    parts = plain(row.verdict or NOT_AUDITED).split("; ")
    if short:
        parts = list(dict.fromkeys(part.partition(":")[0] for part in parts))
    return (", " if short else "; ").join(parts)


def audit(block: Block) -> str:
    """The verdict that every row of the block shares; "" where rows differ or none has run."""
    if block.verdict is None:
        return ""
    return f"Audit: {plain(block.verdict)}" if block.verdict else "Not audited"


def gain_texts(row: Row) -> tuple[str, str]:
    """Over the image alone, and over the shuffled twin: points, and the part that remains."""
    if row.gains is None:
        return "", ""
    metric = describe(row.gains.metric)

    def points(gain: Gain | None) -> str:
        return "" if gain is None else _scaled(metric, gain.mean, sign="+")

    share = row.gains.share
    more = "" if share is None else f" ({share * 100:.0f} %)"
    return points(row.gains.image), points(row.gains.shuffled) + more


def with_gains(shown: Sequence[Line]) -> list[int]:
    """Which of the two columns of gains any line has."""
    return [i for i in range(len(GAINS)) if any(line.gains[i] for line in shown)]


def heading(block: Block) -> str:
    title = f"{plain(block.title)}: " if block.title else ""
    level = ", by lesion" if block.level == "lesion" else ""
    return f"{title}{plain(block.dataset)} / {plain(block.protocol)}{level}"


def warning(block: Block) -> str:
    """Why the block's numbers are not those of its dataset; "" where they are."""
    found = [plain(block.note)] if block.note else []
    if not block.complete_data:
        found.append(
            f"subset: {block.n_rows_used:,} of {block.n_rows_dataset:,} photographs "
            f"(not {plain(block.dataset)})"
        )
    return " ".join(found)


def caption(block: Block, metrics: Sequence[Metric], shown: Sequence[Line]) -> str:
    """Which exact metrics the columns are, how they were averaged, and what each sign means."""
    names = ", ".join(
        plain(f"{m.title} = {m.name}{'' if m.better == 'high' else ' (lower is better)'}")
        for m in metrics
    )
    raw = [m.name for m in metrics if not m.percent]
    scale = "in percent" + (f" except {', '.join(raw)}" if raw else "")
    seeds = any(len(row.seeds) > 1 for row in block.rows)
    counted = (
        "n lesions over all folds, the probabilities of a lesion's photographs averaged"
        if block.level == "lesion"
        else "n photographs over all folds"
    )
    text = (
        f"{names}; {scale}. Mean ± sample standard deviation (ddof=1) over "
        f"{'folds x seeds' if seeds else 'folds'}; {counted}; parameters of the "
        f"model at inference; images/s in training, on the machine that each row ran on. "
        f"Data {plain(block.data_fingerprint)[:12]}, split {plain(block.split_hash)[:12]}."
    )
    if any(not row.ranked for row in block.rows):
        text += " Rows with n=done/expected are incomplete and not ranked."
    honest = {row.optimistic for row in block.rows if row.ranked}
    if len(honest) == 2:
        text += " Optimistic rows do not compete for the best value."
    if any(c.alike for line in shown for c in line.metrics):
        text += f" {SAYS}"
    if any(c.split for line in shown for c in line.metrics):
        text += (
            " Folds, seeds: the parts of the spread, between folds and between trainings of one "
            "fold with other seeds."
        )
    return text + _about_gains(shown)


def _about_gains(shown: Sequence[Line]) -> str:
    """What the columns of gains are; nothing where there are none."""
    metrics = {line.row.gains.metric for line in shown if line.row.gains}
    told = {
        0: "over the same network without metadata",
        1: "over the same method trained with metadata permuted between patients",
    }
    columns = [f"{GAINS[i]}: {told[i]}" for i in with_gains(shown)]
    if not columns:
        return ""
    text = (
        f" Gain in {', '.join(sorted(metrics))}, mean over folds, positive is better; "
        f"{'; '.join(columns)}."
    )
    if any("%" in line.gains[1] for line in shown):
        text += (
            " In brackets the part of the gain vs image that remains vs shuffled, given where the "
            "95 % interval of the former (corrected resampled t-test) lies above 0."
        )
    return text


def _split(metric: Metric, stats: PartStats) -> str:
    found = stats.spread(metric.name)
    if found is None or found.fold is None or found.rerun is None:
        return ""
    return f"folds {_scaled(metric, found.fold)}, seeds {_scaled(metric, found.rerun)}"


def _scaled(metric: Metric, value: float, sign: str = "") -> str:
    scale, digits = (100.0, 1) if metric.percent else (1.0, 3)
    return f"{value * scale:{sign}.{digits}f}"


def _short(text: str, limit: int = 40) -> str:
    text = plain(text)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _speed(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
