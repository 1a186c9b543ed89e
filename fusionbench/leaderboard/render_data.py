"""Blocks -> csv, and plain data for JSON: numbers as they are, no percent."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from fusionbench.leaderboard.block import Block, Gain, Gains, PartStats, Row
from fusionbench.leaderboard.escape import csv_cell
from fusionbench.leaderboard.marks import alike
from fusionbench.leaderboard.published_comparison import PublishedBlock
from fusionbench.leaderboard.render_published import CSV_COLUMNS, published_csv, published_data
from fusionbench.leaderboard.table_model import PAPER, chosen, warning
from fusionbench.metrics.names import METRICS, RECALL, SCALED

# Of a gain, in csv after "vs_image" or "vs_shuffled".
GAIN_COLUMNS = ("", "_std", "_low", "_high", "_p")


def to_data(blocks: Sequence[Block], metrics: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Plain data for JSON: numbers as they are (no percent), absent ones None.

    `best` and `not_different` name rows by key, for `metrics` or those of the papers' tables.
    """
    wanted = tuple(m.name for m in chosen(metrics)) if metrics else None
    return [
        {
            "dataset": block.dataset,
            "data_fingerprint": block.data_fingerprint,
            "protocol": block.protocol,
            "split_hash": block.split_hash,
            "level": block.level,
            "complete_data": block.complete_data,
            "n_rows_dataset": block.n_rows_dataset,
            "n_rows_used": block.n_rows_used,
            "title": block.title,
            "warning": warning(block),
            "verdict": block.verdict,
            "best": {name: sorted(block.best(name)) for name in wanted or PAPER},
            "not_different": {name: sorted(alike(block, name)) for name in wanted or PAPER},
            "rows": [_row_data(row, wanted) for row in block.rows],
        }
        for block in blocks
    ]


def _row_data(row: Row, wanted: tuple[str, ...] | None) -> dict[str, Any]:
    return {
        "key": row.key,
        "label": row.label,
        "fusion": row.fusion,
        "backbone": row.backbone,
        "loss": row.loss,
        "control": row.control,
        "differences": row.differences,
        "config": None if row.identity is None else row.identity.model_dump(mode="json"),
        "ranked": row.ranked,
        "runs_done": row.runs_done,
        "runs_expected": row.runs_expected,
        "seeds": list(row.seeds),
        "parts": {name: _part_data(part, wanted) for name, part in row.parts.items()},
        "gains": _gains_data(row.gains),
        "parameters": row.parameters,
        "images_per_s": row.images_per_s,
        "verdict": row.verdict,
        "flags": list(row.flags),
        "run_ids": list(row.run_ids),
    }


def _part_data(part: PartStats, wanted: tuple[str, ...] | None) -> dict[str, Any]:
    metrics: dict[str, dict[str, Any]] = {}
    for name, stat in part.metrics.items():
        if wanted is None or name in wanted:
            metrics[name] = {"mean": stat.mean, "std": stat.std, "n": stat.n}
            metrics[name] |= _spread(part, name)
    return {"n": part.n, "metrics": metrics}


def _spread(part: PartStats, metric: str) -> dict[str, float | None]:
    """The parts of the spread, of several seeds; nothing of a single one."""
    found = part.spread(metric)
    if found is None:
        return {}
    return {"std_fold": found.fold, "std_seed": found.seed, "std_rest": found.rest}


def _gains_data(gains: Gains | None) -> dict[str, Any] | None:
    if gains is None:
        return None

    def one(gain: Gain | None) -> dict[str, Any] | None:
        if gain is None:
            return None
        return {
            "against": gain.against,
            "mean": gain.mean,
            "std": gain.std,
            "low": gain.low,
            "high": gain.high,
            "p": gain.p,
            "n_folds": gain.n,
        }

    return {
        "metric": gains.metric,
        "image": one(gains.image),
        "shuffled": one(gains.shuffled),
        "share": gains.share,
    }


def as_json(
    blocks: Sequence[Block],
    metrics: Sequence[str] | None,
    made: str,
    published: Sequence[PublishedBlock],
) -> str:
    wanted = tuple(m.name for m in chosen(metrics)) if metrics else None
    data = {
        "generated": made,
        "blocks": to_data(blocks, metrics),
        "published": published_data(published, wanted),
    }
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def as_csv(
    blocks: Sequence[Block],
    metrics: Sequence[str] | None,
    made: str,
    published: Sequence[PublishedBlock],
) -> str:
    rows = [row for block in blocks for row in block.rows]
    if metrics:
        names = [m.name for m in chosen(metrics)]
    else:
        seen = {n for row in rows for p in row.parts.values() for n in p.metrics}
        seen |= {n for b in published for item in b.rows for n in item.row.values}
        # What else a record holds of each class is for --metrics, and for JSON.
        names = [n for n in (*METRICS, *SCALED) if n in seen]
        names += sorted(n for n in seen if n.startswith(RECALL))
    labelled = any(row.label for row in rows)
    several = any(len(row.seeds) > 1 for row in rows)
    kinds = ("mean", "std", "std_fold", "std_seed", "std_rest") if several else ("mean", "std")
    columns = [
        *(("table", "label") if labelled else ()),
        *("dataset", "data_fingerprint", "protocol", "split_hash", "level", "complete_data"),
        *("n_rows_used", "n_rows_dataset", "fusion", "backbone", "loss", "settings", "part"),
        *("control", "ranked", "runs_done", "runs_expected", "seeds", "n"),
        *(f"{name}_{kind}" for name in names for kind in kinds),
        *_gain_columns(rows),
        *("parameters", "images_per_s", "verdict", "flags", "key"),
    ]
    if published:
        columns += [*CSV_COLUMNS, *(f"{name}_delta" for name in names)]
    text = io.StringIO()
    text.write(f"# {made}\n")
    csv.writer(text, lineterminator="\n").writerow(map(csv_cell, columns))
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    kind = {"kind": "measured"} if published else {}
    for i, block in enumerate(blocks):
        writer.writerows(cells | kind for cells in _csv_rows(block, names, several))
        for below in published:
            if below.below == i:
                writer.writerows(published_csv(below, names))
    return text.getvalue()


def _gain_columns(rows: Sequence[Row]) -> list[str]:
    """Only those that some row has."""
    gains = [row.gains for row in rows if row.gains]
    found = ["gain_metric"] if gains else []
    if any(g.image for g in gains):
        found += [f"vs_image{tail}" for tail in GAIN_COLUMNS]
    if any(g.shuffled for g in gains):
        found += [f"vs_shuffled{tail}" for tail in GAIN_COLUMNS]
    if any(g.image and g.shuffled for g in gains):
        found.append("vs_shuffled_share")
    return found


def _gain_cells(gains: Gains | None) -> dict[str, object]:
    if gains is None:
        return {}
    cells: dict[str, object] = {"gain_metric": gains.metric, "vs_shuffled_share": gains.share}
    for name, gain in (("vs_image", gains.image), ("vs_shuffled", gains.shuffled)):
        if gain is not None:
            numbers = (gain.mean, gain.std, gain.low, gain.high, gain.p)
            cells |= {f"{name}{tail}": n for tail, n in zip(GAIN_COLUMNS, numbers, strict=True)}
    return cells


def _csv_rows(block: Block, names: Sequence[str], several: bool) -> Iterator[dict[str, object]]:
    for row in block.rows:
        for part, stats in row.parts.items():
            cells: dict[str, object] = {
                "table": csv_cell(block.title),
                "label": csv_cell(row.label),
                "dataset": csv_cell(block.dataset),
                "data_fingerprint": csv_cell(block.data_fingerprint),
                "protocol": csv_cell(block.protocol),
                "split_hash": csv_cell(block.split_hash),
                "level": block.level,
                "complete_data": block.complete_data,
                "n_rows_used": block.n_rows_used,
                "n_rows_dataset": block.n_rows_dataset,
                "fusion": csv_cell(row.fusion),
                "backbone": csv_cell(row.backbone or ""),
                "loss": csv_cell(row.loss or ""),
                "settings": csv_cell("; ".join(f"{k}={v}" for k, v in row.differences.items())),
                "part": csv_cell(part),
                "control": row.control,
                "ranked": row.ranked,
                "runs_done": row.runs_done,
                "runs_expected": row.runs_expected,
                "seeds": len(row.seeds),
                "n": stats.n,
                "parameters": row.parameters,
                "images_per_s": row.images_per_s,
                "verdict": csv_cell(row.verdict),
                "flags": csv_cell("; ".join(row.remarks)),
                "key": row.key,
            }
            for name in names:
                if stat := stats.metrics.get(name):
                    cells |= {f"{name}_mean": stat.mean, f"{name}_std": stat.std}
                    more = _spread(stats, name) if several else {}
                    cells |= {f"{name}_{kind}": value for kind, value in more.items()}
            if part == "test":
                cells |= _gain_cells(row.gains)
            yield cells
