"""MD-Net: metadata gates and shifts the last feature map.

As in the code of the group that compares it (https://github.com/life-ufes): the method's own paper
was not read. Sizes that are not given are ours.
"""

import torch
from torch import Tensor, nn

from fusionbench.plugin.fusion import Fusion, Spec


class MDNet(Fusion):
    """x' = x sigmoid(W2 relu(W1 m)) + sigmoid(tanh(x f(m)) + g(m)) on the last tapped map; f and g
    are linear, one value per channel. hidden: width of the gate's inner layer (ours)."""

    def __init__(self, spec: Spec, *, hidden: int = 64) -> None:
        super().__init__(spec)
        channels = spec.stages[-1].channels
        self.gate = nn.Sequential(
            nn.Linear(spec.metadata, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid()
        )
        self.scale = nn.Linear(spec.metadata, channels)
        self.shift = nn.Linear(spec.metadata, channels)

    def stage(self, k: int, tokens: Tensor, meta: Tensor) -> Tensor:
        if k != len(self.spec.stages) - 1:
            return tokens
        gate, scale, shift = (
            layer(meta)[:, None, :] for layer in (self.gate, self.scale, self.shift)
        )
        return tokens * gate + torch.sigmoid(torch.tanh(tokens * scale) + shift)
