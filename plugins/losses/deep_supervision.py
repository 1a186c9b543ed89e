"""Deep supervision: one auxiliary classifier per stage.

C.-Y. Lee, S. Xie, P. Gallagher, Z. Zhang, Z. Tu, "Deeply-supervised nets", AISTATS 2015,
https://proceedings.mlr.press/v38/lee15a.html
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusionbench.plugin.fusion import Spec
from fusionbench.plugin.loss import Loss, Output


class DeepSupervision(Loss):
    """weight * mean over stages of CE(Linear(mean over tokens), target)."""

    reads_logits = False

    def __init__(self, spec: Spec, *, weight: float = 0.1) -> None:
        super().__init__(spec)
        self.weight = weight
        self.heads = nn.ModuleList(nn.Linear(s.channels, spec.classes) for s in spec.stages)

    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        losses = [
            F.cross_entropy(head(tokens.mean(1)).float(), target)
            for head, tokens in zip(self.heads, output.stages, strict=True)
        ]
        return {"deep-supervision": self.weight * torch.stack(losses).mean()}
