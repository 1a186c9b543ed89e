"""The quick part of a network's contract: what changes the meaning of its row's numbers.

It is made on the plugins as the row builds them, on random stages of its backbone's sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusionbench.contract.checks import Check, Plugin, Step, named, run_all, steps
from fusionbench.contract.fusion_contract import FusionCase, batch_mates, forward, in_place
from fusionbench.contract.loss_contract import LossCase, batch_order
from fusionbench.contract.module_checks import repeatable
from fusionbench.models.backbones import StageFn
from fusionbench.models.fusion_model import FusionModel
from fusionbench.plugin.columns import MetadataColumn
from fusionbench.plugin.fusion import Features, Spec, Stage
from fusionbench.progress import SILENT

FEW = 7  # rows and columns of a stage
OF_FUSION = named(in_place, repeatable, batch_mates)
OF_LOSS = named(repeatable, batch_order)


class _Pooled(nn.Module):
    """In a backbone's place: each stage is the image, pooled to its grid and mixed at random; the
    features are made of what the fusion returns. Each image alone, in no time."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.stages, self.width = spec.stages, spec.width
        self.mix = nn.ModuleList(nn.Linear(3, stage.channels) for stage in spec.stages)

    def forward(self, image: Tensor, stage: StageFn) -> Features:
        features, stages = torch.zeros(len(image), self.width), []
        for k, one in enumerate(self.stages):
            pooled = F.adaptive_avg_pool2d(image, one.grid).flatten(2).transpose(1, 2)
            stages.append(stage(k, self.mix[k](pooled)))
            features = features + F.adaptive_avg_pool1d(stages[k].mean(1), self.width)
        return Features(features, tuple(stages), stages[-1][:, :0])


@dataclass(frozen=True)
class _RowFusion(FusionCase):
    row: Spec | None = None

    @property
    def columns(self) -> tuple[MetadataColumn, ...]:
        assert self.row is not None
        return self.row.columns

    @property
    def features(self) -> int:
        assert self.row is not None
        return self.row.metadata

    def build(self, seed: int = 0) -> FusionModel:
        assert self.row is not None
        torch.manual_seed(seed)
        backbone: Any = _Pooled(self.row)
        return FusionModel(backbone, self.cls(self.row, **self.params))


@dataclass(frozen=True)
class _RowLoss(LossCase):
    row: Spec | None = None

    @property
    def spec(self) -> Spec:
        assert self.row is not None
        return self.row


def quick_checks(fusion: Plugin, losses: Mapping[str, Plugin], spec: Spec) -> list[Check]:
    """The checks; `spec` without `embedding`. On stages of few positions, which takes part of a
    second; what does not pass there is looked at on the row's own."""
    few = [Stage(s.channels, (min(s.grid[0], FEW), min(s.grid[1], FEW))) for s in spec.stages]
    checks = _checks(fusion, losses, replace(spec, stages=tuple(few)))
    if any(check.status != "pass" for check in checks):
        checks = _checks(fusion, losses, spec)
    return checks


def _checks(fusion: Plugin, losses: Mapping[str, Plugin], spec: Spec) -> list[Check]:
    own, name = replace(spec, counts=()), fusion.cls.__name__
    case: FusionCase = _RowFusion(fusion.cls, name, fusion.params, own)
    groups: list[list[Step]] = [
        [("forward", name, partial(forward, fusion.cls))],
        [("builds", name, case.build), *steps(case, name, OF_FUSION, OF_FUSION)],
    ]
    spec = replace(spec, embedding=spec.width)
    for loss_name, loss in losses.items():
        of: LossCase = _RowLoss(loss.cls, loss_name, loss.params, spec.classes, spec)
        groups.append([("builds", loss_name, of.module), *steps(of, loss_name, OF_LOSS, OF_LOSS)])
    return run_all(fusion.cls, groups, SILENT)
