"""LDAM-DRW: margins that grow with a class's rarity; re-weighting deferred to the last epochs.

K. Cao, C. Wei, A. Gaidon, N. Arechiga, T. Ma, "Learning imbalanced datasets with
label-distribution-aware margin loss", NeurIPS 2019, https://arxiv.org/abs/1906.07413; its weights
are those of Y. Cui, M. Jia, T.-Y. Lin, Y. Song, S. Belongie, "Class-balanced loss based on
effective number of samples", CVPR 2019, https://arxiv.org/abs/1901.05555
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from fusionbench.plugin.fusion import Spec
from fusionbench.plugin.loss import Loss, Output, class_counts


class LDAM(Loss):
    """Cross-entropy of scale * logits, after taking margin_y from the true class's logit;
    margin_k = max_margin (n_min / n_k)^(1/4).

    From the share `drw_from` of the epochs on, class k weighs (1 - beta) / (1 - beta^n_k), scaled
    to a mean of one over the classes; the mean over a batch divides by the weights in it.
    drw_from 1: never; 0: always. A class without training images counts as the rarest one.

    The paper's networks end in a cosine classifier, whose scores are within -1 and 1. Here the
    model's own linear head stays, so that any fusion goes with it: scores are not bounded, and the
    margins bind less; without the re-weighting they hardly help a rare class. What is evaluated is
    softmax(logits), without `scale`: the same decisions, but probabilities that are less sure than
    those trained, so that nll, brier and ece say little about this loss.
    """

    margins: Tensor
    deferred: Tensor
    weights: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        max_margin: float = 0.5,
        scale: float = 30.0,
        drw_from: float = 0.8,
        beta: float = 0.9999,
    ) -> None:
        super().__init__(spec)
        if not max_margin >= 0:
            raise ValueError(f"max_margin={max_margin} must not be negative")
        if not scale > 0:
            raise ValueError(f"scale={scale} must be positive")
        if not 0 <= drw_from <= 1:
            raise ValueError(f"drw_from={drw_from} is outside 0 <= value <= 1")
        if not 0 <= beta < 1:
            raise ValueError(f"beta={beta} is outside 0 <= value < 1")
        counts = class_counts(spec)
        margins = max_margin * (counts.min() / counts) ** 0.25
        weights = (1 - beta) / (1 - beta**counts)
        self.register_buffer("margins", margins.float())
        self.register_buffer("deferred", (weights / weights.mean()).float())
        # What is in force: ones, then `deferred`.
        self.register_buffer("weights", torch.ones(spec.classes))
        self.scale, self.drw_from = scale, drw_from

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        if epoch - 1 >= self.drw_from * epochs - 1e-9:  # 0.55 * 100 > 55 in floats
            self.weights.copy_(self.deferred)
        else:
            self.weights.fill_(1)

    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        logits = output.logits.to(torch.promote_types(output.logits.dtype, torch.float32))
        logits = self.scale * (logits - F.one_hot(target, self.spec.classes) * self.margins)
        return {"ldam": F.cross_entropy(logits, target, weight=self.weights.to(logits.dtype))}
