"""Backbone + fusion + optional reducer + linear head."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from fusionbench.errors import PluginError
from fusionbench.models.backbones import Backbone
from fusionbench.plugin.fusion import Fusion, reducer
from fusionbench.plugin.loss import Output


class FusionModel(nn.Module):
    """(B, 3, S, S) images and (B, M) metadata -> Output.

    The fusion is built for this backbone; `spec.embedding` is the width that its `fuse` returns,
    or `reduce_to` where that is not 0: then Linear-BatchNorm-ReLU-Dropout(0.5) of that width comes
    between fusion and head (fusionbench.plugin.fusion.reducer).
    """

    def __init__(self, backbone: Backbone, fusion: Fusion, reduce_to: int = 0) -> None:
        super().__init__()
        self.backbone = backbone
        self.fusion = fusion
        width = _fused_width(fusion)
        self.reduce: nn.Module = reducer(width, reduce_to) if reduce_to else nn.Identity()
        self.spec = replace(fusion.spec, embedding=reduce_to or width)
        self.head = nn.Linear(self.spec.embedding, self.spec.classes)

    def forward(self, image: Tensor, meta: Tensor) -> Output:
        fusion = self.fusion
        encoded = fusion.encode(meta)

        def stage(k: int, tokens: Tensor) -> Tensor:
            return fusion.stage(k, tokens, encoded)

        features, stages = self.backbone(image, stage)
        logits, embedding = self.late(features, encoded)
        return Output(logits, embedding, stages)

    def late(self, features: Tensor, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """What comes after the backbone: (B, D) features, (B, M') -> (B, K) logits, embedding."""
        embedding = self.reduce(self.fusion.fuse(features, encoded))
        return self.head(embedding), embedding


@torch.no_grad()
def _fused_width(fusion: Fusion) -> int:
    """D', found by fusing two zero vectors (in eval mode, so nothing is learnt from them)."""
    spec, training = fusion.spec, fusion.training
    fusion.eval()
    try:
        fused = fusion.fuse(
            torch.zeros(2, spec.width), fusion.encode(torch.zeros(2, spec.metadata))
        )
    finally:
        fusion.train(training)
    if fused.ndim != 2 or fused.shape[0] != 2:
        raise PluginError(
            f"{type(fusion).__name__}.fuse returned shape {tuple(fused.shape)} for a batch of 2.",
            "It must return (B, D').",
        )
    return int(fused.shape[1])
