"""Carrying out a plan: in this process, in several on this machine, or on Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from fusionbench.config.run_config import Execution
from fusionbench.errors import FusionbenchError, UsageError
from fusionbench.progress import SILENT, Progress, Task
from fusionbench.records import BusyError, Record
from fusionbench.runs.fold import LastTrainer, Order, build_images
from fusionbench.runs.ledger import Ledger, Mark, SweepOutcome, earlier_failures
from fusionbench.runs.plan import Job, Plan
from fusionbench.runs.process_engine import WorkerLostError, Workers
from fusionbench.runs.process_worker import UnexpectedError
from fusionbench.runs.resources import Resources
from fusionbench.runs.sweep_fold import (
    SteadyStore,
    StoreUnwritableError,
    Verdicts,
    compute,
    ordered,
)

# Between two looks at runs that other processes are computing.
LOOK_AGAIN = 1.0  # seconds
HERE = "here"


def carry_out(
    found: Plan,
    execution: Execution,
    progress: Progress = SILENT,
    *,
    retry_failed: bool = False,
    on: str = HERE,
    resources: Resources | None = None,
) -> SweepOutcome:
    """Compute what is missing, in the order of the plan. `on`: "here", or where Ray is
    (fusionbench.runs.ray_connection.connected); `resources` are of a run there. Here, with
    `execution.folds_at_once` above 1, so many at a time, each in a process of its own.

    A run that fails is recorded, listed and not repeated by later sweeps, unless `retry_failed`:
    it failed for what its run_id stands for, and a plugin or a setting that is mended gives
    another. A run that is refused before training (nothing is recorded then) takes the other folds
    of its row with it. A run that another process computes is passed over and looked at again at
    the end, as long as that process lives; it is then there, or computed here.

    Ctrl-C finishes the write at hand. Raises StoreUnwritableError where nothing can be kept.
    """
    if on != HERE and execution.folds_at_once > 1:
        raise UsageError(
            "--folds-at-once is of this machine; Ray itself decides how many runs it computes.",
            "Leave it out, or leave out --on; --gpus-per-run 0.25 lets four runs share a GPU.",
        )
    store = SteadyStore(execution.store)
    ledger = Ledger(store)
    ledger.failures += found.refused
    if not retry_failed:
        ledger.failures += earlier_failures(found.failed, store)
    todo = found.todo(retry_failed=retry_failed)
    ledger.begin(todo)
    try:
        if not todo:
            pass
        elif on == HERE and execution.folds_at_once > 1:
            _at_once(todo, store, execution, ledger, progress)
        elif on == HERE:
            _here(todo, store, execution, ledger, progress)
        else:
            from fusionbench.runs.ray_engine import on_ray

            on_ray(todo, store, execution, ledger, progress, on, resources or Resources())
    except KeyboardInterrupt:
        kept = len(ledger.records) + len(ledger.elsewhere)
        progress.note(f"stopped: {kept} of {len(todo)} runs are done and kept")
        raise
    return ledger.outcome()


def _here(
    todo: Sequence[Job],
    store: SteadyStore,
    execution: Execution,
    ledger: Ledger,
    progress: Progress,
) -> None:
    verdicts, trainers = Verdicts(), LastTrainer()
    number = {job.run_id: i for i, job in enumerate(todo, 1)}

    def computed(job: Job) -> Record | None:
        with store.lock(job.run_id):
            if not ledger.still_wanted(job):
                return None
            progress.note(f"run {number[job.run_id]} of {len(todo)}: {job.title}")
            verdict = verdicts.of(job.study, progress)
            return compute(job.study, job.split, verdict, store, execution, progress, trainers)

    def attempt(job: Job, task: Task) -> bool:
        if not ledger.given_up(job) and not _settled(job, partial(computed, job), ledger):
            return False
        task.advance()
        return True

    with progress.task("runs", total=len(todo), unit="run") as task:
        busy = [job for job in todo if not attempt(job, task)]
        _say_waiting(busy, progress)
        while busy := [job for job in busy if not attempt(job, task)]:
            time.sleep(LOOK_AGAIN)


def _at_once(
    todo: Sequence[Job],
    store: SteadyStore,
    execution: Execution,
    ledger: Ledger,
    progress: Progress,
) -> None:
    """The same with several processes on this machine."""
    verdicts, built = Verdicts(), set[tuple[object, ...]]()
    seeds = {job.config.seed for job in todo}

    def row(job: Job) -> tuple[int, int]:
        return job.row, job.config.seed

    def name(job: Job) -> str:
        return job.label if len(seeds) == 1 else f"{job.label}, seed {job.config.seed}"

    def order(job: Job) -> tuple[Order, Mark]:
        training, table = job.study.config.training, job.study.table
        pixels = (table.fingerprint, job.study.view, training.image_size, training.resize)
        if pixels not in built:
            build_images(job.study, execution, progress)
            built.add(pixels)
        verdict = verdicts.of(job.study, progress)
        found = Order(job.config, execution, job.fold, job.run_id, verdict)
        return found, ledger.failure_before(job)

    with (
        progress.task("runs", total=len(todo), unit="run") as task,
        Workers[Job](
            ordered, execution.folds_at_once, task, progress, row=row, name=name
        ) as workers,
    ):

        def start(job: Job) -> None:
            workers.start(job, order(job))

        def taken(job: Job, result: Callable[[], Record | None]) -> Record | None:
            record = result()
            if record is None:
                ledger.still_wanted(job)  # which it is not, and that is noted
            return record

        waiting, busy = list(todo), list[Job]()
        looked = 0.0
        while waiting or busy or workers.running:
            while (job := workers.choose(waiting)) is not None:
                waiting.remove(job)
                if not ledger.given_up(job):
                    _settled(job, partial(start, job), ledger)
                if job not in workers.running:
                    task.advance()
            for job, result in workers.ended():
                if _settled(job, partial(taken, job, result), ledger):
                    task.advance()
                else:
                    busy.append(job)
            if busy and not waiting and time.monotonic() - looked > LOOK_AGAIN:
                if not looked:
                    _say_waiting(busy, progress)
                looked = time.monotonic()
                held = store.busy()
                waiting = [job for job in busy if job.run_id not in held]
                busy = [job for job in busy if job.run_id in held]


def _settled(job: Job, result: Callable[[], Record | None], ledger: Ledger) -> bool:
    """Enter what has become of a run. False: another process computes it."""
    try:
        record = result()
    except BusyError:
        return False
    except StoreUnwritableError:
        raise
    except WorkerLostError as error:
        ledger.lost(job, str(error))
    except (FusionbenchError, UnexpectedError) as error:
        ledger.refused(job, str(error))
    except Exception as error:
        ledger.refused(job, f"{type(error).__name__}: {error}")
    else:
        if record is not None:
            ledger.computed(job, record)
    return True


def _say_waiting(busy: Sequence[Job], progress: Progress) -> None:
    if busy:
        progress.note(f"waiting for {len(busy)} runs that another process computes")
