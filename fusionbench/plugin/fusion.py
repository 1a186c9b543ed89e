"""What a fusion plugin derives from, and what it is told about the network it is built into.

Letters, here and in every plugin: B batch, N tokens (= H*W pixels) of a stage, C channels,
M metadata features, K classes, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from fusionbench.errors import FusionRefused as FusionRefused


@dataclass(frozen=True)
class Stage:
    """One tapped backbone stage: `channels` C, and its `grid` (H, W)."""

    channels: int
    grid: tuple[int, int]


@dataclass(frozen=True)
class Spec:
    """What a plugin is built for.

    stages      the tapped backbone stages, in order
    width       D, of the backbone's own pooled pre-logits
    embedding   D', of what the head sees (equals `width` unless `fuse` changes it); for losses
    metadata    M, the number of metadata features
    groups      metadata characteristic -> positions of its features (one-hot columns, say)
    classes     K
    counts      training images per class; () where unknown. For losses, never for fusions.
    """

    stages: tuple[Stage, ...]
    width: int
    metadata: int
    classes: int
    embedding: int = 0
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    counts: tuple[int, ...] = ()

    def to_map(self, k: int, tokens: Tensor) -> Tensor:
        """(B, N, C) tokens of stage k -> (B, C, H, W); a view, in channels-last memory."""
        height, width = self.stages[k].grid
        batch, _, channels = tokens.shape
        return tokens.reshape(batch, height, width, channels).permute(0, 3, 1, 2)

    def to_tokens(self, k: int, map_: Tensor) -> Tensor:
        """(B, C, H, W) map of stage k -> (B, N, C); a view where memory is channels-last."""
        return map_.permute(0, 2, 3, 1).flatten(1, 2)


class Fusion(nn.Module):
    """A fusion method: override what it needs, the rest is the identity. As it is: image only.

    A plugin's `__init__` takes `spec` and its hyper-parameters as keyword arguments with defaults:
    the signature is the schema of `--set fusion.NAME=VALUE`. It raises `FusionRefused` for a
    backbone it cannot be built for, with the reason.
    """

    default_loss: ClassVar[str] = "ce"
    uses_images: ClassVar[bool] = True
    # False: the method ignores metadata by design (contracts then demand that it does).
    uses_metadata: ClassVar[bool] = True

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec

    def encode(self, meta: Tensor) -> Tensor:
        """(B, M) -> (B, M'). Called once per forward, before the stages."""
        return meta

    def stage(self, k: int, tokens: Tensor, meta: Tensor) -> Tensor:
        """(B, N, C_k), (B, M') -> (B, N, C_k), after backbone stage k = 0, 1, …: mid fusion."""
        return tokens

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        """(B, D) pooled image features, (B, M') -> (B, D'): late fusion, before the head."""
        return image


def reducer(width: int, out: int = 256, dropout: float = 0.5) -> nn.Sequential:
    """(B, width) -> (B, out): Linear, BatchNorm, ReLU, Dropout, as the MetaBlock authors' models
    put before the classifier (https://github.com/paaatcha/MetaBlock)."""
    return nn.Sequential(nn.Linear(width, out), nn.BatchNorm1d(out), nn.ReLU(), nn.Dropout(dropout))
