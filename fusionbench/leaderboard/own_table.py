"""A block of our rows as a sheet: its cells, heading, notes, and exact numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from fusionbench.config.wording import percent, plain, subset
from fusionbench.leaderboard.block import ALPHA, Block, PartStats, Row
from fusionbench.leaderboard.table_model import (
    BACKBONE,
    BOLD,
    METHOD,
    SIGN,
    Cell,
    Kind,
    Sheet,
    SheetColumn,
    SheetRow,
    Tone,
    means_over_fewer,
    metric_cell,
    metric_columns,
    shown,
)
from fusionbench.metrics.names import Metric, describe
from fusionbench.records import NOT_CHECKED

OF_BLOCK = (
    *("dataset", "data_fingerprint", "protocol", "split_hash", "level", "complete_data"),
    *("n_rows_used", "n_rows_dataset"),
)
OF_ROW = ("control", "ranked", "runs_done", "runs_expected", "seeds")
UNCHECKED = f"contract {NOT_CHECKED}"
Facts = Mapping[str, Any]


def _numbers(part: PartStats, names: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """Metric -> mean, std, n, and with several seeds the parts of the std."""
    numbers = {}
    for name in names or part.metrics:
        if name in part.metrics:
            numbers[name] = {**vars(part.metrics[name])}
            if spread := part.spread(name):
                parts = ("fold", "seed", "rest")
                numbers[name] |= {f"std_{part}": getattr(spread, part) for part in parts}
    return numbers


def own_sheet(
    block: Block, metrics: Sequence[Metric], columns: Sequence[str] = (), digits: int = 1
) -> Sheet:
    """The block's rows in order, each on its parts. `columns`: keys of those to show beside the
    rows' names and the metrics; (): all, without what is said once or a label stands for."""
    # (metric, part) -> keys of the best rows, and of those not significantly different from them.
    best = {(m.name, part): block.best(m.name, part) for m in metrics for part in block.parts}
    like = {(m.name, "test"): block.alike(m.name) for m in metrics}
    before, after = _columns(block)
    rows = []
    for row in block.rows:
        for part in (part for part in block.parts if part in row.parts):
            stats, facts = row.parts[part], _facts(block, row, part)
            cells = {column.key: column.cell(facts) for column in (*before, *after)}
            for m in metrics:
                cells[m.name] = metric_cell(
                    m,
                    stats.metrics.get(m.name),
                    digits,
                    best=row.key in best[m.name, part],
                    alike=row.key in like.get((m.name, part), ()),
                    split=_split(m, stats, digits),
                )
            kind: Kind = "incomplete" if not row.ranked else "control" if row.control else "own"
            rows.append(SheetRow(kind, cells, facts, partial(_numbers, stats)))
    said, shared = _said_once(block, (*before, *after), rows)
    labels = [row.label for row in block.rows]
    if all(labels) and len({*labels}) == len(labels):
        said |= {"fusion", "backbone", "loss", "settings"}
    if columns:
        keys = {"label", "part", *columns} | ({"fusion"} if not all(labels) else set())
        said, shared = {c.key for c in (*before, *after)} - keys, []
    kept = [c for c in (*before, *metric_columns(metrics), *after) if c.key not in said]
    drawn = shown([replace(c, spare=c.spare and not columns) for c in kept], rows)
    notes = []
    if block.verdict is not None:
        text = f"Audit: {plain(block.verdict)}" if block.verdict else "Not audited"
        notes.append(Cell(text, tone=_tone(block.verdict)))
    if shared:
        notes.append(Cell(f"All rows: {', '.join(shared)}"))
    if block.contract:
        tone: Tone = "good" if block.contract == "passed" else "quiet"
        notes.append(Cell(plain(f"Contract: {block.contract}"), tone=tone))
    # Why the block's numbers are not those of its dataset.
    reasons = [plain(block.note)] if block.note else []
    if not block.complete_data:
        reasons.append(subset(block.n_rows_used, block.n_rows_dataset, plain(block.dataset)))
    if reasons:
        notes.append(Cell(" ".join(reasons), tone="warning"))
    title = f"{block.title}: " if block.title else ""
    level = ", by lesion" if block.level == "lesion" else ""
    return Sheet(
        heading=plain(f"{title}{block.place}{level}"),
        columns=drawn,
        rows=tuple(rows),
        caption=_caption(block, metrics, rows) + _about_gains(block, drawn, rows),
        brief=_caption(block, metrics, rows, brief=True),
        notes=tuple(notes),
    )


def _said_once(
    block: Block, columns: Sequence[SheetColumn], rows: Sequence[SheetRow]
) -> tuple[set[str], list[str]]:
    """Keys of the columns in which all rows say the same, and what they say."""
    keys, words = set(), []
    for column in columns:
        texts = {row.cells[column.key].text for row in rows}
        texts -= {"-"}  # of a method without a network, or of a row without runs
        if len(rows) < 2 or len(texts) != 1 or not (text := texts.pop()):
            continue
        if column.key in ("backbone", "loss", "notes"):
            words.append(text if column.key == "notes" else f"{column.key} {text}")
        elif column.key == "n" and all(row.ranked for row in block.rows):
            words.append(f"n {text}")
        elif column.key != "audit" or block.verdict is None:
            continue
        keys.add(column.key)
    return keys, words


def _columns(block: Block) -> tuple[list[SheetColumn], list[SheetColumn]]:
    """Those before the metrics, and those after them."""
    # The note above the rows says how many are missing.
    told = () if block.complete_data else ("images missing",)
    parts = [SheetColumn("part", "Part", "name")] if len(block.parts) > 1 else []
    before = [
        SheetColumn("label", "Row", "name", lambda f: f["label"], optional=True),
        METHOD,
        BACKBONE,
        SheetColumn("loss", "Loss", "name"),
        SheetColumn("settings", "Settings", "remark", _settings, "accent", optional=True),
        *parts,
    ]
    after = [
        *GAINS,
        SheetColumn("n", "n", "count", _n, right=True),
        SheetColumn(
            "parameters", "Params (M)", "count", _millions, right=True, short="M par.", spare=True
        ),
        SheetColumn(
            "images_per_s", "images/s", "count", _speed, right=True, short="img/s", spare=True
        ),
        SheetColumn("audit", "Audit", "remark", lambda f: _badge(f, block.verdict is not None)),
        SheetColumn(
            "notes",
            "Notes",
            "remark",
            lambda f: "; ".join(
                [flag for flag in f["flags"] if flag not in told]
                + [UNCHECKED] * (f["contract"] == NOT_CHECKED != block.contract)
            ),
            "warning",
            optional=True,
        ),
    ]
    return before, after


def _facts(block: Block, row: Row, part: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "table": block.title,
        "label": row.label,
        **{name: getattr(block, name) for name in OF_BLOCK},
        **{name: getattr(row, name) for name in ("fusion", "backbone", "loss")},
        "settings": row.differences,
        "part": part,
        **{name: getattr(row, name) for name in OF_ROW},
        "n": row.parts[part].n,
        **{name: getattr(row, name) for name in ("parameters", "images_per_s", "verdict")},
        "contract": row.contract,
        # Nothing was chosen on a part that is held out.
        "flags": tuple(f for f in row.remarks if part == "test" or not f.startswith("optimistic")),
        **{name: getattr(row, name) for name in ("key", "identity", "run_ids")},
    }
    if row.gains and part == "test":
        facts["gain_metric"] = row.gains.metric
        for name, gain in (("vs_image", row.gains.image), ("vs_shuffled", row.gains.shuffled)):
            if gain:
                facts[name] = asdict(gain)
        if row.gains.image and row.gains.shuffled:
            facts["vs_shuffled"]["share"] = row.gains.share
    return facts


def _settings(facts: Facts) -> str:
    pairs = ((plain(name), plain(value)) for name, value in facts["settings"].items())
    return ", ".join(f"{k}={v if len(v) <= 40 else f'{v[:37]}...'}" for k, v in pairs)


def _n(facts: Facts) -> str:
    return (
        f"{facts['n']:,}" if facts["ranked"] else f"n={facts['runs_done']}/{facts['runs_expected']}"
    )


def _millions(facts: Facts) -> str:
    return "-" if facts["parameters"] is None else f"{facts['parameters'] / 1e6:.1f}"


def _speed(facts: Facts) -> str:
    value = facts["images_per_s"]
    return "-" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _tone(verdict: str) -> Tone:
    return "quiet" if not verdict else "good" if verdict == "clean" else "bad"


def _badge(facts: Facts, short: bool) -> Cell:
    """The audit's verdict; `short`: without what stands behind each word."""
    if not facts["runs_done"]:
        return Cell("-")
    parts = (facts["verdict"] or "not audited").split("; ")
    if short:
        parts = list(dict.fromkeys(part.partition(":")[0] for part in parts))
    return Cell(plain((", " if short else "; ").join(parts)), tone=_tone(facts["verdict"]))


def _gain(facts: Facts, over: str) -> str:
    """Points, and of the gain over the shuffled twin the part that remains."""
    if over not in facts:
        return ""
    share = facts[over].get("share")
    more = "" if share is None else f" ({percent(share, 0)})"
    return describe(facts["gain_metric"]).text(facts[over]["mean"], "+") + more


# The gains, and what each is over.
GAINS = {
    SheetColumn(
        f"vs_{name}",
        f"vs {name}",
        "gain",
        partial(_gain, over=f"vs_{name}"),
        "accent",
        right=True,
        optional=True,
        spare=True,
    ): over
    for name, over in (
        ("image", "over the same network without metadata"),
        ("shuffled", "over the same method trained with metadata permuted between patients"),
    )
}


def _caption(
    block: Block, metrics: Sequence[Metric], rows: Sequence[SheetRow], *, brief: bool = False
) -> str:
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
    over = "folds x seeds" if seeds else "folds"
    more = (
        f"; {counted}; parameters of the model at inference; images/s in training, on the machine "
        "that each row ran on"
    )
    text = (
        f"{names}; {scale}. Mean ± sample standard deviation (ddof=1) over {over}"
        f"{'' if brief else more}. "
        f"Data {plain(block.data_fingerprint)[:12]}, split {plain(block.split_hash)[:12]}."
    )
    text += means_over_fewer(block.rows, metrics)
    if any(not row.ranked for row in block.rows):
        text += " Rows with n=done/expected are incomplete and not ranked."
    if len({row.optimistic for row in block.rows if row.ranked}) == 2:
        text += " Optimistic rows do not compete for the best value."
    if any(cell.best for row in rows for cell in row.cells.values()):
        text += f" {BOLD}: the best mean of its column."
    if any(cell.alike for row in rows for cell in row.cells.values()):
        text += f" {SIGN}: not significantly different from the best of its column"
        test = "corrected resampled t-test"
        text += f" ({test}{'' if brief else ' over folds, Nadeau and Bengio 2003'}; Holm over the "
        text += f"rows; alpha {ALPHA:.2f})."
    if any(cell.split for row in rows for cell in row.cells.values()):
        text += (
            " Folds, seeds: the parts of the spread, between folds and between trainings of one "
            "fold with other seeds."
        )
    return text


def _about_gains(block: Block, columns: Sequence[SheetColumn], rows: Sequence[SheetRow]) -> str:
    """What the columns of gains are; nothing where there are none."""
    told = [f"{c.title}: {over}" for c, over in GAINS.items() if c in columns]
    if not told:
        return ""
    metrics = {row.gains.metric for row in block.rows if row.gains}
    text = (
        f" Gain in {', '.join(sorted(metrics))}, mean over folds, positive is better; "
        f"{'; '.join(told)}."
    )
    if any("%" in row.cells["vs_shuffled"].text for row in rows):
        text += (
            " In brackets the part of the gain vs image that remains vs shuffled, given where the "
            "95 % interval of the former (corrected resampled t-test) lies above 0."
        )
    return text


def _split(metric: Metric, stats: PartStats, digits: int) -> str:
    spread = stats.spread(metric.name)
    if spread is None or spread.fold is None or spread.rerun is None:
        return ""
    fold, seed = (metric.text(v, digits=digits) for v in (spread.fold, spread.rerun))
    return f"folds {fold}, seeds {seed}"
