"""What workers of test_at_once.py do; importing it loads nothing slow."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from fusionbench.errors import UsageError
from fusionbench.progress import Progress


class Odd(Exception):
    """Cannot be pickled: what it is made of is not what it keeps."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} is not {other}")


def work(order: str, progress: Progress) -> tuple[str, int, str | None]:
    """ "<what>" or "<what> <argument>"; the process that did it, and how many threads it has."""
    what, _, argument = order.partition(" ")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "refuse":
        raise UsageError("No.", "Ask something else.")
    elif what == "break":
        raise Odd(1, 2)
    elif what == "sleep":
        Path(argument).write_text(str(os.getpid()), encoding="utf-8")
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            Path(argument).write_text("stopped", encoding="utf-8")
            raise
    elif what == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path(argument).write_text(str(os.getpid()), encoding="utf-8")
        time.sleep(60)
    elif what == "count":
        progress.note("the same for all")
        with progress.task("counting", total=4, unit="step") as task:
            task.resume(1)
            with progress.task("inside", total=1) as inner:
                inner.advance()
            for _ in range(3):
                task.advance(1, loss=0.5)
        progress.note("done")
    return order, os.getpid(), os.environ.get("OMP_NUM_THREADS")
