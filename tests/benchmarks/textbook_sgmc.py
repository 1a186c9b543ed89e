"""SGMC written equation by equation, in the style of published code: an oracle for the plugins, and
what their speed is compared with.

The same functions as plugins/fusions/sgmc.py (default settings) and plugins/losses/
self_contrastive.py, with parameters of the same names and sizes, so that values can be carried
over. CSF builds both maps C and S and weighs them with a softmax over two; the guidance goes
through the batch in a Python loop.

F. Li, M. Li, E. Zuo, C. Chen, C. Chen, X. Lv, Pattern Recognition 156, 2024, 110742,
https://doi.org/10.1016/j.patcog.2024.110742
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusionbench.plugin.fusion import Fusion, Spec, Stage
from fusionbench.plugin.loss import Loss, Output


class TextbookSGMC(Fusion):
    """FS once, CSF after every stage, on maps (B, C, H, W)."""

    default_loss = "ce+self-contrastive"

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.select = nn.Sequential(
            nn.Linear(spec.metadata, spec.metadata), nn.BatchNorm1d(spec.metadata), nn.ReLU()
        )
        self.blocks = nn.ModuleDict(
            {str(k): _CSF(stage, spec.metadata) for k, stage in enumerate(spec.stages)}
        )

    def encode(self, meta: Tensor) -> Tensor:
        return self.select(meta)

    def stage(self, k: int, tokens: Tensor, meta: Tensor) -> Tensor:
        fused = self.blocks[str(k)](self.spec.to_map(k, tokens), meta)
        return self.spec.to_tokens(k, fused)


class _CSF(nn.Module):
    """F = R_c * C + R_s * S, (R_c, R_s) = softmax over (conv1x1(C), conv1x1(S)) at every pixel."""

    def __init__(self, stage: Stage, metadata: int) -> None:
        super().__init__()
        self.channel = nn.Linear(metadata, stage.channels)
        self.spatial = _Spatial(stage, metadata)
        self.weigh_c = nn.Conv2d(stage.channels, 1, 1)
        self.weigh_s = nn.Conv2d(stage.channels, 1, 1)

    def forward(self, x: Tensor, meta: Tensor) -> Tensor:
        """(B, C, H, W), (B, M) -> (B, C, H, W)"""
        c = x * torch.sigmoid(self.channel(meta))[:, :, None, None]
        s = x * self.spatial(x, meta)
        weights = torch.softmax(torch.cat([self.weigh_c(c), self.weigh_s(s)], dim=1), dim=1)
        return weights[:, :1] * c + weights[:, 1:] * s


class _Spatial(nn.Module):
    """s = sigmoid(gamma conv3x3(x) + omega conv3x3(reshape(relu(Linear(m))))), (B, 1, H, W)."""

    def __init__(self, stage: Stage, metadata: int) -> None:
        super().__init__()
        self.grid = stage.grid
        self.image_conv = nn.Conv2d(stage.channels, 1, 3, padding=1)
        self.meta_map = nn.Linear(metadata, stage.grid[0] * stage.grid[1])
        self.meta_conv = nn.Conv2d(1, 1, 3, padding=1)
        self.gamma = nn.Parameter(torch.ones(1))
        self.omega = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, meta: Tensor) -> Tensor:
        drawn = torch.relu(self.meta_map(meta)).view(-1, 1, *self.grid)
        s = self.gamma * self.image_conv(x) + self.omega * self.meta_conv(drawn)
        return torch.sigmoid(s)


class TextbookGuidance(Loss):
    """-log(sum over same-class j of exp(z_i^t . z_j^T / tau) / sum over all j), sample by sample,
    averaged over the batch and over the stages t < T, times `weight`."""

    def __init__(
        self, spec: Spec, *, weight: float = 0.1, tau: float = 0.07, width: int = 128
    ) -> None:
        super().__init__(spec)
        self.weight, self.tau = weight, tau
        self.encoders = nn.ModuleList(_Encoder(stage.channels, width) for stage in spec.stages)

    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        *early, last = (
            encoder(self.spec.to_map(k, tokens))
            for k, (encoder, tokens) in enumerate(zip(self.encoders, output.stages, strict=True))
        )
        loss = last.new_zeros(())
        for stage in early:
            for i in range(len(target)):
                similar = torch.exp(last @ stage[i] / self.tau)  # (B,)
                same = (target == target[i]).to(similar.dtype)
                loss = loss - torch.log((similar * same).sum() / similar.sum())
        return {"self-contrastive": self.weight * loss / (len(early) * len(target))}


class _Encoder(nn.Module):
    """(B, C, H, W) -> (B, width), rows of length one."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        self.project = nn.Linear(channels, width)

    def forward(self, map_: Tensor) -> Tensor:
        pooled = torch.relu(self.norm(self.mix(map_))).mean((2, 3))
        return F.normalize(self.project(pooled), dim=1)
