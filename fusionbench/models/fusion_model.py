"""Backbone + fusion + optional reducer + head."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from fusionbench.errors import PluginError
from fusionbench.models.backbones import Backbone
from fusionbench.plugin.fusion import Features, Fused, Fusion, reducer
from fusionbench.plugin.loss import Output


class FusionModel(nn.Module):
    """(B, 3, S, S) images and (B, M) metadata -> Output.

    The fusion is built for this backbone; `spec.embedding` is the width that its `fuse` returns,
    or `reduce_to` where that is not 0: then Linear-BatchNorm-ReLU-Dropout(0.5) of that width comes
    between fusion and head (fusionbench.plugin.fusion.reducer). `metadata` is a learned encoding
    before the fusion (fusionbench.models.metadata).
    """

    def __init__(
        self,
        backbone: Backbone,
        fusion: Fusion,
        reduce_to: int = 0,
        metadata: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.metadata = metadata or nn.Identity()
        self.fusion = fusion
        width = _fused_width(fusion)
        self.reduce: nn.Module = reducer(width, reduce_to) if reduce_to else nn.Identity()
        self.spec = replace(fusion.spec, embedding=reduce_to or width)
        self.head = fusion.head(self.spec.embedding)

    def forward(self, image: Tensor, meta: Tensor) -> Output:
        fusion = self.fusion
        encoded = self.encode(meta)

        def stage(k: int, tokens: Tensor) -> Tensor:
            nonlocal encoded
            after = fusion.stage(k, tokens, encoded)
            if isinstance(after, tuple):
                after, encoded = after
            return after

        return self.late(self.backbone(image, stage), encoded)._replace(meta=meta)

    def encode(self, meta: Tensor) -> Tensor:
        """(B, M) metadata as encoded -> (B, M'), what the stages and `fuse` are given."""
        return self.fusion.encode(self.metadata(meta))

    def late(self, features: Features, encoded: Tensor) -> Output:
        """What comes after the backbone. `encoded` (B, M') is the metadata after the stages."""
        fused = as_fused(self.fusion.fuse_stages(features, encoded))
        embedding = self.reduce(fused.embedding)
        logits, heads = self.head(embedding), fused.heads
        if heads and not self.training:
            logits, heads = self.fusion.combine(torch.stack([logits, *heads.values()])), {}
        return Output(logits, embedding, features.stages, None, heads, fused.extras)


def as_fused(result: Tensor | Fused) -> Fused:
    """What a fusion's `fuse` returned, in full."""
    return result if isinstance(result, Fused) else Fused(result)


@torch.no_grad()
def _fused_width(fusion: Fusion) -> int:
    """D', found by fusing zeros for a batch of two (in eval mode, so nothing is learnt)."""
    spec, training = fusion.spec, fusion.training
    stages = tuple(torch.zeros(2, s.grid[0] * s.grid[1], s.channels) for s in spec.stages)
    fusion.eval()
    try:
        encoded = fusion.encode(torch.zeros(2, spec.metadata))
        for k, tokens in enumerate(stages):
            after = fusion.stage(k, tokens, encoded)
            encoded = after[1] if isinstance(after, tuple) else encoded
        prefix = stages[-1][:, :0] if stages else torch.zeros(2, 0, spec.width)
        seen = Features(torch.zeros(2, spec.width), stages, prefix)
        embedding = as_fused(fusion.fuse_stages(seen, encoded)).embedding
    finally:
        fusion.train(training)
    if embedding.ndim != 2 or embedding.shape[0] != 2:
        raise PluginError(
            f"{type(fusion).__name__}.fuse returned shape {tuple(embedding.shape)} for a batch of "
            "2.",
            "It must return (B, D').",
        )
    return int(embedding.shape[1])
