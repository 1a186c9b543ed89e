"""Carrying out a plan: in this process, or on Ray."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fusionbench.config import Execution
from fusionbench.errors import FusionbenchError
from fusionbench.progress import SILENT, Progress, Task
from fusionbench.records import BusyError
from fusionbench.sweep.fold import SteadyStore, StoreUnwritableError, Verdicts, compute
from fusionbench.sweep.ledger import Ledger, SweepOutcome, earlier_failures
from fusionbench.sweep.plan import Job, Plan
from fusionbench.sweep.resources import Resources

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
    (fusionbench.sweep.connection.connected); `resources` are of a run there.

    A run that fails is recorded, listed and not repeated by later sweeps, unless `retry_failed`:
    it failed for what its run_id stands for, and a plugin or a setting that is mended gives
    another. A run that is refused before training (nothing is recorded then) takes the other folds
    of its row with it. A run that another process computes is passed over and looked at again at
    the end, as long as that process lives; it is then there, or computed here.

    Ctrl-C finishes the write at hand. Raises StoreUnwritableError where nothing can be kept.
    """
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
        elif on == HERE:
            _here(todo, store, execution, ledger, progress)
        else:
            from fusionbench.sweep.cluster import on_ray

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
    verdicts = Verdicts()
    number = {job.run_id: i for i, job in enumerate(todo, 1)}

    def attempt(job: Job, task: Task) -> bool:
        """Whether there is nothing left to do for it. False: another process computes it."""
        if not ledger.given_up(job):
            try:
                with store.lock(job.run_id):
                    if ledger.still_wanted(job):
                        progress.note(f"run {number[job.run_id]} of {len(todo)}: {job.title}")
                        verdict = verdicts.of(job.study, progress)
                        record = compute(job.study, job.split, verdict, store, execution, progress)
                        ledger.computed(job, record)
            except BusyError:
                return False
            except StoreUnwritableError:
                raise
            except FusionbenchError as error:
                ledger.refused(job, str(error))
            except Exception as error:
                ledger.refused(job, f"{type(error).__name__}: {error}")
        task.advance()
        return True

    with progress.task("runs", total=len(todo), unit="run") as task:
        busy = [job for job in todo if not attempt(job, task)]
        if busy:
            progress.note(f"waiting for {len(busy)} runs that another process computes")
        while busy := [job for job in busy if not attempt(job, task)]:
            time.sleep(LOOK_AGAIN)
