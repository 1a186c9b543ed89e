"""RG-Att: image and metadata, projected to one width, refine each other by gated residuals.

The fusion of RG-DermNet, IJCNN 2026, from its published formulas.
"""

import torch
from torch import Tensor, nn

from fusionbench.plugin.fusion import Fusion, Spec


class RGAtt(Fusion):
    """p = W_p v, t = W_t MLP(m); G(q, s) = LN(sigmoid(W q) Dropout(A s) + (1 - sigmoid(W q)) q);
    i = G(p, A1 p), t' = G(t, A2 t); the embedding is [A3 t', A4 i] through two layers.

    width: of p and t. hidden: widths of the metadata's layers and of the last two.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        width: int = 512,
        hidden: tuple[int, int] = (512, 256),
        dropout: float = 0.5,
    ) -> None:
        super().__init__(spec)
        self.image = nn.Linear(spec.width, width)
        self.metadata = nn.Sequential(
            nn.Linear(spec.metadata, hidden[1]), nn.ReLU(),
            nn.Linear(hidden[1], width), nn.ReLU(),
            nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, width),
        )  # fmt: skip
        self.refine_image, self.refine_metadata = _Gated(width), _Gated(width)
        self.of_metadata, self.of_image = nn.Linear(width, width), nn.Linear(width, width)
        self.join = nn.Sequential(
            *_layer(2 * width, hidden[0], dropout), *_layer(hidden[0], hidden[1], dropout)
        )

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        i = self.refine_image(self.image(image))
        t = self.refine_metadata(self.metadata(meta))
        return self.join(torch.cat([self.of_metadata(t), self.of_image(i)], dim=1))


class _Gated(nn.Module):
    """q -> LN(sigmoid(W q) Dropout(A' (A q)) + (1 - sigmoid(W q)) q)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.source = nn.Sequential(
            nn.Linear(width, width), nn.Linear(width, width), nn.Dropout(0.1)
        )

    def forward(self, q: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(q))
        return self.norm(gate * self.source(q) + (1 - gate) * q)


def _layer(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.ReLU(), nn.Dropout(dropout)
    )
