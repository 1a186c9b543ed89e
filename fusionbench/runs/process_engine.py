"""An engine: several processes on this machine.

Each worker is a process and a pipe (runs.worker), so that one that dies costs its own job only, and
keeps to one row. Where a row has a plugin that does not come with fusionbench, each job has a
process: whatever the plugin does to it ends with it.

The pools of concurrent.futures and loky fail every job when one worker dies; pebble's chooses the
worker itself, and leaves a busy one behind when its parent is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import ModuleType
from typing import Any

from fusionbench.config.environment import usable_cores
from fusionbench.config.run_config import Execution
from fusionbench.errors import RunFailedError
from fusionbench.progress import Progress, Task
from fusionbench.runs.fold import Computed, LastRow, Order, failed, verdict
from fusionbench.runs.plan import Job
from fusionbench.runs.queue import JobLostError
from fusionbench.runs.worker import STOPPED, Work, own_threads, serve

LOOK = 0.1  # seconds between two looks at the workers
# What a worker that is told to stop has for the step or the write at hand, before it is killed.
PATIENCE = 20.0  # seconds

_row = LastRow()  # a worker's


def _carry_out(order: Order, progress: Progress) -> Computed:
    return _row.compute(_row.reopen(order), order, progress)


@dataclass(eq=False)
class _Worker:
    """A process, and what it is doing."""

    process: SpawnProcess
    pipe: Connection
    row: object = None  # of its last job, which it has prepared something for
    foreign: bool = False  # it has run a plugin that does not come with fusionbench
    job: Job | None = None
    shown: ExitStack = field(default_factory=ExitStack)  # of the task that is drawn for it
    task: Task = field(default_factory=Task)

    def hide(self, by_error: bool) -> None:
        """End the task that is drawn for it; by an error, it is not reported as done."""
        error = InterruptedError() if by_error else None
        self.shown.__exit__(type(error) if error else None, error, None)
        self.task = Task()


class Processes:
    """At most `execution.folds_at_once` workers, started as they are needed."""

    def __init__(self, execution: Execution, progress: Progress, work: Work = _carry_out) -> None:
        self.execution, self.progress, self.work = execution, progress, work
        self._workers: list[_Worker] = []
        self._noted: set[str] = set()

    def choose(self, waiting: Sequence[Job]) -> Job | None:
        """One of the row that a free worker is prepared for, else the first of a row that no other
        works on."""
        free = self._free()
        if not waiting or (not free and len(self._workers) == self.execution.folds_at_once):
            return None
        prepared = {worker.row for worker in free}
        taken = {worker.row for worker in self._workers} - prepared
        for wanted in (lambda row: row in prepared, lambda row: row not in taken):
            for job in waiting:
                if wanted(job.key):
                    return job
        return waiting[0]

    def start(self, job: Job) -> None:
        free = self._free()
        alike = next((w for w in free if w.row == job.key), None)
        clean = next((w for w in free if not w.foreign), None)
        if free and not (alike or clean):
            self._drop(free[0])
        worker = alike or clean or self._started()
        order = self.order(job, first=alike is None)
        try:
            worker.pipe.send(order)
        except OSError:  # it died while it had nothing to do
            self._drop(worker)
            self.start(job)
            return
        worker.job, worker.row, worker.foreign = job, job.key, worker.foreign or job.foreign

    def order(self, job: Job, *, first: bool) -> Any:
        """What is sent to the worker; `first` of its row that it works on."""
        if first and job.study.uses_images:
            # Decoded once, into one file that all workers map into memory.
            job.study.images(self.execution.workers, self.progress)
        found = verdict(job.study, self.progress)
        return Order(job.config, self.execution, job.fold, job.run_id, found)

    def finished(self, task: Task) -> Iterator[tuple[Job, Computed | Exception]]:
        for worker in self._ready():
            job = worker.job
            try:
                what, *said = worker.pipe.recv()
            except (EOFError, OSError):
                result = self._lost(worker)
            else:
                if what != "ended":
                    self._show(worker, task, what, *said)
                    continue
                (result,) = said
            worker.job = None
            worker.hide(by_error=isinstance(result, Exception))
            if job is not None:
                if worker.foreign and not _compiled(result) and worker in self._workers:
                    self._drop(worker)
                yield job, result

    def stop(self) -> None:
        """Tell those that are working to stop, as Ctrl-C would, and wait until they have."""
        try:
            for worker in self._workers:
                if worker.job is not None:
                    worker.process.terminate()
                else:
                    worker.pipe.close()
            end = time.monotonic() + PATIENCE
            while any(w.process.is_alive() for w in self._workers) and time.monotonic() < end:
                for worker in self._ready():  # what it says would otherwise fill the pipe
                    try:
                        worker.pipe.recv()
                    except (EOFError, OSError):
                        worker.pipe.close()
        finally:  # a second Ctrl-C too
            for worker in self._workers:
                worker.process.kill()
                worker.hide(by_error=True)
                worker.pipe.close()
            for worker in self._workers:
                worker.process.join()

    def _free(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.job is None]

    def _ready(self) -> list[_Worker]:
        """Those that have said something, or have ended, after at most a moment."""
        pipes = {worker.pipe: worker for worker in self._workers if not worker.pipe.closed}
        if not pipes:
            time.sleep(LOOK)
        return [pipes[pipe] for pipe in wait(pipes, LOOK)]  # type: ignore[index]

    def _started(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        pipe, other = context.Pipe()
        threads = own_threads() if self.execution.folds_at_once == 1 else None
        if threads is None and not os.environ.get("OMP_NUM_THREADS"):
            threads = threads_each(self.execution.folds_at_once)
        process = context.Process(target=serve, args=(other, self.work, threads))
        with _isolated():
            process.start()
        other.close()
        worker = _Worker(process, pipe)
        self._workers.append(worker)
        return worker

    def _drop(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.pipe.close()
        worker.process.join(PATIENCE)
        worker.process.kill()  # a plugin's threads may keep it
        worker.process.join()

    def _lost(self, worker: _Worker) -> Any:
        """What has become of the job of a worker that ended in the middle of it."""
        self._drop(worker)
        code, job = worker.process.exitcode, worker.job
        if job is not None and code is not None and code >= 0 and code != STOPPED:
            error = RunFailedError(
                f"Its code ended the process in the middle of training (exit code {code}).",
                "A plugin must not call os._exit.",
            )
            return failed(job.study, job.split, error, {})
        return JobLostError(
            "The process that computed it was killed, most often for lack of memory, or it "
            "crashed.",
            "The same command resumes it from its last checkpoint; take fewer "
            "--folds-at-once, or a smaller --batch-size.",
        )

    def _show(self, worker: _Worker, task: Task, what: str, *said: Any) -> None:
        before, job = "", worker.job
        if job is not None and job.label:
            before = f"{job.label}, seed {job.config.seed}: "
        if what == "note":
            if before + said[0] not in self._noted:  # of all workers alike: said once
                self._noted.add(before + said[0])
                self.progress.note(before + said[0])
        elif what == "task":
            label, total, unit = said
            worker.task = worker.shown.enter_context(task.part(before + label, total, unit))
        elif what == "over":
            worker.hide(by_error=said[0])
        else:
            steps, info = said
            advance = worker.task.resume if what == "resume" else worker.task.advance
            advance(steps, **info)


def threads_each(at_once: int) -> int:
    """How many threads each of so many processes has, for all cores to be used once."""
    return max(1, usable_cores() // at_once)


def _compiled(result: object) -> bool:
    """Whether the job's step was compiled: compiling it again would take longer than most folds,
    and a plugin's Python ran only to be compiled."""
    return isinstance(result, Computed) and str(result.record.environment.get("path")) not in (
        "eager",
        "None",
    )


@contextmanager
def _isolated() -> Iterator[None]:
    """A process that is started in the block imports nothing from the current folder, and not the
    script that this one runs."""
    main, path, safe = sys.modules["__main__"], sys.path, os.environ.get("PYTHONSAFEPATH")
    sys.modules["__main__"] = ModuleType("__main__")
    sys.path = [folder for folder in path if folder]
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        sys.modules["__main__"], sys.path = main, path
        os.environ.pop("PYTHONSAFEPATH")
        if safe is not None:
            os.environ["PYTHONSAFEPATH"] = safe
