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

from fusionbench.config.wording import duration, printable
from fusionbench.progress import Progress, Task

# A task that took less, and has nothing to tell, is not worth a line; nor is a rate after less.
BRIEF = 1.0  # seconds
# Seconds before the first line of a task that is not drawn as a bar; the pause grows from there.
FIRST_PAUSE, LONGEST_PAUSE = 10.0, 60.0


class Counter(Task):
    """Counts one task: what is done, how fast, and how long the rest will take."""

    def __init__(
        self, screen: LineProgress, label: str, total: int, unit: str, parent: Counter | None
    ) -> None:
        self.screen, self.label, self.total, self.unit = screen, label, total, unit
        self.parent = parent
        self.done = 0
        self.before = 0  # of these, what was done before it began
        self.inside: list[Counter] = []  # tasks inside this one that are not over
        self.info: dict[str, object] = {}
        self.nested = False
        self.started = self.last = time.monotonic()
        self.pause = FIRST_PAUSE
        self.bar: Any = None

    def advance(self, steps: int = 1, **info: object) -> None:
        self.done += steps
        self.info.update(info)
        self.screen.draw(self)

    def resume(self, steps: int, **info: object) -> None:
        self.before += steps
        self.advance(steps, **info)

    @contextmanager
    def part(self, label: str, total: int, unit: str = "it") -> Iterator[Task]:
        with self.screen.counted(label, total, unit, self) as counter:
            yield counter

    @property
    def share(self) -> float:
        """Of the whole task, 0..1."""
        done = self.done + sum(inner.share for inner in self.inside)
        return min(done / self.total, 1.0) if self.total else 1.0

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

    def left(self, of: str = "") -> str:
        """The time that the rest will take; "" where it cannot be known yet."""
        now = self.share - (self.before / self.total if self.total else 0.0)
        return f"{duration(self.seconds * (1 - self.share) / now)} left{of}" if now > 0 else ""

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
        return f"{self.label}: {_joined(count, rate, duration(self.seconds), self.extra)}"


class LineProgress(Progress):
    """A line now and then while a task runs, more seldom the longer it takes, and one at its end.

    Only the innermost tasks of a nest speak while they run.
    """

    def __init__(self) -> None:
        self._stack: list[Counter] = []

    @contextmanager
    def task(self, label: str, total: int, unit: str = "it") -> Iterator[Task]:
        parent = self._stack[-1] if self._stack else None
        with self.counted(label, total, unit, parent) as counter:
            self._stack.append(counter)
            try:
                yield counter
            finally:
                self._stack.pop()

    @contextmanager
    def counted(
        self, label: str, total: int, unit: str, parent: Counter | None
    ) -> Iterator[Counter]:
        """Its line is written unless it is interrupted."""
        counter = Counter(self, label, total, unit, parent)
        if parent is not None:
            parent.nested = True
            parent.inside.append(counter)
        self.draw(counter)
        try:
            yield counter
        finally:
            # Its unit counts as done when its parent is told so.
            if parent is not None:
                parent.inside.remove(counter)
            self.end(counter)
        if counter.info or counter.seconds >= BRIEF:
            self.note(counter.summary())

    def draw(self, counter: Counter) -> None:
        """A task begins, or has come further."""
        now, parent = time.monotonic(), counter.parent
        if counter.done >= counter.total or counter.nested or now - counter.last < counter.pause:
            return
        counter.last, counter.pause = now, min(2 * counter.pause, LONGEST_PAUSE)
        several = parent is not None and parent.total > 1
        whole = parent.left(f" for all {parent.label}") if parent is not None and several else ""
        count = f"{counter.done}/{counter.total} {counter.unit}"
        text = _joined(count, counter.rate, counter.left(), whole, counter.extra)
        self.note(f"{counter.label}: {text}")

    def end(self, counter: Counter) -> None:
        """A task is over, or interrupted."""

    def note(self, message: str) -> None:
        sys.stderr.write(printable(message) + "\n")
        sys.stderr.flush()


class BarProgress(LineProgress):
    """rich bars with rate and time left; the bar of a nested task stands below its parent's."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as Bars

        super().__init__()
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
            transient=True,
        )

    def draw(self, counter: Counter) -> None:
        if counter.parent is not None:
            self.draw(counter.parent)
        if counter.bar is None:
            self._bars.start()
            counter.bar = self._bars.add_task(escape(counter.label), total=1.0, text="")
        first = f"{counter.done}/{counter.total}" if counter.nested else counter.rate
        left = counter.left() if counter.seconds >= BRIEF else ""
        text = escape(_joined(first, left, counter.extra))
        self._bars.update(counter.bar, completed=counter.share, text=text)

    def end(self, counter: Counter) -> None:
        self._bars.remove_task(counter.bar)
        if not self._bars.tasks:
            self._bars.stop()

    def note(self, message: str) -> None:
        self._bars.console.print(f"[dim]{escape(message)}[/]", soft_wrap=True)


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
