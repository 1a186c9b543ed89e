"""Progress reporting that the library calls and a front end draws.

Library code takes a `Progress` and never prints. The command line passes a drawing subclass
(fusionbench.cli.terminal); everyone else gets this one, which is silent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Task:
    """One piece of work of known length."""

    def advance(self, steps: int = 1, **info: object) -> None:
        """`steps` more are done; `info` holds what to show beside the bar (loss=..., fold=...)."""

    def resume(self, steps: int, **info: object) -> None:
        """`steps` were done before this task began: they say nothing of its speed."""
        self.advance(steps, **info)

    @contextmanager
    def part(self, label: str, total: int, unit: str = "it") -> Iterator[Task]:
        """A task that is one unit of this one; unlike those of Progress.task, several may go on
        at once, and end in any order."""
        yield Task()


class Progress:
    """Silent. Subclasses draw."""

    @contextmanager
    def task(self, label: str, total: int, unit: str = "it") -> Iterator[Task]:
        """`with progress.task("fold 1", total=880, unit="img") as task: task.advance(64)`"""
        yield Task()

    def note(self, message: str) -> None:
        """A line the user should see once (a fallback taken, a fold already there)."""


SILENT = Progress()
