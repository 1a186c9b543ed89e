"""Balanced softmax, or training-time logit adjustment: the class frequencies join the logits.

J. Ren, C. Yu, S. Sheng, X. Ma, H. Zhao, S. Yi, H. Li, "Balanced meta-softmax for long-tailed
visual recognition", NeurIPS 2020, https://arxiv.org/abs/2007.10740 (tau = 1); A. K. Menon,
S. Jayasumana, A. S. Rawat, H. Jain, A. Veit, S. Kumar, "Long-tail learning via logit adjustment",
ICLR 2021, https://openreview.net/forum?id=37nvvqkCo5 (any tau, eq. 10)
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from fusionbench.plugin.fusion import Spec
from fusionbench.plugin.loss import Loss, Output, class_counts


class BalancedSoftmax(Loss):
    """Cross-entropy of logits + tau log(n_k / n), n_k from the training rows.

    Only training adds the term: the logits that are evaluated are those for equally frequent
    classes. tau 0 is cross-entropy. A class without training images counts as the rarest one.
    """

    adjustment: Tensor

    def __init__(self, spec: Spec, *, tau: float = 1.0) -> None:
        super().__init__(spec)
        if not tau >= 0:
            raise ValueError(f"tau={tau} must not be negative")
        counts = class_counts(spec)
        self.register_buffer("adjustment", (tau * (counts / counts.sum()).log()).float())

    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        logits = output.logits.to(torch.promote_types(output.logits.dtype, torch.float32))
        return {"balanced-softmax": F.cross_entropy(logits + self.adjustment, target)}
