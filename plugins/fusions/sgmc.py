"""SGMC-Net: channel-spatial fusion of metadata after every backbone stage.

F. Li, M. Li, E. Zuo, C. Chen, C. Chen, X. Lv, "Self-contrastive feature guidance based
multidimensional collaborative network of metadata and image features for skin disease
classification", Pattern Recognition 156, 2024, 110742,
https://doi.org/10.1016/j.patcog.2024.110742. Its guidance is the loss `self-contrastive`.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from fusionbench.plugin.fusion import Fusion, Spec, Stage, chosen_stages


class SGMC(Fusion):
    """FS (feature selection) once, then CSF (channel-spatial fusion) after each chosen stage.

    stages: which stages get a CSF block, counted from 1; empty: all of them.
    cf, sf: the channel and the spatial branch. fr: how the two are weighed: "pixel" one softmax
    per position, "channel" one per position and channel, "off" their plain mean.
    sem_sigmoid: whether the spatial map passes a sigmoid; the paper leaves it open.
    """

    default_loss = "ce+self-contrastive"

    def __init__(
        self,
        spec: Spec,
        *,
        stages: tuple[int, ...] = (),
        cf: bool = True,
        sf: bool = True,
        fr: Literal["pixel", "channel", "off"] = "pixel",
        sem_sigmoid: bool = True,
    ) -> None:
        super().__init__(spec)
        if not (cf or sf):
            raise ValueError("cf and sf are both off: nothing is fused; use --fusion none")
        self.select = nn.Sequential(
            nn.Linear(spec.metadata, spec.metadata), nn.BatchNorm1d(spec.metadata), nn.ReLU()
        )
        self.blocks = nn.ModuleDict(
            {
                str(k): _CSF(spec.stages[k], spec.metadata, cf, sf, fr, sem_sigmoid)
                for k in chosen_stages(spec, stages)
            }
        )

    def encode(self, meta: Tensor) -> Tensor:
        return self.select(meta)

    def stage(self, k: int, tokens: Tensor, meta: Tensor) -> Tensor:
        if str(k) not in self.blocks:
            return tokens
        return self.blocks[str(k)](tokens, meta)


class _CSF(nn.Module):
    """x -> F = R_c * C + R_s * S with C = x g(m), S = x s(x, m), without ever building C and S.

    As R_s = 1 - R_c, F = x (R_c g + (1 - R_c) s); and as the softmax of two logits is the sigmoid
    of their difference, R_c = sigmoid(<w_c g, x> - s <w_s, x> + b). One pass over x instead of six.
    """

    def __init__(
        self, stage: Stage, metadata: int, cf: bool, sf: bool, fr: str, sem_sigmoid: bool
    ) -> None:
        super().__init__()
        self.fr = fr if cf and sf else "none"
        self.channel = nn.Linear(metadata, stage.channels) if cf else None
        self.spatial = _Spatial(stage, metadata, sem_sigmoid) if sf else None
        outputs = {"pixel": 1, "channel": stage.channels}.get(self.fr)
        self.weigh_c = nn.Linear(stage.channels, outputs) if outputs else None
        self.weigh_s = nn.Linear(stage.channels, outputs) if outputs else None

    def forward(self, x: Tensor, meta: Tensor) -> Tensor:
        """(B, N, C), (B, M) -> (B, N, C)"""
        g = torch.sigmoid(self.channel(meta))[:, None, :] if self.channel is not None else None
        s = self.spatial(x, meta) if self.spatial is not None else None  # (B, N, 1)
        if g is None:
            return x * s
        if s is None:
            return x * g
        if self.weigh_c is None or self.weigh_s is None:
            return x * (0.5 * (g + s))
        w_c, w_s = self.weigh_c.weight, self.weigh_s.weight  # (R, C)
        bias = self.weigh_c.bias - self.weigh_s.bias
        on_c = torch.matmul(x, (w_c * g).transpose(1, 2))  # (B, N, R)
        r = torch.sigmoid(on_c - s * torch.matmul(x, w_s.t()) + bias)
        # Under autocast r and s are float32, and would make all products with x so, too.
        r, s = r.to(x.dtype), s.to(x.dtype)
        return x * (r * g + (1 - r) * s)


class _Spatial(nn.Module):
    """s = sigmoid(gamma conv3x3(x) + omega conv3x3(reshape(relu(Linear(m))))), (B, N, 1)."""

    def __init__(self, stage: Stage, metadata: int, sigmoid: bool) -> None:
        super().__init__()
        self.grid, self.sigmoid = stage.grid, sigmoid
        self.image_conv = nn.Conv2d(stage.channels, 1, 3, padding=1)
        self.meta_map = nn.Linear(metadata, stage.grid[0] * stage.grid[1])
        self.meta_conv = nn.Conv2d(1, 1, 3, padding=1)
        self.gamma = nn.Parameter(torch.ones(1))
        self.omega = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, meta: Tensor) -> Tensor:
        image = self.image_conv(x.unflatten(1, self.grid).permute(0, 3, 1, 2))
        drawn = torch.relu(self.meta_map(meta)).unflatten(1, (1, *self.grid))
        s = self.gamma * image + self.omega * self.meta_conv(drawn)
        s = s.flatten(2).transpose(1, 2)
        return torch.sigmoid(s) if self.sigmoid else s
