"""The queue of jobs: one loop, whichever engine carries them out, and what has become of each."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

from fusionbench.config.run_config import Execution
from fusionbench.errors import FusionbenchError, message_of
from fusionbench.progress import Progress, Task
from fusionbench.records import BusyError, Record, Store
from fusionbench.runs.fold import Computed, LastRow, run_fold, verdict
from fusionbench.runs.plan import Failed, Job, Plan, seen

# Between two looks at runs that other processes are computing.
LOOK_AGAIN = 1.0  # seconds
STOPPING = (signal.SIGINT, signal.SIGTERM)


class JobLostError(FusionbenchError):
    """The process that computed a job ended in the middle of it."""


class EngineLostError(FusionbenchError):
    """What carries jobs out is lost, and no other job can be computed."""


class Engine(Protocol):
    """What carries jobs out. It writes nothing to the store: what has been computed comes back."""

    def choose(self, waiting: Sequence[Job]) -> Job | None:
        """The one of `waiting` to start now; None where there is no room for another."""

    def start(self, job: Job) -> None:
        """Begin it. What it raises refuses the job and the rest of its row; EngineLostError and
        what is no Exception end the sweep."""

    def finished(self, task: Task) -> Iterator[tuple[Job, Computed | Exception]]:
        """Wait a moment; the jobs that have ended since. JobLostError: the job alone is lost; any
        other exception refuses its row. `task` is that of all jobs, to show them in."""

    def stop(self) -> None:
        """End what is still running. It is called once, whatever happened."""


@dataclass(frozen=True)
class Outcome:
    """What has been computed, and what could not be."""

    plan: Plan
    records: tuple[Record, ...] = ()  # of a sweep those of now, of run() all that were asked for
    failures: tuple[Failed, ...] = ()
    elsewhere: tuple[str, ...] = ()  # run_ids that another process finished meanwhile


class Queue:
    """The jobs to compute, in order, and the store that their records go to.

    A job that fails is recorded and does not stop the others. A job that is refused before training
    (nothing is recorded then) takes the other folds of its row with it. A job that another process
    computes is passed over and looked at again at the end, as long as that process lives.
    """

    def __init__(
        self, plan: Plan, todo: Sequence[Job], store: Store, progress: Progress, unit: str = "run"
    ) -> None:
        self.plan, self.todo, self.store = plan, todo, store
        self.progress, self.unit = progress, unit
        self.failures: list[Failed] = [*plan.refused]
        self._records: list[Record] = []
        self._elsewhere: list[str] = []
        self._given_up: set[tuple[int, int]] = set()  # rows that were refused
        self._locks: dict[str, ExitStack] = {}  # of what is running

    def work_off(self, engine: Engine) -> Outcome:
        """Compute all jobs. Ctrl-C finishes the write at hand. Raises EngineLostError, and
        FusionbenchError where the store cannot be written: no other job could be kept either."""
        waiting, busy = list(self.todo), list[Job]()
        looked = 0.0
        try:
            with self.progress.task(f"{self.unit}s", len(waiting), self.unit) as task:
                while waiting or busy or self._locks:
                    while (job := engine.choose(waiting)) is not None:
                        waiting.remove(job)
                        if not self._begin(job, engine):
                            busy.append(job)
                        elif job.run_id not in self._locks:
                            task.advance()
                    for job, result in engine.finished(task):
                        with self._locks.pop(job.run_id):
                            self._settle(job, result)
                        task.advance()
                    if busy and not waiting and time.monotonic() - looked > LOOK_AGAIN:
                        if not looked:
                            text = f"waiting for {len(busy)} {self.unit}s that another process"
                            self.progress.note(f"{text} computes")
                        looked, held = time.monotonic(), self.store.busy()
                        waiting = [job for job in busy if job.run_id not in held]
                        busy = [job for job in busy if job.run_id in held]
        except KeyboardInterrupt:
            kept = len(self._records) + len(self._elsewhere)
            self.progress.note(
                f"stopped: {kept} of {len(self.todo)} {self.unit}s are done and kept"
            )
            raise
        finally:
            try:
                engine.stop()
            finally:
                for lock in self._locks.values():
                    lock.close()
        return Outcome(
            self.plan, tuple(self._records), tuple(self.failures), tuple(self._elsewhere)
        )

    def _begin(self, job: Job, engine: Engine) -> bool:
        """Start it, unless that is settled without. False: another process computes it."""
        if job.key in self._given_up:
            return True
        lock = ExitStack()
        try:
            lock.enter_context(self.store.lock(job.run_id))
        except BusyError:
            return False
        with lock:
            now = seen(self.store, job.run_id)
            if now.record and now.record != job.before.record:
                self._elsewhere.append(job.run_id)
            elif now.failure and now.failure != job.before.failure:
                self.failures.append(job.failed(self.store.read(job.run_id)))
            else:
                try:
                    engine.start(job)
                except EngineLostError:
                    raise
                except Exception as error:
                    self._settle(job, error)
                else:
                    self._locks[job.run_id] = lock.pop_all()
        return True

    def _settle(self, job: Job, result: Computed | Exception) -> None:
        """Enter what has become of a job. Its lock is held."""
        if isinstance(result, Computed):
            with _steady():
                record = result.keep(self.store)
            if record.status == "ok":
                self._records.append(record)
            else:
                self.failures.append(job.failed(record))
        elif isinstance(result, JobLostError):
            self.failures.append(Failed(job.label, job.config.seed, job.fold, str(result)))
        elif job.key not in self._given_up:  # said once for the row
            self._given_up.add(job.key)
            expected = isinstance(result, FusionbenchError)
            message = (
                message_of(result) if expected else f"{type(result).__name__}: {message_of(result)}"
            )
            self.failures.append(Failed(job.label, job.config.seed, None, message, refusal=result))


class Here:
    """An engine: this process, one job after the other."""

    def __init__(self, todo: Sequence[Job], execution: Execution, progress: Progress) -> None:
        self.execution, self.progress = execution, progress
        self._number = {job.run_id: i for i, job in enumerate(todo, 1) if job.label}
        self._row = LastRow()
        self._ended: list[tuple[Job, Computed | Exception]] = []

    def choose(self, waiting: Sequence[Job]) -> Job | None:
        return waiting[0] if waiting and not self._ended else None

    def start(self, job: Job) -> None:
        if job.run_id in self._number:
            self.progress.note(
                f"run {self._number[job.run_id]} of {len(self._number)}: {job.label}, "
                f"fold {job.fold}, seed {job.config.seed}"
            )
        study, execution, progress = job.study, self.execution, self.progress
        trainer = self._row.trainer(study, execution, progress)
        found = verdict(study, progress)
        self._ended = [(job, run_fold(study, trainer, job.split, found, execution, progress))]

    def finished(self, task: Task) -> Iterator[tuple[Job, Computed | Exception]]:
        if not self._ended:
            time.sleep(0.1)
        while self._ended:
            yield self._ended.pop()

    def stop(self) -> None:
        pass


@contextmanager
def _steady() -> Iterator[None]:
    """Ctrl-C, and what `kill` sends, take effect at the end of the block. Elsewhere than in the
    main thread they cannot be held back, and do not arrive either."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    before = {
        number: signal.signal(number, lambda *arrived: held.append(arrived)) for number in STOPPING
    }
    try:
        yield
    finally:
        for stopping, handler in before.items():
            signal.signal(stopping, handler or signal.SIG_DFL)
    for number, frame in held:
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        else:
            signal.raise_signal(number)  # what it does by default, if anything
