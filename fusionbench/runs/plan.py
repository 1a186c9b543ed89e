"""Which runs a table has, in the order in which they are carried out, and which are there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from fusionbench.config.run_config import Execution
from fusionbench.errors import DataError, FusionbenchError, UsageError
from fusionbench.progress import SILENT, Progress
from fusionbench.records import Store
from fusionbench.runs.fold import open_experiment
from fusionbench.runs.job import Failed, Job, seen
from fusionbench.runs.study import Opened, Study
from fusionbench.tables import Declared, DeclaredTable, Overrides, apply, expand


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
    store, data = Store(execution.store), Opened()
    rows: dict[int, Study | Failed] = {}
    jobs: list[Job] = []
    refused: list[Failed] = []
    with progress.task("planning", total=len({one.row for one in declared}), unit="row") as task:
        for one in declared:
            if one.row not in rows:
                rows[one.row] = _opened(one, execution, progress, data)
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


def _opened(
    one: Declared, execution: Execution, progress: Progress, data: Opened
) -> Study | Failed:
    try:
        return open_experiment(one.config, execution, progress, data)
    except DataError:
        raise  # no other row could do better
    except FusionbenchError as error:
        return Failed(one.label, one.config.seed, None, str(error))
