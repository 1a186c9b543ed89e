"""concat, metanet and metablock against modules written from their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fusionbench.plugin import registry
from fusionbench.plugin.fusion import Fusion, FusionRefused, Spec, Stage

BATCH, METADATA, WIDTH = 6, 9, 128
SPEC = Spec(
    stages=(Stage(12, (4, 3)), Stage(20, (3, 2))), width=WIDTH, metadata=METADATA, classes=4
)


def fusion_class(name: str) -> type[Fusion]:
    return registry.load(registry.find("fusions", name), Fusion)


class TextbookReducer(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(width, hidden), nn.BatchNorm1d(hidden)

    def forward(self, v: Tensor) -> Tensor:
        return torch.clamp(self.norm(self.linear(v)), min=0)  # dropout 0 in these tests


class TextbookMetaNet(nn.Module):
    """Gate = sigmoid(W2 relu(W1 m)), as 1x1 convolutions on a (B, M, 1, 1) map."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(METADATA, hidden, 1)
        self.second = nn.Conv2d(hidden, channels, 1)

    def forward(self, feature_map: Tensor, m: Tensor) -> Tensor:
        gate = torch.sigmoid(self.second(torch.relu(self.first(m[:, :, None, None]))))
        return gate * feature_map


class TextbookMetaBlock(nn.Module):
    """V' = sigmoid(tanh(V f_b(m)) + g_b(m)) on V (B, C, P)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(METADATA, channels), nn.BatchNorm1d(channels))
        self.g = nn.Sequential(nn.Linear(METADATA, channels), nn.BatchNorm1d(channels))

    def forward(self, v: Tensor, m: Tensor) -> Tensor:
        t1, t2 = self.f(m), self.g(m)
        columns = [torch.sigmoid(torch.tanh(v[:, :, p] * t1) + t2) for p in range(v.shape[2])]
        return torch.stack(columns, dim=2)


def same_parameters(fusion: nn.Module, oracle: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Fill the oracle with the fusion's parameters, which come in the same order."""
    pairs = list(zip(fusion.parameters(), oracle.parameters(), strict=True))
    with torch.no_grad():
        for ours, theirs in pairs:
            nn.init.normal_(ours, std=0.5)
            theirs.copy_(ours.reshape(theirs.shape))
    return pairs


def compare(
    got: Tensor, want: Tensor, inputs: list[Tensor], pairs: list[tuple[Tensor, Tensor]]
) -> None:
    """Value, and gradient to inputs and parameters, in float64."""
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    probe = torch.randn_like(got)
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    got_grads = torch.autograd.grad((got * probe).sum(), [*inputs, *ours])
    want_grads = torch.autograd.grad((want * probe).sum(), [*inputs, *theirs])
    for a, b in zip(got_grads, want_grads, strict=True):
        torch.testing.assert_close(a, b.reshape(a.shape), rtol=1e-9, atol=1e-10)


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(11)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("reduce", [0, 16])
def test_metanet_reference(reduce: int, training: bool) -> None:
    fusion = fusion_class("metanet")(SPEC, hidden=5, reduce=reduce, dropout=0.0)
    oracle = nn.ModuleList([TextbookMetaNet(WIDTH // 64, 5)])
    if reduce:
        oracle.append(TextbookReducer(WIDTH, reduce))
    fusion, oracle = fusion.double().train(training), oracle.double().train(training)
    pairs = same_parameters(fusion, oracle)
    image, meta = leaf(BATCH, WIDTH), leaf(BATCH, METADATA)
    want = oracle[0](image.view(BATCH, WIDTH // 64, 8, 8), meta).reshape(BATCH, WIDTH)
    want = oracle[1](want) if reduce else want
    compare(fusion.fuse(image, fusion.encode(meta)), want, [image, meta], pairs)


def test_metanet_map_gates_the_channels_of_the_last_stage_only() -> None:
    fusion = fusion_class("metanet")(SPEC, mode="map", hidden=5).double()
    oracle = TextbookMetaNet(20, 5).double()
    pairs = same_parameters(fusion, oracle)
    tokens, meta = leaf(BATCH, 6, 20), leaf(BATCH, METADATA)
    want = SPEC.to_tokens(1, oracle(SPEC.to_map(1, tokens), meta))
    compare(fusion.stage(1, tokens, meta), want, [tokens, meta], pairs)
    early = leaf(BATCH, 12, 12)
    assert fusion.stage(0, early, meta) is early
    image = leaf(BATCH, WIDTH)
    assert fusion.fuse(image, meta) is image


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("reduce", [0, 16])
def test_metablock_reference(reduce: int, training: bool) -> None:
    fusion = fusion_class("metablock")(SPEC, reduce=reduce, dropout=0.0)
    oracle = nn.ModuleList([TextbookMetaBlock(WIDTH // 32)])
    if reduce:
        oracle.append(TextbookReducer(WIDTH, reduce))
    fusion, oracle = fusion.double().train(training), oracle.double().train(training)
    pairs = same_parameters(fusion, oracle)
    image, meta = leaf(BATCH, WIDTH), leaf(BATCH, METADATA)
    want = oracle[0](image.view(BATCH, WIDTH // 32, 32), meta).reshape(BATCH, WIDTH)
    want = oracle[1](want) if reduce else want
    compare(fusion.fuse(image, fusion.encode(meta)), want, [image, meta], pairs)


def test_metablock_map_on_the_last_stage_only() -> None:
    fusion = fusion_class("metablock")(SPEC, mode="map").double()
    oracle = TextbookMetaBlock(20).double()
    pairs = same_parameters(fusion, oracle)
    tokens, meta = leaf(BATCH, 6, 20), leaf(BATCH, METADATA)
    want = oracle(tokens.transpose(1, 2), meta).transpose(1, 2)
    compare(fusion.stage(1, tokens, meta), want, [tokens, meta], pairs)
    early = leaf(BATCH, 12, 12)
    assert fusion.stage(0, early, meta) is early


def test_metablock_gate_replaces_the_features() -> None:
    fusion = fusion_class("metablock")(SPEC).eval()
    fused = fusion.fuse(100 * torch.randn(BATCH, WIDTH), torch.randn(BATCH, METADATA))
    assert bool(((fused > 0) & (fused < 1)).all())


@pytest.mark.parametrize("training", [True, False])
def test_concat(training: bool) -> None:
    fusion = fusion_class("concat")(SPEC, hidden=16, dropout=0.0).double().train(training)
    oracle = TextbookReducer(WIDTH, 16).double().train(training)
    pairs = same_parameters(fusion, oracle)
    image, meta = leaf(BATCH, WIDTH), leaf(BATCH, METADATA)
    want = torch.cat([oracle(image), meta], dim=1)
    compare(fusion.fuse(image, fusion.encode(meta)), want, [image, meta], pairs)


def test_sizes_of_the_published_models() -> None:
    """ResNet-50's 2,048 features, 20 metadata features: by hand."""
    spec = Spec(
        stages=(Stage(256, (56, 56)), Stage(512, (28, 28))), width=2048, metadata=20, classes=6
    )
    count = {
        name: sum(p.numel() for p in fusion_class(name)(spec).parameters())
        for name in ("none", "concat", "metanet", "metablock")
    }
    assert count == {
        "none": 0,
        "concat": 2048 * 256 + 256 + 2 * 256,
        "metanet": 20 * 64 + 64 + 64 * 32 + 32,
        "metablock": 2 * (20 * 64 + 64 + 2 * 64),
    }


@pytest.mark.parametrize(("name", "unit"), [("metanet", 64), ("metablock", 32)])
def test_widths_that_cannot_be_viewed_are_refused_with_the_nearest(name: str, unit: int) -> None:
    spec = Spec(stages=SPEC.stages, width=5 * unit + 8, metadata=METADATA, classes=4)
    with pytest.raises(FusionRefused) as caught:
        fusion_class(name)(spec)
    assert f"width of {5 * unit + 8} is no multiple of {unit}" in str(caught.value)
    assert f"{5 * unit}, {6 * unit}" in caught.value.remedy
    fusion_class(name)(spec, mode="map")


def test_image_only_is_the_identity() -> None:
    fusion = fusion_class("none")(SPEC)
    image, tokens, meta = leaf(BATCH, WIDTH), leaf(BATCH, 6, 20), leaf(BATCH, METADATA)
    assert fusion.fuse(image, meta) is image
    assert fusion.stage(1, tokens, meta) is tokens
    assert fusion.encode(meta) is meta
