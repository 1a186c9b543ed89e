"""A run makes the quick part of its plugins' contract, once; record and row say the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from fusionbench.config.identity import PluginIdentity
from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.contract import Check, checks
from fusionbench.contract.quick import quick_checks
from fusionbench.leaderboard import blocks
from fusionbench.models.backbones import build_backbone
from fusionbench.plugin import registry
from fusionbench.plugin.fusion import Fusion, Spec
from fusionbench.plugin.loss import Loss
from fusionbench.progress import SILENT, Progress
from fusionbench.records import read_record
from fusionbench.runs.run import run

FUSION = """
import random, torch
from torch import nn
from fusionbench import Fusion
class Mine(Fusion):
    calls = []
    def __init__(self, spec, *, mixes: bool = False):
        super().__init__(spec)
        self.gate = nn.Linear(spec.metadata, spec.width)
        self.mixes = mixes
    def {method}(self, image, meta):
        gate = torch.sigmoid(self.gate(meta))
        {does}
"""
FUSIONS = {
    "passed": ("fuse", "return image * gate"),
    "failed: batch mates": ("fuse", "return image * gate.mean(0)"),
    "failed: in place": ("fuse", "image *= gate; return image"),
    "failed: repeatable": ("fuse", "return image * gate * random.random()"),
    "failed: forward": ("forward", "return image * gate"),
}


class Notes(Progress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


def mine(tmp_path: Path, method: str, does: str, execution: Execution) -> Execution:
    (tmp_path / "mine.py").write_text(FUSION.format(method=method, does=does))
    return replace(execution, plugins=(tmp_path / "mine.py",))


@pytest.mark.parametrize("answer", FUSIONS)
def test_a_run_says_what_its_fusion_does_not_keep_and_goes_on(
    answer: str, quick: RunConfig, here: Execution, tmp_path: Path
) -> None:
    execution, notes = mine(tmp_path, *FUSIONS[answer], here), Notes()
    (record,) = run(quick.changed(fusion="mine", epochs=1), execution, notes).records
    assert record.result is not None and record.result.contract == answer
    said = [note for note in notes.said if "does not keep its contract" in note]
    assert len(said) == (answer != "passed")
    assert "contract" not in record.identity.spelled
    (block,) = blocks([record])
    flags = () if answer == "passed" else (f"contract {answer}",)
    assert (block.rows[0].contract, block.rows[0].flags) == (answer, flags)


def test_it_is_checked_with_the_settings_of_the_row(
    quick: RunConfig, here: Execution, tmp_path: Path
) -> None:
    does = "return image * (gate.mean(0) if self.mixes else gate)"
    execution = mine(tmp_path, "fuse", does, here)
    for params, answer in ({}, "passed"), ({"fusion.mixes": True}, "failed: batch mates"):
        (record,) = run(quick.changed(fusion="mine", epochs=1, params=params), execution).records
        assert record.result is not None and record.result.contract == answer


CONTROL = """
import numpy as np
from sklearn.dummy import DummyClassifier
from fusionbench import Control
class Leaks(Control):
    def features(self, inputs):
        {does}
    def estimator(self, seed):
        return DummyClassifier()
"""


@pytest.mark.parametrize(
    ("does", "answer"),
    [
        ("return inputs.encoded", "passed"),
        ("return inputs.metadata[['age']].isna().to_numpy(float)", "passed"),  # of this dataset
        ("return inputs.encoded - inputs.encoded.mean(0)", "failed: rows alone"),
        ("inputs.encoded[:] = 0; return inputs.encoded.copy()", "failed: in place"),
        ("return inputs.encoded + np.random.rand()", "failed: rows alone"),
    ],
)
def test_a_control_is_checked_on_its_own_columns(
    does: str, answer: str, quick: RunConfig, here: Execution, tmp_path: Path
) -> None:
    (tmp_path / "leaks.py").write_text(CONTROL.format(does=does))
    execution = replace(here, plugins=(tmp_path,))
    (record,) = run(quick.changed(fusion="leaks"), execution).records
    assert record.result is not None and record.result.contract == answer


@dataclass(frozen=True)
class Built:
    cls: type[Any]
    params: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize("fusion", sorted(registry.discover("fusions")))
def test_every_built_in_network_plugin_passes(fusion: str) -> None:
    backbone = build_backbone("test_vit", 64)
    spec = Spec(backbone.stages, backbone.width, 12, 6, counts=(9, 8, 7, 3, 2, 1))
    names = registry.discover("losses") if fusion == "none" else ["ce"]
    losses = {n: Built(registry.load(registry.find("losses", n), Loss)) for n in names}
    of = Built(registry.load(registry.find("fusions", fusion), Fusion))
    assert {check.status for check in quick_checks(of, losses, spec)} == {"pass"}


def _answer(make: Callable[[], list[Check]], source: str) -> str:
    plugin = PluginIdentity(kind="fusions", name="mine", source=source)
    return checks.remembered([plugin], None, make, SILENT)


def test_the_answer_is_remembered_for_the_source_also_by_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path))
    made: list[int] = []

    def make() -> list[Check]:
        made.append(1)
        return [Check("batch mates", "", "fail", "mixed")]

    for source, times in (("a", 1), ("a", 1), ("b", 2)):
        monkeypatch.setattr(checks, "_answers", {})  # as in another process
        assert _answer(make, source) == "failed: batch mates"
        assert len(made) == times
    (tmp_path / "contracts" / "contracts.json").unlink()
    assert _answer(make, "b") == "failed: batch mates" and len(made) == 2  # known here
    monkeypatch.setenv("FUSIONBENCH_CACHE", "/dev/null/nowhere")  # cannot be written
    for times in (3, 4):
        monkeypatch.setattr(checks, "_answers", {})
        assert _answer(make, "b") == "failed: batch mates" and len(made) == times


def test_what_is_refused_is_not_checked_and_not_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks, "_answers", {})
    refused = [Check("builds", "", "skip", "too narrow"), Check("in place", "", "skip")]
    assert _answer(lambda: refused, "refused") == "not checked"
    assert _answer(lambda: [Check("builds", "", "pass")], "refused") == "passed"


def test_a_record_without_the_field_was_not_checked(
    quick: RunConfig, here: Execution, tmp_path: Path
) -> None:
    (record,) = run(quick.changed(fusion="metadata-logistic"), here).records
    path = Path(here.store, "records", f"{record.run_id}.json")
    data = json.loads(path.read_text("utf-8"))
    assert data["result"].pop("contract") == "passed"
    path.write_text(json.dumps(data), "utf-8")
    old = read_record(path)
    assert old.result is not None and old.result.contract == "not checked"
    (block,) = blocks([old])
    assert block.contract == block.rows[0].contract == "not checked"
