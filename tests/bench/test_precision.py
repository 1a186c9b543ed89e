"""--precision fastest: measured once, remembered, and never trusted to a damaged file."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from fusionbench.bench.fastest_precision import Times, fastest, time_steps
from fusionbench.cli.run import run_command
from fusionbench.config.run_config import RunConfig
from fusionbench.progress import Progress

CONFIG = RunConfig.of(backbone="test_resnet", weights="none", image_size=32, batch_size=4)


class Timer:
    def __init__(self, fp32: float, bf16: float) -> None:
        self.times: Times = {"fp32": fp32, "bf16": bf16}
        self.asked = 0

    def __call__(self, config: RunConfig, device: torch.device) -> Times:
        self.asked += 1
        return self.times


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.mark.parametrize(
    ("fp32", "bf16", "chosen"),
    [(1.0, 0.5, "bf16"), (1.1, 1.0, "bf16"), (1.05, 1.0, "fp32"), (0.5, 1.0, "fp32")],
)
def test_bf16_must_be_worth_it(tmp_path: Path, fp32: float, bf16: float, chosen: str) -> None:
    notes = Notes()
    timer = Timer(fp32, bf16)
    assert fastest([CONFIG], "cpu", progress=notes, cache_dir=tmp_path, timer=timer) == chosen
    assert f"precision {chosen}" in notes.notes[-1]
    for seconds in (fp32, bf16):  # the two numbers it was decided by
        assert f"{1000 * seconds:.3g} ms" in notes.notes[-1]


def test_it_is_measured_once_per_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timer = Timer(1.0, 0.5)
    for _ in range(2):
        assert fastest([CONFIG], "cpu", cache_dir=tmp_path, timer=timer) == "bf16"
    assert timer.asked == 1
    for change in ({"backbone": "test_vit"}, {"image_size": 48}, {"batch_size": 8}):
        fastest([CONFIG.changed(**change)], "cpu", cache_dir=tmp_path, timer=timer)
    assert timer.asked == 4
    # What no step's time depends on in this way is no part of what is remembered.
    other = CONFIG.changed(lr=1.0, fusion="none")
    fastest([other], "cpu", cache_dir=tmp_path, timer=timer)
    assert timer.asked == 4
    monkeypatch.setattr(torch, "get_num_threads", lambda: 63)
    fastest([CONFIG], "cpu", cache_dir=tmp_path, timer=timer)
    monkeypatch.setattr(torch, "__version__", "99.0")
    fastest([CONFIG], "cpu", cache_dir=tmp_path, timer=timer)
    assert timer.asked == 6
    (memory,) = tmp_path.rglob("*.json")
    assert len(json.loads(memory.read_text("utf-8"))) == 6
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    "damage",
    [
        *("", "{", "[1]", "null", '{"KEY": 3}', '{"KEY": {"fp32": 1}}'),
        *('{"KEY": {"fp32": 1, "bf16": 0}}', '{"KEY": {"fp32": NaN, "bf16": 1}}'),
        '{"KEY": {"fp32": "x", "bf16": 1}}',
    ],
)
def test_a_damaged_memory_is_measured_anew(tmp_path: Path, damage: str) -> None:
    timer = Timer(1.0, 0.5)
    fastest([CONFIG], "cpu", cache_dir=tmp_path, timer=timer)
    (memory,) = tmp_path.rglob("*.json")
    (key,) = json.loads(memory.read_text("utf-8"))
    memory.write_text(damage.replace("KEY", key), "utf-8")
    assert fastest([CONFIG], "cpu", cache_dir=tmp_path, timer=timer) == "bf16"
    assert timer.asked == 2
    assert json.loads(memory.read_text("utf-8"))[key] == {"fp32": 1.0, "bf16": 0.5}


def test_a_memory_that_cannot_be_written_is_said_and_done_without(tmp_path: Path) -> None:
    (tmp_path / "precision").write_text("a file where the folder would be", "utf-8")
    notes = Notes()
    chosen = fastest([CONFIG], "cpu", progress=notes, cache_dir=tmp_path, timer=Timer(1.0, 0.5))
    assert chosen == "bf16"
    assert any("not remembered" in note for note in notes.notes)


def test_rows_of_a_table_get_one_answer(tmp_path: Path) -> None:
    """The sum decides: what bf16 loses on one backbone it wins on the other."""
    seconds = {"test_resnet": {"fp32": 3.0, "bf16": 1.0}, "test_vit": {"fp32": 1.0, "bf16": 2.0}}
    asked: list[str] = []

    def timer(config: RunConfig, device: torch.device) -> Times:
        asked.append(config.method.backbone)
        return seconds[config.method.backbone]  # type: ignore[return-value]

    vit = CONFIG.changed(backbone="test_vit")
    call = {"cache_dir": tmp_path, "timer": timer}
    assert fastest([vit, CONFIG, vit, CONFIG], "cpu", **call) == "bf16"
    assert asked == ["test_vit", "test_resnet"]
    assert fastest([vit], "cpu", **call) == "fp32" and len(asked) == 2


def test_a_run_takes_what_was_measured(
    tiny_card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as the precision it got: the record is found again by who asks for that one."""
    monkeypatch.setattr("fusionbench.bench.fastest_precision.time_steps", Timer(1.0, 2.0))
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))
    arguments = [
        *("--fusion", "none", "--backbone", "test_resnet", "--weights", "none"),
        *("--dataset", str(tiny_card), "--image-size", "32", "--epochs", "1", "--fold", "0"),
        *("--device", "cpu", "--store", str(tmp_path / "store"), "--json", "--precision"),
    ]
    call = partial(CliRunner().invoke, run_command, standalone_mode=False)
    first = call([*arguments, "fastest"])
    assert first.exception is None and "precision fp32: a step takes" in first.stderr
    second = call([*arguments, "fp32"])
    one, other = json.loads(first.stdout), json.loads(second.stdout)
    assert one == other and one["config"]["precision"] == "fp32"
    assert "fold 0 is in the store already" in second.stderr


def test_steps_are_timed_in_both_precisions() -> None:
    times = time_steps(CONFIG, torch.device("cpu"))
    assert set(times) == {"fp32", "bf16"} and all(value > 0 for value in times.values())
