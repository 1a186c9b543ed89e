"""One fold of one configuration: opened, trained, evaluated and written down.

runs.network_trainer trains a network, runs.control_study a control without images. PyTorch is
loaded for the former only.
"""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.errors import FusionbenchError, RunFailedError, UsageError
from fusionbench.plugin import registry
from fusionbench.progress import SILENT, Progress
from fusionbench.protocols import Fold
from fusionbench.records import Failure, Measured, Record, Store
from fusionbench.runs.evaluation import predictions_of, result_of
from fusionbench.runs.study import Opened, Study, Trainer


def carrier(config: RunConfig, execution: Execution) -> Any:
    """The module that carries out runs of the config's method: it has `setup` and `trainer`."""
    if not registry.find_method(config.method.fusion, execution.plugins).uses_images:
        from fusionbench.runs import control_study as tabular

        return tabular
    from fusionbench.runs import network_trainer as network

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


def build_images(study: Study, execution: Execution, progress: Progress) -> None:
    """Decode its photographs into the cache, for processes that then need not wait for each
    other; they map the one file into memory and share its pages."""
    if study.uses_images:
        study.images(execution.workers, progress)


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
        return store.write_failure(Record.of(identity, failure, trainer.environment))

    predictions = predictions_of(experiment, fold, rows, trained)
    seconds = trained.train_seconds
    speed = trained.images_seen / max(seconds, 1e-9) if trained.images_seen else None
    record = Record.of(
        identity,
        result_of(experiment, rows, trained, verdict),
        trainer.environment,  # now it knows which path its steps have taken
        Measured(
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


@dataclass(frozen=True)
class Order:
    """One fold for another process, by names: it is opened there anew."""

    config: RunConfig
    execution: Execution
    fold: int
    run_id: str  # as it is here; another one there would be another run
    verdict: str


class LastTrainer:
    """The trainer of the run that was asked for last, for consecutive folds of a configuration to
    share it: the backbone, the images, and what was compiled for the first of them."""

    def __init__(self) -> None:
        self._study: Study | None = None
        self._trainer: Trainer | None = None

    def of(self, study: Study, execution: Execution, progress: Progress) -> Trainer:
        """Raises UsageError or PluginError for what cannot be built."""
        if self._trainer is None or self._study is not study:
            self._study = self._trainer = None  # there may be no room for two
            made = carrier(study.config, execution).trainer(study, execution, progress)
            self._study, self._trainer = study, made
        assert self._trainer is not None
        return self._trainer


class Reopened:
    """In a worker process: the configuration of the last order, opened, and its trainer."""

    def __init__(self) -> None:
        self.trainers = LastTrainer()
        self._data = Opened()
        self._key: tuple[RunConfig, Execution] | None = None
        self._study: Study | None = None

    def of(self, order: Order) -> tuple[Study, Fold]:
        """Says nothing: who gave the order has opened the same before. Raises UsageError where it
        is something else by now."""
        if self._study is None or self._key != (order.config, order.execution):
            self._key = self._study = None
            self._study = open_experiment(order.config, order.execution, SILENT, self._data)
            self._key = order.config, order.execution
        study = self._study
        fold = next(f for f in study.protocol.folds if f.index == order.fold)
        if study.run_id(fold) != order.run_id:
            raise UsageError(
                f"{order.run_id} has become {study.run_id(fold)} since it was planned.",
                "Do not edit data or plugins while they are in use; give the command again.",
            )
        return study, fold
