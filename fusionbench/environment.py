"""What a run ran on: versions, hardware, memory."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from fusionbench import __version__
from fusionbench.placement import Placement

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pandas", "scikit-learn", "pillow")


def describe_environment(placement: Placement) -> dict[str, Any]:
    """Versions and hardware, for a record's `environment`."""
    cuda = placement.device.type == "cuda"
    return {
        "fusionbench": __version__,
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if cuda else (platform.processor() or "cpu"),
        "device_type": placement.device.type,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "precision": placement.precision,
        "path": "eager",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def peak_memory(placement: Placement) -> int | None:
    """Bytes: of the device's allocator on a GPU, of this process's life so far on a CPU; None
    where the system does not say."""
    if placement.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
