"""Progress on standard error: bars on a terminal, plain lines elsewhere.

A task inside another one is one unit of it ("fold 2" of "folds"), so that the time left of the
whole is known before its first unit is done. Its parts (Task.part) are such tasks, too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape

from fusionbench.progress import Progress, Task

# A task that took less, and has nothing to tell, is not worth a line; nor is a rate after less.
BRIEF = 1.0  # seconds
# Seconds before the first line of a task that is not drawn as a bar; the pause grows from there.
FIRST_PAUSE, LONGEST_PAUSE = 10.0, 60.0


class Counter(Task):
    """Counts one task: what is done, how fast, and how long the rest will take."""

    def __init__(self, label: str, total: int, unit: str, parent: Counter | None = None) -> None:
        self.label, self.total, self.unit, self.parent = label, total, unit, parent
        self.done = 0
        self.before = 0  # of these, what was done before it began
        self.inside: dict[int, float] = {}  # of the units being worked on, the shares done
        self.info: dict[str, object] = {}
        self.nested = False
        self.started = time.monotonic()

    def advance(self, steps: int = 1, **info: object) -> None:
        self.done += steps
        self.info.update(info)
        if self.parent is not None:
            self.parent.hold(self, self.share)
        self.draw()

    def resume(self, steps: int, **info: object) -> None:
        self.before += steps
        self.advance(steps, **info)

    def hold(self, inner: Counter, share: float) -> None:
        """A task inside this one has done so much of the unit that it is working on."""
        self.inside[id(inner)], self.nested = share, True
        if self.parent is not None:
            self.parent.hold(self, self.share)

    def let_go(self) -> None:
        """It is over. Its unit counts as done when its parent is told so."""
        if self.parent is not None:
            self.parent.inside.pop(id(self), None)

    def draw(self) -> None:
        """Show it; a subclass knows how."""

    @property
    def share(self) -> float:
        """Of the whole task, 0..1."""
        return min((self.done + sum(self.inside.values())) / self.total, 1.0) if self.total else 1.0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def rate(self) -> str:
        """As in "120 img/s"; "" for what is not countable by the second."""
        done = self.done - self.before
        if self.nested or self.seconds <= 0 or not done:
            return ""
        pace = done / self.seconds
        return f"{pace:.{0 if pace >= 10 else 1}f} {self.unit}/s"

    @property
    def seconds_left(self) -> float | None:
        now = self.share - (self.before / self.total if self.total else 0.0)
        return self.seconds * (1 - self.share) / now if now > 0 else None

    @property
    def extra(self) -> str:
        return " ".join(
            f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in self.info.items()
        )

    def summary(self) -> str:
        """One line for what is over."""
        count = f"{self.done}/{self.total}"
        if not self.label.startswith(self.unit):
            count += f" {self.unit}"
        rate = self.rate if self.seconds >= BRIEF else ""
        return _line(self.label, count, rate, duration(self.seconds), self.extra)


class LineProgress(Progress):
    """A line now and then while a task runs, more seldom the longer it takes, and one at its end.

    Only the innermost tasks of a nest speak while they run.
    """

    def __init__(self) -> None:
        self._stack: list[_LineTask] = []

    @contextmanager
    def task(self, label: str, total: int, unit: str = "it") -> Iterator[Task]:
        task = _LineTask(label, total, unit, self._stack[-1] if self._stack else None)
        self._stack.append(task)
        try:
            with task.shown():
                yield task
        finally:
            self._stack.pop()

    def note(self, message: str) -> None:
        _write(message)


class _LineTask(Counter):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.last, self.pause = self.started, FIRST_PAUSE

    @contextmanager
    def part(self, label: str, total: int, unit: str = "it") -> Iterator[Task]:
        with _LineTask(label, total, unit, self).shown() as task:
            yield task

    @contextmanager
    def shown(self) -> Iterator[Task]:
        """The last line, unless it is interrupted."""
        try:
            yield self
        finally:
            self.let_go()
        if self.info or self.seconds >= BRIEF:
            _write(self.summary())

    def draw(self) -> None:
        if self.done >= self.total or self.nested or time.monotonic() - self.last < self.pause:
            return
        self.last = time.monotonic()
        self.pause = min(2 * self.pause, LONGEST_PAUSE)
        left, whole = _left(self.seconds_left), ""
        if self.parent is not None and self.parent.total > 1:
            whole = _left(self.parent.seconds_left, f" for all {self.parent.label}")
        count = f"{self.done}/{self.total} {self.unit}"
        _write(_line(self.label, count, self.rate, left, whole, self.extra))


class BarProgress(Progress):
    """rich bars with rate and time left; the bar of a nested task stands below its parent's."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
            transient=True,
        )
        self._stack: list[_BarTask] = []

    @contextmanager
    def task(self, label: str, total: int, unit: str = "it") -> Iterator[Task]:
        parent = self._stack[-1] if self._stack else None
        if parent is None:
            self._bars.start()
        task = _BarTask(label, total, unit, parent, bars=self._bars)
        self._stack.append(task)
        try:
            with task.shown():
                yield task
        finally:
            self._stack.pop()
            if parent is None:
                self._bars.stop()

    def note(self, message: str) -> None:
        _print(self._bars, message)


class _BarTask(Counter):
    def __init__(self, *arguments: Any, bars: Any) -> None:
        super().__init__(*arguments)
        self.bars = bars
        self.number = bars.add_task(escape(self.label), total=1.0, text="")

    @contextmanager
    def part(self, label: str, total: int, unit: str = "it") -> Iterator[Task]:
        with _BarTask(label, total, unit, self, bars=self.bars).shown() as task:
            yield task

    @contextmanager
    def shown(self) -> Iterator[Task]:
        """Its bar, and the line that is left of it, unless it is interrupted."""
        try:
            yield self
        finally:
            self.let_go()
            self.bars.remove_task(self.number)
        if self.info or self.seconds >= BRIEF:
            _print(self.bars, self.summary())

    def draw(self) -> None:
        first = f"{self.done}/{self.total}" if self.nested else self.rate
        left = _left(self.seconds_left) if self.seconds >= BRIEF else ""
        text = _line("", first, left, self.extra)
        self.bars.update(self.number, completed=self.share, text=escape(text))
        if self.parent is not None:
            self.parent.draw()


def _print(bars: Any, message: str) -> None:
    bars.console.print(f"[dim]{escape(message)}[/]", soft_wrap=True)


def duration(seconds: float) -> str:
    """As a person says it: 0.4 s, 12 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _left(seconds: float | None, of: str = "") -> str:
    return "" if seconds is None else f"{duration(seconds)} left{of}"


def _line(label: str, *parts: str) -> str:
    text = ", ".join(part for part in parts if part)
    return f"{label}: {text}" if label else text


def _write(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
