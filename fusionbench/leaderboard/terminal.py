"""Blocks -> a rich table that reads at 80 columns and uses more where there are more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from fusionbench.leaderboard.block import Block
from fusionbench.leaderboard.marks import SIGN
from fusionbench.leaderboard.published_comparison import PublishedBlock
from fusionbench.leaderboard.published_table import PublishedTable, published_table
from fusionbench.leaderboard.render import EMPTY
from fusionbench.leaderboard.table_model import (
    GAINS,
    NOT_AUDITED,
    Cell,
    Line,
    audit,
    caption,
    chosen,
    heading,
    lines,
    plain,
    warning,
    with_gains,
)
from fusionbench.metrics.names import Metric

# Widths in characters: a row's names, the three columns after the metrics, and those of gains.
NAMES, AFTER = 24, 22
OF_GAINS = (9, 14)


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
            if said := audit(block):
                yield Text(said, style=_colour(said.removeprefix("Audit: ")))
            if note := warning(block):
                yield Text(note, style="bold yellow")
            shown = lines(block, self.metrics)
            gains = with_gains(shown)
            # Columns of their own where that leaves all in one table, else below the row's name.
            room = options.max_width - sum(OF_GAINS[i] for i in gains)
            columns = gains if len([*_fitting(self.metrics, room)]) == 1 else []
            below = [i for i in gains if not columns]
            for metrics, one_line in _fitting(self.metrics, room if columns else options.max_width):
                places = [self.metrics.index(m) for m in metrics]
                whole = _Layout(len(block.parts) > 1, one_line, columns, below, _led(self.metrics))
                chosen_ones = [(i, self.metrics[i]) for i in places]
                yield _table(shown, chosen_ones, whole, options.max_width)
                below = []
            yield Text(caption(block, self.metrics, shown), style="dim")
            for papers in self.published:
                if papers.below == i:
                    yield from _published(papers, self.metrics, options.max_width)


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


@dataclass(frozen=True)
class _Layout:
    """How a table is drawn at the width that there is."""

    with_part: bool
    one_line: bool  # mean and spread beside each other
    columns: Sequence[int]  # the gains that have a column
    below: Sequence[int]  # the gains that stand below a row's name
    led: int  # the metric whose spread's parts stand below a row's name
    names: int = NAMES  # characters that a row's name may take


def _table(
    shown: Sequence[Line], metrics: Sequence[tuple[int, Metric]], layout: _Layout, width: int
) -> Table:
    marked = {i for i, _ in metrics if any(line.metrics[i].alike for line in shown)}
    titles = [plain(m.title) for _, m in metrics] + [GAINS[i] for i in layout.columns]
    titles += ["n", "M par.", "img/s"]
    rows = []
    for line in shown:
        cells = [_number(line.metrics[i], layout.one_line, i in marked) for i, _ in metrics]
        cells += [Text(line.gains[i]) for i in layout.columns]
        rows.append([*cells, Text(line.n), Text(line.parameters), Text(line.images_per_s)])
    widths = [
        max(len(title), *(len(part) for row in rows for part in row[i].plain.split("\n")))
        for i, title in enumerate(titles)
    ]
    layout = replace(layout, names=width - sum(widths) - 2 * len(widths) - 2)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("Method", overflow="fold")
    for title in titles:
        table.add_column(Text(title), justify="right", no_wrap=True)
    for line, row in zip(shown, rows, strict=True):
        table.add_row(_label(line, layout), *row, style="" if line.row.ranked else "dim")
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


def _label(line: Line, layout: _Layout) -> Text:
    """Everything that names a row, one thing under the other."""
    name = line.row.label or line.row.fusion
    text = Text(plain(name), style="bold" if line.row.ranked else "")
    if layout.with_part:
        text.append(f" ({line.part})", style="not bold")
    said = [plain(n) for n in (line.row.backbone, line.row.loss) if n]
    between = ", " if len(", ".join(said)) <= layout.names else "\n"
    # A loss too long for the column breaks between its terms.
    said[1:] = [n if len(n) <= layout.names else n.replace("+", "+\n") for n in said[1:]]
    if line.row.label:
        said[:0] = [f"{plain(line.row.fusion)}, {said.pop(0)}" if said else plain(line.row.fusion)]
    gains = [f"{GAINS[i]} {line.gains[i]}" for i in layout.below if line.gains[i]]
    for more, style in (
        (between.join(said), "not bold"),
        (line.settings, "not bold cyan"),
        (line.audit if line.row.runs_done else "", f"not bold {_colour(line.audit)}"),
        (line.notes, "not bold yellow"),
        ("\n".join(gains), "not bold cyan"),
        (f"± {split}" if (split := line.metrics[layout.led].split) else "", "not bold dim"),
    ):
        if more:
            text.append(f"\n{more}", style=style)
    return text


def _led(metrics: Sequence[Metric]) -> int:
    """Balanced accuracy where it is shown, else the first metric."""
    return next((i for i, m in enumerate(metrics) if m.name == "bacc"), 0)


def _number(cell: Cell, one_line: bool, marked: bool = False) -> Text:
    text = cell.joined(" ± " if one_line else "\n±")
    # Where others of the column are marked, the digits stay in line.
    text += " " if marked and not text.endswith(SIGN) else ""
    return Text(text, style="bold green" if cell.best else "")


def _colour(verdict: str) -> str:
    if verdict == "clean":
        return "green"
    return "dim" if verdict.lower() == NOT_AUDITED else "red"
