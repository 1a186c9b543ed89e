"""The bilinear family: image and metadata meet in products of their projections.

member  lmf       Z. Liu, Y. Shen, V. B. Lakshminarasimhan, et al., "Efficient low-rank multimodal
                  fusion with modality-specific factors", ACL 2018, https://arxiv.org/abs/1806.00064
        mlb       J.-H. Kim, K.-W. On, W. Lim, et al., "Hadamard product for low-rank bilinear
                  pooling", ICLR 2017, https://arxiv.org/abs/1610.04325
        mfb       Z. Yu, J. Yu, J. Fan, D. Tao, "Multi-modal factorized bilinear pooling with
                  co-attention learning", ICCV 2017, https://arxiv.org/abs/1708.01471
        mutan     H. Ben-younes, R. Cadene, M. Cord, N. Thome, "MUTAN: multimodal Tucker fusion",
                  ICCV 2017, https://arxiv.org/abs/1705.06676
        hadamard  the product of W v and the encoded metadata
        max       their maximum
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusionbench.plugin.fusion import Fusion, Spec

# Width and rank (mfb: factor) that the authors use; lmf's and the last two's are ours.
SIZES = {
    "lmf": (256, 4), "mlb": (1200, 1), "mfb": (1200, 2), "mutan": (1600, 15),
    "hadamard": (256, 1), "max": (256, 1),
}  # fmt: skip


class Bilinear(Fusion):
    """(B, D), (B, M) -> (B, width).

    lmf: sum_r w_r (A_r [1, v]) (B_r [1, m]) + b. mlb: tanh(U v) tanh(V m). mfb: sums of `rank`
    products relu(U v) relu(V m). mutan: sum_r tanh(U_r v) tanh(V_r m). hadamard: (U v)(V m).
    max: max(U v, V m).
    width, rank: 0 takes the member's own. normalise: signed square root and L2, as mfb may have.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        member: Literal["lmf", "mlb", "mfb", "mutan", "hadamard", "max"] = "lmf",
        width: int = 0,
        rank: int = 0,
        normalise: bool = False,
    ) -> None:
        super().__init__(spec)
        self.member, self.normalise = member, normalise
        self.width, self.rank = width or SIZES[member][0], rank or SIZES[member][1]
        self.image = nn.Linear(spec.width, self.width * self.rank)
        self.metadata = nn.Linear(spec.metadata, self.width * self.rank)
        if member == "lmf":
            self.weights = nn.Parameter(torch.randn(self.rank) / self.rank**0.5)
            self.bias = nn.Parameter(torch.zeros(self.width))

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        v = self.image(image).unflatten(1, (self.rank, self.width))
        m = self.metadata(meta).unflatten(1, (self.rank, self.width))
        if self.member == "lmf":
            fused = torch.einsum("brw,r->bw", v * m, self.weights) + self.bias
        elif self.member in ("mlb", "mutan"):
            fused = (torch.tanh(v) * torch.tanh(m)).sum(1)
        elif self.member == "mfb":
            fused = (torch.relu(v) * torch.relu(m)).sum(1)
        else:
            fused = (torch.maximum(v, m) if self.member == "max" else v * m).sum(1)
        if self.normalise:
            fused = F.normalize(fused.sign() * (fused.abs() + 1e-12).sqrt(), dim=1)
        return fused
