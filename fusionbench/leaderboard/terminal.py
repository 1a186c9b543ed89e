"""Sheets -> rich tables that read at 80 columns and use more where there are more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from fusionbench.leaderboard.block import Block
from fusionbench.leaderboard.published_table import PublishedBlock
from fusionbench.leaderboard.render import EMPTY, sheets
from fusionbench.leaderboard.table_model import SIGN, Sheet, SheetColumn, SheetRow

NAMES = 17  # the fewest characters for what names a row
GAP = 2  # between two columns
STYLES = {"good": "green", "bad": "red", "warning": "yellow", "accent": "cyan", "quiet": "dim"}


class Terminal:
    """`console.print(Terminal(blocks))`. Raises UsageError at once for an unknown metric."""

    def __init__(
        self,
        blocks: Sequence[Block],
        metrics: Sequence[str] | None = None,
        published: Sequence[PublishedBlock] = (),
    ) -> None:
        self.sheets = sheets(blocks, metrics, published)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self.sheets:
            yield Text(EMPTY)
        for i, sheet in enumerate(self.sheets):
            if i:
                yield Text()
            yield Text(sheet.heading, style="bold")
            for note in sheet.notes:
                yield Text(note.text, "bold yellow" if note.tone == "warning" else STYLES.get(
                    note.tone, ""))  # fmt: skip
            yield from _tables(sheet, options.max_width)
            for number, source in enumerate(sheet.sources, 1):
                yield Text(f"{number}: {source}", style="dim")
            for text in (*sheet.remarks, sheet.caption):
                yield Text(text, style="dim")


def _tables(sheet: Sheet, width: int) -> Iterator[Table]:
    """One table where the metrics fit, with mean and spread on one line where that fits, too; else
    several. Gains have columns where that leaves one table, and stand below the names elsewhere."""
    metrics, gains = sheet.of_role("metric"), sheet.of_role("gain")
    counts = sheet.of_role("count")
    room = width - NAMES - GAP - _width(sheet, counts, one_line=True)
    beside = room - _width(sheet, gains, one_line=True)
    groups = _fitting(sheet, metrics, beside)
    below = gains if len(groups) > 1 else []
    if below:
        groups = _fitting(sheet, metrics, room)
    limit = room if below else beside
    one_line = len(groups) == 1 and _width(sheet, metrics, one_line=True) <= limit
    for group in groups:
        columns = [*group, *(c for c in gains if c not in below), *counts]
        yield _table(sheet, columns, below if group is groups[0] else [], one_line=one_line)


def _fitting(sheet: Sheet, metrics: Sequence[SheetColumn], room: int) -> list[list[SheetColumn]]:
    """The metrics of each table."""
    groups: list[list[SheetColumn]] = [[]]
    for metric in metrics:
        if groups[-1] and _width(sheet, [*groups[-1], metric], one_line=False) > room:
            groups.append([])
        groups[-1].append(metric)
    return groups


def _width(sheet: Sheet, columns: Sequence[SheetColumn], *, one_line: bool) -> int:
    width = 0
    for column in columns:
        texts = "\n".join(text.plain for text in _texts(sheet, column, one_line)).split("\n")
        width += max(map(len, [column.short or column.title, *texts])) + GAP
    return width


def _table(
    sheet: Sheet, columns: Sequence[SheetColumn], below: Sequence[SheetColumn], *, one_line: bool
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("Method", overflow="fold")
    for column in columns:
        table.add_column(Text(column.short or column.title), justify="right", no_wrap=True)
    numbers = zip(*(_texts(sheet, column, one_line) for column in columns), strict=True)
    for row, cells in zip(sheet.rows, numbers, strict=True):
        style = "dim" if row.kind == "incomplete" else ""
        table.add_row(_label(sheet, row, below), *cells, style=style)
    return table


def _texts(sheet: Sheet, column: SheetColumn, one_line: bool) -> list[Text]:
    """The column's cells. Where some of them are marked, the digits stay in line."""
    cells = [row.cells[column.key] for row in sheet.rows]
    marked = any(cell.alike for cell in cells)
    texts = [cell.joined(" ± " if one_line else "\n±") for cell in cells]
    return [
        Text(
            text + (" " if marked and not text.endswith(SIGN) else ""),
            style="bold green" if cell.best else "",
        )
        for cell, text in zip(cells, texts, strict=True)
    ]


def _label(sheet: Sheet, row: SheetRow, below: Sequence[SheetColumn]) -> Text:
    """Everything that names a row, one thing under the other."""
    cells = [(column, row.cells[column.key]) for column in sheet.columns]
    cells = [(column, cell) for column, cell in cells if cell.text not in ("", "-")]
    names = [cell.text for c, cell in cells if c.role == "name" and c.key != "part"] or [""]
    lines = [Text(names[0], style="bold" if row.kind in ("own", "control") else "")]
    for column, cell in cells:
        if column.key == "part":
            lines[0].append(f" ({cell.text})", style="not bold")
    lines.append(Text(", ".join(names[1:])))
    for column, cell in sorted(cells, key=lambda item: item[0].role == "gain"):
        if column.role == "remark" or column in below:
            text = cell.text if column.role == "remark" else f"{column.title} {cell.text}"
            lines.append(Text(text, STYLES.get(cell.tone, "")))
    # Of balanced accuracy where it is shown, else of the first metric.
    splits = {column.key: row.cells[column.key].split for column in sheet.of_role("metric")}
    if split := splits.get("bacc", next(iter(splits.values()))):
        lines.append(Text(f"± {split}", style="dim"))
    return Text("\n").join(line for line in lines if line)
