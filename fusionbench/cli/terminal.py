"""Drawing for people: progress on stderr, errors, tables of problems. Data goes to stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fusionbench.progress import Progress, Task

SHOWN_PROBLEMS = 50


def out() -> Console:
    """Standard output, for results."""
    return Console(highlight=False)


def err() -> Console:
    """Standard error, for progress and messages."""
    return Console(stderr=True, highlight=False)


def print_json(data: Any) -> None:
    """One JSON value on stdout and nothing else; NaN becomes null."""
    sys.stdout.write(json.dumps(_plain(data), indent=2, allow_nan=False) + "\n")


def print_error(message: str) -> None:
    err().print(f"[bold red]Error:[/] [red]{escape(message)}[/]", soft_wrap=True)


def print_problems(problems: Sequence[dict[str, object]]) -> None:
    """Findings as one table, one line each; the first fifty."""
    columns = list(dict.fromkeys(key for problem in problems for key in problem))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for problem in problems[:SHOWN_PROBLEMS]:
        table.add_row(*(_cell(problem.get(name)) for name in columns))
    err().print(table)
    if len(problems) > SHOWN_PROBLEMS:
        err().print(f"... and {len(problems) - SHOWN_PROBLEMS} more")


def progress() -> Progress:
    """Bars on a terminal, plain lines elsewhere."""
    return BarProgress() if err().is_terminal else LineProgress()


class BarProgress(Progress):
    """rich bars with rate and time left; nested tasks stand below each other."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[info]}"),
            console=err(),
            transient=True,
        )
        self._open = 0

    @contextmanager
    def task(self, label: str, total: int, unit: str = "it") -> Iterator[Task]:
        if not self._open:
            self._bars.start()
        self._open += 1
        number = self._bars.add_task(escape(label), total=total, rate="", info="")
        try:
            yield _BarTask(self._bars, number, unit)
        finally:
            self._bars.remove_task(number)
            self._open -= 1
            if not self._open:
                self._bars.stop()

    def note(self, message: str) -> None:
        self._bars.console.print(f"[dim]{escape(message)}[/]", soft_wrap=True)


class _BarTask(Task):
    def __init__(self, bars: Any, number: Any, unit: str) -> None:
        self.bars, self.number, self.unit = bars, number, unit
        self.info: dict[str, object] = {}
        self.started, self.done = time.monotonic(), 0

    def advance(self, steps: int = 1, **info: object) -> None:
        self.info.update(info)
        self.done += steps
        seconds = time.monotonic() - self.started
        rate = f"{self.done / seconds:.0f} {self.unit}/s" if seconds > 1 else ""
        shown = rate if self.unit != "fold" else ""
        self.bars.update(self.number, advance=steps, rate=shown, info=_info(self.info))


class LineProgress(Progress):
    """A line at the start, every ten seconds or so, and at the end of a task."""

    @contextmanager
    def task(self, label: str, total: int, unit: str = "it") -> Iterator[Task]:
        task = _LineTask(label, total, unit)
        yield task
        task.finish()

    def note(self, message: str) -> None:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()


class _LineTask(Task):
    INTERVAL = 10.0  # seconds between lines

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done, self.info = 0, {}  # type: tuple[int, dict[str, object]]
        self.started = self.last = time.monotonic()

    def advance(self, steps: int = 1, **info: object) -> None:
        self.done += steps
        self.info.update(info)
        if time.monotonic() - self.last > self.INTERVAL:
            self._line()

    def finish(self) -> None:
        self._line()

    def _line(self) -> None:
        self.last = time.monotonic()
        seconds = max(self.last - self.started, 1e-9)
        rate = self.done / seconds
        left = (self.total - self.done) / rate if rate else 0
        pace = f", {rate:.0f} {self.unit}/s" if self.unit != "fold" and seconds > 0.1 else ""
        time_left = f", {left:.0f} s left" if self.done < self.total else f", {seconds:.1f} s"
        tail = f", {_info(self.info)}" if self.info else ""
        sys.stderr.write(
            f"{self.label}: {self.done}/{self.total} {self.unit}{pace}{time_left}{tail}\n"
        )
        sys.stderr.flush()


def _info(info: dict[str, object]) -> str:
    return " ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in info.items())


def _cell(value: object) -> str:
    return escape("" if value is None else str(value))


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
