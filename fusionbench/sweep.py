"""A declared table -> the runs it lacks, one after the other in this process.

    found = plan(table, execution)                      what there is to do, and what is done
    outcome = carry_out(found, execution, progress)     does it

Fold 0 of every row comes first, then fold 1, ...: the cheapest look at the whole table. A run
that fails does not stop the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fusionbench.config import Execution, RunConfig
from fusionbench.errors import DataError, FusionbenchError
from fusionbench.experiment import setup
from fusionbench.progress import SILENT, Progress
from fusionbench.records import BusyError, Record, Store
from fusionbench.run import run
from fusionbench.tables import Overrides, Table, apply, expand


@dataclass(frozen=True)
class Job:
    """One fold of one row under one seed."""

    row: int  # position in the table
    label: str
    config: RunConfig
    fold: int
    run_id: str
    done: bool  # in the store when the plan was made

    @property
    def title(self) -> str:
        return f"{self.label}, fold {self.fold}, seed {self.config.seed}"


@dataclass(frozen=True)
class Failed:
    """A run without a result, or a row that was refused before any of its runs."""

    label: str
    seed: int
    fold: int | None  # None: every fold
    message: str
    run_id: str = ""  # of the record that holds the traceback; "" where there is none


@dataclass(frozen=True)
class Plan:
    """All runs of a table in the order in which they are carried out, and what cannot run."""

    jobs: tuple[Job, ...]
    refused: tuple[Failed, ...]

    @property
    def missing(self) -> tuple[Job, ...]:
        return tuple(job for job in self.jobs if not job.done)


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep computed now, and what it could not."""

    records: tuple[Record, ...]
    failures: tuple[Failed, ...]


def plan(
    table: Table,
    execution: Execution,
    overrides: Overrides | None = None,
    progress: Progress = SILENT,
) -> Plan:
    """Which runs the table has, and which of them are in the store. Trains nothing.

    A row that cannot run (an unknown backbone, a setting its plugin refuses) is listed as refused.
    Raises DataError where the dataset itself cannot be used, UsageError for unfit overrides.
    """
    overrides = overrides or Overrides()
    store = Store(execution.store)
    variant = apply(table, overrides)
    jobs: list[Job] = []
    refused: list[Failed] = []
    for one in expand(table, overrides, plugins=execution.plugins):
        try:
            experiment = setup(one.config, execution, progress)
        except DataError:
            raise  # no other row could do better
        except FusionbenchError as error:
            refused.append(Failed(one.label, one.config.seed, None, str(error)))
            continue
        for fold in experiment.protocol.folds:
            if not variant.folds or fold.index in variant.folds:
                name = experiment.run_id(fold)
                jobs.append(Job(one.row, one.label, one.config, fold.index, name, store.has(name)))
    place = {seed: i for i, seed in enumerate(variant.seeds)}
    jobs.sort(key=lambda job: (place[job.config.seed], job.fold, job.row))
    return Plan(tuple(jobs), tuple(refused))


def carry_out(found: Plan, execution: Execution, progress: Progress = SILENT) -> SweepOutcome:
    """Run what is missing. A failed run is recorded by `run`, listed here, and the next one tried.

    A run that is refused before training (nothing is recorded then) takes the other folds of its
    row with it: they would be refused for the same reason.
    """
    records: list[Record] = []
    failures = list(found.refused)
    given_up: set[tuple[int, int]] = set()
    todo: Sequence[Job] = found.missing
    with progress.task("runs", total=len(todo), unit="run") as task:
        for i, job in enumerate(todo, 1):
            row = (job.row, job.config.seed)
            if row in given_up:
                task.advance()
                continue
            progress.note(f"run {i} of {len(todo)}: {job.title}")
            try:
                outcome = run(
                    job.config, replace(execution, folds=(job.fold,), existing="skip"), progress
                )
            except BusyError as error:
                failures.append(Failed(job.label, job.config.seed, job.fold, str(error)))
            except FusionbenchError as error:
                given_up.add(row)
                failures.append(Failed(job.label, job.config.seed, None, str(error)))
            except Exception as error:
                given_up.add(row)
                text = f"{type(error).__name__}: {error}"
                failures.append(Failed(job.label, job.config.seed, None, text))
            else:
                records += outcome.records
                failures += [
                    Failed(job.label, job.config.seed, job.fold, f.error.message, f.run_id)
                    for f in outcome.failures
                    if f.error is not None
                ]
            task.advance()
    return SweepOutcome(tuple(records), tuple(failures))
