"""A whole measurement: which subjects, held to which; the Report of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Literal

import torch

from fusionbench import __version__
from fusionbench.bench.folds import CPU_EPOCHS, leave_warm, measure_at_once, measure_folds
from fusionbench.bench.machine import describe_machine
from fusionbench.bench.measure import measure, warm_up
from fusionbench.bench.operations import operations
from fusionbench.bench.plain_loop import bare, reference
from fusionbench.bench.real_trainer import Method
from fusionbench.bench.results import AtOnce, FoldSpeed, Operation, Report
from fusionbench.bench.subjects import CLASSES, METADATA, open_setting
from fusionbench.config.run_config import Execution, RunConfig, default_of
from fusionbench.progress import SILENT, Progress

Against = Literal["bare", "reference"]
# Steps of a round, where nobody says how many: about a second's worth.
GPU_STEPS, CPU_STEPS = 50, 4
# Held to wherever it is among the methods.
IMAGE_ONLY = "none"


def bench(
    names: Sequence[str],
    config: RunConfig,
    execution: Execution,
    *,
    against: Sequence[Against] = ("bare",),
    steps: int | None = None,
    rounds: int = 5,
    profile: bool = False,
    folds: bool = False,
    at_once: Sequence[int] = (),
    progress: Progress = SILENT,
) -> Report:
    """Measure methods (FUSION or FUSION:LOSS) side by side, each against what is asked for.

    `config` says what they share; its fusion and loss are not looked at. `profile`: also where a
    step's time goes; `folds`: also two folds of each method; `at_once`: also whole runs with so
    many folds at a time. Raises UsageError,
    PluginError, BackboneError or FusionRefused before anything is measured, RunFailedError for a
    loss that is not finite.
    """
    names = list(dict.fromkeys(names))
    setting = open_setting(config, execution)
    device = setting.device
    steps = steps or (GPU_STEPS if device.type == "cuda" else CPU_STEPS)
    makers: dict[str, partial] = {}
    held: dict[str, list[str]] = {name: [] for name in names}
    if "bare" in against:
        makers["bare"] = partial(bare, setting)
    for name in names:
        makers[name] = partial(Method, name, setting, execution.plugins, progress, steps=steps)
        if "bare" in against:
            held[name].append("bare")
        if IMAGE_ONLY in names and name != IMAGE_ONLY:
            held[name].append(IMAGE_ONLY)
        if "reference" in against:
            twin = f"{name} reference"
            makers[twin] = partial(reference, name, setting, execution.plugins)
            held[name].append(twin)
    with progress.task("getting ready", total=len(makers), unit="subject") as task:
        warm = []
        for make in makers.values():
            warm.append(warm_up(make, device))
            task.advance()
    with progress.task("measuring", total=(rounds + 1) * len(warm), unit="round") as task:
        lines = measure(
            warm, steps, rounds, config.training.batch_size, device, against=held, task=task
        )
    found: tuple[Operation, ...] = ()
    if profile:
        progress.note("profiling")
        found = operations([one.subject for one in warm], steps, device)
    whole: list[FoldSpeed] = []
    several: list[AtOnce] = []
    if folds or at_once:
        del warm, makers
        if device.type == "cuda":
            torch.cuda.empty_cache()  # another process is to have it
        speed = next((line.images_per_s for line in lines if line.kind == "bare"), None)
        for name in names:
            of = _of(name, config, device)
            leave_warm(of, execution, progress)
            if folds:
                progress.note(f"two folds of {name}")
                whole.append(measure_folds(name, of, execution, speed))
            if at_once:
                several += measure_at_once(name, of, execution, at_once, progress)
    return Report(
        date=datetime.now(UTC).isoformat(timespec="minutes"),
        version=__version__,
        machine=describe_machine(device),
        backbone=config.method.backbone,
        image_size=config.training.image_size,
        batch_size=config.training.batch_size,
        augment=config.training.augment,
        optimizer=config.training.optimizer,
        metadata=METADATA,
        classes=CLASSES,
        steps=steps,
        rounds=rounds,
        lines=tuple(lines),
        operations=found,
        folds=tuple(whole),
        at_once=tuple(several),
    )


def _of(name: str, config: RunConfig, device: torch.device) -> RunConfig:
    fusion, _, loss = name.partition(":")
    update = {"fusion": fusion, "loss": loss, "dataset": "synthetic", "weights": "none"}
    epochs = default_of("epochs") if device.type == "cuda" else CPU_EPOCHS
    return config.model_copy(update=update | {"epochs": epochs})
