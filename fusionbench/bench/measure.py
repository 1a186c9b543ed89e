"""Subjects in turn, round by round, so that a change of clock or load slows all of them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from statistics import median
from typing import Any

import timm
import torch

from fusionbench.bench.subjects import BareNetwork, TrainedMethod
from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.errors import RunFailedError
from fusionbench.progress import SILENT, Progress, Task
from fusionbench.runs.network_study import setup
from fusionbench.runs.network_trainer import NetworkTrainer
from fusionbench.runs.study import Opened

# Steps of a round if none are asked for: about a second's worth.
GPU_STEPS, CPU_STEPS = 50, 4
# Steps before anything is timed, in addition to those in which a step is compiled and captured.
WARM_UP = 2

BenchSubject = BareNetwork | TrainedMethod


@dataclass(frozen=True)
class SpeedMeasurement:
    """`setting`: machine, versions and everything that holds for all rows. `rows`: one dict per
    subject, the bare network first.

    method, loss, path   how it trained; the paths are those of fusionbench.training.step
    images/s, ms/step    the median over rounds
    peak MB              of GPU memory that it added, without the photographs; None on a CPU, where
                         the system knows the peak of the whole process only
    vs NAME              {"median", "min", "max"} of its speed over that of another subject in the
                         same round; None where there is nothing to compare
    rounds               images/s of every round, in the order measured
    """

    setting: dict[str, str | int]
    rows: list[dict[str, Any]]


def bench(
    names: Sequence[str],
    config: RunConfig,
    execution: Execution,
    *,
    steps: int | None = None,
    rounds: int = 5,
    progress: Progress = SILENT,
) -> SpeedMeasurement:
    """Measure methods (FUSION or FUSION:LOSS) beside the bare network.

    Every method is compared with the bare network and with the first of `names`. `config` says
    what they share; its fusion and loss are ignored. In each of `rounds` every subject trains for
    `steps` steps. Raises UsageError, DataError, PluginError, BackboneError or FusionRefused before
    anything is measured; RunFailedError for exhausted memory and for a loss that is not finite.
    """
    names = list(dict.fromkeys(names))
    shared = open_shared(config, execution, progress)
    device = shared.placement.device
    steps = steps or (GPU_STEPS if device.type == "cuda" else CPU_STEPS)
    makers: list[Callable[[], BenchSubject]] = [partial(BareNetwork, shared)]
    makers += [partial(TrainedMethod, name, shared, progress, steps=steps) for name in names]
    subjects: dict[str, BenchSubject] = {}
    peaks: dict[str, int | None] = {}
    with progress.task("getting ready", total=len(makers), unit="subject") as task:
        for make in makers:
            subject, peak = warm_up(make, device)
            subjects[subject.name], peaks[subject.name] = subject, peak
            task.advance()
    work = {name: partial(subject.run, steps) for name, subject in subjects.items()}
    with progress.task("measuring", total=rounds * len(subjects), unit="round") as task:
        seconds = interleaved(work, rounds, device, task)

    bases = [BareNetwork.name, *names[: len(names) > 1]]
    rows = []
    for i, (name, subject) in enumerate(subjects.items()):
        ratios = {
            f"vs {base}": speed_ratio(seconds[name], seconds[base]) if i > k else None
            for k, base in enumerate(bases)
        }
        speeds = [steps * config.training.batch_size / s for s in seconds[name]]
        peak = peaks[name]
        row = {"method": name, "images/s": median(speeds)}
        row |= {"ms/step": 1000 * median(seconds[name]) / steps, **ratios}
        row |= {"peak MB": None if peak is None else peak / 1e6}
        rows.append(row | {"path": subject.path, "loss": subject.loss, "rounds": speeds})
    return SpeedMeasurement(_setting(shared, steps, rounds), rows)


def open_shared(
    config: RunConfig, execution: Execution, progress: Progress = SILENT
) -> NetworkTrainer:
    """What all subjects share: device, precision, path and decoded photographs, as a run of the
    image-only network has them. Raises UsageError, DataError, BackboneError."""
    # Every subject compiles the same few functions, each for its own model.
    torch._dynamo.config.cache_size_limit = 256
    image_only = config.changed(fusion="none", loss="")
    study = setup(image_only, Opened(execution, progress))
    return NetworkTrainer(study, execution, progress)


def warm_up(
    make: Callable[[], BenchSubject], device: torch.device
) -> tuple[BenchSubject, int | None]:
    """Build a subject and train it for a few steps; also the bytes of GPU memory that this took,
    None on a CPU. Raises RunFailedError where the memory does not suffice."""
    on_gpu = device.type == "cuda"
    before = 0
    if on_gpu:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    try:
        subject = make()
        subject.run(WARM_UP)
    except torch.OutOfMemoryError as error:
        raise RunFailedError(
            f"Out of memory on {device.type}: all methods of a bench are held at once.",
            "Use a smaller --batch-size or --image-size, or fewer methods at a time.",
        ) from error
    if not on_gpu:
        return subject, None
    torch.cuda.synchronize(device)
    return subject, torch.cuda.max_memory_allocated(device) - before


def interleaved(
    work: Mapping[str, Callable[[], None]],
    rounds: int,
    device: torch.device,
    task: Task,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each piece of work in each round. A round runs all of them once; the next round
    begins with another one. The clock stops when the GPU has finished."""
    names = list(work)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    on_gpu = device.type == "cuda"
    wait: Callable[[], None] = partial(torch.cuda.synchronize, device) if on_gpu else lambda: None
    for k in range(rounds):
        first = k % len(names)
        for name in names[first:] + names[:first]:
            wait()
            started = clock()
            work[name]()
            wait()
            seconds[name].append(clock() - started)
            task.advance()
    return seconds


def speed_ratio(mine: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """Speed over another subject's, from the seconds of each in the same rounds."""
    ratios = [theirs / own for own, theirs in zip(mine, other, strict=True)]
    return {"median": median(ratios), "min": min(ratios), "max": max(ratios)}


def _setting(shared: NetworkTrainer, steps: int, rounds: int) -> dict[str, str | int]:
    config, environment = shared.experiment.config, shared.environment
    fields = ("image_size", "batch_size", "augment", "optimizer")
    return {
        "device": environment["device_type"],
        "name": environment["device"],
        "threads": environment["threads"],
        "fusionbench": environment["fusionbench"],
        "torch": torch.__version__,
        "timm": timm.__version__,
        "dataset": config.data.dataset,
        "backbone": config.method.backbone,
        **{name.replace("_", " "): getattr(config.training, name) for name in fields},
        "precision": shared.placement.precision,
        "rounds": rounds,
        "steps per round": steps,
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
    }
