"""What is measured, and on what: see fusionbench.bench.plain_loop and .real_trainer.

Subjects train on made-up images of random pixels from random weights; what they show does not
change how long a step takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from fusionbench.bench.results import Kind
from fusionbench.bench.textbook import FUSIONS, LOSSES
from fusionbench.config.run_config import Execution, RunConfig, StepPath
from fusionbench.models.backbones import Backbone, build_backbone
from fusionbench.models.fusion_model import FusionModel, build_spec
from fusionbench.plugin import registry
from fusionbench.plugin.fusion import Fusion
from fusionbench.plugin.loss import CombinedLoss, Loss
from fusionbench.runs.network_study import load_method
from fusionbench.training.placement import (
    Placement,
    choose_device,
    choose_path,
    choose_placement,
    prepare,
)

# PAD-UFES-20, one-hot, as in the MetaBlock authors' code, and its classes.
METADATA, CLASSES = 81, 6
Work = Callable[[], None]


@dataclass(frozen=True)
class Setting:
    """What all subjects share. `path` is what is asked for: a step may take a lower one."""

    config: RunConfig
    placement: Placement
    path: StepPath

    @property
    def device(self) -> torch.device:
        return self.placement.device


class Subject(Protocol):
    """Trains so many steps at a time; nothing it does waits for the device."""

    name: str
    kind: Kind
    loss_name: str
    precision: str

    @property
    def path(self) -> str:
        """What its step takes; known after the first."""

    def run(self, steps: int) -> None:
        """Train so many steps."""

    def parts(self) -> Mapping[str, Work]:
        """Parts of one step, to be timed by themselves. "feed" (where there is one): a batch is
        fetched and its augmentation drawn; each of "inputs", "forward" and "whole" holds the one
        before it and more; "optimizer" stands alone."""


def open_setting(config: RunConfig, execution: Execution) -> Setting:
    """Resolve device, precision and path. Raises UsageError, BackboneError."""
    device = choose_device(execution.device)
    path = choose_path(execution.step, device)
    backbone = build_backbone(config.method.backbone, config.training.image_size)
    placement = choose_placement(device, config.training.precision, backbone)
    # Every subject compiles the same few functions, for a model of its own.
    torch._dynamo.config.cache_size_limit = 256
    prepare(device)
    return Setting(config, placement, path)


def built(
    name: str,
    config: RunConfig,
    backbone: Backbone,
    plugins: tuple[Path, ...] = (),
    *,
    textbook: bool = False,
) -> tuple[FusionModel, CombinedLoss, RunConfig]:
    """FUSION or FUSION:LOSS on this backbone, and `config` with their names in it; with `textbook`
    each plugin's textbook twin, where it has one. Raises UsageError, PluginError, FusionRefused."""
    fusion_name, _, loss_name = name.partition(":")
    config = config.model_copy(update={"fusion": fusion_name, "loss": loss_name})
    method = load_method(config, plugins)
    fusion_key = registry.key_of(fusion_name)
    fusion: type[Fusion] = method.fusion
    fusion_params, losses, loss_params = method.fusion_params, method.losses, method.loss_params
    if textbook:
        if fusion_key in FUSIONS:
            fusion, fusion_params = FUSIONS[fusion_key], {}
        losses = {key: LOSSES.get(key, cls) for key, cls in losses.items()}
        loss_params = {key: {} if key in LOSSES else params for key, params in loss_params.items()}
    spec = build_spec(
        backbone,
        metadata=METADATA,
        classes=CLASSES,
        groups={str(i): (i,) for i in range(METADATA)},
    )
    model = FusionModel(backbone, fusion(spec, **fusion_params), config.method.reducer)
    with_counts = replace(model.spec, counts=(100,) * CLASSES)
    made: dict[str, Loss] = {
        key: cls(with_counts, **loss_params[key]) for key, cls in losses.items()
    }
    return model, CombinedLoss(made), config


def targets(count: int) -> Tensor:
    return torch.arange(count) % CLASSES


def ignored(_: object) -> None:
    """For lambdas that return nothing."""
