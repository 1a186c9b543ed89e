"""FT-Transformer on the metadata, beside the image features.

Y. Gorishniy, I. Rubachev, V. Khrulkov, A. Babenko, "Revisiting deep learning models for tabular
data", NeurIPS 2021, https://arxiv.org/abs/2106.11959; cells that were not recorded are masked as in
S. Du, S. Zheng, Y. Wang, W. Bai, D. P. O'Regan, C. Qin, "TIP: tabular-image pre-training for
multimodal classification with incomplete data", ECCV 2024, https://arxiv.org/abs/2407.07582. The
concatenation with the image is ours. `--encoding tokens` puts the same before any other method.
"""

import torch
from torch import Tensor

from fusionbench.plugin.fusion import Fusion, Spec
from fusionbench.plugin.tokens import FTTransformer


class FTTokens(Fusion):
    """[v, CLS]: (B, D), (B, M) -> (B, D + width). The authors' defaults."""

    takes_recorded = True

    def __init__(self, spec: Spec, *, width: int = 192, blocks: int = 3, heads: int = 8) -> None:
        super().__init__(spec)
        self.encoder = FTTransformer(spec, width, blocks, heads)

    def encode(self, meta: Tensor) -> Tensor:
        return self.encoder(meta)

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return torch.cat([image, meta], dim=1)
