"""--precision fastest: fp32 or bf16, whichever trains a step faster on this machine.

Measured once and remembered, unlike --precision auto, which is a rule (training.placement) and
therefore the same on all machines of a kind. A run's record holds what was chosen, not that it was
measured.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock, Timeout

from fusionbench.bench.machine import describe_machine
from fusionbench.bench.measure import interleaved
from fusionbench.bench.real_trainer import Method
from fusionbench.bench.subjects import Setting
from fusionbench.config.run_config import RunConfig
from fusionbench.files import cache_folder
from fusionbench.progress import SILENT, Progress, Task
from fusionbench.training.placement import Placement, choose_device

Measured = Literal["fp32", "bf16"]
PRECISIONS: tuple[Measured, ...] = ("fp32", "bf16")
# How much faster bf16 must be to be worth its coarser numbers.
WORTH = 1.1
# Steps of each precision in a round; rounds, of which the quickest counts.
CPU_STEPS, GPU_STEPS, ROUNDS = 1, 20, 3

# Seconds of a step in each precision.
Times = Mapping[Measured, float]
Timer = Callable[[RunConfig, torch.device], Times]


def fastest(
    configs: Iterable[RunConfig],
    device: str,
    *,
    progress: Progress = SILENT,
    cache_dir: Path | None = None,
    timer: Timer | None = None,
) -> Measured:
    """bf16 where it makes a step on each of the configurations' backbones, image sizes and batches
    together at least WORTH times as fast as fp32, without any fusion; else fp32. One answer for
    all: rows of a table stand on the same footing.

    Measured by `timer` where that is not remembered for this machine, these threads and this
    PyTorch. Raises UsageError for a GPU that is not there, BackboneError.
    """
    placed = choose_device(device)
    memory = cache_folder(cache_dir) / "precision" / "measured.json"
    known, how = _read(memory), "as measured earlier"
    seconds: dict[Measured, float] = dict.fromkeys(PRECISIONS, 0.0)
    for key, config in {_key(config, placed): config for config in configs}.items():
        times: Times | None = known.get(key)
        if times is None:
            progress.note(f"measuring which precision trains {config.method.backbone} faster here")
            times, how = (timer or time_steps)(config, placed), "measured now, and remembered"
            _remember(memory, key, times, progress)
        for name in PRECISIONS:
            seconds[name] += times[name]
    chosen: Measured = "bf16" if seconds["fp32"] >= WORTH * seconds["bf16"] else "fp32"
    shown = ", ".join(f"{name} {1000 * seconds[name]:.3g} ms" for name in PRECISIONS)
    progress.note(f"precision {chosen}: a step takes {shown} ({how})")
    return chosen


def time_steps(config: RunConfig, device: torch.device) -> Times:
    """The quickest round of each precision, in seconds per step, taking turns."""
    on_gpu = device.type == "cuda"
    steps = GPU_STEPS if on_gpu else CPU_STEPS
    # Not compiled: that takes longer than everything that is measured here.
    path: Literal["captured", "eager"] = "captured" if on_gpu else "eager"
    methods = {
        name: Method("none", Setting(config, Placement(device, name), path)) for name in PRECISIONS
    }
    for method in methods.values():
        method.run(steps)
    seconds = interleaved(
        {name: _turn(method, steps) for name, method in methods.items()}, ROUNDS, device, Task()
    )
    return {name: min(seconds[name]) / steps for name in PRECISIONS}


def _turn(method: Method, steps: int) -> Callable[[], None]:
    return lambda: method.run(steps)


def _key(config: RunConfig, device: torch.device) -> str:
    machine = describe_machine(device)
    parts = (
        *(machine.device, machine.name, f"{machine.threads} threads", f"torch {machine.torch}"),
        *(
            config.method.backbone,
            f"{config.training.image_size} px",
            f"batch {config.training.batch_size}",
        ),
    )
    return " | ".join(parts)


def _read(memory: Path) -> dict[str, dict[Measured, float]]:
    """What is remembered, as far as it can be used; nothing where the file is damaged."""
    try:
        raw = json.loads(memory.read_text(encoding="utf-8"))
        entries = [(str(key), times) for key, times in raw.items()]
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
    found: dict[str, dict[Measured, float]] = {}
    for key, times in entries:
        with suppress(TypeError, ValueError, KeyError):
            seconds = {name: float(times[name]) for name in PRECISIONS}
            if all(math.isfinite(value) and value > 0 for value in seconds.values()):
                found[key] = seconds
    return found


def _remember(memory: Path, key: str, times: Times, progress: Progress) -> None:
    temporary = memory.with_suffix(f".{os.getpid()}.tmp")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(memory.with_suffix(".lock"), timeout=10):
            known = _read(memory) | {key: dict(times)}
            temporary.write_text(json.dumps(known, indent=2), encoding="utf-8")
            temporary.replace(memory)
    except (OSError, Timeout) as error:
        progress.note(f"The measurement is not remembered in {memory.parent}: {error}.")
