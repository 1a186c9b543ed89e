"""Blocks -> a rich table that reads at 80 columns and uses more where there are more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from fusionbench.leaderboard.comparison import PublishedBlock
from fusionbench.leaderboard.published_table import PublishedTable, published_table
from fusionbench.leaderboard.render import EMPTY
from fusionbench.leaderboard.rows import Block
from fusionbench.leaderboard.table import (
    Cell,
    Line,
    caption,
    chosen,
    heading,
    lines,
    plain,
    warning,
)
from fusionbench.metrics import Metric

# Widths in characters: a row's names, and the three columns after the metrics.
NAMES, AFTER = 24, 22


class Terminal:
    """`console.print(Terminal(blocks))`. Raises UsageError at once for an unknown metric."""

    def __init__(
        self,
        blocks: Sequence[Block],
        metrics: Sequence[str] | None = None,
        published: Sequence[PublishedBlock] = (),
    ) -> None:
        self.blocks = tuple(blocks)
        self.metrics = chosen(metrics)
        self.published = tuple(published)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self.blocks:
            yield Text(EMPTY)
        for i, block in enumerate(self.blocks):
            if i:
                yield Text()
            yield Text(heading(block), style="bold")
            if note := warning(block):
                yield Text(note, style="bold yellow")
            for metrics, one_line in _fitting(self.metrics, options.max_width):
                yield _table(block, metrics, one_line)
            yield Text(caption(block, self.metrics), style="dim")
            for below in self.published:
                if below.below == i:
                    yield from _published(below, self.metrics, options.max_width)


def _fitting(metrics: Sequence[Metric], width: int) -> Iterator[tuple[Sequence[Metric], bool]]:
    """The metrics of each table, and whether mean and spread stand on one line in it.

    One table where that fits; else the spread goes below the mean; else several tables.
    """
    room = width - NAMES - AFTER
    if sum(max(len(m.title), 11) + 1 for m in metrics) <= room:
        yield metrics, True
        return
    now: list[Metric] = []
    for metric in metrics:
        if now and sum(max(len(m.title), 5) + 1 for m in [*now, metric]) > room:
            yield now, False
            now = []
        now.append(metric)
    yield now, False


def _table(block: Block, metrics: Sequence[Metric], one_line: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("Method", overflow="fold")
    for title in (*(plain(m.title) for m in metrics), "n", "M par.", "img/s"):
        table.add_column(Text(title), justify="right", no_wrap=True)
    for line in lines(block, metrics):
        cells = [_number(c, one_line) for c in line.metrics]
        rest = [Text(line.n), Text(line.parameters), Text(line.images_per_s)]
        label = _label(line, len(block.parts) > 1)
        table.add_row(label, *cells, *rest, style="" if line.row.ranked else "dim")
    return table


def _published(block: PublishedBlock, metrics: Sequence[Metric], width: int) -> RenderResult:
    """A block of its own: what papers report, their sources, and why they do not compare."""
    whole = published_table(block, metrics)
    if whole is None:
        return
    yield Text(f"\n{whole.heading}", style="bold")
    if whole.warning:
        yield Text(whole.warning, style="bold yellow")
    for some, one_line in _fitting(metrics, width):
        yield _published_table(whole, [metrics.index(m) for m in some], metrics, one_line)
    for i, note in enumerate(whole.notes, 1):
        yield Text(f"{i}: {note}", style="dim")
    for change in whole.changes:
        yield Text(change, style="dim")
    yield Text(whole.caption, style="dim")


def _published_table(
    whole: PublishedTable, columns: Sequence[int], metrics: Sequence[Metric], one_line: bool
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("Method", overflow="fold")
    for title in (*(plain(metrics[i].title) for i in columns), "n", "source"):
        table.add_column(Text(title), justify="right", no_wrap=True)
    for line in whole.lines:
        label = Text(line.method)
        if line.backbone != "-":
            label.append(f"\n{line.backbone}")
        if line.difference:
            label.append(f"\nours minus published: {line.difference}", style="cyan")
        cells = [_number(line.metrics[i], one_line) for i in columns]
        table.add_row(label, *cells, Text(line.samples), Text(str(line.note)))
    return table


def _label(line: Line, with_part: bool) -> Text:
    """Everything that names a row, one thing under the other."""
    name = line.row.label or line.row.fusion
    text = Text(plain(name), style="bold" if line.row.ranked else "")
    if with_part:
        text.append(f" ({line.part})", style="not bold")
    backbone, loss = plain(line.row.backbone), plain(line.row.loss)
    between = ", " if len(backbone) + len(loss) + 2 <= NAMES else "\n"
    method = f"{backbone}{between}{loss}"
    if line.row.label:
        method = f"{plain(line.row.fusion)}, {method}"
    for more, style in (
        (method, "not bold"),
        (line.settings, "not bold cyan"),
        (line.notes, "not bold yellow"),
    ):
        if more:
            text.append(f"\n{more}", style=style)
    return text


def _number(cell: Cell, one_line: bool) -> Text:
    text = cell.joined(" ± " if one_line else "\n±")
    return Text(text, style="bold green" if cell.best else "")
