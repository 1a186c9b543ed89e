"""The jobs of a table, in the order in which they are carried out, and which of them are done.

A job is one fold of one row under one seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.errors import DataError, FusionbenchError, UsageError
from fusionbench.progress import SILENT, Progress
from fusionbench.protocols import Fold
from fusionbench.records import Record, Store
from fusionbench.runs.fold import open_experiment
from fusionbench.runs.study import Opened, Study
from fusionbench.tables import Declared, DeclaredTable, Overrides, apply, expand

Mark = tuple[int, int] | None  # time and inode of a file; None: it is not there


class Seen(NamedTuple):
    """The record of a run, and that of its failure, as files at one moment."""

    record: Mark
    failure: Mark


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
    def state(self) -> Literal["done", "failed", "missing"]:
        """In the store when the plan was made; failed: recorded, and without a success."""
        if self.before.record:
            return "done"
        return "failed" if self.before.failure else "missing"

    @property
    def key(self) -> tuple[int, int]:
        """Jobs with the same one share what is prepared for them."""
        return self.row, self.config.seed

    @property
    def foreign(self) -> bool:
        """Whether it runs the code of a plugin that does not come with fusionbench."""
        return self.study.foreign

    @property
    def split(self) -> Fold:
        return next(f for f in self.study.protocol.folds if f.index == self.fold)

    def failed(self, record: Record) -> Failed:
        """Its failure, as it is recorded."""
        message = record.error.message if record.error else "no result"
        return Failed(self.label, self.config.seed, self.fold, message, self.run_id)


@dataclass(frozen=True)
class Failed:
    """A job without a result, or a row that was refused before any of its jobs."""

    label: str
    seed: int
    fold: int | None  # None: every fold
    message: str
    run_id: str = ""  # of the record that holds the traceback; "" where there is none
    before: bool = False  # it failed in an earlier sweep and was not repeated
    # Of a row. Of a job that was lost there is neither a refusal nor a record; its checkpoint is
    # kept, and the same command resumes it.
    refusal: Exception | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Plan:
    """All runs of a table in the order in which they are carried out, and what cannot run."""

    jobs: tuple[Job, ...]
    refused: tuple[Failed, ...] = ()

    @property
    def failed(self) -> tuple[Job, ...]:
        """Failed in an earlier sweep."""
        return tuple(job for job in self.jobs if job.state == "failed")

    def todo(self, *, retry_failed: bool = False) -> tuple[Job, ...]:
        """What a sweep computes."""
        wanted = ("missing", "failed") if retry_failed else ("missing",)
        return tuple(job for job in self.jobs if job.state in wanted)


def plan(
    table: DeclaredTable,
    execution: Execution,
    overrides: Overrides | None = None,
    progress: Progress = SILENT,
) -> Plan:
    """Which runs the table has, and which of them are in the store. Trains nothing.

    A row that cannot run (an unknown backbone, a setting its plugin refuses) is listed as refused.
    Seeds go in the order in which they first appear, and all folds of a row before the next row:
    they share what was prepared for the first, and a whole row can be ranked.
    Raises DataError where the dataset itself cannot be used, UsageError for unfit overrides.
    """
    overrides = overrides or Overrides()
    declared = list(expand(table, overrides, plugins=execution.plugins))
    folds = apply(table, overrides).folds
    store, opened = Store(execution.store), Opened(execution, progress)
    rows: dict[int, Study | Failed] = {}
    jobs: list[Job] = []
    refused: list[Failed] = []
    with progress.task("planning", total=len({one.row for one in declared}), unit="row") as task:
        for one in declared:
            if one.row not in rows:
                rows[one.row] = _opened(one, opened)
                task.advance()
            study = rows[one.row]
            if isinstance(study, Failed):
                refused.append(replace(study, seed=one.config.seed))
                continue
            if study.config.seed != one.config.seed:  # all else is the row's
                config = study.config.model_copy(update={"seed": one.config.seed})
                study = replace(study, config=config)
            there = [f.index for f in study.protocol.folds if not folds or f.index in folds]
            jobs += jobs_of(one, study, store, there)
    place = {seed: i for i, seed in enumerate(dict.fromkeys(d.config.seed for d in declared))}
    jobs.sort(key=lambda job: (place[job.config.seed], job.row, job.fold))
    return Plan(tuple(jobs), tuple(refused))


def jobs_of(one: Declared, study: Study, store: Store, folds: Sequence[int]) -> Iterator[Job]:
    """A job for each of `folds`, in that order. Raises UsageError for one that there is not."""
    there = {fold.index: fold for fold in study.protocol.folds}
    for k in folds:
        if k not in there:
            raise UsageError(
                f"{study.protocol.spec.name} has no fold {k}.",
                f"It has folds {min(there)} to {max(there)}; --fold all runs them all.",
            )
        run_id = study.run_id(there[k])
        yield Job(one.row, one.label, one.config, k, run_id, seen(store, run_id), study)


def seen(store: Store, run_id: str) -> Seen:
    """What the store holds of the run now. A file that is written again gets another mark."""

    def mark(kind: str) -> Mark:
        try:
            status = Path(store.folder, kind, f"{run_id}.json").stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino

    return Seen(mark("records"), mark("failed"))


def _opened(one: Declared, opened: Opened) -> Study | Failed:
    try:
        return open_experiment(one.config, opened)
    except DataError:
        raise  # no other row could do better
    except FusionbenchError as error:
        return Failed(one.label, one.config.seed, None, str(error))
