"""The machine, as a speed is told of it."""

from __future__ import annotations

import platform
from pathlib import Path

import timm
import torch

from fusionbench.bench.results import Machine


def describe_machine(device: torch.device) -> Machine:
    """Device, its name, threads and versions."""
    on_gpu = device.type == "cuda"
    return Machine(
        device=device.type,
        name=torch.cuda.get_device_name(device) if on_gpu else cpu_name(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        timm=timm.__version__,
        cuda=(torch.version.cuda or "") if on_gpu else "",
    )


def cpu_name() -> str:
    """As the manufacturer calls it, where the system says so; never empty."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:  # no Linux
        pass
    return platform.processor() or platform.machine() or "unknown CPU"
