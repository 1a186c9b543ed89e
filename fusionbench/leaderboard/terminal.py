"""Sheets -> rich tables: a line a row at 80 columns, more columns where there is room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from fusionbench.leaderboard.block import Block
from fusionbench.leaderboard.published_table import PublishedBlock
from fusionbench.leaderboard.render import EMPTY, sheets
from fusionbench.leaderboard.table_model import BOLD, SIGN, STAR, Sheet, SheetColumn

# Characters for what names a row: the fewest that numbers leave to it, and spare columns.
NAMES = 22, 30
# Between mean and deviation, by preference, and the gaps between columns then.
GAPS = {" ± ": 2, "±": 1, "\n±": 2}
STYLES = {"good": "green", "bad": "red", "warning": "yellow", "accent": "cyan", "quiet": "dim"}


class Terminal:
    """`console.print(Terminal(blocks))`. Raises UsageError at once for an unknown metric.
    `options`: those of `sheets`."""

    def __init__(
        self,
        blocks: Sequence[Block],
        metrics: Sequence[str] | None = None,
        published: Sequence[PublishedBlock] = (),
        **options: Any,
    ) -> None:
        self.sheets = sheets(blocks, metrics, published, **options)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        best = STAR if console.color_system is None else ""  # without bold letters
        if not self.sheets:
            yield Text(EMPTY)
        for i, sheet in enumerate(self.sheets):
            if i:
                yield Text()
            yield Text(sheet.heading, style="bold")
            quiet = [note for note in sheet.notes if note.tone != "warning"]
            if quiet:
                parts = [Text(f"{note.text}.", STYLES.get(note.tone, "")) for note in quiet]
                yield Text(" ").join(parts)
            for note in sheet.notes:
                if note.tone == "warning":
                    yield Text(note.text, style="bold yellow")
            names, letters = sheet.named()
            tables, absent = _layout(sheet, names, options.max_width, best)
            yield from tables
            for number, source in enumerate(sheet.sources, 1):
                yield Text(f"{number}: {source}", style="dim")
            notes = [", ".join(f"{letter} {text}" for letter, text in letters.items())]
            if absent:
                titles = ", ".join(column.title for column in absent)
                notes.append(f"Not shown, for lack of room: {titles} (or name them: --columns).")
            caption = sheet.brief.replace(f" {BOLD}:", f" {best}:") if best else sheet.brief
            for text in (*sheet.remarks, *notes, caption):
                if text:
                    yield Text(text, style="dim")


def _layout(
    sheet: Sheet, names: Sequence[str], width: int, best: str
) -> tuple[list[Table], list[SheetColumn]]:
    """One table where the numbers fit, with as many of the spare columns as fit, too; else several.
    And the columns that are left out."""
    columns = [c for c in sheet.columns if c.role in ("metric", "gain", "count")]
    spare = [column for column in columns if column.spare]
    needed = [column for column in columns if not column.spare]
    longest = max(map(len, [*names, "Method"]))
    few, many = (min(longest, at_most) for at_most in NAMES)

    def fits(some: Sequence[SheetColumn], sign: str, name: int) -> bool:
        return name + sum(_width(sheet, column, sign, best) for column in some) <= width - 1

    for sign in GAPS:
        if sign != "\n±" and fits(columns, sign, many):
            return [_table(sheet, names, columns, sign, best)], []
    for sign in ("±", "\n±"):
        if fits(needed, sign, few):
            shown = [*needed]
            for column in spare:
                if fits([*shown, column], sign, many):
                    shown.append(column)
            shown.sort(key=columns.index)
            absent = [column for column in spare if column not in shown]
            return [_table(sheet, names, shown, sign, best)], absent
    groups: list[list[SheetColumn]] = [[]]
    for column in needed:
        if groups[-1] and not fits([*groups[-1], column], "\n±", few):
            groups.append([])
        groups[-1].append(column)
    return [_table(sheet, names, group, "\n±", best) for group in groups], spare


def _width(sheet: Sheet, column: SheetColumn, sign: str, best: str) -> int:
    lines = "\n".join(text.plain for text in _texts(sheet, column, sign, best)).split("\n")
    return max(map(len, [column.short or column.title, *lines])) + GAPS[sign]


def _table(
    sheet: Sheet, names: Sequence[str], columns: Sequence[SheetColumn], sign: str, best: str
) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAPS[sign] - 1, 0, 0)
    )
    table.add_column("Method", overflow="fold")
    for column in columns:
        table.add_column(Text(column.short or column.title), justify="right", no_wrap=True)
    numbers = zip(*(_texts(sheet, column, sign, best) for column in columns), strict=True)
    for row, name, cells in zip(sheet.rows, names, [*numbers] or [()] * len(names), strict=True):
        style = "dim" if row.kind == "incomplete" else ""
        # Of balanced accuracy where it is shown, else of the first metric.
        splits = {c.key: row.cells[c.key].split for c in sheet.of_role("metric")}
        split = splits.get("bacc", next(iter(splits.values()), ""))
        label = Text(name + (f"\n± {split}" if split else ""))
        table.add_row(label, *cells, style=style)
    return table


def _texts(sheet: Sheet, column: SheetColumn, sign: str, best: str) -> list[Text]:
    """The column's cells. Where some of them are marked, the digits stay in line."""
    cells = [row.cells[column.key] for row in sheet.rows]
    texts = [cell.joined(sign, best=best) for cell in cells]
    marked = any(text.endswith((SIGN, STAR)) for text in texts)
    return [
        Text(
            text + (" " if marked and not text.endswith((SIGN, STAR)) else ""),
            style="bold green" if cell.best else "",
        )
        for cell, text in zip(cells, texts, strict=True)
    ]
