"""Focal loss: examples that are classified well count less.

T.-Y. Lin, P. Goyal, R. Girshick, K. He, P. Dollar, "Focal loss for dense object detection",
ICCV 2017, https://doi.org/10.1109/ICCV.2017.324, https://arxiv.org/abs/1708.02002
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fusionbench.plugin.fusion import Spec
from fusionbench.plugin.loss import Loss, Output, balanced_weights


class Focal(Loss):
    """-alpha_y (1 - p_y)^gamma log p_y, in the softmax form: p = softmax(logits).

    gamma 0 is cross-entropy. Alone it weighs by difficulty, not by rarity; class_weights
    "balanced" sets the paper's alpha to fusionbench.plugin.loss.balanced_weights of the training
    rows. The weighted mean divides by the sum of the alphas in the batch, as the loss `ce` does.
    """

    alpha: Tensor | None

    def __init__(
        self,
        spec: Spec,
        *,
        gamma: float = 2.0,
        class_weights: Literal["none", "balanced"] = "none",
    ) -> None:
        super().__init__(spec)
        if not gamma >= 0:
            raise ValueError(f"gamma={gamma} must not be negative")
        alpha = None
        if class_weights == "balanced":
            alpha = balanced_weights(spec)
        self.register_buffer("alpha", alpha)
        self.gamma = gamma

    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        logits = output.logits.to(torch.promote_types(output.logits.dtype, torch.float32))
        log_p = F.log_softmax(logits, dim=1)
        # 1 - p_y in log-space, from the other classes: its power has a finite gradient at p_y = 1.
        mine = F.one_hot(target, self.spec.classes).bool()
        log_rest = log_p.masked_fill(mine, torch.finfo(logits.dtype).min).logsumexp(dim=1)
        losses = -torch.exp(self.gamma * log_rest) * log_p.gather(1, target[:, None])[:, 0]
        if self.alpha is None:
            return {"focal": losses.mean()}
        alpha = self.alpha[target]
        return {"focal": (alpha * losses).sum() / alpha.sum()}
