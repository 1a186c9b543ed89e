"""The side of who gives work out: which worker does what, what is shown of it, how all stop."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from fusionbench.errors import FusionbenchError
from fusionbench.progress import Progress, Task
from fusionbench.runs.process_worker import Work, begin, call

LOOK = 0.1  # seconds between two looks at the workers
# What a worker that is told to stop has for the step or the write at hand, before it is killed.
PATIENCE = 20.0  # seconds

Job = TypeVar("Job")


class WorkerLostError(FusionbenchError):
    """The process that did the work ended in the middle of it."""


@dataclass
class _Place(Generic[Job]):
    """A worker, and what it is doing."""

    pool: ProcessPoolExecutor
    messages: Connection
    row: Hashable = None  # of what it did last, and has at hand
    job: Job | None = None
    future: Future[Any] | None = None
    process: int | None = None  # its id, once it has begun
    told_to_stop: bool = False
    shown: ExitStack = field(default_factory=ExitStack)  # of the task that is drawn for it
    task: Task = field(default_factory=Task)
    done: int = 0


class Workers(Generic[Job]):
    """`with Workers(work, 4, task, progress, row=..., name=...) as workers:` At most so many
    processes, started as they are needed and stopped at the end of the block.

    work    module-level function of an order and a Progress, called in a worker. What it draws
            and notes is shown here, inside of `task`.
    row     of a job: a worker keeps to jobs of one row as long as there are any, for it has
            prepared something for them
    name    of a job: what stands before its notes; "" where they speak for themselves
    """

    def __init__(
        self,
        work: Work,
        at_once: int,
        task: Task,
        progress: Progress,
        *,
        row: Callable[[Job], Hashable],
        name: Callable[[Job], str],
    ) -> None:
        self.work, self.at_once, self.task, self.progress = work, at_once, task, progress
        self.row, self.name = row, name
        self._places: list[_Place[Job]] = []
        self._noted: set[str] = set()

    def __enter__(self) -> Workers[Job]:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Stops what is still running, as Ctrl-C would."""
        try:
            self._stop()
        except BaseException:  # a second Ctrl-C
            self._kill()
            raise
        finally:
            for place in self._places:
                _hide(place, error)
                place.messages.close()
                place.pool.shutdown(wait=True, cancel_futures=True)

    @property
    def running(self) -> list[Job]:
        return [place.job for place in self._places if place.job is not None]

    def choose(self, waiting: Sequence[Job]) -> Job | None:
        """Which of `waiting` to start now: one of the row that a free worker is prepared for, else
        the first of a row that no other works on. None where all are working, or none waits."""
        free = self._free()
        if not waiting or (not free and len(self._places) == self.at_once):
            return None
        prepared = {place.row for place in free}
        taken = {place.row for place in self._places} - prepared
        for wanted in (lambda row: row in prepared, lambda row: row not in taken):
            for job in waiting:
                if wanted(self.row(job)):
                    return job
        return waiting[0]

    def start(self, job: Job, order: object) -> None:
        """`order` is what the worker's function is called with. There must be room (choose)."""
        row, free = self.row(job), self._free()
        place = next((p for p in free if p.row == row), None)
        if place is None:
            place = free[0] if free else self._opened()
        try:
            future = place.pool.submit(call, self.work, order)
        except BrokenProcessPool:  # it died while it had nothing to do
            self._close(place)
            self.start(job, order)
            return
        place.job, place.row, place.future, place.process = job, row, future, None

    def _free(self) -> list[_Place[Job]]:
        return [place for place in self._places if place.job is None]

    def ended(self) -> Iterator[tuple[Job, Callable[[], Any]]]:
        """Wait a moment; each job that has come to an end, and how: a function that returns what
        `work` returned, or raises what it raised, UnexpectedError or WorkerLostError."""
        if not self.running:
            time.sleep(LOOK)
        wait(self._futures(), timeout=LOOK, return_when=FIRST_COMPLETED)
        for place in list(self._places):
            self._listen(place)
            if place.job is not None and place.future is not None and place.future.done():
                self._listen(place)  # its last words, which may have come since
                job, future = place.job, place.future
                _hide(place, future.exception())
                place.job = place.future = None
                if isinstance(future.exception(), BrokenProcessPool):
                    self._close(place)
                yield job, _result_of(future)

    def _opened(self) -> _Place[Job]:
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        threads = None if os.environ.get("OMP_NUM_THREADS") else threads_each(self.at_once)
        pool = ProcessPoolExecutor(1, context, begin, (sender, threads))
        pool.submit(os.getpid)  # starts the worker, which then has its end of the pipe
        sender.close()
        place: _Place[Job] = _Place(pool, receiver)
        self._places.append(place)
        return place

    def _close(self, place: _Place[Job]) -> None:
        self._places.remove(place)
        place.messages.close()
        place.pool.shutdown()

    def _futures(self) -> list[Future[Any]]:
        return [place.future for place in self._places if place.future is not None]

    def _listen(self, place: _Place[Job]) -> None:
        while True:
            try:
                if not place.messages.poll():
                    return
                message = place.messages.recv()
            except (EOFError, OSError):  # it died; its future says so
                return
            self._heard(place, *message)

    def _heard(self, place: _Place[Job], what: str, *said: Any) -> None:
        name = self.name(place.job) if place.job is not None else ""
        before = f"{name}: " if name else ""
        if what == "begun":
            (place.process,) = said
        elif what == "note":
            (message,) = said
            if before + message not in self._noted:  # of all workers alike: said once
                self._noted.add(before + message)
                self.progress.note(before + message)
        elif what == "task":
            label, total, unit = said
            place.task = place.shown.enter_context(self.task.part(before + label, total, unit))
            place.done = 0
        elif what == "resumed":
            done, info = said
            place.task.resume(done - place.done, **info)
            place.done = done
        elif what == "advanced":
            done, info = said
            place.task.advance(done - place.done, **info)
            place.done = done
        elif what in ("over", "dropped"):
            _hide(place, None if what == "over" else InterruptedError())

    def _stop(self) -> None:
        """Tell those that are working to stop, and wait until they have."""
        end = time.monotonic() + PATIENCE
        while any(not future.done() for future in self._futures()):
            for place in self._places:
                self._listen(place)  # one that has only been started says later which it is
                if place.process is not None and not place.told_to_stop:
                    place.told_to_stop = True
                    _signal(place.process, signal.SIGTERM)
            if time.monotonic() > end:
                self._kill()
                return
            wait(self._futures(), timeout=LOOK)

    def _kill(self) -> None:
        for place in self._places:
            place.messages.close()  # one that has not begun finds nobody to say so to
            if place.process is not None and place.future is not None and not place.future.done():
                _signal(place.process, getattr(signal, "SIGKILL", signal.SIGTERM))


def threads_each(at_once: int) -> int:
    """How many threads each of so many processes has, for all cores to be used once."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, cores // at_once)


def _hide(place: _Place[Any], error: BaseException | None) -> None:
    """End the task that is drawn for it; by an error, it is not reported as done."""
    place.shown.__exit__(type(error) if error else None, error, None)
    place.task = Task()


def _result_of(future: Future[Any]) -> Callable[[], Any]:
    def result() -> Any:
        error = future.exception()
        if isinstance(error, BrokenProcessPool | KeyboardInterrupt):
            raise WorkerLostError(
                "The process that computed it was killed, most often for lack of memory, or it "
                "crashed.",
                "The same command goes on from its last checkpoint; take fewer --folds-at-once, "
                "or a smaller --batch-size.",
            ) from error
        return future.result()

    return result


def _signal(process: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, number)
