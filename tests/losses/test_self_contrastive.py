"""Self-contrastive guidance against two plain Python loops."""

from __future__ import annotations

import itertools
import math
import sys

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fusionbench.plugin import registry
from fusionbench.plugin.fusion import Spec, Stage
from fusionbench.plugin.loss import Loss, Output

SelfContrastive = registry.load(registry.find("losses", "self-contrastive"), Loss)
SPEC = Spec(
    stages=(Stage(4, (3, 2)), Stage(6, (2, 2)), Stage(8, (1, 1))),
    width=8,
    metadata=3,
    classes=4,
    embedding=8,
)
TARGETS = {
    "mixed": [0, 1, 0, 2, 1, 0],
    "one class": [2, 2, 2, 2],
    "one alone": [0, 0, 0, 3],
    "all alone": [0, 1, 2, 3],
    "single": [1],
}


def encode(encoder: torch.nn.Module, tokens: Tensor) -> Tensor:
    """conv1x1, BatchNorm with the batch's statistics, ReLU, mean over positions, Linear, L2."""
    x = tokens.permute(0, 2, 1)[..., None]  # (B, C, N, 1)
    x = F.conv2d(x, encoder.mix.weight[:, :, None, None], encoder.mix.bias)
    mean = x.mean((0, 2, 3), keepdim=True)
    var = x.var((0, 2, 3), unbiased=False, keepdim=True)
    x = (x - mean) / torch.sqrt(var + encoder.norm.eps)
    x = x * encoder.norm.weight[None, :, None, None] + encoder.norm.bias[None, :, None, None]
    x = torch.relu(x).mean((2, 3)) @ encoder.project.weight.T + encoder.project.bias
    return x / x.norm(dim=1, keepdim=True)


def loops(
    z: list[Tensor], target: list[int], tau: float, exclude_self: bool, per_positive: bool
) -> Tensor:
    batch, terms = len(target), []
    for early in z[:-1]:
        for i in range(batch):
            positive, everything, count = [], [], 0
            for j in range(batch):
                if exclude_self and i == j:
                    continue
                similarity = torch.exp((early[i] * z[-1][j]).sum() / tau)
                everything.append(similarity)
                if target[i] == target[j]:
                    positive.append(similarity)
                    count += 1
            if not positive:
                terms.append(torch.zeros((), dtype=torch.float64))
                continue
            ratio = sum(positive) / sum(everything)
            terms.append(-torch.log(ratio / count if per_positive else ratio))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize(
    ("exclude_self", "per_positive"), list(itertools.product([False, True], repeat=2))
)
@pytest.mark.parametrize("tau", [0.07, 1.0])
def test_value_and_gradient_equal_plain_loops(
    target: list[int], exclude_self: bool, per_positive: bool, tau: float
) -> None:
    """On the embeddings z, in float64: the loss itself."""
    guidance = sys.modules[SelfContrastive.__module__].guidance
    torch.manual_seed(0)
    raw = torch.randn(3, len(target), 16, dtype=torch.float64, requires_grad=True)
    z = list(F.normalize(raw, dim=-1))
    got = guidance(
        torch.stack(z[:-1]), z[-1], torch.tensor(target), tau, exclude_self, per_positive
    )
    want = loops(z, target, tau, exclude_self, per_positive)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    (got_grad,) = torch.autograd.grad(got, raw, retain_graph=True)
    (want_grad,) = (
        torch.autograd.grad(want, raw) if want.requires_grad else (torch.zeros_like(raw),)
    )
    torch.testing.assert_close(got_grad, want_grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("exclude_self", [False, True])
def test_the_whole_loss_with_its_encoders(exclude_self: bool) -> None:
    torch.manual_seed(1)
    loss = SelfContrastive(SPEC, weight=0.3, tau=0.2, width=5, exclude_self=exclude_self).double()
    target = TARGETS["mixed"]
    stages = [
        torch.randn(6, s.grid[0] * s.grid[1], s.channels, dtype=torch.float64, requires_grad=True)
        for s in SPEC.stages
    ]
    output = Output(torch.zeros(6, 4), torch.zeros(6, 8), tuple(stages))
    got = loss(output, torch.tensor(target))["self-contrastive"]
    z = [encode(e, t) for e, t in zip(loss.encoders, stages, strict=True)]
    want = 0.3 * loops(z, target, 0.2, exclude_self, False)
    # The embeddings pass through float32.
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)
    got_grads = torch.autograd.grad(got, [*stages, *loss.parameters()], retain_graph=True)
    want_grads = torch.autograd.grad(want, [*stages, *loss.parameters()])
    for a, b in zip(got_grads, want_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_options_change_what_they_say() -> None:
    guidance = sys.modules[SelfContrastive.__module__].guidance
    torch.manual_seed(0)
    raw = torch.randn(3, 6, 16, dtype=torch.float64, requires_grad=True)
    target = torch.tensor(TARGETS["mixed"])
    value, grad = {}, {}
    for option in ("plain", "exclude_self", "per_positive"):
        z = F.normalize(raw, dim=-1)
        switches = {option: True} if option != "plain" else {}
        value[option] = guidance(z[:-1], z[-1], target, 0.07, **switches)
        (grad[option],) = torch.autograd.grad(value[option], raw)
    assert torch.allclose(grad["plain"], grad["per_positive"], atol=1e-12)  # changes only the value
    log_counts = torch.tensor([math.log(TARGETS["mixed"].count(t)) for t in TARGETS["mixed"]])
    assert math.isclose(
        float((value["per_positive"] - value["plain"]).detach()),
        float(log_counts.mean()),
        rel_tol=1e-6,
    )
    assert not torch.allclose(grad["plain"], grad["exclude_self"], atol=1e-3)


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_small_temperature_does_not_overflow_in_bf16(target: list[int], exclude_self: bool) -> None:
    torch.manual_seed(0)
    loss = SelfContrastive(SPEC, tau=0.01, exclude_self=exclude_self)
    if len(target) == 1:
        loss.eval()  # BatchNorm of a 1x1 stage needs two samples in training
    stages = [
        (50 * torch.randn(len(target), s.grid[0] * s.grid[1], s.channels))
        .bfloat16()
        .requires_grad_()
        for s in SPEC.stages
    ]
    with torch.autocast("cpu", torch.bfloat16):
        output = Output(torch.zeros(1), torch.zeros(1), tuple(stages))
        value = loss(output, torch.tensor(target))["self-contrastive"]
    value.backward()
    assert torch.isfinite(value)
    for tensor in (*stages, *loss.parameters()):
        assert torch.isfinite(tensor.grad).all()


def test_a_perfect_embedding_costs_nothing_and_a_random_one_costs() -> None:
    guidance = sys.modules[SelfContrastive.__module__].guidance
    target = torch.tensor([0, 0, 1, 1])
    perfect = F.one_hot(target, 4).float()
    assert float(guidance(perfect[None], perfect, target, 0.05)) < 1e-6
    assert float(guidance(perfect.flip(0)[None], perfect, target, 0.05)) > 10


def test_temperature_must_be_positive() -> None:
    with pytest.raises(ValueError, match="tau=0"):
        SelfContrastive(SPEC, tau=0)
