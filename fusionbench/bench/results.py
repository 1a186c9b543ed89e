"""What was measured, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["bare", "method", "reference"]


@dataclass(frozen=True)
class Machine:
    """What it was measured on. `name` is the GPU's or the CPU's; `cuda` is "" on a CPU."""

    device: str  # cpu | cuda
    name: str
    threads: int
    torch: str
    timm: str
    cuda: str = ""


@dataclass(frozen=True)
class Ratio:
    """Speed of one subject over another's: the rounds' median, smallest and largest."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Split:
    """Milliseconds of a step, each part timed by itself."""

    data: float
    forward: float
    backward: float
    optimizer: float


@dataclass(frozen=True)
class Line:
    """One subject. `rounds` are images/s, in the order measured; `ratios` by the name of what it is
    held against; `peak_memory` in bytes, None where it cannot be told for one subject alone."""

    name: str
    kind: Kind
    loss: str
    precision: str
    path: str
    images_per_s: float
    ms_per_step: float
    rounds: tuple[float, ...]
    split: Split
    ratios: Mapping[str, Ratio] = field(default_factory=dict)
    peak_memory: int | None = None


@dataclass(frozen=True)
class Operation:
    """An operation of PyTorch, or a GPU's kernel: milliseconds of a step, by subject."""

    name: str
    ms: Mapping[str, float]

    @property
    def spread(self) -> float:
        """How much the subjects differ in it, in ms."""
        return max(self.ms.values()) - min(self.ms.values())


@dataclass(frozen=True)
class FoldSpeed:
    """Two folds as `fusionbench run` carries them out, in a process of their own.

    first, further   seconds until the first training step of the fold is done; `first` counts from
                     the start of the process
    images_per_s     of the second fold, from its first step until its record is written
    of_bare          that, as a share of the bare backbone's speed
    """

    name: str
    epochs: int
    train_images: int
    first: float
    further: float
    images_per_s: float
    of_bare: float | None


@dataclass(frozen=True)
class AtOnce:
    """A whole run of `folds` folds, `at_once` at a time, in processes of their own.

    seconds        from the start of the command's process until its last record is written
    images_per_s   trained on, by those seconds
    of_first       that, over the first number that was measured
    """

    name: str
    at_once: int
    folds: int
    epochs: int
    seconds: float
    images_per_s: float
    of_first: float


@dataclass(frozen=True)
class Report:
    """All of a measurement. `date` is ISO 8601, UTC."""

    date: str
    version: str
    machine: Machine
    backbone: str
    image_size: int
    batch_size: int
    augment: str
    optimizer: str
    metadata: int  # features
    classes: int
    steps: int
    rounds: int
    lines: tuple[Line, ...]
    operations: tuple[Operation, ...] = ()
    folds: tuple[FoldSpeed, ...] = ()
    at_once: tuple[AtOnce, ...] = ()
