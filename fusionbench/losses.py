"""What a loss plugin derives from, and how losses are combined (`ce+self-contrastive`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fusionbench.fusion import Spec


class Output(NamedTuple):
    """What a model returns.

    logits     (B, K)
    embedding  (B, D'), what the head saw
    stages     per tapped stage the fused tokens (B, N_k, C_k)
    """

    logits: Tensor
    embedding: Tensor
    stages: tuple[Tensor, ...]


class Loss(nn.Module):
    """A training loss. It may own layers that only training needs (auxiliary heads, projections):
    they are trained with the model and absent from it afterwards.

    `__init__` takes `spec` (with `embedding` and `counts` filled in) and its hyper-parameters as
    keyword arguments with defaults: the schema of `--set loss.NAME=VALUE`.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        """`target` (B,) class indices -> named scalar terms, weighted; their sum is minimised."""
        raise NotImplementedError


class CombinedLoss(nn.Module):
    """The sum of several losses; terms are named `<loss>` or `<loss>/<term>`."""

    def __init__(self, losses: Mapping[str, Loss]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(dict(losses))

    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            for term, value in part(output, target).items():
                terms[name if term == name else f"{name}/{term}"] = value
        return terms


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The scalar that is minimised."""
    return torch.stack(list(terms.values())).sum()
