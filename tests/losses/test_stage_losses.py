"""Losses on the stages of real backbones, pyramids and a ViT, against plain double loops."""

from __future__ import annotations

import math

import pytest
import torch

from fusionbench.models.backbones import build_backbone
from fusionbench.models.fusion_model import FusionModel
from fusionbench.plugin import registry
from fusionbench.plugin.fusion import Fusion, Spec
from fusionbench.plugin.loss import Loss, Output

BACKBONES = ("test_resnet", "test_efficientnet", "test_convnext", "test_vit")
TARGETS = {
    "mixed": [0, 1, 0, 2, 1, 0],
    "one class": [2, 2, 2, 2],
    "one alone": [0, 0, 0, 1],
    "all alone": [0, 1, 2],
}
METADATA, CLASSES = 5, 3


@pytest.fixture(scope="module", params=BACKBONES)
def model(request: pytest.FixtureRequest) -> FusionModel:
    torch.manual_seed(0)
    backbone = build_backbone(request.param, 64)
    spec = Spec(backbone.stages, backbone.width, metadata=METADATA, classes=CLASSES)
    return FusionModel(backbone, registry.load(registry.find("fusions", "sgmc"), Fusion)(spec))


def loss_of(name: str, model: FusionModel, **options: object) -> Loss:
    torch.manual_seed(2)
    return registry.load(registry.find("losses", name), Loss)(model.spec, **options)


def run(model: FusionModel, batch: int) -> Output:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(batch, 3, 64, 64, generator=generator)
    return model.train()(image, torch.randn(batch, METADATA, generator=generator))


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("tau", [0.07, 0.01])
@pytest.mark.parametrize("exclude_self", [False, True])
def test_guidance_equals_a_double_loop(
    model: FusionModel, target: list[int], tau: float, exclude_self: bool
) -> None:
    output = run(model, len(target))
    loss = loss_of("self-contrastive", model, tau=tau, weight=0.3, exclude_self=exclude_self)
    got = loss(output, torch.tensor(target))["self-contrastive"]
    z = [e(s).double().tolist() for e, s in zip(loss.encoders, output.stages, strict=True)]
    terms = []
    for early in z[:-1]:
        for i, label in enumerate(target):
            others = [j for j in range(len(target)) if not (exclude_self and j == i)]
            dots = {j: sum(map(float.__mul__, early[i], z[-1][j])) / tau for j in others}
            positive = [dots[j] for j in others if target[j] == label]
            top = max(
                dots.values()
            )  # Python's doubles would overflow at neither tau, their sum might
            everything = sum(math.exp(d - top) for d in dots.values())
            same = sum(math.exp(d - top) for d in positive)
            terms.append(math.log(everything / same) if positive else 0.0)
    assert got.item() == pytest.approx(0.3 * sum(terms) / len(terms), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_guidance_under_bf16_autocast(model: FusionModel, target: list[int]) -> None:
    """Finite at tau = 0.01, with gradients that reach every stage, and near its float32 value."""
    loss = loss_of("self-contrastive", model, tau=0.01)
    wanted = loss(run(model, len(target)), torch.tensor(target))["self-contrastive"]
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        output = run(model, len(target))
        value = loss(output, torch.tensor(target))["self-contrastive"]
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(g).all() for g in gradients)
    assert all(torch.isfinite(p.grad).all() for p in loss.parameters())
    # bf16 keeps 8 bits of z; a logit is at most 1 / tau = 100
    assert abs(value.item() - wanted.item()) < 0.1 * 100 * 2 * 2**-7
    if target == TARGETS["one class"]:
        assert value.item() == pytest.approx(0, abs=1e-6)


def test_deep_supervision_under_bf16_autocast_reaches_every_stage(model: FusionModel) -> None:
    loss = loss_of("deep-supervision", model)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        output = run(model, 4)
        value = loss(output, torch.tensor([0, 1, 2, 0]))["deep-supervision"]
    value.backward()
    assert value.item() == pytest.approx(0.1 * math.log(CLASSES), rel=0.5)
    for head in loss.heads:
        assert torch.isfinite(head.weight.grad).all() and head.weight.grad.abs().sum() > 0
