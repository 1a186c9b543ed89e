"""Cross-attention between image tokens and metadata tokens, one per column.

The blocks are those of A. Vaswani, N. Shazeer, N. Parmar, et al., "Attention is all you need",
NeurIPS 2017, https://arxiv.org/abs/1706.03762. Place, sizes and the gate that starts at zero are
ours.

Tokens make it attention. With one key, such as a single metadata vector, the softmax is always 1
and the query drops out; and (B, E) tensors make torch's layer attend over the batch.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from fusionbench.plugin.fusion import Features, Fusion, Spec, chosen_stages
from fusionbench.plugin.tokens import ColumnTokens, CrossAttention


class TokenAttention(Fusion):
    """image-asks: X' = X + g MHA(LN X, T, T) after stages, T the metadata tokens, g zero at first.
    metadata-asks: c' = c + MHA(LN c, X, X), c what a CLS token learns of T by attention, X the last
    stage's tokens; the embedding is [v, c']. both: one after the other.

    stages: where the image asks, counted from 1; empty: the last two. width, heads: of tokens and
    attention.
    """

    takes_recorded = True

    def __init__(
        self,
        spec: Spec,
        *,
        direction: Literal["image-asks", "metadata-asks", "both"] = "both",
        stages: tuple[int, ...] = (),
        width: int = 64,
        heads: int = 4,
    ) -> None:
        super().__init__(spec)
        self.tokens = ColumnTokens(spec, width)
        self.asks = nn.ModuleDict()
        if direction != "metadata-asks":
            for k in chosen_stages(spec, stages) if stages else chosen_stages(spec, ())[-2:]:
                self.asks[str(k)] = _GatedAttention(spec.stages[k].channels, width, heads)
        self.answer = None
        if direction != "image-asks":
            self.pool = CrossAttention(width, width, width, heads)
            self.norm = nn.LayerNorm(width)
            self.answer = CrossAttention(width, spec.stages[-1].channels, width, heads)

    def stage(self, k: int, tokens: Tensor, meta: Tensor) -> Tensor:
        if str(k) not in self.asks:
            return tokens
        keys, counts = self.tokens(meta)
        return tokens + self.asks[str(k)](tokens, keys, counts)

    def fuse_stages(self, features: Features, meta: Tensor) -> Tensor:
        if self.answer is None:
            return features.image
        tokens, counts = self.tokens(meta)
        cls = tokens[:, :1] + self.pool(tokens[:, :1], tokens, counts)
        asked = cls + self.answer(self.norm(cls), features.stages[-1])
        return torch.cat([features.image, asked[:, 0]], dim=1)


class _GatedAttention(nn.Module):
    def __init__(self, channels: int, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = CrossAttention(channels, width, width, heads)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, keys: Tensor, counts: Tensor) -> Tensor:
        return self.gate * self.attention(self.norm(x), keys, counts)
