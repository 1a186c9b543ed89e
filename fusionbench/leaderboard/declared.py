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
from fusionbench.leaderboard.block import Block, LevelName, PartStats, Row
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
    ) or [
        Block(
            dataset=card.name,
            data_fingerprint="-",
            protocol=spec.name,
            split_hash="-",
            complete_data=True,
            n_rows_dataset=card.expect.rows or 0,
            n_rows_used=card.expect.rows or 0,
            rows=(),
            level=level,
        )
    ]
    seeds = len({d.config.seed for d in declared})
    runs_expected = spec.fold_count * seeds
    result = []
    for block in found:
        rows = [
            replace(
                row,
                label=table.rows[mine[row.run_ids[0]][0]].label,
                runs_expected=row.runs_expected // len(row.seeds) * seeds,
            )
            for row in block.rows
        ]
        place = {row.key: mine[row.run_ids[0]][0] for row in rows}
        absent = {d.row: d for d in reversed(declared) if d.row not in place.values()}
        for i, one in absent.items():
            rows.append(_empty(one, runs_expected, plugins))
            place[rows[-1].key] = i
        rows.sort(key=lambda row: place[row.key])
        result.append(replace(block, rows=tuple(rows), title=table.title, note=note))
    return result


def _empty(declared: Declared, runs_expected: int, plugins: Sequence[str | Path]) -> Row:
    """A row of which nothing has run."""
    method = declared.config.method
    network = registry.find_method(method.fusion, plugins).uses_images
    return Row(
        key=f"row-{declared.row}",
        identity=None,
        fusion=key_of(method.fusion),
        backbone=method.backbone if network else None,
        loss=method.loss if network else None,
        differences={},
        seeds=(),
        runs_done=0,
        runs_expected=runs_expected,
        parts={"test": PartStats(0, {})},
        parameters=None,
        images_per_s=None,
        flags=(),
        run_ids=(),
        label=declared.label,
        shuffled=declared.config.data.shuffle_metadata,
    )
