"""Concatenation of image features with the metadata.

The baseline of A. G. C. Pacheco, R. A. Krohling, "The impact of patient clinical information on
automated skin cancer detection", Computers in Biology and Medicine 116, 2020, 103545,
https://doi.org/10.1016/j.compbiomed.2019.103545. Presets with a network on the metadata:

siim-2020     Q. Ha, B. Liu, F. Liu, "Identifying melanoma images using EfficientNet ensemble:
              winning solution to the SIIM-ISIC melanoma classification challenge", 2020,
              https://arxiv.org/abs/2010.05351
gessert-2019  N. Gessert, M. Nielsen, M. Shaikh, R. Werner, A. Schlaefer, "Skin lesion
              classification using ensembles of multi-resolution EfficientNets with meta data",
              MethodsX 7, 2020, 100864, https://doi.org/10.1016/j.mex.2020.100864
"""

from typing import Literal

import torch
from torch import Tensor, nn

from fusionbench.plugin.fusion import Fusion, Spec, reducer


class Concat(Fusion):
    """preset "none": [reducer(image), meta], (B, D), (B, M) -> (B, hidden + M).

    siim-2020: [image, m'], m' = Linear(512)-BN-SiLU-Dropout .3-Linear(128)-BN-SiLU; the logits are
    the mean of one linear layer under five dropouts of .5. gessert-2019: [image, m'] through
    Linear(1024)-BN-ReLU, m' = twice Linear(256)-BN-ReLU-Dropout .4.
    hidden, dropout: of the reducer.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        preset: Literal["none", "siim-2020", "gessert-2019"] = "none",
        hidden: int = 256,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(spec)
        self.preset = preset
        self.image: nn.Module = nn.Identity()
        self.metadata: nn.Module = nn.Identity()
        self.join: nn.Module = nn.Identity()
        if preset == "none":
            self.image = reducer(spec.width, hidden, dropout)
        elif preset == "siim-2020":
            self.metadata = nn.Sequential(
                nn.Linear(spec.metadata, 512), nn.BatchNorm1d(512), nn.SiLU(), nn.Dropout(0.3),
                nn.Linear(512, 128), nn.BatchNorm1d(128), nn.SiLU(),
            )  # fmt: skip
        else:
            self.metadata = nn.Sequential(reducer(spec.metadata, 256, 0.4), reducer(256, 256, 0.4))
            self.join = reducer(spec.width + 256, 1024, 0.0)

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return self.join(torch.cat([self.image(image), self.metadata(meta)], dim=1))

    def head(self, width: int) -> nn.Module:
        linear = nn.Linear(width, self.spec.classes)
        return _FiveDropouts(linear) if self.preset == "siim-2020" else linear


class _FiveDropouts(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear, self.drop = linear, nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.linear(x)
        return torch.stack([self.linear(self.drop(x)) for _ in range(5)]).mean(0)
