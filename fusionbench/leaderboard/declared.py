"""Records -> the rows that a table declares: its order, its labels, and what is still missing.

A record belongs to a row when every setting that the row states or leaves to a default is the
record's. Neither the data nor a plugin is loaded for that: plugin defaults are read as source
text, and a record made with an older source counts, its row being marked stale as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from fusionbench.config.identity import Expected
from fusionbench.data.choices import named
from fusionbench.data.locate import open_card
from fusionbench.leaderboard.block import Block, LevelName, Row
from fusionbench.leaderboard.rows import Sources, blocks, has_level
from fusionbench.plugin import registry
from fusionbench.plugin.registry import key_of
from fusionbench.records import Record
from fusionbench.tables import Declared, DeclaredTable


def declared_blocks(
    table: DeclaredTable,
    declared: Sequence[Declared],
    records: Iterable[Record],
    *,
    note: str = "",
    plugins: Sequence[str | Path] = (),
    current_sources: Sources | None = None,
    sort: str = "bacc",
    level: LevelName = "image",
) -> list[Block]:
    """The table, once for each set of photographs that records of it were made on.

    `declared`: expand(table, ...) of the table that `table` is a variant of. Rows stand in the
    table's order under their labels; one without records is there too, with no numbers. `sort` is
    the metric of the gains; records without metrics at `level` do not count.
    """
    card = open_card(table.dataset, plugins=plugins)
    spec = card.protocol(table.protocol)
    mine: dict[str, tuple[int, Record]] = {}
    rows_of = [
        (d, Expected.of(named(d.config.changed(protocol=spec.name), card), plugins))
        for d in declared
    ]
    for record in records:
        if not has_level(record, level) or record.result is None:
            continue
        if table.folds and record.identity.fold not in table.folds:
            continue
        for one, expected in rows_of:
            allowed = record.result.complete_data or expected.config.data.allow_missing_images
            if allowed and record.identity.matches(expected):
                mine[record.run_id] = (one.row, record)
                break
    found = blocks(
        (r for _, r in mine.values()), current_sources=current_sources, sort=sort, level=level
    )
    if not found:
        n = card.expect.rows or 0
        found = [Block(card.name, spec.name, n_rows_dataset=n, n_rows_used=n, level=level)]
    seeds = len({d.config.seed for d in declared})
    result = []
    for block in found:
        rows: list[tuple[int, Row]] = []  # with their places in the table
        for row in block.rows:
            place = mine[row.run_ids[0]][0]
            expected_runs = row.runs_expected // len(row.seeds) * seeds
            label = table.rows[place].label
            rows.append((place, replace(row, label=label, runs_expected=expected_runs)))
        present = {place for place, _ in rows}
        absent = {d.row: d for d in reversed(declared) if d.row not in present}
        rows += [
            (place, _empty(one, spec.fold_count * seeds, plugins)) for place, one in absent.items()
        ]
        rows.sort(key=lambda item: item[0])
        ordered = tuple(row for _, row in rows)
        result.append(replace(block, rows=ordered, title=table.title, note=note))
    return result


def _empty(declared: Declared, runs_expected: int, plugins: Sequence[str | Path]) -> Row:
    """A row of which nothing has run."""
    method = declared.config.method
    network = registry.find_method(method.fusion, plugins).uses_images
    return Row(
        key=f"row-{declared.row}",
        fusion=key_of(method.fusion),
        backbone=method.backbone if network else None,
        loss=method.loss if network else None,
        runs_expected=runs_expected,
        label=declared.label,
        shuffled=declared.config.data.shuffle_metadata,
    )
