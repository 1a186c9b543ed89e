"""How soon a run's folds begin to train, and how fast the whole run is.

Two folds of a dataset go through fusionbench.run.run, as `fusionbench run` calls it: checkpoints,
records and evaluation included. A process of its own does it, so that nothing is warm but what is
kept on disk; its start and its imports count.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from fusionbench.bench.results import FoldSpeed
from fusionbench.config import Execution, RunConfig
from fusionbench.errors import RunFailedError
from fusionbench.fold import build_images, open_experiment
from fusionbench.placement import choose_device, choose_path
from fusionbench.progress import SILENT, Progress, Task

# Of a drawn dataset, on a CPU; a GPU trains as many as the configuration says.
CPU_EPOCHS = 2


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


def measure_folds(
    name: str,
    config: RunConfig,
    execution: Execution,
    bare_images_per_s: float | None,
    progress: Progress = SILENT,
) -> FoldSpeed:
    """Two folds of `config`, whose result is thrown away; `name` is the method's in the report.

    What is kept between runs is there before they begin: decoded images, compiled code.

    Raises what a run raises, and RunFailedError for a fold that failed.
    """
    build_images(open_experiment(config, execution, progress), execution, progress)
    with tempfile.TemporaryDirectory(prefix="fusionbench-") as folder:
        execution = replace(execution, store=Path(folder), folds=(0, 1), folds_at_once=1)
        context = multiprocessing.get_context("spawn")
        if choose_path(execution.step, choose_device(execution.device)).startswith("compiled"):
            once, first_fold = (
                config.model_copy(update={"epochs": 1}),
                replace(execution, folds=(0,)),
            )
            with ProcessPoolExecutor(1, context) as pool:
                pool.submit(_timed, once, first_fold).result()
        started = time.time()
        with ProcessPoolExecutor(1, context) as pool:
            first, second = pool.submit(_timed, config, execution).result()
    trained = second.images - second.first_batch
    speed = trained / max(second.recorded - second.ready, 1e-9)
    return FoldSpeed(
        name=name,
        epochs=config.epochs,
        train_images=second.images // config.epochs,
        first=first.ready - started,
        further=second.ready - first.recorded,
        images_per_s=speed,
        of_bare=speed / bare_images_per_s if bare_images_per_s else None,
    )


def _timed(config: RunConfig, execution: Execution) -> list[_Fold]:
    """Called in the process of its own."""
    from fusionbench.run import run

    watch = _Stopwatch()
    outcome = run(config, execution, watch)
    for failure in outcome.failures:
        reason = failure.error.message if failure.error is not None else ""
        raise RunFailedError(f"Fold {failure.identity['fold']} failed: {reason}")
    return watch.folds
