"""What a run ran on: versions, hardware, memory."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
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
        "cpus": usable_cores(),
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


def usable_cores(system: Path = Path("/")) -> int:
    """How many cores this process may use: by its affinity and by the quotas of its control groups
    (containers, Slurm, systemd), a part of a core rounded up. `system` is the root folder."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:  # macOS, Windows
        cores = os.cpu_count() or 1
    return max(1, min([cores, *_quotas(system)]))


def _quotas(system: Path) -> Iterator[int]:
    """In cores, of the control groups that this process is in and of those above them."""
    try:
        groups = (system / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):  # not on Linux
        return
    for group in groups:
        _, controllers, path = f"{group}::".split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 1 of control groups has a folder per controller, version 2 has one.
        mount = system / "sys/fs/cgroup" / ("cpu" if controllers else "")
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
        inside = PurePosixPath(path.rstrip(":"))
        for folder in (inside, *inside.parents):
            try:
                texts = [(mount / str(folder).lstrip("/") / name).read_text() for name in names]
                quota, period = map(int, " ".join(texts).split())
            except (OSError, ValueError):  # "max": no limit
                continue
            if quota > 0 and period > 0:
                yield math.ceil(quota / period)


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
