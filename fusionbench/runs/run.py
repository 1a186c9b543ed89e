"""RunConfig -> Records: every fold of one method, trained, evaluated and written down.

Here, one fold after the other, or several at a time in processes of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusionbench.audit import verdict_of
from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.errors import UsageError
from fusionbench.progress import SILENT, Progress, Task
from fusionbench.protocols import Fold
from fusionbench.records import Record, Store
from fusionbench.runs.fold import (
    LastTrainer,
    Order,
    Reopened,
    build_images,
    open_experiment,
    run_fold,
)
from fusionbench.runs.process_engine import WorkerLostError, Workers
from fusionbench.runs.study import Study, Trainer


@dataclass(frozen=True)
class Outcome:
    """What a run command left in the store."""

    config: RunConfig
    records: tuple[Record, ...]  # one per requested fold that is there, finished earlier or now
    failures: tuple[Record, ...]
    lost: tuple[Lost, ...] = ()


@dataclass(frozen=True)
class Lost:
    """A fold whose process was killed. Nothing is recorded of it, its checkpoint is kept, and the
    same command goes on from there."""

    fold: int
    run_id: str
    message: str


def run(config: RunConfig, execution: Execution, progress: Progress = SILENT) -> Outcome:
    """Run the requested folds of one configuration and write a record for each.

    A fold that is in the store already is not computed again (unless `existing` says so). A fold
    whose training fails is recorded as failed and the next one is tried.
    With `execution.folds_at_once` above 1 so many are computed at a time, each in a process of its
    own; a script that asks for it needs `if __name__ == "__main__":`.
    Raises UsageError, DataError, PluginError or FusionbenchError before anything is trained.
    """
    experiment = open_experiment(config, execution, progress)
    store = Store(execution.store)
    folds = _requested(experiment, execution)
    todo = [f for f in folds if execution.existing == "redo" or not store.has(experiment.run_id(f))]
    if execution.existing == "fail" and len(todo) < len(folds):
        done = next(f for f in folds if f not in todo)
        raise UsageError(
            f"Fold {done.index} is in {execution.store} already ({experiment.run_id(done)}).",
            "Use --existing skip or redo, or another --store.",
        )
    for fold in folds:
        if fold not in todo:
            progress.note(f"fold {fold.index} is in the store already; not computed again")

    failures: list[Record] = []
    lost: list[Lost] = []
    if todo:
        trainer = None
        if execution.folds_at_once > 1:
            build_images(experiment, execution, progress)
        else:
            trainer = LastTrainer().of(experiment, execution, progress)
        verdict = verdict_of(
            experiment.table, experiment.protocol, experiment.columns, progress=progress
        )
        with progress.task("folds", total=len(todo), unit="fold") as task:
            if trainer is not None:
                computed = _in_turn(experiment, trainer, todo, verdict, execution, task, progress)
            else:
                orders = [
                    Order(config, execution, f.index, experiment.run_id(f), verdict) for f in todo
                ]
                computed, lost = _at_once(orders, execution, task, progress)
        failures = [record for record in computed if record.status == "failed"]
    records = [store.read(experiment.run_id(f)) for f in folds if store.has(experiment.run_id(f))]
    return Outcome(experiment.config, tuple(records), tuple(failures), tuple(lost))


def _in_turn(
    experiment: Study,
    trainer: Trainer,
    folds: Sequence[Fold],
    verdict: str,
    execution: Execution,
    task: Task,
    progress: Progress,
) -> list[Record]:
    store, computed = Store(execution.store), []
    for fold in folds:
        with store.lock(experiment.run_id(fold)):
            computed.append(
                run_fold(experiment, trainer, fold, verdict, store, execution, progress)
            )
        task.advance()
    return computed


def _at_once(
    orders: Sequence[Order], execution: Execution, task: Task, progress: Progress
) -> tuple[list[Record], list[Lost]]:
    """In the order that was asked for, whichever ended first. After an error that is no fold's own,
    those that are under way are finished, and no other is begun."""
    waiting = list(orders)
    computed: dict[int, Record] = {}
    lost: dict[int, Lost] = {}
    errors: list[Exception] = []
    workers: Workers[Order] = Workers(
        _ordered, execution.folds_at_once, task, progress, row=lambda _: "", name=lambda _: ""
    )
    with workers:
        while workers.running or (waiting and not errors):
            while not errors and (order := workers.choose(waiting)) is not None:
                waiting.remove(order)
                workers.start(order, order)
            for order, result in workers.ended():
                try:
                    computed[order.fold] = result()
                except WorkerLostError as error:
                    lost[order.fold] = Lost(order.fold, order.run_id, str(error))
                    progress.note(f"fold {order.fold} is lost: {error}")
                except Exception as error:
                    errors.append(error)
                task.advance()
    if errors:
        raise errors[0]
    folds = [order.fold for order in orders]
    return [computed[k] for k in folds if k in computed], [lost[k] for k in folds if k in lost]


_reopened = Reopened()  # a worker's


def _ordered(order: Order, progress: Progress) -> Record:
    """What a worker of run() does."""
    study, fold = _reopened.of(order)
    store = Store(order.execution.store)
    with store.lock(order.run_id):
        trainer = _reopened.trainers.of(study, order.execution, progress)
        return run_fold(study, trainer, fold, order.verdict, store, order.execution, progress)


def _requested(experiment: Study, execution: Execution) -> list[Fold]:
    folds = {fold.index: fold for fold in experiment.protocol.folds}
    wanted = execution.folds if execution.folds is not None else tuple(folds)
    for k in wanted:
        if k not in folds:
            raise UsageError(
                f"{experiment.protocol.spec.name} has no fold {k}.",
                f"It has folds {min(folds)} to {max(folds)}; --fold all runs them all.",
            )
    return [folds[k] for k in wanted]
