"""SGMC's one-gate CSF against the form printed in the paper, which builds C and S."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusionbench.models.backbones import build_backbone
from fusionbench.models.fusion_model import FusionModel
from fusionbench.plugin import registry
from fusionbench.plugin.fusion import Fusion, Spec, Stage
from fusionbench.plugin.loss import Loss

SGMC = registry.load(registry.find("fusions", "sgmc"), Fusion)
BATCH, METADATA = 5, 7
SPEC = Spec(
    stages=(Stage(6, (5, 4)), Stage(8, (3, 2)), Stage(10, (2, 2))),
    width=10,
    metadata=METADATA,
    classes=3,
)


def feature_selection(fusion: nn.Module, meta: Tensor) -> Tensor:
    """FS = ReLU(BN(W m + b)), BatchNorm written out with the batch's own statistics."""
    linear, norm, _ = fusion.select
    h = meta @ linear.weight.T + linear.bias
    h = (h - h.mean(0)) / torch.sqrt(h.var(0, unbiased=False) + norm.eps)
    return torch.clamp(h * norm.weight + norm.bias, min=0)


def textbook(fusion: nn.Module, k: int, x: Tensor, m: Tensor) -> Tensor:
    """CSF on a map x (B, C, H, W), each equation by itself."""
    block = fusion.blocks[str(k)]
    height, width = x.shape[2:]
    c_map = s_map = None
    if block.channel is not None:  # CF: C = x g
        g = torch.sigmoid(m @ block.channel.weight.T + block.channel.bias)
        c_map = x * g[:, :, None, None]
    if block.spatial is not None:  # SF: S = x s
        part = block.spatial
        drawn = torch.relu(m @ part.meta_map.weight.T + part.meta_map.bias)
        drawn = drawn.reshape(len(m), 1, height, width)
        image = F.conv2d(x, part.image_conv.weight, part.image_conv.bias, padding=1)
        meta = F.conv2d(drawn, part.meta_conv.weight, part.meta_conv.bias, padding=1)
        s = part.gamma * image + part.omega * meta
        s_map = x * (torch.sigmoid(s) if fusion.sem_sigmoid_for_test else s)
    if c_map is None:
        return s_map
    if s_map is None:
        return c_map
    if block.weigh_c is None:  # FR off
        return (c_map + s_map) / 2
    # FR: two maps of logits by 1x1 convolutions, a softmax over the two
    on_c = F.conv2d(c_map, block.weigh_c.weight[:, :, None, None], block.weigh_c.bias)
    on_s = F.conv2d(s_map, block.weigh_s.weight[:, :, None, None], block.weigh_s.bias)
    r_c, r_s = torch.softmax(torch.stack([on_c, on_s]), dim=0)
    return r_c * c_map + r_s * s_map


OPTIONS = [
    {"fr": fr, "sem_sigmoid": sigmoid, "cf": cf, "sf": sf, "stages": stages}
    for fr, sigmoid, (cf, sf), stages in itertools.product(
        ("pixel", "channel", "off"),
        (True, False),
        ((True, True), (True, False), (False, True)),
        ((), (2,), (1, 3)),
    )
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
def test_one_gate_form_equals_the_textbook(options: dict[str, object]) -> None:
    torch.manual_seed(3)
    fusion = SGMC(SPEC, **options).double().train()
    fusion.sem_sigmoid_for_test = options["sem_sigmoid"]
    for p in fusion.parameters():
        nn.init.normal_(p, std=0.5)
    meta = torch.randn(BATCH, METADATA, dtype=torch.float64, requires_grad=True)
    maps = [
        torch.randn(BATCH, s.channels, *s.grid, dtype=torch.float64, requires_grad=True)
        for s in SPEC.stages
    ]
    probes = [torch.randn_like(x) for x in maps]
    inputs = [meta, *maps, *fusion.parameters()]

    encoded = fusion.encode(meta)
    got = [
        SPEC.to_map(k, fusion.stage(k, SPEC.to_tokens(k, x), encoded)) for k, x in enumerate(maps)
    ]
    m = feature_selection(fusion, meta)
    chosen = options["stages"] or (1, 2, 3)
    want = [textbook(fusion, k, x, m) if k + 1 in chosen else x for k, x in enumerate(maps)]
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)

    got_grads, want_grads = (
        torch.autograd.grad(
            sum((o * p).sum() for o, p in zip(outputs, probes, strict=True)),
            inputs,
            allow_unused=True,
        )
        for outputs in (got, want)
    )
    for a, b in zip(got_grads, want_grads, strict=True):
        assert a is not None
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_options_are_not_the_same_function() -> None:
    """Otherwise the comparison above would prove little."""
    torch.manual_seed(0)
    x, meta = torch.randn(BATCH, 20, 6), torch.randn(BATCH, METADATA)
    seen = []
    for options in (
        {},
        {"fr": "channel"},
        {"fr": "off"},
        {"cf": False},
        {"sf": False},
        {"sem_sigmoid": False},
        {"stages": (2,)},
    ):
        torch.manual_seed(1)
        fusion = SGMC(SPEC, **options).eval()
        seen.append(fusion.stage(0, x, fusion.encode(meta)))
    for a, b in itertools.combinations(seen, 2):
        assert not torch.allclose(a, b, atol=1e-4)


def test_feature_selection_updates_its_batchnorm_once_per_forward() -> None:
    backbone = build_backbone("test_efficientnet", 64)
    spec = Spec(backbone.stages, backbone.width, metadata=METADATA, classes=3)
    model = FusionModel(backbone, SGMC(spec)).train()
    before = int(model.fusion.select[1].num_batches_tracked)
    model(torch.randn(2, 3, 64, 64), torch.randn(2, METADATA))
    assert int(model.fusion.select[1].num_batches_tracked) == before + 1


def test_sizes_on_resnet18() -> None:
    """The whole method at 224 px, 21 metadata features, 6 classes, counted by hand below."""
    backbone = build_backbone("resnet18", 224)
    spec = Spec(backbone.stages, backbone.width, metadata=21, classes=6)
    model = FusionModel(backbone, SGMC(spec))
    stages = [(64, 56), (128, 28), (256, 14), (512, 7)]
    by_hand = 21 * 21 + 21 + 2 * 21  # FS: Linear, BatchNorm
    for channels, side in stages:
        by_hand += 21 * channels + channels  # CF
        by_hand += 9 * channels + 1 + 21 * side**2 + side**2 + 9 + 1 + 2  # SF
        by_hand += 2 * (channels + 1)  # FR
    fusion = sum(p.numel() for p in model.fusion.parameters())
    assert fusion == by_hand == 123_874
    contrast = registry.load(registry.find("losses", "self-contrastive"), Loss)(model.spec)
    encoders = sum(c * c + c + 2 * c + 128 * c + 128 for c, _ in stages)
    assert sum(p.numel() for p in contrast.parameters()) == encoders
    assert fusion + encoders == 598_306


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"stages": (4,)}, "stages 1 to 3"),
        ({"stages": (0,)}, "stages"),
        ({"cf": False, "sf": False}, "both off"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        SGMC(SPEC, **options)
