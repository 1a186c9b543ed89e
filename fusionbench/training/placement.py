"""On which device and in which precision a model runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from fusionbench.config.run_config import Step, StepPath
from fusionbench.config.wording import plural
from fusionbench.errors import UsageError
from fusionbench.models.backbones import Backbone


@dataclass(frozen=True)
class Placement:
    """Where and in which precision a model runs."""

    device: torch.device
    precision: str  # fp32 | bf16

    def autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"
        )

    @property
    def of_doubles(self) -> torch.device:
        """Where float64 is computed: MPS has none."""
        return torch.device("cpu") if self.device.type == "mps" else self.device


def choose_device(name: str) -> torch.device:
    """Resolve "auto". Raises UsageError for a device that is not there."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if gpus else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")  # refused below
    index = device.index or 0
    if device.type == "cuda" and index >= gpus:
        seen = f"{plural(gpus, 'GPU')}, from cuda:0 on," if gpus else "no GPU"
        raise UsageError(f"--device {name}: PyTorch sees {seen} here.", "Use --device auto or cpu.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: this PyTorch or machine has no MPS.", "Use auto or cpu.")
    if device.type not in ("cpu", "cuda", "mps") or (index and device.type != "cuda"):
        raise UsageError(f"--device {name}: give auto, cpu, cuda, cuda:1 or mps.")
    return device


def prepare(device: torch.device) -> None:
    """PyTorch's switches of this process for training on the device: on a CPU the same bits every
    time; on a GPU the fastest kernels for batches of one size.

    Deterministic mode also fills every new tensor with NaN, so that no code reads what was not
    written. It has no part in the result, and took 3 to 5 % of a ResNet-18 step (128 px, fp32).
    """
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)  # for what takes the current one: graphs, memory, names
        torch.backends.cudnn.benchmark = True
    else:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def by_rule() -> Iterator[None]:
    """For batches of sizes that seldom come: a GPU's kernels are chosen by cuDNN's own rule, for
    trying them out for every new size takes longer than is won."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def choose_placement(device: torch.device, precision: str, backbone: Backbone) -> Placement:
    """Resolve precision "auto": bf16 where it is faster, by a rule that never depends on timing,
    so that the same command gives the same numbers on the same kind of machine.

    On a GPU: where it is supported. On a CPU: where that multiplies bf16 in hardware and the
    network has no depthwise convolutions, which lose by it there. Measured on two AVX512-BF16
    cores, images/s of a training step fp32 -> bf16: ResNet-50 at 224 px 5.3 -> 12.3, ResNet-18 at
    128 px 41 -> 74, EfficientNet-Lite0 at 128 px 53 -> 41.
    """
    if precision != "auto":
        return Placement(device, precision)
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = cpu_has_bf16() and not has_depthwise(backbone)
    return Placement(device, "bf16" if fast else "fp32")


def choose_path(step: Step, device: torch.device) -> StepPath:
    """Resolve a --step of "auto": all that a GPU can do; on a CPU plain PyTorch, where compiling a
    ResNet-18 took 17 to 48 s on two cores and made its step 6 % slower to 2 % faster. Raises
    UsageError for a CUDA graph without a GPU."""
    if step == "auto":
        return "compiled+captured" if device.type == "cuda" else "eager"
    if step.endswith("captured") and device.type != "cuda":
        raise UsageError(f"--step {step} is for a GPU.", "Use --step auto, eager or compiled.")
    return step


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware (AVX512-BF16 or AMX)."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in checks)


def has_depthwise(module: nn.Module) -> bool:
    """Whether it holds a convolution with one group per input channel."""
    return any(isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 for m in module.modules())
