"""Where and in which precision: the choice, its memory, and that a trial leaves no trace."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from fusionbench import placement
from fusionbench.backbones import Backbone, build_backbone
from fusionbench.cli import main
from fusionbench.errors import UsageError
from fusionbench.placement import Placement, choose_device, choose_placement

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return build_backbone("test_resnet", 32)


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own; returns the file that remembers."""
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path))
    return tmp_path / "precision.json"


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds per step by precision, to be set by the test; "trials" counts the measurements."""
    seconds = {"fp32": 1.0, "bf16": 1.0, "trials": 0}

    def measure(where: Placement, backbone: Backbone) -> float:
        seconds["trials"] += 1
        return seconds[where.precision]

    monkeypatch.setattr(placement, "_time_step", measure)
    monkeypatch.setattr(placement, "cpu_has_bf16", lambda: True)
    return seconds


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_precision_that_is_named_is_taken(
    precision: str, backbone: Backbone, memory: Path, timed: dict[str, float]
) -> None:
    assert choose_placement(CPU, precision, backbone) == Placement(CPU, precision)
    assert timed["trials"] == 0 and not memory.exists()


def test_without_bf16_in_hardware_nothing_is_measured(
    backbone: Backbone, memory: Path, timed: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "cpu_has_bf16", lambda: False)
    timed["bf16"] = 0.01
    assert choose_placement(CPU, "auto", backbone).precision == "fp32"
    assert timed["trials"] == 0 and not memory.exists()


@pytest.mark.parametrize(("bf16", "chosen"), [(0.5, "bf16"), (0.95, "fp32"), (2.0, "fp32")])
def test_bf16_must_be_clearly_faster(
    bf16: float, chosen: str, backbone: Backbone, memory: Path, timed: dict[str, float]
) -> None:
    timed["bf16"] = bf16
    assert choose_placement(CPU, "auto", backbone).precision == chosen


def test_the_choice_is_remembered_per_backbone_and_size(
    backbone: Backbone, memory: Path, timed: dict[str, float]
) -> None:
    timed["bf16"] = 0.1
    assert choose_placement(CPU, "auto", backbone).precision == "bf16"
    trials = timed["trials"]
    timed["bf16"] = 10.0  # a busy machine must not make the same command choose otherwise
    assert choose_placement(CPU, "auto", backbone).precision == "bf16"
    assert timed["trials"] == trials
    other = build_backbone("test_resnet", 64)
    assert choose_placement(CPU, "auto", other).precision == "fp32"
    assert sorted(json.loads(memory.read_text()).values()) == ["bf16", "fp32"]
    assert [p.name for p in memory.parent.iterdir() if p.suffix == ".part"] == []


@pytest.mark.parametrize("text", ["", "[]", "{", '{"test_resnet 32 torch-x": 3}', "\x00"])
def test_a_damaged_memory_is_made_anew(
    text: str, backbone: Backbone, memory: Path, timed: dict[str, float]
) -> None:
    memory.write_text(text)
    timed["bf16"] = 0.1
    assert choose_placement(CPU, "auto", backbone).precision == "bf16"
    assert "bf16" in json.loads(memory.read_text()).values()


@pytest.mark.parametrize("training", [True, False])
def test_a_trial_leaves_network_and_random_numbers_as_they_were(training: bool) -> None:
    backbone = build_backbone("test_resnet", 32)
    backbone.train(training)
    state = copy.deepcopy(backbone.state_dict())
    counters = [k for k in state if k.endswith("num_batches_tracked")]
    assert counters, "a network with BatchNorm, or this test sees nothing"
    drawn = torch.get_rng_state()
    seconds = placement._time_step(Placement(CPU, "fp32"), backbone)
    assert seconds > 0
    after = backbone.state_dict()
    assert state.keys() == after.keys()
    assert all(torch.equal(state[k], after[k]) for k in state)
    assert all(p.grad is None for p in backbone.parameters())
    assert backbone.net.training is training
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_real_trial_chooses_one_of_the_two(
    backbone: Backbone, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "cpu_has_bf16", lambda: True)
    assert choose_placement(CPU, "auto", backbone).precision in ("fp32", "bf16")


def test_autocast_is_on_for_bf16_only() -> None:
    a = torch.rand(4, 4)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with Placement(CPU, precision).autocast():
            assert (a @ a).dtype is dtype


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, chosen in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has=has: has)
        assert choose_device("auto").type == chosen
        assert choose_device("cpu").type == "cpu"
    assert choose_device("cuda").type == "cuda"


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
    assert not (tmp_path / "s").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_bf16_is_chosen_where_it_is_supported(backbone: Backbone, memory: Path) -> None:
    expected = "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    assert choose_placement(torch.device("cuda"), "auto", backbone).precision == expected
    assert not memory.exists()
