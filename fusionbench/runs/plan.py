"""Which runs a table has, in the order in which they are carried out, and which are there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.errors import DataError, FusionbenchError
from fusionbench.progress import SILENT, Progress
from fusionbench.protocols import Fold
from fusionbench.records import Store
from fusionbench.runs.fold import open_experiment
from fusionbench.runs.study import Opened, Study
from fusionbench.tables import Declared, Overrides, Table, apply, expand

State = Literal["done", "failed", "missing"]


@dataclass(frozen=True)
class Job:
    """One fold of one row under one seed."""

    row: int  # position in the table
    label: str
    config: RunConfig
    fold: int
    run_id: str
    state: State  # in the store when the plan was made; failed: recorded, and without a success
    study: Study = field(repr=False, compare=False)  # opened once for all folds of a row

    @property
    def done(self) -> bool:
        return self.state == "done"

    @property
    def title(self) -> str:
        return f"{self.label}, fold {self.fold}, seed {self.config.seed}"

    @property
    def split(self) -> Fold:
        return next(f for f in self.study.protocol.folds if f.index == self.fold)


@dataclass(frozen=True)
class Failed:
    """A run without a result, or a row that was refused before any of its runs."""

    label: str
    seed: int
    fold: int | None  # None: every fold
    message: str
    run_id: str = ""  # of the record that holds the traceback; "" where there is none
    before: bool = False  # it failed in an earlier sweep and was not repeated


@dataclass(frozen=True)
class Plan:
    """All runs of a table in the order in which they are carried out, and what cannot run."""

    jobs: tuple[Job, ...]
    refused: tuple[Failed, ...]

    @property
    def missing(self) -> tuple[Job, ...]:
        """Neither done nor failed."""
        return self._of("missing")

    @property
    def failed(self) -> tuple[Job, ...]:
        """Failed in an earlier sweep."""
        return self._of("failed")

    def todo(self, *, retry_failed: bool = False) -> tuple[Job, ...]:
        """What a sweep computes."""
        return self._of("missing", "failed") if retry_failed else self.missing

    def _of(self, *states: State) -> tuple[Job, ...]:
        return tuple(job for job in self.jobs if job.state in states)


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
    declared = expand(table, overrides, plugins=execution.plugins)
    return plan_of(declared, execution, folds=apply(table, overrides).folds, progress=progress)


def plan_of(
    declared: Iterable[Declared],
    execution: Execution,
    *,
    folds: Sequence[int] = (),
    progress: Progress = SILENT,
) -> Plan:
    """The same for configurations that no table declares; `folds` (): all of each protocol's.

    Seeds go in the order in which they first appear, and all folds of a row before the next row:
    they share what was prepared for the first, and a whole row can be ranked.
    """
    declared = list(declared)
    store = Store(execution.store)
    opened: dict[int, Study | Failed] = {}
    data = Opened()  # rows on the same data hold the same table: hundreds need no more than one
    jobs: list[Job] = []
    refused: list[Failed] = []
    rows = len({one.row for one in declared})
    with progress.task("planning", total=rows, unit="row") as task:
        for one in declared:
            seed = one.config.seed
            if one.row not in opened:
                opened[one.row] = _opened(one, execution, progress, data)
                task.advance()
            study = opened[one.row]
            if isinstance(study, Failed):
                refused.append(replace(study, seed=seed))
                continue
            if study.config.seed != seed:  # all else is the row's
                own = study.config.model_copy(update={"seed": seed})
                study = replace(study, config=own)
            for fold in study.protocol.folds:
                if not folds or fold.index in folds:
                    name = study.run_id(fold)
                    state = _state(store, name)
                    jobs.append(Job(one.row, one.label, one.config, fold.index, name, state, study))
    place = {seed: i for i, seed in enumerate(dict.fromkeys(d.config.seed for d in declared))}
    jobs.sort(key=lambda job: (place[job.config.seed], job.row, job.fold))
    return Plan(tuple(jobs), tuple(refused))


def _opened(
    one: Declared, execution: Execution, progress: Progress, data: Opened
) -> Study | Failed:
    try:
        return open_experiment(one.config, execution, progress, data)
    except DataError:
        raise  # no other row could do better
    except FusionbenchError as error:
        return Failed(one.label, one.config.seed, None, str(error))


def _state(store: Store, name: str) -> State:
    if store.has(name):
        return "done"
    return "failed" if store.has_failure(name) else "missing"
