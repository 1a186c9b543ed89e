"""A job: one fold of one row under one seed, and what a worker in another process is told of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fusionbench import __version__
from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.errors import FusionbenchError
from fusionbench.protocols import Fold
from fusionbench.records import Record, Store
from fusionbench.runs.study import Study

State = Literal["done", "failed", "missing"]
Mark = tuple[int, int] | None  # time and inode of a file; None: it is not there


@dataclass(frozen=True)
class Seen:
    """The record of a run, and that of its failure, as files at one moment."""

    record: Mark
    failure: Mark

    @property
    def state(self) -> State:
        if self.record:
            return "done"
        return "failed" if self.failure else "missing"


@dataclass(frozen=True)
class Job:
    """One fold of one row under one seed."""

    row: int  # position in the table
    label: str  # of the row; "" where there is only one
    config: RunConfig  # as it was asked for
    fold: int
    run_id: str
    before: Seen  # in the store when the plan was made
    study: Study = field(repr=False, compare=False)  # opened once for all folds of a row

    @property
    def state(self) -> State:
        """In the store when the plan was made; failed: recorded, and without a success."""
        return self.before.state

    @property
    def key(self) -> tuple[int, int]:
        """Jobs with the same one share what is prepared for them."""
        return self.row, self.config.seed

    @property
    def split(self) -> Fold:
        return next(f for f in self.study.protocol.folds if f.index == self.fold)


@dataclass(frozen=True)
class Order:
    """A job as another process is told it. It opens the run itself (runs.fold.LastRow)."""

    config: RunConfig
    execution: Execution
    fold: int
    run_id: str
    verdict: str
    version: str = __version__


@dataclass(frozen=True)
class Failed:
    """A job without a result, or a row that was refused before any of its jobs."""

    label: str
    seed: int
    fold: int | None  # None: every fold
    message: str
    run_id: str = ""  # of the record that holds the traceback; "" where there is none
    before: bool = False  # it failed in an earlier sweep and was not repeated
    # One of the two, except for a job that was lost: nothing is recorded of it, its checkpoint is
    # kept, and the same command resumes it.
    record: Record | None = field(default=None, repr=False, compare=False)
    refusal: Exception | None = field(default=None, repr=False, compare=False)


def seen(store: Store, run_id: str) -> Seen:
    """What the store holds of the run now. A file that is written again gets another mark."""

    def mark(kind: str) -> Mark:
        try:
            status = Path(store.folder, kind, f"{run_id}.json").stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino

    return Seen(mark("records"), mark("failed"))


def failure_of(job: Job, record: Record, *, before: bool = False) -> Failed:
    """The recorded failure of a job."""
    message = record.error.message if record.error else "no result"
    return Failed(job.label, job.config.seed, job.fold, message, record.run_id, before, record)


def earlier_failure(job: Job, store: Store) -> Failed:
    """The failure of a job that is not repeated."""
    try:
        return failure_of(job, store.read(job.run_id), before=True)
    except FusionbenchError as error:
        return Failed(job.label, job.config.seed, job.fold, str(error), job.run_id, before=True)
