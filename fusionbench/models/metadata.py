"""Encodings of metadata that are learned with the network (`--encoding periodic | tokens`)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from fusionbench.config.run_config import Encoding
from fusionbench.plugin.fusion import Spec
from fusionbench.plugin.tokens import FTTransformer

FREQUENCIES, WIDTH, SCALE = 48, 24, 0.01  # defaults of rtdl_num_embeddings


class Periodic(nn.Module):
    """(B, M) -> (B, M'): each number x as relu(Linear([cos(2 pi c x), sin(2 pi c x)])), with
    learned frequencies c and a layer for each column; other features as they are, behind them.

    Y. Gorishniy, I. Rubachev, A. Babenko, "On embeddings for numerical features in tabular deep
    learning", NeurIPS 2022, https://arxiv.org/abs/2203.05556
    """

    numbers: Tensor
    others: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        numbers = [c.features[0] for c in spec.columns if c.kind == "numeric"]
        others = [i for i in range(spec.metadata) if i not in numbers]
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.long), persistent=False)
        self.register_buffer("others", torch.tensor(others, dtype=torch.long), persistent=False)
        self.frequencies = nn.Parameter(SCALE * torch.randn(len(numbers), FREQUENCIES))
        bound = (2 * FREQUENCIES) ** -0.5
        shape = (len(numbers), 2 * FREQUENCIES, WIDTH)
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(len(numbers), WIDTH).uniform_(-bound, bound))

    def forward(self, meta: Tensor) -> Tensor:
        angles = 2 * math.pi * self.frequencies * meta.index_select(1, self.numbers)[:, :, None]
        waves = torch.cat([torch.cos(angles), torch.sin(angles)], dim=2)  # (B, numbers, 2 F)
        embedded = torch.relu(torch.einsum("bnf,nfw->bnw", waves, self.weight) + self.bias)
        return torch.cat([embedded.flatten(1), meta.index_select(1, self.others)], dim=1)

    def spec(self, spec: Spec) -> Spec:
        """`spec` as the fusion behind it sees it."""
        start = WIDTH * len(self.numbers)
        moved = {int(i): start + at for at, i in enumerate(self.others)}
        columns, number = [], 0
        for column in spec.columns:
            features = tuple(moved.get(i, -1) for i in column.features)
            if column.kind == "numeric":
                features = tuple(range(WIDTH * number, WIDTH * (number + 1)))
                number += 1
            missing, recorded = (
                None if at is None else moved[at] for at in (column.missing, column.recorded)
            )
            columns.append(replace(column, features=features, missing=missing, recorded=recorded))
        return replace(spec, metadata=start + len(self.others), columns=tuple(columns))


def metadata_layer(encoding: Encoding, spec: Spec) -> tuple[nn.Module, Spec]:
    """The layer between the encoded metadata and the fusion, and what the fusion is built for."""
    if encoding == "periodic" and any(c.kind == "numeric" for c in spec.columns):
        layer = Periodic(spec)
        return layer, layer.spec(spec)
    if encoding == "tokens":
        return FTTransformer(spec), replace(spec, metadata=FTTransformer.WIDTH, columns=())
    return nn.Identity(), spec
