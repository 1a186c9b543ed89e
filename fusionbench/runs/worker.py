"""The side of a worker: what it says of its progress, how many threads it has, how it fails.

`serve` is the whole life of a worker process on this machine (runs.process_engine); on Ray the rest
is used (runs.ray_worker).
"""

from __future__ import annotations

import ctypes
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

from fusionbench.config.environment import usable_cores
from fusionbench.errors import LONGEST, FusionbenchError, message_of, plain
from fusionbench.progress import Progress, Task

PAUSE = 0.5  # seconds between two messages about how far it is

Work = Callable[[Any, Progress], Any]  # of an order
PR_SET_PDEATHSIG = 1  # of prctl, on Linux
STOPPED = 75  # exit code of a worker that was told to stop


class ToldToStop(KeyboardInterrupt):
    """This worker was told to stop. A KeyboardInterrupt of another type is a plugin's own."""


class UnexpectedError(Exception):
    """What was raised in a worker, as text: its type need not be known elsewhere."""


def attempt(work: Work, order: Any, progress: Progress) -> Any:
    """What `work` returns, or the exception that it raises, as one that can be sent."""
    try:
        return work(order, progress)
    except ToldToStop:
        raise
    except BaseException as error:
        if isinstance(error, FusionbenchError):
            if type(error).__module__.partition(".")[0] == "fusionbench":
                return error
            return FusionbenchError(message_of(error))
        unexpected = UnexpectedError(f"{type(error).__name__}: {message_of(error)}")
        unexpected.add_note(plain(traceback.format_exc(), 10 * LONGEST))
        return unexpected


def own_threads() -> int:
    """How many threads this process computes with; results may depend on it in the last bits."""
    if "torch" in sys.modules:
        return int(sys.modules["torch"].get_num_threads())
    from threadpoolctl import threadpool_info

    return max((pool["num_threads"] for pool in threadpool_info()), default=usable_cores())


def set_threads(count: int) -> None:
    """From now on."""
    from threadpoolctl import threadpool_limits

    os.environ["OMP_NUM_THREADS"] = str(count)  # for libraries that are loaded later
    threadpool_limits(limits=count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


class Telling(Progress, Task):
    """Passes on notes and the outermost task: send("note", text), ("task", label, total, unit),
    ("advance" or "resume", steps, info), ("over", whether by an error)."""

    def __init__(self, send: Callable[..., object]) -> None:
        self.send, self.inside = send, False
        self.steps, self.last = 0, 0.0  # not sent yet; when something was
        self.info: dict[str, object] = {}

    def note(self, message: str) -> None:
        self.send("note", message)

    @contextmanager
    def task(self, label: str, total: int, unit: str = "it") -> Iterator[Task]:
        if self.inside:
            yield Task()
            return
        self.inside, self.steps, self.info = True, 0, {}
        self.send("task", label, total, unit)
        try:
            yield self
        except BaseException:
            self.send("over", True)
            raise
        finally:
            self.inside = False
        self._flush()
        self.send("over", False)

    def advance(self, steps: int = 1, **info: object) -> None:
        self.steps += steps
        self.info.update(info)
        if time.monotonic() - self.last >= PAUSE:
            self._flush()

    def resume(self, steps: int, **info: object) -> None:
        self.send("resume", steps, info)

    def _flush(self) -> None:
        self.send("advance", self.steps, self.info)
        self.steps, self.info, self.last = 0, {}, time.monotonic()


def serve(pipe: Connection, work: Work, threads: int | None) -> None:
    """Work off the orders that come through `pipe`, one after the other, until it is closed. Each
    is answered by messages of Telling and then ("ended", what `attempt` returns)."""
    # Ctrl-C on a terminal reaches every process there. The parent hears it, and tells its workers
    # once; from then on it is to them what it is to the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _told_to_stop)
    _end_with_parent()
    os.dup2(2, 1)  # standard output is the parent's: what a plugin prints goes beside it
    if threads is not None:
        set_threads(threads)

    def send(*message: Any) -> None:
        try:
            pipe.send(message)
        except OSError:  # the parent has gone, or has given this worker up
            os._exit(1)  # rather than raise, which would be recorded as a failure of the fold

    try:
        while True:
            order = pipe.recv()
            send("ended", attempt(work, order, Telling(send)))
    except (EOFError, ConnectionError):
        return  # the parent has no more orders
    except KeyboardInterrupt:
        sys.exit(STOPPED)


def _told_to_stop(number: int, frame: FrameType | None) -> None:
    raise ToldToStop


def _end_with_parent() -> None:
    """A parent that was killed has told its workers nothing. On Linux the kernel ends them, also in
    the middle of a long call; a thread sees to it elsewhere, and where the parent is gone already.
    """

    def watch() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=watch, daemon=True).start()
