"""What a fusion plugin derives from, and what it is told about the network it is built into.

Letters, here and in every plugin: B batch, N tokens (= H*W pixels) of a stage, C channels,
M metadata features, K classes, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from fusionbench.errors import FusionRefused as FusionRefused
from fusionbench.plugin.columns import MetadataColumn


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
    columns     the metadata characteristics, and which of the M features belong to each
    classes     K
    counts      training images per class; () where unknown. For losses, never for fusions.
    """

    stages: tuple[Stage, ...]
    width: int
    metadata: int
    classes: int
    embedding: int = 0
    columns: tuple[MetadataColumn, ...] = ()
    counts: tuple[int, ...] = ()

    def to_map(self, k: int, tokens: Tensor) -> Tensor:
        """(B, N, C) tokens of stage k -> (B, C, H, W); a view, in channels-last memory."""
        height, width = self.stages[k].grid
        batch, _, channels = tokens.shape
        return tokens.reshape(batch, height, width, channels).permute(0, 3, 1, 2)

    def to_tokens(self, k: int, map_: Tensor) -> Tensor:
        """(B, C, H, W) map of stage k -> (B, N, C); a view where memory is channels-last."""
        return map_.permute(0, 2, 3, 1).flatten(1, 2)


class Features(NamedTuple):
    """What the backbone made of a batch.

    image   (B, D), its own pooled pre-logits
    stages  per tapped stage the fused tokens (B, N_k, C_k)
    prefix  (B, P, C) class and register tokens beside the last stage's; P = 0 where it has none
    """

    image: Tensor
    stages: tuple[Tensor, ...]
    prefix: Tensor


class Fused(NamedTuple):
    """What `fuse` may return where the embedding alone does not say it all.

    embedding  (B, D'), for the head
    heads      name -> logits (B, K) of further heads: trained under the run's losses like the
               main ones, and averaged with them by `Fusion.combine` in evaluation
    extras     name -> tensor, for losses that read it (`Output.extras`)
    """

    embedding: Tensor
    heads: Mapping[str, Tensor] = {}
    extras: Mapping[str, Tensor] = {}


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
    # True: one more feature per column says whether the cell was recorded (Spec.columns).
    takes_recorded: ClassVar[bool] = False

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec

    def fit(self, meta: Tensor) -> None:
        """(n, M), the metadata of all training rows, on the CPU. Called once per fold, before
        training: for statistics that the method keeps in buffers."""

    def encode(self, meta: Tensor) -> Tensor:
        """(B, M) -> (B, M'). Called once per forward, before the stages."""
        return meta

    def stage(self, k: int, tokens: Tensor, meta: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(B, N, C_k), (B, M') -> (B, N, C_k), after backbone stage k = 0, 1, …: mid fusion.

        It may return (tokens, meta): then the next stages and `fuse` see that metadata.
        """
        return tokens

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor | Fused:
        """(B, D) pooled image features, (B, M') -> (B, D'): late fusion, before the head."""
        return image

    def fuse_stages(self, features: Features, meta: Tensor) -> Tensor | Fused:
        """As `fuse`, for methods that need tokens of the stages; override one of the two."""
        return self.fuse(features.image, meta)

    def head(self, width: int) -> nn.Module:
        """The layers from the embedding (B, D'), D' = `width`, to logits (B, K). A method whose
        `fuse` returns logits, or logarithms of probabilities, returns `nn.Identity()` here."""
        return nn.Linear(width, self.spec.classes)

    def combine(self, logits: Tensor) -> Tensor:
        """(H, B, K) logits of the head and of `Fused.heads` -> (B, K), in evaluation."""
        return logits.mean(0)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters of the method that are not optimised as the others: dicts with `params` (a
        list), and `lr_scale` (a factor of the learning rate), `weight_decay`, or both."""
        return []


def chosen_stages(spec: Spec, stages: tuple[int, ...]) -> tuple[int, ...]:
    """Stages as a user counts them, from 1, as positions; () for all. ValueError for others."""
    have = len(spec.stages)
    if bad := [s for s in stages if not 1 <= s <= have]:
        raise ValueError(f"stages={bad}: this backbone has stages 1 to {have}")
    return tuple(s - 1 for s in stages) or tuple(range(have))


def reducer(width: int, out: int = 256, dropout: float = 0.5) -> nn.Sequential:
    """(B, width) -> (B, out): Linear, BatchNorm, ReLU, Dropout, as the MetaBlock authors' models
    put before the classifier (https://github.com/paaatcha/MetaBlock)."""
    return nn.Sequential(nn.Linear(width, out), nn.BatchNorm1d(out), nn.ReLU(), nn.Dropout(dropout))
