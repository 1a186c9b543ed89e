"""RunConfigs -> Records: every fold trained, evaluated and written down.

run() is one row, carry_out() a plan of many: the same queue (runs.queue), on the same engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.errors import FusionbenchError, UsageError
from fusionbench.plugin import registry
from fusionbench.progress import SILENT, Progress
from fusionbench.records import Store
from fusionbench.runs.fold import open_experiment
from fusionbench.runs.plan import Failed, Job, Plan, jobs_of
from fusionbench.runs.process_engine import Processes
from fusionbench.runs.queue import Engine, Here, Outcome, Queue
from fusionbench.runs.ray_connection import Resources, check_place, connected
from fusionbench.runs.study import Opened
from fusionbench.tables import Declared

HERE = "here"


def run(config: RunConfig, execution: Execution, progress: Progress = SILENT) -> Outcome:
    """Run the requested folds of one configuration and write a record for each.

    A fold that is in the store already is not computed again (unless `existing` says so). A fold
    whose training fails is recorded as failed and the next one is tried. `records` of the outcome
    are those of all requested folds that are there, in the order in which they were requested.
    With `execution.folds_at_once` above 1 so many are computed at a time, each in another process;
    so is each fold of a plugin that does not come with fusionbench.
    Raises UsageError, DataError, PluginError or FusionbenchError before anything is trained.
    """
    study = open_experiment(config, Opened(execution, progress))
    folds = execution.folds
    if folds is None:
        folds = tuple(fold.index for fold in study.protocol.folds)
    store = Store(execution.store)
    plan = Plan(tuple(jobs_of(Declared(0, "", config), study, store, folds)))
    done = [job for job in plan.jobs if job.state == "done"]
    if execution.existing == "redo":
        done = []
    elif execution.existing == "fail" and done:
        raise UsageError(
            f"Fold {done[0].fold} is in {execution.store} already ({done[0].run_id}).",
            "Use --existing skip or redo, or another --store.",
        )
    for job in done:
        progress.note(f"fold {job.fold} is in the store already; not computed again")
    todo = [job for job in plan.jobs if job not in done]
    outcome = Outcome(plan)
    if todo:
        queue = Queue(plan, todo, store, progress, unit="fold")
        outcome = queue.work_off(_engine(todo, execution, progress))
    for failure in outcome.failures:
        if failure.refusal is not None:
            raise failure.refusal
    records = [store.read(job.run_id) for job in plan.jobs if store.has(job.run_id)]
    return replace(outcome, records=tuple(records))


def carry_out(
    plan: Plan,
    execution: Execution,
    progress: Progress = SILENT,
    *,
    retry_failed: bool = False,
    on: str = HERE,
    resources: Resources | None = None,
) -> Outcome:
    """Compute what is missing, in the order of the plan. `on`: "here", or where Ray is
    (runs.ray_connection.connected); `resources` are of a run there. Here, with
    `execution.folds_at_once` above 1, so many at a time, each in another process.

    Later sweeps list a run that failed, and repeat it only with `retry_failed`: a plugin or a
    setting that is mended gives another run_id. Raises what Queue.work_off raises.
    """
    store = Store(execution.store)
    todo = plan.todo(retry_failed=retry_failed)
    queue = Queue(plan, todo, store, progress)
    if not retry_failed:
        queue.failures += [_earlier(job, store) for job in plan.failed]
    if on == HERE:
        return queue.work_off(_engine(todo, execution, progress))
    check_place(on, execution)
    if not todo:
        return Outcome(plan, failures=tuple(queue.failures))
    from fusionbench.runs.ray_engine import OnRay

    with connected(on, progress) as ray:
        return queue.work_off(OnRay(ray, execution, progress, resources or Resources()))


def _earlier(job: Job, store: Store) -> Failed:
    """The failure of a job that is not repeated."""
    try:
        return replace(job.failed(store.read(job.run_id)), before=True)
    except FusionbenchError as error:
        return Failed(job.label, job.config.seed, job.fold, str(error), job.run_id, before=True)


def _engine(todo: Sequence[Job], execution: Execution, progress: Progress) -> Engine:
    """A process in which a foreign plugin has run computes nothing itself."""
    if execution.folds_at_once > 1 or registry.ran_here:
        return Processes(execution, progress)
    return Here(todo, execution, progress)
