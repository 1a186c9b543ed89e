"""Where and in which precision a model runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fusionbench.cli import main
from fusionbench.errors import UsageError
from fusionbench.models.backbones import Backbone, build_backbone
from fusionbench.training import placement
from fusionbench.training.placement import Placement, choose_device, choose_placement, has_depthwise

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return build_backbone("test_resnet", 32)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("has", [True, False])
def test_a_precision_that_is_named_is_taken(
    precision: str, has: bool, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "cpu_has_bf16", lambda: has)
    assert choose_placement(CPU, precision, backbone) == Placement(CPU, precision)


@pytest.mark.parametrize(
    ("name", "has", "chosen"),
    [
        ("test_resnet", True, "bf16"),
        ("test_resnet", False, "fp32"),
        ("test_vit", True, "bf16"),
        ("test_efficientnet", True, "fp32"),  # depthwise
        ("test_convnext", True, "fp32"),  # depthwise
    ],
)
def test_auto_on_a_cpu_goes_by_hardware_and_network(
    name: str, has: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "cpu_has_bf16", lambda: has)
    assert choose_placement(CPU, "auto", build_backbone(name, 32)).precision == chosen


def test_grouped_convolutions_are_not_depthwise() -> None:
    assert not has_depthwise(torch.nn.Conv2d(8, 8, 3, groups=4))
    assert not has_depthwise(torch.nn.Conv2d(1, 8, 3))
    assert has_depthwise(torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3, groups=8)))


def test_autocast_is_on_for_bf16_only() -> None:
    a = torch.rand(4, 4)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with Placement(CPU, precision).autocast():
            assert (a @ a).dtype is dtype


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for has, chosen in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has=has: has)
        assert choose_device("auto").type == chosen
        assert choose_device("cpu").type == "cpu"
    assert choose_device("cuda").type == "cuda"
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UsageError, match="cuda:2: PyTorch sees 2 GPUs, from cuda:0 on, here"):
        choose_device("cuda:2")
    for has in (False, True):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda has=has: has)
        if has:
            assert choose_device("mps").type == "mps"
        else:
            with pytest.raises(UsageError, match="no MPS"):
                choose_device("mps")
    for name in ("gpu", "meta", "xpu", "cuda:x", "cpu:3", ""):
        with pytest.raises(UsageError, match="give auto, cpu, cuda, cuda:1 or mps"):
            choose_device(name)


def test_where_a_device_has_no_float64_it_is_computed_on_the_cpu() -> None:
    assert Placement(torch.device("mps"), "fp32").of_doubles == CPU
    assert Placement(torch.device("cuda", 1), "fp32").of_doubles == torch.device("cuda", 1)


def test_a_gpu_that_is_not_there_is_wrong_use(
    monkeypatch: pytest.MonkeyPatch, tiny_card: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"sees no GPU here. Use --device auto or cpu"):
        choose_device("cuda")
    with pytest.raises(SystemExit) as ended:
        main(f"run --dataset {tiny_card} --device cuda --store {tmp_path / 's'}".split(" "))
    assert ended.value.code == 2
    assert "Error: --device cuda: PyTorch sees no GPU here." in capsys.readouterr().err
    assert not [path for path in (tmp_path / "s").rglob("*") if path.is_file()]


def test_on_a_cpu_bits_are_the_same_every_time_and_nothing_is_filled_in_vain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    switches = torch.utils.deterministic
    monkeypatch.setattr(switches, "fill_uninitialized_memory", True)
    before = torch.are_deterministic_algorithms_enabled()
    try:
        placement.prepare(CPU)
        assert torch.are_deterministic_algorithms_enabled()
        assert not switches.fill_uninitialized_memory  # type: ignore[attr-defined]
    finally:
        torch.use_deterministic_algorithms(before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_bf16_is_chosen_where_it_is_supported(backbone: Backbone) -> None:
    expected = "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    assert choose_placement(torch.device("cuda"), "auto", backbone).precision == expected
