"""Whole runs: how soon their folds begin to train, and whether several folds at once are faster.

Folds go through fusionbench.runs.run.run, as `fusionbench run` calls it: checkpoints, records and
evaluation included. A process of its own does it, so that nothing is warm but what is kept on disk;
its start and its imports count.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from fusionbench.bench.results import AtOnce, FoldSpeed
from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.errors import RunFailedError
from fusionbench.progress import SILENT, Progress, Task
from fusionbench.runs.fold import build_images, open_experiment
from fusionbench.training.placement import choose_device, choose_path

# Of a drawn dataset, on a CPU; a GPU trains as many as the configuration says.
CPU_EPOCHS = 2

Carried = TypeVar("Carried")


@dataclass
class _Fold:
    """Wall-clock times, in seconds."""

    begun: float
    images: int  # of all its epochs
    first_batch: int = 0
    ready: float = 0.0  # its first training step is done
    recorded: float = 0.0


@dataclass
class _Stopwatch(Progress):
    """Hears when folds begin, when their first step is done and when they are recorded."""

    folds: list[_Fold] = field(default_factory=list)

    @contextmanager
    def task(self, label: str, total: int, unit: str = "it") -> Iterator[Task]:
        if unit == "fold":
            yield _Recorded(self)
        elif label.startswith("fold "):
            self.folds.append(_Fold(time.time(), total))
            yield _Training(self.folds[-1])
        else:
            yield Task()


class _Training(Task):
    def __init__(self, fold: _Fold) -> None:
        self.fold = fold

    def advance(self, steps: int = 1, **info: object) -> None:
        if not self.fold.ready:
            self.fold.ready, self.fold.first_batch = time.time(), steps


class _Recorded(Task):
    def __init__(self, watch: _Stopwatch) -> None:
        self.watch = watch

    def advance(self, steps: int = 1, **info: object) -> None:
        self.watch.folds[-1].recorded = time.time()


def leave_warm(config: RunConfig, execution: Execution, progress: Progress = SILENT) -> None:
    """Leave on the disk what is kept between runs: decoded images, compiled code. Raises what a run
    raises, and RunFailedError for a fold that failed."""
    build_images(open_experiment(config, execution, progress), execution, progress)
    if choose_path(execution.step, choose_device(execution.device)).startswith("compiled"):
        _in_a_process(_whole, config.model_copy(update={"epochs": 1}), execution, (0,))


def measure_folds(
    name: str,
    config: RunConfig,
    execution: Execution,
    bare_images_per_s: float | None,
) -> FoldSpeed:
    """Two folds of `config`, whose result is thrown away; `name` is the method's in the report.
    leave_warm() comes before; raises as it does."""
    started, (first, second) = _in_a_process(_timed, config, execution, (0, 1))
    trained = second.images - second.first_batch
    speed = trained / max(second.recorded - second.ready, 1e-9)
    return FoldSpeed(
        name=name,
        epochs=config.training.epochs,
        train_images=second.images // config.training.epochs,
        first=first.ready - started,
        further=second.ready - first.recorded,
        images_per_s=speed,
        of_bare=speed / bare_images_per_s if bare_images_per_s else None,
    )


def measure_at_once(
    name: str,
    config: RunConfig,
    execution: Execution,
    numbers: Sequence[int],
    progress: Progress = SILENT,
) -> list[AtOnce]:
    """A run of all folds of `config` for each of `numbers` at a time, results thrown away. On a CPU
    every process has its share of the cores. leave_warm() comes before; raises as it does."""
    experiment = open_experiment(config, execution, progress)
    folds = experiment.protocol.folds
    images = config.training.epochs * sum(len(experiment.rows(fold).train) for fold in folds)
    found: list[AtOnce] = []
    for number in numbers:
        progress.note(f"{len(folds)} folds of {name}, {number} at a time")
        started, ended = _in_a_process(_whole, config, execution, None, number)
        seconds = ended - started
        speed = images / seconds
        first = found[0].images_per_s if found else speed
        found.append(
            AtOnce(name, number, len(folds), config.training.epochs, seconds, speed, speed / first)
        )
    return found


def _in_a_process(
    work: Callable[[RunConfig, Execution], Carried],
    config: RunConfig,
    execution: Execution,
    folds: tuple[int, ...] | None,
    at_once: int = 1,
) -> tuple[float, Carried]:
    """When it was started, and what `work` returned there."""
    with tempfile.TemporaryDirectory(prefix="fusionbench-") as folder:
        execution = replace(execution, store=Path(folder), folds=folds, folds_at_once=at_once)
        started = time.time()
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return started, pool.submit(work, config, execution).result()


def _timed(config: RunConfig, execution: Execution) -> list[_Fold]:
    """Its folds, one after the other."""
    watch = _Stopwatch()
    _carried_out(config, execution, watch)
    return watch.folds


def _whole(config: RunConfig, execution: Execution) -> float:
    """When it had ended."""
    _carried_out(config, execution, SILENT)
    return time.time()


def _carried_out(config: RunConfig, execution: Execution, progress: Progress) -> None:
    from fusionbench.runs.run import run

    outcome = run(config, execution, progress)
    for failure in outcome.failures:
        reason = failure.error.message if failure.error is not None else ""
        raise RunFailedError(f"Fold {failure.identity.fold} failed: {reason}")
    for lost in outcome.lost:
        raise RunFailedError(f"Fold {lost.fold} is lost: {lost.message}")
