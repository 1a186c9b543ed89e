"""Metadata as tokens, one per column, for methods that attend."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusionbench.plugin.fusion import Spec


class ColumnTokens(nn.Module):
    """(B, M) -> tokens (B, 1 + columns, E) behind a learned CLS token, and which of them count,
    (B, 1 + columns) bool.

    T_j = b_j + the sum of the column's features times their vectors: of a one-hot column that is
    E[c] + b, of a number x W + b (Y. Gorishniy, I. Rubachev, V. Khrulkov, A. Babenko, "Revisiting
    deep learning models for tabular data", NeurIPS 2021, https://arxiv.org/abs/2106.11959). For a
    method that takes recorded cells, a cell that was not recorded does not count: attention leaves
    it out (as the mask of S. Du, S. Zheng, Y. Wang, W. Bai, D. P. O'Regan, C. Qin, "TIP:
    tabular-image pre-training for multimodal classification with incomplete data", ECCV 2024,
    https://arxiv.org/abs/2407.07582).
    """

    member: Tensor
    recorded: Tensor

    def __init__(self, spec: Spec, width: int) -> None:
        super().__init__()
        columns = [
            (*c.features, *(() if c.missing is None else (c.missing,))) for c in spec.columns
        ] or [(i,) for i in range(spec.metadata)]
        member = torch.zeros(len(columns), spec.metadata)
        for row, positions in zip(member, columns, strict=True):
            row[list(positions)] = 1
        self.register_buffer("member", member, persistent=False)
        flags = [c.recorded for c in spec.columns if c.recorded is not None]
        self.register_buffer("recorded", torch.tensor(flags, dtype=torch.long), persistent=False)
        bound = width**-0.5  # as in the authors' code
        self.weight = nn.Parameter(torch.empty(spec.metadata, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(len(columns), width).uniform_(-bound, bound))
        self.cls = nn.Parameter(torch.empty(width).uniform_(-bound, bound))

    def forward(self, meta: Tensor) -> tuple[Tensor, Tensor]:
        tokens = (meta[:, None, :] * self.member) @ self.weight + self.bias
        counts = meta.new_ones(tokens.shape[:2], dtype=torch.bool)
        if len(self.recorded):
            counts = meta.index_select(1, self.recorded) > 0.5
            tokens = tokens * counts[:, :, None]
        cls = self.cls.to(tokens.dtype).expand(len(meta), 1, -1)
        return torch.cat([cls, tokens], dim=1), F.pad(counts, (1, 0), value=True)


class CrossAttention(nn.Module):
    """(B, Nq, Q) queries, (B, Nk, K) keys -> (B, Nq, Q): multi-head attention of width `width`.

    `counts` (B, Nk) bool: keys that count.
    """

    def __init__(
        self, queries: int, keys: int, width: int, heads: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads={heads} does not divide the attention's width of {width}")
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(queries, width)
        self.key_value = nn.Linear(keys, 2 * width)
        self.out = nn.Linear(width, queries)

    def forward(self, queries: Tensor, keys: Tensor, counts: Tensor | None = None) -> Tensor:
        q = self.query(queries).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(keys).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mask = None if counts is None else counts[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        asked = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out(asked.transpose(1, 2).flatten(2))


class FTTransformer(nn.Module):
    """(B, M) -> (B, width): ColumnTokens, pre-norm blocks (the first without its first norm), then
    LayerNorm and ReLU of the CLS token. Defaults are the authors': 3 blocks, 8 heads, ReGLU of 4/3
    (Y. Gorishniy, I. Rubachev, V. Khrulkov, A. Babenko, NeurIPS 2021)."""

    WIDTH: ClassVar[int] = 192

    def __init__(self, spec: Spec, width: int = WIDTH, blocks: int = 3, heads: int = 8) -> None:
        super().__init__()
        self.tokens = ColumnTokens(spec, width)
        self.blocks = nn.ModuleList(_FTBlock(width, heads, first=i == 0) for i in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, meta: Tensor) -> Tensor:
        x, counts = self.tokens(meta)
        for block in self.blocks:
            x = block(x, counts)
        return torch.relu(self.norm(x[:, 0]))


class _FTBlock(nn.Module):
    """x + MHA(LN x), then x + W2 ReGLU(W1 LN x)."""

    def __init__(self, width: int, heads: int, *, first: bool) -> None:
        super().__init__()
        self.norm1 = nn.Identity() if first else nn.LayerNorm(width)
        self.attention = CrossAttention(width, width, width, heads, 0.2)
        self.norm2 = nn.LayerNorm(width)
        hidden = int(width * 4 / 3)
        self.up, self.down = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, counts)
        value, gate = self.up(self.norm2(x)).chunk(2, dim=2)
        return x + self.down(self.drop(value * torch.relu(gate)))
