"""A timm model with taps is the timm model, until a fusion changes a stage."""

from __future__ import annotations

import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from fusionbench.errors import BackboneError, PluginError, UsageError
from fusionbench.models.backbones import Backbone, _layout, build_backbone

LAYOUTS = {
    "test_resnet": "NCHW",
    "test_efficientnet": "NCHW",
    "test_convnext": "NCHW",
    "test_byobnet": "NCHW",
    "test_nfnet": "NCHW",
    "test_maxvit": "NCHW",
    "test_mambaout": "NHWC",
    "test_vit": "tokens",
    "test_vit3": "tokens",
}


def same(k: int, tokens: Tensor) -> Tensor:
    return tokens


def layouts(backbone: Backbone) -> list[str]:
    hooks = [backbone.net.get_submodule(tap)._forward_hooks for tap in backbone.taps]
    return [hook.layout.kind for entry in hooks for hook in entry.values()]


@pytest.mark.parametrize("name", LAYOUTS)
def test_identity_is_bit_exact_and_tokens_are_the_stages(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name, 64).eval()
    assert set(layouts(backbone)) == {LAYOUTS[name]}
    sized = {"img_size": 64} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    plain = timm.create_model(name, num_classes=0, **sized).eval()
    plain.load_state_dict(backbone.net.state_dict())
    seen: dict[str, Tensor] = {}
    for tap in backbone.taps:
        plain.get_submodule(tap).register_forward_hook(
            lambda _m, _a, out, tap=tap: seen.__setitem__(tap, out)
        )
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        want = plain(image)
        features, tokens, _ = backbone(image, same)
        replaced = backbone(image, lambda k, t: t * 1).image  # another tensor: written back
    assert torch.equal(features, want)
    assert torch.equal(replaced, want)
    assert features.shape == (2, backbone.width)
    for k, (tap, stage) in enumerate(zip(backbone.taps, backbone.stages, strict=True)):
        height, width = stage.grid
        assert tokens[k].shape == (2, height * width, stage.channels)
        out = seen[tap]
        # One pixel by hand: row 1, column 0.
        pixel = {
            "NCHW": lambda o=out: o[:, :, 1, 0],
            "NHWC": lambda o=out: o[:, 1, 0],
            "tokens": lambda o=out, h=height, w=width: o[:, o.shape[1] - h * w + w],
        }[LAYOUTS[name]]()
        assert torch.equal(tokens[k][:, width], pixel)


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_a_stage_returns_is_what_the_network_goes_on_with(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name, 64).eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        want = backbone(image, same).image
        for changed in range(len(backbone.stages)):

            def shift(k: int, tokens: Tensor, changed: int = changed) -> Tensor:
                return tokens + torch.randn_like(tokens) if k == changed else tokens

            got = backbone(image, shift).image
            assert not torch.allclose(got, want, atol=1e-5), f"stage {changed} goes nowhere"


def test_a_vit_is_not_tapped_where_its_patch_tokens_are_dead() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("test_vit", 64)
    depth = len(backbone.net.blocks)
    assert f"blocks.{depth - 1}" not in backbone.taps
    seen: list[Tensor] = []
    for block in backbone.net.blocks:
        block.register_forward_hook(lambda _m, _a, out: seen.append(out))
    features = backbone(torch.randn(1, 3, 64, 64), same).image
    weights = torch.randn_like(features)
    grads = torch.autograd.grad((features * weights).sum(), seen)
    reaches = [bool(grad[:, 1:].abs().any()) for grad in grads]  # behind the class token
    assert reaches == [True] * (depth - 1) + [False]
    assert bool(grads[-1][:, 0].abs().any())  # only the class token of the last block counts


def test_a_vit_that_averages_its_tokens_may_be_tapped_at_its_last_block() -> None:
    backbone = build_backbone("test_vit3", 64)
    assert backbone.taps[-1] == f"blocks.{len(backbone.net.blocks) - 1}"


def test_a_pyramid_is_tapped_at_its_four_deepest_stages() -> None:
    backbone = build_backbone("resnet18", 64)
    assert backbone.taps == ("layer1", "layer2", "layer3", "layer4")
    assert [s.channels for s in backbone.stages] == [64, 128, 256, 512]
    assert [s.grid for s in backbone.stages] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert backbone.width == 512


def test_the_pretrained_tail_stays() -> None:
    backbone = build_backbone("test_efficientnet", 64)
    assert backbone.width == 256 and backbone.stages[-1].channels == 64
    assert backbone.mean == tuple(backbone.net.default_cfg["mean"])
    assert backbone.std == tuple(backbone.net.default_cfg["std"])


def test_as_many_channels_as_columns_is_decided_by_the_model() -> None:
    out = torch.zeros(2, 8, 8, 8)
    net = nn.Identity()
    assert _layout(net, out, 8).kind == "NCHW"
    net.output_fmt = "NHWC"
    assert _layout(net, out, 8).kind == "NHWC"
    assert _layout(net, torch.zeros(2, 8, 6, 6), 8).kind == "NCHW"
    assert _layout(net, torch.zeros(2, 6, 6, 8), 8).kind == "NHWC"
    assert _layout(net, torch.zeros(2, 6, 6, 9), 8) is None


def test_tokens_need_a_square_grid_behind_their_prefix() -> None:
    net = nn.Identity()
    net.num_prefix_tokens = 1
    layout = _layout(net, torch.zeros(2, 17, 8), 8)
    assert (layout.kind, layout.grid, layout.prefix) == ("tokens", (4, 4), 1)
    before_its_class_token = _layout(net, torch.zeros(2, 16, 8), 8)
    assert (before_its_class_token.grid, before_its_class_token.prefix) == ((4, 4), 0)
    assert _layout(net, torch.zeros(2, 15, 8), 8) is None


def test_a_real_stage_with_as_many_channels_as_columns() -> None:
    """test_mambaout at 64 px: its first stage is 16 x 16 pixels of 16 channels, NHWC."""
    backbone = build_backbone("test_mambaout", 64)
    assert backbone.stages[0].channels == backbone.stages[0].grid[0] == 16
    assert set(layouts(backbone)) == {"NHWC"}


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet5O", "resnet50 "),
        ("hf_hub:timm/resnet18.a1_in1k", "mean resnet18.a1_in1k?"),
        ("timm/resnet18", "mean resnet18?"),
        ("resnet18.nonsense", "resnet18."),
        ("dinov2_vits14", "patch14_dinov2"),
        ("xyzzy", ""),
    ],
)
def test_an_unknown_name_gets_the_nearest_ones(name: str, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_backbone(name, 64)
    assert repr(name) in caught.value.message
    assert near in caught.value.remedy and "fusionbench list backbones" in caught.value.remedy
    assert len(caught.value.remedy) < 200


@pytest.mark.parametrize(
    ("name", "size", "says"),
    [
        ("pit_ti_224", 224, "tuple"),
        ("coat_tiny", 224, "fewer than two of its stages ran"),
        ("test_vit", 90, "at 90 px: its forward fails"),
    ],
)
def test_a_model_that_cannot_be_tapped_is_refused_with_its_reason(
    name: str, size: int, says: str
) -> None:
    with pytest.raises(BackboneError) as caught:
        build_backbone(name, size)
    assert name in caught.value.message and says in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("name", "size"), [("test_vit", 96), ("test_vit", 48), ("test_resnet", 75)]
)
def test_sizes_other_than_the_native_one(name: str, size: int) -> None:
    backbone = build_backbone(name, size).eval()
    features, tokens, _ = backbone(torch.randn(1, 3, size, size), same)
    assert features.shape == (1, backbone.width) and len(tokens) == len(backbone.taps)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet"])
def test_gradient_checkpointing_raises_instead_of_skipping_the_taps(name: str) -> None:
    backbone = build_backbone(name, 64).train()
    backbone.net.set_grad_checkpointing(True)
    with pytest.raises(BackboneError, match="gradient checkpointing"):
        backbone(torch.randn(2, 3, 64, 64), same)
    backbone.net.set_grad_checkpointing(False)
    backbone(torch.randn(2, 3, 64, 64), same)


def test_a_tap_that_is_passed_over_is_noticed() -> None:
    backbone = build_backbone("test_convnext", 64).eval()
    stage = backbone.net.stages[2]
    backbone.net.stages[2] = nn.Sequential(*stage.children())  # the module with the hook is gone
    with pytest.raises(BackboneError, match="3 of 4 taps ran"):
        backbone(torch.randn(1, 3, 64, 64), same)


def test_checkpointing_inside_a_stage_does_no_harm() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("test_convnext", 64).train()
    image, gate = torch.randn(2, 3, 64, 64), torch.full((), 0.5, requires_grad=True)
    grads = []
    for checkpointing in (False, True):
        backbone.net.set_grad_checkpointing(checkpointing)
        features = backbone(image, lambda k, t: t * torch.sigmoid(gate)).image
        grads.append(torch.autograd.grad(features.square().sum(), gate)[0])
    assert torch.allclose(grads[0], grads[1], rtol=1e-5)


def test_a_stage_of_another_shape_is_named() -> None:
    backbone = build_backbone("test_vit", 64)
    with pytest.raises(PluginError, match=r"stage\(0, …\) returned \(1, 15, 64\)"):
        backbone(torch.randn(1, 3, 64, 64), lambda k, t: t[:, 1:])
    assert backbone._flow.stage is None and backbone._flow.tokens == []


def test_the_bare_network_runs_untouched_outside_a_forward() -> None:
    backbone = build_backbone("test_convnext", 64).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        want = backbone(image, same).image
        backbone(image, lambda k, t: 2 * t)
        assert torch.equal(backbone.net(image), want)


def test_a_deep_copy_has_taps_of_its_own() -> None:
    backbone = build_backbone("test_vit", 64).eval()
    copy = deepcopy(backbone)
    image, calls = torch.randn(1, 3, 64, 64), []
    copy(image, lambda k, t: calls.append(k) or t)
    assert calls == [0, 1, 2, 3]
    assert copy._flow is not backbone._flow
    assert len(backbone._flow.tokens) == 0


def test_probing_leaves_the_random_state_and_the_model_alone() -> None:
    torch.manual_seed(5)
    plain = timm.create_model("test_efficientnet", num_classes=0)
    after_plain = torch.rand(1)
    torch.manual_seed(5)
    backbone = build_backbone("test_efficientnet", 64)
    assert torch.equal(torch.rand(1), after_plain)
    assert backbone.net.training
    for (name, want), got in zip(
        plain.state_dict().items(), backbone.net.state_dict().values(), strict=True
    ):
        assert torch.equal(got, want), name


def test_a_drop_path_rate_reaches_the_model() -> None:
    backbone = build_backbone("test_vit", 64, drop_path_rate=0.2)
    rates = [m.drop_prob for m in backbone.net.modules() if hasattr(m, "drop_prob")]
    assert max(rates) == pytest.approx(0.2)


def test_timm_models_are_created_in_one_place_only() -> None:
    package = Path(__file__).parents[1] / "fusionbench"
    users = [p.name for p in package.rglob("*.py") if "timm.create_model(" in p.read_text("utf-8")]
    assert users == ["backbones.py"]


def test_importing_the_registry_costs_no_timm() -> None:
    code = "import sys, fusionbench.plugin.registry; assert 'timm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
