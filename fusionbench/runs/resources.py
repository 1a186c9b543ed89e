"""What one run of a sweep asks of a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ByteSize, TypeAdapter, ValidationError

from fusionbench.errors import UsageError


@dataclass(frozen=True)
class Resources:
    """Per run; None leaves the choice to the sweep (fusionbench.runs.ray_engine.wants)."""

    gpus: float | None = None  # 0.25: four runs share one
    cpus: float | None = None
    memory: int | None = None  # bytes of main memory


def parse_size(text: str) -> int:
    """ "8G", "512 MB", "1.5GiB" -> bytes. Raises UsageError."""
    try:
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        size = 0
    if size <= 0:
        raise UsageError(f"{text!r} is no amount of memory.", "Write it as in 8G or 512M.")
    return size
