"""What a run ran on: versions, hardware, memory."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
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
        "device": platform.processor() or "cpu",
        "device_type": "cpu",
        "cpus": os.cpu_count(),
        **more,
    }


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
