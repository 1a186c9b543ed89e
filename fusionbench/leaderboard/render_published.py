"""Published blocks -> Markdown, LaTeX, csv cells, plain data, to stand below the rows of ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fusionbench.leaderboard.escape import csv_cell, latex, markdown
from fusionbench.leaderboard.published_comparison import PublishedBlock
from fusionbench.leaderboard.published_table import PublishedTable, grades, published_table, remarks
from fusionbench.metrics.compute import Metric

# Columns of the csv that only a file with published rows has, before one `<metric>_delta` each.
CSV_COLUMNS = ("kind", "source", "url", "grade", "note", "not_compared")


def published_markdown(block: PublishedBlock, metrics: Sequence[Metric]) -> list[str]:
    """Paragraphs; none where no row reports one of `metrics`."""
    from tabulate import tabulate

    table = published_table(block, metrics)
    if table is None:
        return []
    headers, rows = _cells(table, metrics)
    after = len(headers) - 3 - len(metrics)
    align = ["left"] * 2 + ["right"] * (len(metrics) + 1) + ["left"] * after
    out = [f"### {markdown(table.heading)}"]
    if table.warning:
        out.append(f"**{markdown(table.warning)}**")
    cells = [[markdown(text) for text in row] for row in rows]
    heads = [markdown(text) for text in headers]
    out.append(tabulate(cells, heads, tablefmt="pipe", disable_numparse=True, colalign=align))
    out.append("\n".join(f"{i}. {markdown(note)}" for i, note in enumerate(table.notes, 1)))
    if table.changes:
        out.append("\n".join(f"* {markdown(change)}" for change in table.changes))
    return [*out, markdown(table.caption)]


def published_latex(block: PublishedBlock, metrics: Sequence[Metric]) -> list[str]:
    """Lines of one table environment; none where no row reports one of `metrics`."""
    table = published_table(block, metrics)
    if table is None:
        return []
    headers, rows = _cells(table, metrics)
    after = len(headers) - 3 - len(metrics)
    warning = f"\\textbf{{{latex(table.warning)}}}. " if table.warning else ""
    notes = [f"{i}: {latex(note)}" for i, note in enumerate(table.notes, 1)]
    return [
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{latex(table.heading)}. {warning}{latex(table.caption)}}}",
        f"\\begin{{tabular}}{{ll{'r' * (len(metrics) + 1)}{'l' * after}}}",
        "\\toprule",
        " & ".join(map(latex, headers)) + " \\\\",
        "\\midrule",
        *(" & ".join(map(latex, row)) + " \\\\" for row in rows),
        "\\bottomrule",
        "\\end{tabular}",
        "\\par\\smallskip\\raggedright\\footnotesize",
        *(f"{text}\\par" for text in [*notes, *map(latex, table.changes)]),
        "\\end{table}",
    ]


def published_csv(block: PublishedBlock, names: Sequence[str]) -> list[dict[str, object]]:
    """Rows by column; what a published row does not have is left out."""
    found = []
    for item in block.rows:
        row = item.row
        if not set(names) & row.values.keys():
            continue
        cells: dict[str, object] = {
            "dataset": csv_cell(row.dataset),
            "protocol": csv_cell(row.protocol),
            "fusion": csv_cell(row.method),
            "backbone": "" if row.backbone == "-" else csv_cell(row.backbone),
            "ranked": False,
            "n": row.samples,
            "kind": "published",
            "source": csv_cell(row.source),
            "url": csv_cell(row.url),
            "grade": grades(item, set(names)),
            "note": csv_cell(remarks(item, set(names))),
            "not_compared": csv_cell(item.reason),
        }
        for name in names:
            if value := row.values.get(name):
                cells |= {f"{name}_mean": value.value, f"{name}_std": value.std}
            cells[f"{name}_delta"] = item.delta.get(name)
        found.append(cells)
    return found


def published_data(
    published: Sequence[PublishedBlock], wanted: tuple[str, ...] | None = None
) -> list[dict[str, Any]]:
    """Plain data for JSON: fractions as they are, absent numbers None."""
    return [
        {
            "dataset": block.dataset,
            "subset": block.subset,
            "rows": [
                {
                    "method": item.row.method,
                    "backbone": item.row.backbone,
                    "protocol": item.row.protocol,
                    "samples": item.row.samples,
                    "metrics": {
                        name: {"value": v.value, "std": v.std, "grade": v.grade, "note": v.note}
                        for name, v in item.row.values.items()
                        if wanted is None or name in wanted
                    },
                    "source": item.row.source,
                    "url": item.row.url,
                    "delta": {k: v for k, v in item.delta.items() if wanted is None or k in wanted},
                    "against": item.against or None,
                    "not_compared": item.reason,
                }
                for item in block.rows
                if wanted is None or set(wanted) & item.row.values.keys()
            ],
            "changes": [
                {
                    "method": c.method,
                    "backbone": c.backbone,
                    "change": c.change,
                    "metric": c.metric,
                    "delta": c.delta,
                    "source": c.source,
                    "url": c.url,
                    "grade": c.grade,
                    "note": c.note,
                }
                for c in block.changes
                if wanted is None or c.metric in wanted
            ],
        }
        for block in published
    ]


def _cells(table: PublishedTable, metrics: Sequence[Metric]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows, unescaped; a column of differences only where there are any."""
    headers = ["Method", "Backbone", *(m.title for m in metrics), "n"]
    headers += ["Ours minus published"] * table.differences + ["Source"]
    rows = [
        [
            line.method,
            line.backbone,
            *(c.joined() for c in line.metrics),
            line.samples,
            *([line.difference or "-"] * table.differences),
            str(line.note),
        ]
        for line in table.lines
    ]
    return headers, rows
