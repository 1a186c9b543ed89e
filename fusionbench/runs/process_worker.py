"""The side of a worker: one process, one piece of work after the other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from fusionbench.errors import FusionbenchError
from fusionbench.progress import Progress, Task

PAUSE = 0.5  # seconds between two messages about how far it is

Work = Callable[[Any, Progress], Any]

_to_parent: Connection | None = None
_working = False


class UnexpectedError(Exception):
    """What was raised in a worker, as text: its type need not be known here."""


def begin(sender: Connection, threads: int | None) -> None:
    """Called once in each worker."""
    global _to_parent
    _to_parent = sender
    # Ctrl-C on a terminal reaches every process there. The parent hears it, and tells its workers
    # once; from then on it is to them what it is to the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _told_to_stop)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if threads is not None:
        _set_threads(threads)


def _told_to_stop(number: int, frame: FrameType | None) -> None:
    if _working:
        raise KeyboardInterrupt


def _end_with_parent() -> None:
    """A parent that was killed has told nobody anything."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _set_threads(count: int) -> None:
    from threadpoolctl import threadpool_limits

    os.environ["OMP_NUM_THREADS"] = str(count)  # for libraries that are loaded later
    threadpool_limits(limits=count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def call(work: Work, job: Any) -> Any:
    """What goes back is of types that are known there: another makes the pool unreadable."""
    global _working
    progress = _ToParent()
    _working = True
    try:
        progress.send("begun", os.getpid())
        return work(job, progress)
    except FusionbenchError as error:
        if type(error).__module__.partition(".")[0] == "fusionbench":
            raise
        raise FusionbenchError(error.message, error.remedy) from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        found = UnexpectedError(f"{type(error).__name__}: {error}")
        found.add_note(traceback.format_exc())
        raise found from None
    finally:
        _working = False


class _ToParent(Progress):
    """Sends on what the outermost task and the notes say."""

    def __init__(self) -> None:
        self.depth = 0

    def send(self, *message: Any) -> None:
        assert _to_parent is not None
        try:
            _to_parent.send(message)
        except OSError:  # nobody listens: the parent has gone, or has given this worker up
            os._exit(1)  # rather than raise, which would be recorded as a failure of the fold

    def note(self, message: str) -> None:
        self.send("note", message)

    @contextmanager
    def task(self, label: str, total: int, unit: str = "it") -> Iterator[Task]:
        if self.depth:
            yield Task()
            return
        self.depth += 1
        self.send("task", label, total, unit)
        task = _SentTask(self)
        try:
            yield task
        except BaseException:
            self.send("dropped")
            raise
        finally:
            self.depth -= 1
        task.say()
        self.send("over")


class _SentTask(Task):
    def __init__(self, progress: _ToParent) -> None:
        self.progress, self.done, self.last = progress, 0, 0.0
        self.info: dict[str, object] = {}

    def advance(self, steps: int = 1, **info: object) -> None:
        self.done += steps
        self.info.update(info)
        if time.monotonic() - self.last >= PAUSE:
            self.say()

    def resume(self, steps: int, **info: object) -> None:
        self.done += steps
        self.progress.send("resumed", self.done, info)

    def say(self) -> None:
        self.last = time.monotonic()
        self.progress.send("advanced", self.done, self.info)
        self.info = {}
