"""MMTM: a joint squeeze of image and metadata excites the channels of both.

H. R. V. Joze, A. Shaban, M. L. Iuzzolino, K. Koishida, "MMTM: multimodal transfer module for CNN
fusion", CVPR 2020, https://arxiv.org/abs/1911.08670
"""

import torch
from torch import Tensor, nn

from fusionbench.plugin.fusion import Fusion, Spec, chosen_stages


class MMTM(Fusion):
    """z = relu(W_s [GAP(X), m]); X' = X sigmoid(W_x z), m' = m sigmoid(W_m z), which the next
    stage gets; the embedding is [v, m'].

    stages: after which stages, counted from 1; empty: all (ours). ratio: z has 2 (C + M) / ratio
    units; 4 in the authors' code (https://github.com/haamoon/mmtm).
    """

    def __init__(self, spec: Spec, *, stages: tuple[int, ...] = (), ratio: float = 4.0) -> None:
        super().__init__(spec)
        if ratio <= 0:
            raise ValueError(f"ratio={ratio} must be positive")
        self.blocks = nn.ModuleDict()
        for k in chosen_stages(spec, stages):
            both = spec.stages[k].channels + spec.metadata
            width = max(1, int(2 * both / ratio))
            self.blocks[str(k)] = nn.Sequential(
                nn.Linear(both, width), nn.ReLU(), nn.Linear(width, both), nn.Sigmoid()
            )

    def stage(self, k: int, tokens: Tensor, meta: Tensor) -> tuple[Tensor, Tensor]:
        if str(k) not in self.blocks:
            return tokens, meta
        gates = self.blocks[str(k)](torch.cat([tokens.mean(1), meta], dim=1))
        of_image, of_meta = gates.split([tokens.shape[2], meta.shape[1]], dim=1)
        return tokens * of_image[:, None, :], meta * of_meta

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return torch.cat([image, meta], dim=1)
