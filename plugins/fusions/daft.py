"""DAFT: image and metadata together scale and shift the channels of one stage.

T. N. Wolf, S. Pölsterl, C. Wachinger, "DAFT: a universal module to interweave tabular data and 3D
images in CNNs", NeuroImage 260, 2022, 119505, https://arxiv.org/abs/2107.05990

It stands after a stage. The paper puts it inside the last residual block, before the shortcut is
added; that place is not the same in every backbone, so it is left out here.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from fusionbench.plugin.fusion import Fusion, Spec, chosen_stages


class DAFT(Fusion):
    """[alpha, beta] = W2 relu(W1 [GAP(X), m]), without biases; X' = alpha X + beta.

    stage: after which stage, counted from 1; 0: the last but one, before the last block.
    bottleneck: width between W1 and W2. activation: of alpha.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        stage: int = 0,
        bottleneck: int = 7,
        activation: Literal["linear", "sigmoid", "tanh"] = "linear",
    ) -> None:
        super().__init__(spec)
        (self.at,) = chosen_stages(spec, (stage or max(1, len(spec.stages) - 1),))
        channels = spec.stages[self.at].channels
        self.activation = {
            "linear": nn.Identity(), "sigmoid": nn.Sigmoid(), "tanh": nn.Tanh()
        }[activation]  # fmt: skip
        self.transform = nn.Sequential(
            nn.Linear(channels + spec.metadata, bottleneck, bias=False),
            nn.ReLU(),
            nn.Linear(bottleneck, 2 * channels, bias=False),
        )

    def stage(self, k: int, tokens: Tensor, meta: Tensor) -> Tensor:
        if k != self.at:
            return tokens
        both = torch.cat([tokens.mean(1), meta], dim=1)
        scale, shift = self.transform(both)[:, None, :].chunk(2, dim=2)
        return self.activation(scale) * tokens + shift
