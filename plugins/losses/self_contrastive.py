"""Self-contrastive guidance: earlier stages learn to agree with the last one, class by class.

The guidance of SGMC-Net: F. Li, M. Li, E. Zuo, C. Chen, C. Chen, X. Lv, Pattern Recognition 156,
2024, 110742, https://doi.org/10.1016/j.patcog.2024.110742
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusionbench.plugin.fusion import Spec
from fusionbench.plugin.loss import Loss, Output


class SelfContrastive(Loss):
    """z^t of every stage t < T against z^T of the last stage, over the batch.

    -log(sum over same-class j of exp(z_i^t . z_j^T / tau) / sum over all j of the same), averaged
    over the batch and over t, times `weight`; z = L2(Linear(GAP(relu(BN(conv1x1(stage)))))).

    exclude_self: leave j = i out of both sums (a sample alone in its class then counts as zero).
    per_positive: the printed 1/|P| inside the logarithm; adds log|P|, no gradient.
    """

    reads_logits = False

    def __init__(
        self,
        spec: Spec,
        *,
        weight: float = 0.1,
        tau: float = 0.07,
        width: int = 128,
        exclude_self: bool = False,
        per_positive: bool = False,
    ) -> None:
        super().__init__(spec)
        if tau <= 0:
            raise ValueError(f"tau={tau} must be positive")
        self.weight, self.tau = weight, tau
        self.exclude_self, self.per_positive = exclude_self, per_positive
        self.encoders = nn.ModuleList(_Encoder(s.channels, width) for s in spec.stages)

    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        z = [encoder(tokens) for encoder, tokens in zip(self.encoders, output.stages, strict=True)]
        early = torch.stack(z[:-1])  # (T-1, B, width)
        loss = guidance(early, z[-1], target, self.tau, self.exclude_self, self.per_positive)
        return {"self-contrastive": self.weight * loss}


def guidance(
    early: Tensor,
    last: Tensor,
    target: Tensor,
    tau: float,
    exclude_self: bool = False,
    per_positive: bool = False,
) -> Tensor:
    """The mean over (T-1, B) of the log-ratio above; exact in log-space, in float32 or better.

    early (T-1, B, E) and last (B, E), rows of length one; target (B,).
    """
    dtype = torch.promote_types(last.dtype, torch.float32)
    with torch.autocast(last.device.type, enabled=False):
        logits = torch.matmul(early.to(dtype), last.to(dtype).t()) / tau  # (T-1, B, B)
        same = target[:, None] == target[None, :]
        if exclude_self:
            me = torch.eye(len(target), dtype=torch.bool, device=target.device)
            same = same & ~me
            # A finite floor, not -inf: the gradient of logsumexp over nothing but -inf is NaN.
            logits = logits.masked_fill(me, torch.finfo(dtype).min)
        positive = logits.masked_fill(~same, torch.finfo(dtype).min)
        terms = torch.logsumexp(logits, -1) - torch.logsumexp(positive, -1)
        if per_positive:
            terms = terms + same.sum(-1).clamp(min=1).to(dtype).log()
        terms = torch.where(same.any(-1), terms, torch.zeros_like(terms))
        return terms.mean()


class _Encoder(nn.Module):
    """(B, N, C) -> (B, width), rows of length one. conv1x1 on a map is Linear on its tokens."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(channels, channels)
        self.norm = nn.BatchNorm1d(channels)
        self.project = nn.Linear(channels, width)

    def forward(self, tokens: Tensor) -> Tensor:
        mixed = self.mix(tokens)
        mixed = self.norm(mixed.flatten(0, 1)).view_as(mixed)
        return F.normalize(self.project(torch.relu(mixed).mean(1)).float(), dim=-1)
