"""One fold of one configuration: opened, trained and evaluated.

runs.network_study opens a network, runs.control_study a control without images. PyTorch is loaded
for the former only.
"""

from __future__ import annotations

import random
import time
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import numpy as np

from fusionbench import __version__
from fusionbench.audit.examine import verdict_of
from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.errors import (
    LONGEST,
    FusionbenchError,
    RunFailedError,
    UsageError,
    message_of,
    plain,
)
from fusionbench.plugin import registry
from fusionbench.progress import Progress
from fusionbench.protocols import Fold
from fusionbench.records import Failure, Measured, Predictions, Record, Store
from fusionbench.runs.evaluation import predictions_of, result_of
from fusionbench.runs.study import Opened, Study, Trainer
from fusionbench.runs.worker import ToldToStop


def open_experiment(config: RunConfig, opened: Opened) -> Study:
    """Resolve and check everything that can be checked before training. Raises UsageError,
    DataError or PluginError."""
    entry = registry.find_method(config.method.fusion, opened.execution.plugins)
    kind = "network_study" if entry.uses_images else "control_study"
    study: Study = import_module(f"fusionbench.runs.{kind}").setup(config, opened)
    study.check_metadata()
    return study


def verdict(study: Study, progress: Progress) -> str:
    """The audit's, on the data, split and columns of the run; remembered on the disk."""
    return verdict_of(study.table, study.protocol, study.columns, progress=progress)


@dataclass(frozen=True)
class Computed:
    """The result of a fold before it is stored."""

    record: Record
    predictions: Predictions | None = None  # None for a failure
    weights: bytes | None = None  # safetensors, where they are to be kept

    def keep(self, store: Store) -> Record:
        """Write it. Raises FusionbenchError where the store cannot be written."""
        if self.predictions is None:
            return store.write_failure(self.record)
        if self.weights is not None:
            store.write_weights(self.record.run_id, self.weights)
        else:  # those of an earlier result, if any, are not this one's
            store.delete(store.path("weights", self.record.run_id))
        return store.write(self.record, self.predictions)


def run_fold(
    study: Study,
    trainer: Trainer,
    fold: Fold,
    verdict: str,
    execution: Execution,
    progress: Progress,
) -> Computed:
    """Train and evaluate one fold. What fails in training is a result, too.

    Raises FusionbenchError for a setting that is refused before training.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    try:
        rows = study.rows(fold)
        # Not ours, whose generators have seeds: those that a plugin may draw from.
        random.seed(study.fold_seed(fold))
        np.random.seed(study.fold_seed(fold))
        trained = trainer.train(fold, rows, progress)
        if not all(np.isfinite(p).all() for p in trained.probabilities.values()):
            raise RunFailedError(
                f"The trained model's probabilities are not finite (fold {fold.index}, after "
                f"epoch {len(trained.history)}).",
                "Lower --lr, or use --precision fp32."
                if study.uses_images
                else "Look at the plugin's features.",
            )
    except BaseException as error:
        if isinstance(error, FusionbenchError) and not isinstance(error, RunFailedError):
            raise
        if not isinstance(error, Exception | SystemExit) and not _raised_by_plugin(error, study):
            raise
        progress.note(f"fold {fold.index} failed: {_what(error)}")
        return failed(study, fold, error, trainer.environment)

    seconds = trained.train_seconds
    speed = trained.images_seen / max(seconds, 1e-9) if trained.images_seen else None
    total = trained.seconds_before + time.perf_counter() - clock
    predictions = predictions_of(study, fold, rows, trained)
    record = Record.of(
        study.identity(fold),
        result_of(study, rows, trained, verdict),
        trainer.environment,  # now it knows which path its steps have taken
        Measured(
            durations={"train": seconds, "total": total},
            images_per_s=speed,
            started=started.isoformat(timespec="seconds"),
            peak_memory_bytes=trained.peak_memory,
        ),
    )
    weights = trained.weights() if execution.save_weights and trained.weights else None
    return Computed(record, predictions, weights)


def _raised_by_plugin(error: BaseException, study: Study) -> bool:
    """A plugin that does not come with fusionbench runs in a worker, and what Ctrl-C raises there
    is a ToldToStop."""
    return study.foreign and not isinstance(error, ToldToStop)


def _what(error: BaseException) -> str:
    """Its message; with its type where that says more, as sys.exit's 0 does not."""
    message = message_of(error)
    if message.strip("()0123456789 ") and isinstance(error, Exception):
        return message
    return f"{plain(type(error).__name__)} {message}".strip()


def failed(
    study: Study, fold: Fold, error: BaseException, environment: dict[str, Any], message: str = ""
) -> Computed:
    """The failure of a fold, with its traceback."""
    failure = Failure(
        type=plain(type(error).__name__),
        message=message or _what(error),
        traceback=plain("".join(traceback.format_exception(error)), 10 * LONGEST),
    )
    return Computed(Record.of(study.identity(fold), failure, environment))


@dataclass(frozen=True)
class Order:
    """A job as another process is told it. It opens the run itself."""

    config: RunConfig
    execution: Execution
    fold: int
    run_id: str
    verdict: str
    version: str = __version__


class LastRow:
    """The opened run and the trainer that consecutive folds of a row share in one process. The
    trainer holds the backbone, the images, and the step compiled for the first fold. All orders
    have one Execution."""

    def __init__(self, opened: Opened | None = None) -> None:
        self._opened = opened
        self._config: RunConfig | None = None
        self._study: Study | None = None
        self._trainer: Trainer | None = None

    def trainer(self, study: Study, execution: Execution, progress: Progress) -> Trainer:
        """Raises UsageError or PluginError for what cannot be built."""
        if self._trainer is None or self._study is not study:
            self._study = self._trainer = None  # there may be no room for two
            self._trainer = study.trainer(execution, progress)
            self._study = study
        return self._trainer

    def reopen(self, order: Order) -> Study:
        """The run of an order. It says nothing: the process that gives the order has opened the
        same before. Raises UsageError where it is something else here."""
        if order.version != __version__:
            raise UsageError(
                f"The worker has fusionbench {__version__}, this is {order.version}.",
                "Install the same one on every node.",
            )
        self._opened = self._opened or Opened(order.execution)
        if self._study is None or self._config != order.config:
            self._config = self._study = self._trainer = None
            self._study = open_experiment(order.config, self._opened)
            self._config = order.config
        return self._study

    def compute(self, study: Study, order: Order, progress: Progress) -> Computed:
        """Compute a job of the run that was reopened. Raises as `run_fold` does."""
        fold = next(f for f in study.protocol.folds if f.index == order.fold)
        if study.run_id(fold) != order.run_id:
            raise UsageError(
                f"{order.run_id} is {study.run_id(fold)} for its worker: data, starting weights "
                "or the source of a plugin are not what they were when it was planned.",
                "Do not edit them while they are in use, and have the same fusionbench everywhere.",
            )
        trainer = self.trainer(study, order.execution, progress)
        return run_fold(study, trainer, fold, order.verdict, order.execution, progress)
