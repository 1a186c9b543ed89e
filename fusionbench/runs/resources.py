"""What one run of a sweep asks of a cluster, and how its wishes are written."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fusionbench.errors import UsageError

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Resources:
    """Per run; None leaves the choice to the sweep (fusionbench.runs.ray_engine.wants)."""

    gpus: float | None = None  # 0.25: four runs share one
    cpus: float | None = None
    memory: int | None = None  # bytes of main memory


def parse_size(text: str) -> int:
    """ "8G", "512 MB", "1.5GiB" -> bytes, by powers of 1,024. Raises UsageError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if not found or not float(found[1]):
        raise UsageError(f"{text!r} is no amount of memory.", "Write it as in 8G or 512M.")
    return int(float(found[1]) * _UNITS[found[2].upper()])
