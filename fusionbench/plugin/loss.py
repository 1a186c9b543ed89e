"""What a loss plugin derives from, and how losses are combined (`ce+self-contrastive`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from fusionbench.plugin.fusion import Spec


class Output(NamedTuple):
    """What a model returns.

    logits     (B, K)
    embedding  (B, D'), what the head saw
    stages     per tapped stage the fused tokens (B, N_k, C_k)
    meta       (B, M), the metadata that the model was given; None in contracts of losses
    heads      in training, name -> logits (B, K) of further heads
    extras     name -> tensor, whatever the fusion hands on to losses
    """

    logits: Tensor
    embedding: Tensor
    stages: tuple[Tensor, ...]
    meta: Tensor | None = None
    heads: Mapping[str, Tensor] = {}
    extras: Mapping[str, Tensor] = {}


class Loss(nn.Module):
    """A training loss. It may own layers that only training needs (auxiliary heads, projections):
    they are trained with the model and absent from it afterwards.

    `__init__` takes `spec` (with `embedding` and `counts` filled in) and its hyper-parameters as
    keyword arguments with defaults: the schema of `--set loss.NAME=VALUE`. What follows from
    `counts` is kept in buffers: afterwards they are gone from `spec`, as they are one fold's.
    """

    # False: a loss of something else than the logits; further heads of a method do not repeat it.
    reads_logits: ClassVar[bool] = True

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        """`target` (B,) class indices -> named scalar terms, weighted; their sum is minimised."""
        raise NotImplementedError

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Called before each pass over the training rows, `epoch` = 1 … `epochs`: for losses that
        change in the course of training. State that it sets belongs in buffers, changed in place.
        """


class CombinedLoss(nn.Module):
    """The sum of several losses; terms are named `<loss>` or `<loss>/<term>`.

    Of a method with several heads, the term of a loss that reads logits is the mean over heads.
    """

    def __init__(self, losses: Mapping[str, Loss]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(dict(losses))
        for part in losses.values():
            # A fold's own, and a step may be used again for another fold: a loss that still needed
            # them would compute with the wrong ones.
            part.spec = replace(part.spec, counts=())

    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        heads = (output.logits, *output.heads.values())
        for name, part in self.parts.items():
            seen = heads if cast(Loss, part).reads_logits else heads[:1]
            of_heads = [part(output._replace(logits=logits), target) for logits in seen]
            for term, value in of_heads[0].items():
                if len(of_heads) > 1:
                    value = torch.stack([head[term] for head in of_heads]).mean(0)
                terms[name if term == name else f"{name}/{term}"] = value
        return terms

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Tell every part."""
        for part in self.parts.values():
            cast(Loss, part).begin_epoch(epoch, epochs)


def class_counts(spec: Spec) -> Tensor:
    """(K,) float64, the training images of each class, for losses that make up for imbalance.

    A class without any counts as the rarest one that has some: every weight and logarithm of
    these numbers is finite. Raises ValueError where the counts are unknown.
    """
    if len(spec.counts) != spec.classes or not any(spec.counts):
        raise ValueError("it needs the training images per class, which are unknown here")
    counts = torch.tensor(spec.counts, dtype=torch.float64)
    return counts.clamp(min=float(counts[counts > 0].min()))


def balanced_weights(spec: Spec) -> Tensor:
    """(K,) float32 weights by which every class counts alike: n / (K' n_k) over the K' classes with
    training images, scikit-learn's rule. A class without any weighs as much as the rarest one that
    has some. Raises ValueError where the counts are unknown.
    """
    counts = class_counts(spec)
    present = sum(1 for count in spec.counts if count)
    return (sum(spec.counts) / (present * counts)).float()


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The scalar that is minimised."""
    return torch.stack(list(terms.values())).sum()
