"""One row of the leaderboard, by what a person types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from fusionbench.errors import UsageError
from fusionbench.leaderboard.block import Block, Row
from fusionbench.plugin.registry import key_of, unknown_name

SHOWN = 8  # candidates that an error spells out


def select_row(blocks: Sequence[Block], text: str) -> tuple[Block, Row]:
    """The one row that `text` means, and the block that it stands in.

    `text` is a method's name (concat), a method on a backbone (concat@resnet18), either with
    /shuffled behind it for the control on other patients' metadata, a row's label in a declared
    table, its key of 12 hex digits or the start of it, or part of a run id. The first of these that
    fits any row decides. Raises UsageError, with the candidates, where it means several
    rows, and with the nearest names where it means none.
    """
    rows = [(block, row) for block in blocks for row in block.rows]
    name = text.strip()
    key = key_of(name)
    readings: tuple[Callable[[Row], bool], ...] = (
        lambda row: row.key == name,
        lambda row: (
            name in (row.label, row.name) or key == row.name.replace(f"@{row.backbone}", "")
        ),
        lambda row: row.name == f"{key_of(name.partition('@')[0])}@{name.partition('@')[2]}",
        lambda row: len(name) >= 4 and row.key.startswith(name),
        lambda row: any(name in run for run in row.run_ids),
    )
    for fits in readings if name else ():
        found = [(block, row) for block, row in rows if fits(row)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(
                _several(name, found), "Name one of them by its key, the 12 digits in front."
            )
    if not rows:
        raise UsageError(f"There is no finished run to take {name!r} from.", "See --store.")
    known = list(dict.fromkeys(n for _, row in rows for n in (row.name, row.fusion)))
    raise UsageError(*unknown_name("row", name, known))


def relabelled(blocks: Sequence[Block], text: str, label: str) -> list[Block]:
    """The blocks, with that label for the one row that `text` means. Raises UsageError."""
    _, chosen = select_row(blocks, text)
    return [
        replace(
            block,
            rows=tuple(replace(r, label=label) if r is chosen else r for r in block.rows),
        )
        for block in blocks
    ]


def _several(text: str, found: Sequence[tuple[Block, Row]]) -> str:
    lines = [
        f"  {row.key}  {row.name}, {block.place}"
        + (f", {row.loss}" if row.loss else "")
        + "".join(f", {k}={v}" for k, v in row.differences.items())
        for block, row in found[:SHOWN]
    ]
    if len(found) > SHOWN:
        lines.append(f"  … and {len(found) - SHOWN} more")
    return "\n".join([f"{text!r} means {len(found)} rows:", *lines])
