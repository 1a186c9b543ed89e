"""RunConfig -> Records: every fold of one method, trained, evaluated and written down.

What is trained is another module's business: fusionbench.network's, or fusionbench.tabular's for a
control without images, whichever kind of plugin the method's name belongs to. PyTorch is loaded for
the former only.
"""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fusionbench import registry
from fusionbench.audit import verdict_of
from fusionbench.config import Execution, RunConfig
from fusionbench.errors import FusionbenchError, RunFailedError, UsageError
from fusionbench.evaluation import predictions_of, result_of
from fusionbench.progress import SILENT, Progress
from fusionbench.protocols import Fold
from fusionbench.records import Failure, Measured, Record, Store
from fusionbench.study import Opened, Study, Trainer


@dataclass(frozen=True)
class Outcome:
    """What a run command left in the store."""

    config: RunConfig
    records: tuple[Record, ...]  # one per requested fold that is there, finished earlier or now
    failures: tuple[Record, ...]


def carrier(config: RunConfig, execution: Execution) -> Any:
    """The module that carries out runs of the config's method: it has `setup` and `trainer`."""
    if registry.find_method(config.fusion, execution.plugins).kind == "controls":
        from fusionbench import tabular

        return tabular
    from fusionbench import network

    return network


def open_experiment(
    config: RunConfig,
    execution: Execution,
    progress: Progress = SILENT,
    opened: Opened | None = None,
) -> Study:
    """Resolve and check everything that can be checked before training.

    `opened` remembers data and splits for further configurations. Raises UsageError, DataError or
    PluginError.
    """
    study: Study = carrier(config, execution).setup(config, execution, progress, opened)
    return study


def run(config: RunConfig, execution: Execution, progress: Progress = SILENT) -> Outcome:
    """Run the requested folds of one configuration and write a record for each.

    A fold that is in the store already is not computed again (unless `existing` says so). A fold
    whose training fails is recorded as failed and the next one is tried.
    Raises UsageError, DataError, PluginError or FusionbenchError before anything is trained.
    """
    module = carrier(config, execution)
    experiment: Study = module.setup(config, execution, progress)
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
    if todo:
        trainer = module.trainer(experiment, execution, progress)
        verdict = verdict_of(
            experiment.table, experiment.protocol, experiment.columns, progress=progress
        )
        with progress.task("folds", total=len(todo), unit="fold") as task:
            for fold in todo:
                with store.lock(experiment.run_id(fold)):
                    record = run_fold(
                        experiment, trainer, fold, verdict, store, execution, progress
                    )
                if record.status == "failed":
                    failures.append(record)
                task.advance()
    records = [store.read(experiment.run_id(f)) for f in folds if store.has(experiment.run_id(f))]
    return Outcome(experiment.config, tuple(records), tuple(failures))


def run_fold(
    experiment: Study,
    trainer: Trainer,
    fold: Fold,
    verdict: str,
    store: Store,
    execution: Execution,
    progress: Progress,
) -> Record:
    """Train and evaluate one fold; the record is in the store when this returns."""
    identity, name = experiment.identity(fold), experiment.run_id(fold)
    environment = trainer.environment
    started, clock = datetime.now(UTC), time.perf_counter()
    try:
        rows = experiment.rows(fold)
        trained = trainer.train(fold, rows, progress)
    except Exception as error:
        if isinstance(error, FusionbenchError) and not isinstance(error, RunFailedError):
            raise  # nothing was trained: a refused setting, not a failed run
        progress.note(f"fold {fold.index} failed: {error}")
        failure = Failure(
            type=type(error).__name__,
            message=str(error),
            traceback="".join(traceback.format_exception(error)),
        )
        record = Record(
            run_id=name, status="failed", identity=identity, error=failure, environment=environment
        )
        return store.write_failure(record)

    predictions = predictions_of(experiment, fold, rows, trained)
    seconds = trained.train_seconds
    speed = trained.images_seen / max(seconds, 1e-9) if trained.images_seen else None
    record = Record(
        run_id=name,
        status="ok",
        identity=identity,
        result=result_of(experiment, rows, trained, verdict),
        environment=environment,
        measured=Measured(
            durations={
                "train": seconds,
                "total": trained.seconds_before + time.perf_counter() - clock,
            },
            images_per_s=speed,
            started=started.isoformat(timespec="seconds"),
            peak_memory_bytes=trained.peak_memory,
        ),
    )
    if execution.save_weights and trained.weights is not None:
        store.write_weights(name, trained.weights())
    else:  # those of an earlier result, if any, are not this one's
        store.delete(store.weights_path(name))
    return store.write(record, predictions)


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
