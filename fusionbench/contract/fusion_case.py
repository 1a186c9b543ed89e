"""A fusion on a micro-backbone, and batches for it: what the checks of the contract look at."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from fusionbench.models.backbones import Backbone, build_backbone
from fusionbench.models.fusion_model import FusionModel, build_spec
from fusionbench.plugin.fusion import Fusion

# NCHW with BatchNorm, tokens behind a class token, NCHW with LayerNorm, NHWC.
MICRO_BACKBONES = ("test_efficientnet", "test_vit", "test_convnext", "test_mambaout")
BATCH, CLASSES, METADATA = 4, 5, 9
GROUPS = {"age": (0,), "region": (1, 2, 3, 4), "itch": (5, 6), "bleed": (7, 8)}
COUNTS = (40, 30, 20, 10, 5)


@dataclass(frozen=True)
class Case:
    """A fusion on a backbone."""

    cls: type[Fusion]
    backbone: str
    image_size: int
    params: Mapping[str, Any] = field(default_factory=dict)

    def build(self, seed: int = 0) -> FusionModel:
        backbone = deepcopy(_backbone(self.backbone, self.image_size))
        torch.manual_seed(seed)
        spec = build_spec(
            backbone, metadata=METADATA, classes=CLASSES, groups=GROUPS, counts=COUNTS
        )
        return FusionModel(backbone, self.cls(spec, **self.params))

    def model(self, seed: int = 0) -> FusionModel:
        """In eval mode; BatchNorm statistics fit the batches, so that signals are of normal
        size all through an untrained network."""
        model = self.build(seed)
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = None  # the plain average over the batches below
            norm.reset_running_stats()
        model.train()
        with torch.no_grad():
            for batch in range(2):
                model(*self.batch(100 + batch))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        return model.eval()

    def batch(self, seed: int = 1, size: int = BATCH) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) and metadata (B, M), half of it 0/1 as one-hot columns are."""
        generator = torch.Generator().manual_seed(seed)
        image = torch.randn(size, 3, self.image_size, self.image_size, generator=generator)
        meta = torch.randn(size, METADATA, generator=generator)
        meta[:, METADATA // 2 :] = (meta[:, METADATA // 2 :] > 0).float()
        return image, meta


@lru_cache(maxsize=len(MICRO_BACKBONES))
def _backbone(name: str, image_size: int) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(name, image_size)


def target(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, CLASSES, (BATCH,), generator=generator)


@torch.no_grad()
def logits(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return model(*batch).logits
