"""OGM-GE: cross-entropy that slows the modality which is ahead.

X. Peng, Y. Wei, A. Deng, D. Wang, D. Hu, "Balanced multimodal learning via on-the-fly gradient
modulation", CVPR 2022, https://arxiv.org/abs/2203.15332
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from fusionbench.plugin.fusion import Spec
from fusionbench.plugin.loss import Loss, Output


class OGMGELoss(Loss):
    """Cross-entropy. s_u = sum_i softmax(logits of u)_i[y_i], rho_u = s_u / s_other; where rho_u is
    above 1 the gradient at the features of u is multiplied by 1 - tanh(alpha rho_u).

    It needs a fusion that hands on the extras `image`, `metadata`, `image logits` and `metadata
    logits` (`ogm-ge` does); with any other it is plain cross-entropy. The scaling is at the
    features, where it reaches the encoder's whole gradient. ge: standard deviation of the added
    Gaussian noise as a share of the gradient's own; 0 leaves it out (OGM).
    """

    def __init__(self, spec: Spec, *, alpha: float = 0.1, ge: float = 0.0) -> None:
        super().__init__(spec)
        if alpha < 0 or ge < 0:
            raise ValueError(f"alpha={alpha} and ge={ge} must not be negative")
        self.alpha, self.ge = alpha, ge

    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        extras = output.extras
        if "image logits" in extras and torch.is_grad_enabled():
            scores = {
                name: torch.softmax(extras[f"{name} logits"].float(), 1).gather(1, target[:, None])
                for name in ("image", "metadata")
            }
            ratio = scores["image"].sum() / scores["metadata"].sum()
            for name, rho in (("image", ratio), ("metadata", 1 / ratio)):
                scale = torch.where(rho > 1, 1 - torch.tanh(self.alpha * rho), 1.0)
                extras[name].register_hook(partial(_modulated, scale=scale, ge=self.ge))
        return {"ogm-ge": F.cross_entropy(output.logits.float(), target)}


def _modulated(gradient: Tensor, scale: Tensor, ge: float) -> Tensor:
    scaled = gradient * scale.to(gradient.dtype)
    if ge:
        scaled = scaled + torch.randn_like(scaled) * (ge * gradient.std() + 1e-8)
    return scaled
