"""On which device and in which precision a model runs."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from torch import nn

from fusionbench.backbones import Backbone
from fusionbench.data.digests import cache_folder
from fusionbench.errors import UsageError

# bf16 must win by this factor: it costs precision, and a short measurement has noise.
MARGIN = 1.1
TRIAL_BATCH, TRIAL_STEPS = 8, 2


@dataclass(frozen=True)
class Placement:
    """Where and in which precision a model runs."""

    device: torch.device
    precision: str  # fp32 | bf16

    def autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"
        )


def choose_device(name: str) -> torch.device:
    """Resolve "auto". Raises UsageError for a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch sees no GPU here.", "Use --device auto or cpu.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def choose_placement(device: torch.device, precision: str, backbone: Backbone) -> Placement:
    """Resolve precision "auto": bf16 where it is faster.

    On a GPU: where it is supported. On a CPU that multiplies bf16 in hardware it depends on the
    network (convolutions gain, depthwise ones lose), so both are timed for some steps, once per
    backbone, size and machine; the answer is remembered, so that the same command chooses alike.
    """
    if precision != "auto":
        return Placement(device, precision)
    if device.type == "cuda":
        return Placement(device, "bf16" if torch.cuda.is_bf16_supported() else "fp32")
    if not cpu_has_bf16():
        return Placement(device, "fp32")
    return Placement(device, _remembered(device, backbone))


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware (AVX512-BF16 or AMX)."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in checks)


def _remembered(device: torch.device, backbone: Backbone) -> str:
    path = cache_folder() / "precision.json"
    key = f"{backbone.name} {backbone.image_size} torch-{torch.__version__}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        known = _read(path)
        if known.get(key) not in ("fp32", "bf16"):
            seconds = {p: _time_step(Placement(device, p), backbone) for p in ("fp32", "bf16")}
            known[key] = "bf16" if seconds["fp32"] > MARGIN * seconds["bf16"] else "fp32"
            partial = path.with_suffix(".part")
            partial.write_text(json.dumps(known, indent=1, sort_keys=True), encoding="utf-8")
            partial.replace(path)
        return known[key]


def _read(path: Path) -> dict[str, str]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _time_step(placement: Placement, backbone: Backbone) -> float:
    """Seconds of the quickest of a few forward and backward steps of the bare network."""
    net: nn.Module = backbone.net
    state = {k: v.clone() for k, v in net.state_dict().items()}
    net.to(memory_format=torch.channels_last)
    training = net.training
    net.train()
    best = float("inf")
    with torch.random.fork_rng(devices=[]):
        size = backbone.image_size
        image = torch.rand(TRIAL_BATCH, 3, size, size).to(memory_format=torch.channels_last)
        for _ in range(1 + TRIAL_STEPS):
            started = time.perf_counter()
            with placement.autocast():
                value = net(image).float().square().mean()
            value.backward()
            best = min(best, time.perf_counter() - started)
    net.zero_grad(set_to_none=True)
    net.load_state_dict(state)  # BatchNorm has counted the trial
    net.train(training)
    return best
