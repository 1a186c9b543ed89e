"""Every ablation of SGMC and every reference option is one `--set` or `--loss` away, and trains."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fusionbench.config.plugin_settings import parse_assignments
from fusionbench.config.run_config import RunConfig
from fusionbench.errors import UsageError
from fusionbench.models.backbones import Backbone, build_backbone
from fusionbench.models.fusion_model import FusionModel
from fusionbench.plugin.fusion import Spec
from fusionbench.plugin.loss import CombinedLoss, total
from fusionbench.runs.network_study import load_method

METADATA, CLASSES, SIZE = 6, 3, 64
GUIDED = "ce+self-contrastive"


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return build_backbone("test_resnet", SIZE)


def build(
    backbone: Backbone, assignments: list[str], loss: str = "", fusion: str = "sgmc"
) -> tuple[FusionModel, CombinedLoss]:
    """As a run builds them from what was typed; the weights depend on the settings alone."""
    config = RunConfig.of(fusion=fusion, loss=loss, params=parse_assignments(assignments))
    method = load_method(config)
    spec = Spec(backbone.stages, backbone.width, METADATA, CLASSES, counts=(3, 2, 1))
    torch.manual_seed(0)
    model = FusionModel(copy.deepcopy(backbone), method.fusion.build(spec))
    losses = {name: loss.build(model.spec) for name, loss in method.losses.items()}
    return model, CombinedLoss(losses)


def step(model: FusionModel, loss: CombinedLoss) -> tuple[Tensor, dict[str, float]]:
    """One step of gradient descent: the logits before it, and the terms."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(6, 3, SIZE, SIZE, generator=generator)
    meta = torch.randn(6, METADATA, generator=generator)
    parameters = [*model.parameters(), *loss.parameters()]
    before = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    output = model.train()(image, meta)
    terms = loss.train()(output, torch.tensor([0, 0, 0, 1, 1, 2]))
    total(terms).backward()
    optimizer.step()
    for module in (model.fusion, model.head, loss):
        for name, p in module.named_parameters():
            assert p.grad is not None, f"{name} has no part in the loss"
            assert torch.isfinite(p).all()
    assert any(not torch.equal(p, q) for p, q in zip(parameters, before, strict=True))
    return output.logits.detach(), {name: value.item() for name, value in terms.items()}


def parts(model: nn.Module) -> set[str]:
    """Which parts of which blocks there are: "1.channel", "4.weigh_c", …"""
    names = (name.split(".") for name, _ in model.named_parameters())
    return {f"{int(n[2]) + 1}.{n[3]}" for n in names if n[:2] == ["fusion", "blocks"]}


def every(*names: str, stages: tuple[int, ...] = (1, 2, 3, 4)) -> set[str]:
    return {f"{stage}.{name}" for stage in stages for name in names}


ALL = ("channel", "spatial", "weigh_c", "weigh_s")
ABLATIONS = [
    ([], every(*ALL)),
    (["fusion.stages=1,2,3,4"], every(*ALL)),
    (["fusion.stages=4"], every(*ALL, stages=(4,))),
    (["fusion.stages=3,4"], every(*ALL, stages=(3, 4))),
    (["fusion.cf=off"], every("spatial")),
    (["fusion.sf=off"], every("channel")),
    (["fusion.fr=off"], every("channel", "spatial")),
    (["fusion.fr=channel"], every(*ALL)),
    (["fusion.sem_sigmoid=off"], every(*ALL)),
    (["fusion.stages=2,4", "fusion.fr=off"], every("channel", "spatial", stages=(2, 4))),
]


@pytest.mark.parametrize(
    ("assignments", "expected"), ABLATIONS, ids=[",".join(a) or "whole" for a, _ in ABLATIONS]
)
def test_sgmc_without_a_part_trains_without_it(
    backbone: Backbone, assignments: list[str], expected: set[str]
) -> None:
    model, loss = build(backbone, assignments)
    assert parts(model) == expected
    logits, terms = step(model, loss)
    assert set(terms) == {"ce", "self-contrastive"}
    whole, _ = step(*build(backbone, []))
    same = assignments in ([], ["fusion.stages=1,2,3,4"])
    assert torch.allclose(logits, whole, atol=1e-5) is same


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("ce", {"ce"}),
        ("ce+deep-supervision", {"ce", "deep-supervision"}),
        ("ce+self-contrastive", {"ce", "self-contrastive"}),
        ("ce+self-contrastive+deep-supervision", {"ce", "self-contrastive", "deep-supervision"}),
    ],
)
def test_guidance_off_or_replaced(backbone: Backbone, loss: str, expected: set[str]) -> None:
    model, criterion = build(backbone, [], loss)
    logits, terms = step(model, criterion)
    assert set(terms) == expected
    assert bool(list(criterion.parameters())) is (expected != {"ce"})
    other, with_guidance = step(*build(backbone, [], GUIDED))
    assert torch.equal(logits, other)  # the network is the same, only the loss is not
    assert terms["ce"] == pytest.approx(with_guidance["ce"])


def test_options_of_the_guidance_reach_it(backbone: Backbone) -> None:
    def term(*assignments: str) -> float:
        return step(*build(backbone, list(assignments), GUIDED))[1]["self-contrastive"]

    plain = term()
    assert term("loss.weight=0.2") == pytest.approx(2 * plain, rel=1e-5)
    assert term("loss.per_positive=on") > plain
    values = {plain, term("loss.exclude_self=on"), term("loss.self-contrastive.tau=0.5")}
    assert len(values) == 3


@pytest.mark.parametrize("fusion", ["metanet", "metablock"])
@pytest.mark.parametrize(
    "assignments", [["fusion.mode=map"], ["fusion.mode=map", "fusion.reduce=16"]]
)
def test_late_fusions_in_map_mode(backbone: Backbone, fusion: str, assignments: list[str]) -> None:
    model, loss = build(backbone, assignments, fusion=fusion)
    step(model, loss)
    assert model.head.in_features == (16 if len(assignments) == 2 else backbone.width)


@pytest.mark.parametrize(
    "assignment",
    ["fusion.fr=on", "fusion.cf=perhaps", "fusion.stages=four", "fusion.guidance=off"],
)
def test_what_is_no_option_is_refused(assignment: str) -> None:
    with pytest.raises(UsageError, match=assignment.split("=")[0].split(".")[1]):
        load_method(RunConfig.of(fusion="sgmc", params=parse_assignments([assignment])))
