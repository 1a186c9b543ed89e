"""Every registered plugin keeps its contract; nothing registered goes without one."""

from __future__ import annotations

import pytest

from fusionbench.contract import assert_ok, check_control, check_fusion, check_loss
from fusionbench.contract.control_contract import CONTROL_CHECKS
from fusionbench.contract.fusion_contract import FUSION_CHECKS, MICRO_BACKBONES
from fusionbench.contract.loss_contract import LOSS_CHECKS
from fusionbench.plugin import registry
from fusionbench.plugin.control import Control
from fusionbench.plugin.fusion import Fusion
from fusionbench.plugin.loss import Loss

FUSIONS = sorted(registry.discover("fusions"))
LOSSES = sorted(registry.discover("losses"))
CONTROLS = sorted(registry.discover("controls"))
SUITES = {"fusions": FUSIONS, "losses": LOSSES, "controls": CONTROLS}
UNCOMPILED = set(FUSION_CHECKS) - {"compiled"}

# Options that change what is computed, each on one backbone.
FUSION_OPTIONS = [
    ("concat", {"hidden": 16}),
    ("metanet", {"mode": "map"}),
    ("metanet", {"reduce": 16}),
    ("metablock", {"mode": "map"}),
    ("metablock", {"reduce": 16}),
    ("sgmc", {"fr": "channel"}),
    ("sgmc", {"fr": "off"}),
    ("sgmc", {"cf": False}),
    ("sgmc", {"sf": False}),
    ("sgmc", {"sem_sigmoid": False}),
    ("sgmc", {"stages": (2, 4)}),
    ("film", {"stages": (1,)}),
    ("daft", {"activation": "tanh"}),
    ("gmu", {"gate_on_projections": True}),
    ("cross-attention", {"direction": "image-asks"}),
    ("cross-attention", {"direction": "metadata-asks"}),
    ("concat", {"preset": "siim-2020"}),
    ("concat", {"preset": "gessert-2019"}),
    *(("bilinear", {"member": m}) for m in ("mlb", "mfb", "mutan", "hadamard", "max")),
    ("bilinear", {"normalise": True}),
]
LOSS_OPTIONS = [
    ("ce", {"class_weights": "balanced", "label_smoothing": 0.1}),
    ("self-contrastive", {"exclude_self": True}),
    ("self-contrastive", {"per_positive": True, "tau": 0.01}),
    ("deep-supervision", {"weight": 1.0}),
]


def fusion(name: str) -> type[Fusion]:
    return registry.load(registry.find("fusions", name), Fusion)


def loss(name: str) -> type[Loss]:
    return registry.load(registry.find("losses", name), Loss)


@pytest.mark.parametrize("backbone", MICRO_BACKBONES)
@pytest.mark.parametrize("name", FUSIONS)
def test_fusion_keeps_its_contract(name: str, backbone: str) -> None:
    first = backbone == MICRO_BACKBONES[0]  # there with every loss as well
    losses = None if first else {}
    checks = check_fusion(fusion(name), backbones=(backbone,), losses=losses, only=UNCOMPILED)
    assert_ok(checks)
    passed = {c.name for c in checks if c.status == "pass"}
    assert passed >= UNCOMPILED, "a built-in fusion is tried on every micro-backbone"
    tried = {c.subject.split(" + ")[-1] for c in checks if c.name == "loss"}
    assert tried == (set(LOSSES) if first else set())


@pytest.mark.parametrize("name", FUSIONS)
def test_fusion_compiles_whole(name: str) -> None:
    checks = check_fusion(fusion(name), backbones=MICRO_BACKBONES[:1], losses={}, only={"compiled"})
    assert_ok(checks)
    assert [c.status for c in checks if c.name == "compiled"] == ["pass"]


@pytest.mark.parametrize(("name", "params"), FUSION_OPTIONS, ids=str)
def test_fusion_options_keep_the_contract(name: str, params: dict[str, object]) -> None:
    on = ("test_mambaout",)
    assert_ok(check_fusion(fusion(name), params=params, backbones=on, losses={}, only=UNCOMPILED))


@pytest.mark.parametrize("name", LOSSES)
def test_loss_keeps_its_contract(name: str) -> None:
    checks = check_loss(loss(name))
    assert_ok(checks)
    assert {c.name for c in checks if c.status == "pass"} >= set(LOSS_CHECKS)


@pytest.mark.parametrize(("name", "params"), LOSS_OPTIONS, ids=str)
def test_loss_options_keep_the_contract(name: str, params: dict[str, object]) -> None:
    assert_ok(check_loss(loss(name), params=params, only=set(LOSS_CHECKS) - {"compiled"}))


@pytest.mark.parametrize("name", CONTROLS)
def test_control_keeps_its_contract(name: str) -> None:
    checks = check_control(registry.load(registry.find("controls", name), Control))
    assert_ok(checks)
    assert {c.name for c in checks if c.status == "pass"} == {"settings", *CONTROL_CHECKS}


def test_no_control_is_called_as_a_fusion() -> None:
    assert not {*CONTROLS} & {*FUSIONS}  # one name space: --fusion NAME


def test_nothing_registered_goes_without_a_contract() -> None:
    assert set(SUITES) == set(registry.KINDS), "a kind of plugin has no contract suite"
    for kind, names in SUITES.items():
        folder = registry.builtin_root() / "plugins" / kind
        files = {registry.key_of(p.stem) for p in folder.glob("*.py")}
        assert files <= set(names), f"{kind} without a contract run: {files - set(names)}"
        broken = {n: e.broken for n, e in registry.discover(kind).items() if e.broken}
        assert not broken
    assert {name for name, _ in FUSION_OPTIONS} <= set(FUSIONS)
    assert {name for name, _ in LOSS_OPTIONS} <= set(LOSSES)


def test_micro_backbones_are_of_different_layouts() -> None:
    from fusionbench.models.backbones import build_backbone

    kinds = set()
    for name in MICRO_BACKBONES:
        backbone = build_backbone(name, 64)
        for tap in backbone.taps:
            (hook,) = backbone.net.get_submodule(tap)._forward_hooks.values()
            kinds.add((hook.layout.kind, hook.layout.prefix > 0))
    assert len(MICRO_BACKBONES) >= 4
    assert kinds == {("NCHW", False), ("NHWC", False), ("tokens", True)}
