"""RemixFormer's cross-modality block: a metadata token asks the tokens of the last stage.

J. Xu, Y. Gao, W. Liu, K. Huang, S. Zhao, L. Lu, X. Wang, X.-S. Hua, Y. Wang, X. Chen,
"RemixFormer: a transformer model for precision skin tumor differential diagnosis via multi-modal
imaging and non-imaging data", MICCAI 2022, https://doi.org/10.1007/978-3-031-16437-8_60

On one photograph: the paper's other half, in which two photographs ask each other, is left out.
"""

import torch
from torch import Tensor, nn

from fusionbench.plugin.fusion import Features, Fusion, Spec


class RemixFormer(Fusion):
    """g = relu(BN(Linear(m))), [g; z] = LN([g; X]), g' = g + W MHA(g, z, z); [v, g'] (B, D + C).

    X are the last stage's tokens, v the backbone's own pooled features (GAP X in a ResNet).

    heads: of the attention; C must be a multiple.
    """

    def __init__(self, spec: Spec, *, heads: int = 8) -> None:
        super().__init__(spec)
        channels = spec.stages[-1].channels
        if channels % heads:
            raise ValueError(f"heads={heads} does not divide the last stage's {channels} channels")
        self.token = nn.Sequential(
            nn.Linear(spec.metadata, channels), nn.BatchNorm1d(channels), nn.ReLU()
        )
        self.norm = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)

    def fuse_stages(self, features: Features, meta: Tensor) -> Tensor:
        x = features.stages[-1]
        token = self.token(meta).to(x.dtype)[:, None, :]
        both = self.norm(torch.cat([token, x], dim=1))
        g, z = both[:, :1], both[:, 1:]
        asked = g + self.attention(g, z, z, need_weights=False)[0]
        return torch.cat([features.image, asked[:, 0]], dim=1)
