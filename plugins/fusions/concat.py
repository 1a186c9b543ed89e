"""Concatenation of reduced image features with the metadata.

The baseline of A. G. C. Pacheco, R. A. Krohling, "The impact of patient clinical information on
automated skin cancer detection", Computers in Biology and Medicine 116, 2020, 103545,
https://doi.org/10.1016/j.compbiomed.2019.103545
"""

import torch
from torch import Tensor

from fusionbench.plugin.fusion import Fusion, Spec, reducer


class Concat(Fusion):
    """[reducer(image), meta]: (B, D), (B, M) -> (B, hidden + M)."""

    def __init__(self, spec: Spec, *, hidden: int = 256, dropout: float = 0.5) -> None:
        super().__init__(spec)
        self.reduce = reducer(spec.width, hidden, dropout)

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return torch.cat([self.reduce(image), meta], dim=1)
