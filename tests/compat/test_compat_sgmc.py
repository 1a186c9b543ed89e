"""A plain PyTorch SGMC-Net, written here from its formulas on torchvision's ResNet, gives the same
logits, loss, gradients and statistics after it was read into our modules, and comes back as it was.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from fusionbench import registry
from fusionbench.backbones import build_backbone
from fusionbench.compat.sgmc import from_reference, loss_from_reference, to_reference
from fusionbench.errors import UsageError
from fusionbench.fusion import Fusion
from fusionbench.losses import Output
from fusionbench.model import FusionModel, build_spec

METADATA, CLASSES = 21, 6
SIDES = (56, 28, 14, 7)


class FeatureSelection(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(METADATA, METADATA), nn.BatchNorm1d(METADATA), nn.ReLU())

    def forward(self, meta: Tensor) -> Tensor:
        return self.fc(meta)


class ChannelFusion(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.meta_mapper = nn.Sequential(nn.Linear(METADATA, channels), nn.Sigmoid())

    def forward(self, x: Tensor, meta: Tensor) -> Tensor:
        return x * self.meta_mapper(meta)[:, :, None, None]


class SpatialFusion(nn.Module):
    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.img_conv = nn.Conv2d(channels, 1, 3, padding=1)
        self.meta_mlp = nn.Sequential(nn.Linear(METADATA, side * side), nn.ReLU())
        self.meta_conv = nn.Conv2d(1, 1, 3, padding=1)
        self.gamma = nn.Parameter(torch.ones(1))
        self.omega = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, meta: Tensor) -> Tensor:
        drawn = self.meta_mlp(meta).view(-1, 1, self.side, self.side)
        if drawn.shape[2:] != x.shape[2:]:
            drawn = F.interpolate(drawn, size=x.shape[2:], mode="bilinear", align_corners=False)
        s = self.gamma * self.img_conv(x) + self.omega * self.meta_conv(drawn)
        return x * torch.sigmoid(s)


class FeatureRefinement(nn.Module):
    def __init__(self, channels: int, weights: int) -> None:
        super().__init__()
        self.conv_c = nn.Conv2d(channels, weights, 1)
        self.conv_s = nn.Conv2d(channels, weights, 1)

    def forward(self, c: Tensor, s: Tensor) -> Tensor:
        r = torch.softmax(torch.stack([self.conv_c(c), self.conv_s(s)]), dim=0)
        return r[0] * c + r[1] * s


class ChannelSpatialFusion(nn.Module):
    def __init__(self, channels: int, side: int, weights: int) -> None:
        super().__init__()
        self.cf_block = ChannelFusion(channels)
        self.sf_block = SpatialFusion(channels, side)
        self.fr_block = FeatureRefinement(channels, weights)

    def forward(self, x: Tensor, meta: Tensor) -> Tensor:
        return self.fr_block(self.cf_block(x, meta), self.sf_block(x, meta))


class ContrastEncoder(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, channels, 1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, 128),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.encoder(x), dim=1)


class PlainSGMC(nn.Module):
    """conv1 … layer4 of torchvision, a CSF after each layer, an encoder on each CSF's output."""

    def __init__(self, backbone: str = "resnet18", per_channel: bool = False) -> None:
        super().__init__()
        net = getattr(torchvision.models, backbone)(weights=None)
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            setattr(self, name, getattr(net, name))
        self.fs_block = FeatureSelection()
        for t, side in enumerate(SIDES, start=1):
            channels = net.fc.in_features // 2 ** (4 - t)
            weights = channels if per_channel else 1
            setattr(self, f"csf{t}", ChannelSpatialFusion(channels, side, weights))
            setattr(self, f"encoder{t}", ContrastEncoder(channels))
        self.classifier = nn.Linear(net.fc.in_features, CLASSES)

    def forward(self, image: Tensor, meta: Tensor) -> tuple[Tensor, list[Tensor]]:
        meta = self.fs_block(meta)
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        z = []
        for t in range(1, 5):
            x = getattr(self, f"csf{t}")(getattr(self, f"layer{t}")(x), meta)
            z.append(getattr(self, f"encoder{t}")(x))
        return self.classifier(x.mean((2, 3))), z


def guidance(z: list[Tensor], target: Tensor, tau: float) -> Tensor:
    terms = []
    for early in z[:-1]:
        for i in range(len(target)):
            similar = [torch.exp(early[i] @ z[-1][j] / tau) for j in range(len(target))]
            positive = [s for s, label in zip(similar, target, strict=True) if label == target[i]]
            terms.append(-torch.log(sum(positive) / sum(similar)))
    return sum(terms) / len(terms)


@torch.no_grad()
def shake(model: nn.Module) -> nn.Module:
    """No parameter and no statistic where a new module has it; activations stay of order one."""
    for name, p in model.named_parameters():
        if p.ndim == 1:
            p.add_(0.3 * torch.randn_like(p))
        elif "csf" in name or "fs_block" in name or "classifier" in name:
            p.mul_(2)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.2)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
        else:
            buffer.fill_(7)
    return model


@pytest.fixture(scope="module")
def plain() -> PlainSGMC:
    torch.manual_seed(5)
    return shake(PlainSGMC())


def inputs(batch: int, size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    return (
        torch.randn(batch, 3, size, size, generator=generator),
        torch.randn(batch, METADATA, generator=generator),
    )


@pytest.mark.parametrize("size", [224, 96, 256], ids="{}px".format)
@torch.no_grad()
def test_the_same_logits(plain: PlainSGMC, size: int) -> None:
    model = from_reference(plain.state_dict(), image_size=size).eval()
    image, meta = inputs(2, size)
    want, _ = copy.deepcopy(plain).eval()(image, meta)
    got = model(image, meta).logits
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert want.std() > 0.1  # something to compare
    assert (model(image, meta.flip(0)).logits - got).abs().max() > 1e-3  # the metadata matter


@pytest.mark.parametrize(
    ("backbone", "per_channel", "size"), [("resnet18", True, 64), ("resnet50", False, 96)]
)
@torch.no_grad()
def test_other_shapes_are_read_off_the_state_dict(
    backbone: str, per_channel: bool, size: int
) -> None:
    torch.manual_seed(6)
    plain = shake(PlainSGMC(backbone, per_channel)).eval()
    state = plain.state_dict()
    model = from_reference(state, backbone, image_size=size).eval()
    back = to_reference(model, loss_from_reference(state, model))
    assert all(torch.equal(back[key], value) for key, value in state.items())
    image, meta = (x.double() for x in inputs(2, size))
    want, _ = plain.double()(image, meta)
    torch.testing.assert_close(model.double()(image, meta).logits, want, rtol=0, atol=1e-10)


def test_the_same_loss_gradients_and_statistics_in_training(plain: PlainSGMC) -> None:
    """Batch statistics, in double precision but for the embeddings, which pass through float32."""
    theirs = copy.deepcopy(plain).double().train()
    model = from_reference(theirs.state_dict(), image_size=64).double().train()
    loss = loss_from_reference(theirs.state_dict(), model, weight=0.5, tau=0.2).double()
    (image, meta), target = inputs(6, 64), torch.tensor([0, 1, 0, 2, 1, 0])
    image, meta = image.double(), meta.double()

    logits, z = theirs(image, meta)
    want = F.cross_entropy(logits, target) + 0.5 * guidance(z, target, 0.2)
    output = model(image, meta)
    term = loss(output, target)["self-contrastive"]
    got = F.cross_entropy(output.logits, target) + term
    torch.testing.assert_close(output.logits, logits, rtol=0, atol=1e-10)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert term.item() > 0.1

    want.backward()
    got.backward()
    after, expected = to_reference(model, loss), theirs.state_dict()
    for key, value in expected.items():  # running statistics and counters moved alike
        torch.testing.assert_close(after[key], value, rtol=0, atol=1e-10)
    gradients = _gradients(model, loss)
    for name, p in theirs.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, rtol=1e-4, atol=1e-6)


def _gradients(model: nn.Module, loss: nn.Module) -> dict[str, Tensor]:
    """Gradients under the reference's names: a copy that carries them as its parameters."""
    copies = copy.deepcopy(model), copy.deepcopy(loss)
    for original, twin in zip((model, loss), copies, strict=True):
        for ours, carrier in zip(original.parameters(), twin.parameters(), strict=True):
            carrier.data = ours.grad
    return to_reference(*copies)


@pytest.mark.parametrize("size", [224, 128], ids="{}px".format)
def test_round_trip_bit_for_bit(plain: PlainSGMC, size: int) -> None:
    state = plain.state_dict()
    model = from_reference(state, image_size=size)
    back = to_reference(model, loss_from_reference(state, model))
    assert back.keys() == state.keys()
    for key, value in state.items():
        assert back[key].dtype == value.dtype and torch.equal(back[key], value), key
    PlainSGMC().load_state_dict(back)

    without = to_reference(model)  # what inference needs
    assert set(state) - set(without) == {key for key in state if key.startswith("encoder")}
    again = to_reference(from_reference(without, image_size=size))
    assert all(torch.equal(again[key], value) for key, value in without.items())
    with torch.no_grad():  # copies: the model does not change with them
        without["classifier.bias"].zero_()
        assert model.head.bias.abs().sum() > 0


def test_parameter_counts_are_the_published_ones(plain: PlainSGMC) -> None:
    model = from_reference(plain.state_dict())
    loss = loss_from_reference(plain.state_dict(), model)
    fusion = sum(p.numel() for p in model.fusion.parameters())
    assert fusion == 123_874
    assert fusion + sum(p.numel() for p in loss.parameters()) == 598_306
    by_name = sum(
        p.numel() for n, p in plain.named_parameters() if n.startswith(("fs_", "csf", "encoder"))
    )
    assert by_name == 598_306


def test_counters_may_be_absent(plain: PlainSGMC) -> None:
    state = {k: v for k, v in plain.state_dict().items() if not k.endswith("batches_tracked")}
    model = from_reference(state, image_size=32)
    loss_from_reference(state, model)
    assert int(model.backbone.net.get_buffer("bn1.num_batches_tracked")) == 0


def test_what_does_not_fit_is_named(plain: PlainSGMC) -> None:
    state = dict(plain.state_dict())
    state["csf2.fr_block.conv"] = state.pop("csf2.fr_block.conv_s.weight")
    del state["classifier.bias"]
    with pytest.raises(UsageError) as caught:
        from_reference(state, image_size=32)
    for part in (
        "missing csf2.fr_block.conv_s.weight, classifier.bias",
        "unexpected csf2.fr_block.conv",
    ):
        assert part in caught.value.message

    state = dict(plain.state_dict())
    state["csf3.cf_block.meta_mapper.0.weight"] = torch.zeros(256, 20)
    state["encoder5.encoder.0.weight"] = torch.zeros(1)
    with pytest.raises(UsageError) as caught:
        from_reference(state, image_size=32)
    assert "csf3.cf_block.meta_mapper.0.weight (256, 20) instead of (256, 21)" in str(caught.value)
    assert "unexpected encoder5.encoder.0.weight" in str(caught.value)


def test_what_does_not_fit_among_the_encoders_is_named(plain: PlainSGMC) -> None:
    state = dict(plain.state_dict())
    model = from_reference(state, image_size=32)
    del state["encoder2.encoder.1.running_var"]
    state["encoder1.encoder.2.weight"] = torch.zeros(3)
    with pytest.raises(UsageError) as caught:
        loss_from_reference(state, model)
    assert "missing encoder2.encoder.1.running_var" in str(caught.value)
    assert "unexpected encoder1.encoder.2.weight" in str(caught.value)
    with pytest.raises(UsageError, match="and 20 more"):  # none of the 32
        loss_from_reference({}, model)


def test_the_backbone_is_checked(plain: PlainSGMC) -> None:
    with pytest.raises(UsageError, match="holds a resnet18, not a resnet50"):
        from_reference(plain.state_dict(), "resnet50")
    with torch.device("meta"):
        deep = PlainSGMC("resnet152").state_dict()
    with pytest.raises(UsageError, match="Pass backbone='resnet152'"):
        from_reference(deep)
    with pytest.raises(UsageError, match="convnext_tiny"):
        from_reference(plain.state_dict(), "convnext_tiny")


@pytest.mark.parametrize(
    ("fusion", "backbone", "options", "says"),
    [
        ("sgmc", "resnet18", {"sf": False}, "lacks csf1.sf_block.img_conv, "),
        ("sgmc", "resnet18", {"stages": (4,)}, "lacks csf1.cf_block.meta_mapper.0, "),
        ("concat", "resnet18", {}, "has beside it fusion.reduce"),
        ("sgmc", "test_resnet", {}, "a ResNet's; this model's backbone is test_resnet"),
    ],
)
def test_what_the_layout_cannot_hold_is_refused(
    fusion: str, backbone: str, options: dict[str, object], says: str
) -> None:
    net = build_backbone(backbone, 32)
    spec = build_spec(net, metadata=METADATA, classes=CLASSES)
    plugin = registry.load(registry.find("fusions", fusion), Fusion)
    model = FusionModel(net, plugin(spec, **options))
    with pytest.raises(UsageError, match=says):
        to_reference(model)


def test_settings_that_no_shape_tells(plain: PlainSGMC) -> None:
    state = plain.state_dict()
    image, meta = inputs(3, 32)
    plain_s = from_reference(state, image_size=32).eval()
    raw_s = from_reference(state, image_size=32, sem_sigmoid=False).eval()
    with torch.no_grad():
        output = plain_s(image, meta)
        assert not torch.allclose(output.logits, raw_s(image, meta).logits, atol=1e-3)
        target, terms = torch.tensor([0, 0, 1]), set()
        for options in ({}, {"weight": 1.0}, {"tau": 0.5}, {"exclude_self": True}):
            loss = loss_from_reference(state, plain_s, **options).eval()
            stages = Output(output.logits, output.embedding, output.stages)
            terms.add(round(loss(stages, target)["self-contrastive"].item(), 6))
    assert len(terms) == 4
