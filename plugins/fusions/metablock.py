"""MetaBlock: metadata scales and shifts the image features inside an LSTM-like gate.

A. G. C. Pacheco, R. A. Krohling, "An attention-based mechanism to combine images and metadata in
deep learning models applied to skin cancer classification", IEEE Journal of Biomedical and Health
Informatics 25(9), 2021, https://doi.org/10.1109/JBHI.2021.3062002; sizes as in the authors' code
(https://github.com/paaatcha/MetaBlock).
"""

from typing import Literal

import torch
from torch import Tensor, nn

from fusionbench.plugin.fusion import Fusion, FusionRefused, Spec, reducer

POINTS = 32  # the pooled features are viewed as (B, C, 32)


class MetaBlock(Fusion):
    """V' = sigmoid(tanh(V * T1(m)) + T2(m)), T = Linear + BatchNorm. The gate replaces V.

    mode "reference": V is the pooled vector viewed as (B, D/32, 32).
    mode "map": V is the last tapped feature map, (B, C, N).
    reduce: width of the authors' reducer after the block; 0 leaves it out.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        mode: Literal["reference", "map"] = "reference",
        reduce: int = 0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(spec)
        self.mode = mode
        if mode == "reference" and spec.width % POINTS:
            near = max(spec.width // POINTS, 1) * POINTS
            raise FusionRefused(
                f"metablock views the pooled features as (C, {POINTS}); a width of {spec.width} is "
                f"no multiple of {POINTS}.",
                f"Take a backbone of width {near}, {near + POINTS}, … or --set fusion.mode=map.",
            )
        channels = spec.width // POINTS if mode == "reference" else spec.stages[-1].channels
        self.scale = nn.Sequential(nn.Linear(spec.metadata, channels), nn.BatchNorm1d(channels))
        self.shift = nn.Sequential(nn.Linear(spec.metadata, channels), nn.BatchNorm1d(channels))
        self.reduce = reducer(spec.width, reduce, dropout) if reduce else nn.Identity()

    def stage(self, k: int, tokens: Tensor, meta: Tensor) -> Tensor:
        if self.mode == "map" and k == len(self.spec.stages) - 1:
            scale, shift = self.scale(meta)[:, None, :], self.shift(meta)[:, None, :]
            return torch.sigmoid(torch.tanh(tokens * scale) + shift)
        return tokens

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        if self.mode == "reference":
            scale, shift = self.scale(meta)[:, :, None], self.shift(meta)[:, :, None]
            view = image.unflatten(1, (-1, POINTS))
            image = torch.sigmoid(torch.tanh(view * scale) + shift).flatten(1)
        return self.reduce(image)
