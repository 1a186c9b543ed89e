"""SGMC from the textbook computes what the plugins compute, so that its speed is comparable."""

from __future__ import annotations

import pytest
import torch
from benchmarks.textbook_sgmc import TextbookGuidance, TextbookSGMC
from torch import Tensor, nn

from fusionbench.models.backbones import build_backbone
from fusionbench.models.fusion_model import FusionModel
from fusionbench.plugin import registry
from fusionbench.plugin.fusion import Fusion, Spec
from fusionbench.plugin.loss import CombinedLoss, Loss, total

BATCH, METADATA, CLASSES = 6, 5, 3


def _plugin(kind: str, name: str, base: type) -> type:
    return registry.load(registry.find(kind, name), base)


def _built(fusion: type[Fusion], guidance: type[Loss]) -> nn.ModuleDict:
    torch.manual_seed(0)
    backbone = build_backbone("test_resnet", 32)
    spec = Spec(backbone.stages, backbone.width, metadata=METADATA, classes=CLASSES)
    model = FusionModel(backbone, fusion(spec))
    ce = _plugin("losses", "ce", Loss)(model.spec)
    loss = CombinedLoss({"ce": ce, "self-contrastive": guidance(model.spec)})
    return nn.ModuleDict({"model": model, "loss": loss}).double().train()


def _stepped(both: nn.ModuleDict) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Outputs and loss terms; gradients and BatchNorm's statistics stay in the modules."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(BATCH, 3, 32, 32, generator=generator, dtype=torch.float64)
    meta = torch.randn(BATCH, METADATA, generator=generator, dtype=torch.float64)
    output = both["model"](image, meta)
    terms = both["loss"](output, torch.tensor([0, 1, 0, 2, 1, 0]))
    total(terms).backward()
    return [output.logits, output.embedding, *output.stages], terms


def test_outputs_losses_gradients_and_statistics_are_those_of_the_plugins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The plugins leave autocast with .float(), which would round what is double here.
    monkeypatch.setattr(Tensor, "float", lambda self: self)
    ours = _built(_plugin("fusions", "sgmc", Fusion), _plugin("losses", "self-contrastive", Loss))
    textbook = _built(TextbookSGMC, TextbookGuidance)
    for p in ours.parameters():
        nn.init.normal_(p, std=0.3)
    values = ours.state_dict()
    shapes = {name: value.shape for name, value in textbook.state_dict().items()}
    assert shapes.keys() == values.keys()
    textbook.load_state_dict({k: v.reshape(shapes[k]) for k, v in values.items()})

    (got, got_terms), (want, want_terms) = _stepped(textbook), _stepped(ours)
    close = {"rtol": 1e-8, "atol": 1e-8}
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, **close)
    assert got_terms.keys() == want_terms.keys() == {"ce", "self-contrastive"}
    for name, term in want_terms.items():
        torch.testing.assert_close(got_terms[name], term, **close)
    of_plugin = dict(ours.named_parameters())
    for name, p in textbook.named_parameters():
        other = of_plugin[name].grad
        assert p.grad is not None and other is not None, name
        torch.testing.assert_close(p.grad.flatten(), other.flatten(), **close, msg=name)
    buffers = dict(ours.named_buffers())
    for name, b in textbook.named_buffers():
        torch.testing.assert_close(b, buffers[name], **close)
