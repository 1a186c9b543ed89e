"""What a run ran on: versions, hardware, memory."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fusionbench import __version__

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pandas", "scikit-learn", "pillow")


def describe_environment(**more: Any) -> dict[str, Any]:
    """Versions and machine, for a record's `environment`; `more` adds to it or replaces."""
    return {
        "fusionbench": __version__,
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "platform": platform.platform(),
        "device": cpu_name(),
        "device_type": "cpu",
        "cpus": os.cpu_count(),
        **more,
    }


def cpu_name() -> str:
    """The manufacturer's name of the CPU, where the system tells it; never empty."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:  # not on Linux
        pass
    return platform.processor() or platform.machine() or "unknown CPU"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def peak_memory() -> int | None:
    """Bytes of main memory, at most, in this process's life so far; None where the system does not
    say."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
