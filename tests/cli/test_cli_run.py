"""fusionbench run: what it prints, what it leaves, how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev

import pytest

from fusionbench.cli import run as run_module
from fusionbench.config.run_config import SETTINGS
from fusionbench.records import Store

EXPLODES = '''
"""Loses its mind at once."""
from fusionbench.plugin.fusion import Fusion
class Explodes(Fusion):
    def fuse(self, image, meta):
        return image * (float("nan") if self.training else 1.0)
'''


@pytest.fixture
def never_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "fusionbench.runs.network_trainer.fit", lambda *a, **k: pytest.fail("trained again")
    )


def test_json_is_one_object_with_folds_and_their_mean_and_spread(
    cli, tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = cli(*tiny_run, "--json")
    assert answer.code == 0
    data = answer.json  # nothing else is on stdout
    assert data["config"]["fusion"] == "concat" and data["config"]["epochs"] == 1
    assert [fold["fold"] for fold in data["folds"]] == [0, 1, 2]
    assert data["failures"] == []
    store = Store(tmp_path / "store")
    for fold in data["folds"]:
        raw = json.loads((store.folder / "records" / f"{fold['run_id']}.json").read_text())
        assert fold["metrics"] == raw["result"]["parts"]["test"]["metrics"]
        assert raw["identity"]["fold"] == fold["fold"]
    assert {"acc", "bacc", "f1_weighted", "auc_ovr_macro", "recall/MEL"} <= data["mean"].keys()
    assert data["mean"].keys() == data["std"].keys()
    for name in data["mean"]:
        values = [fold["metrics"][name] for fold in data["folds"]]
        assert data["mean"][name] == pytest.approx(fmean(values), abs=1e-12)
        assert data["std"][name] == pytest.approx(stdev(values), abs=1e-12)

    # The same command again: the same object, and nothing is trained.
    monkeypatch.setattr(
        "fusionbench.runs.network_trainer.fit", lambda *a, **k: pytest.fail("trained again")
    )
    again = cli(*tiny_run, "--json")
    assert again.json == data
    assert again.err.count("is in the store already") == 3


def test_one_fold_has_no_spread(cli, tiny_run: list[str]) -> None:
    data = cli(*tiny_run, "--fold", "1", "--json").json
    assert [fold["fold"] for fold in data["folds"]] == [1]
    assert data["mean"] == data["folds"][0]["metrics"]
    assert set(data["std"].values()) == {None}


def test_the_table_after_a_run_holds_all_rows_beside_it(
    cli, tiny_run: list[str], tiny_card: Path
) -> None:
    cli(*tiny_run, "--fold", "0")
    apart = cli(*tiny_run, "--protocol", "image-3fold", "--fold", "0")
    assert apart.out.count("concat") == 1 and "image-3fold" in apart.out
    answer = cli(*tiny_run, "--fold", "0", "--fusion", "none")
    assert answer.code == 0
    names = [line.split()[0] for line in answer.out.splitlines() if line.strip()]
    assert "concat" in names and "none" in names and "grouped-3fold" in answer.out
    assert "image-3fold" not in answer.out
    assert answer.out.count("n=1/3") == 2  # incomplete rows say so


def test_progress_of_a_quick_run_is_a_few_lines_on_stderr(cli, tiny_run: list[str]) -> None:
    answer = cli(*tiny_run, "--fold", "0,2")
    lines = answer.err.splitlines()
    assert lines[0] == "loading PyTorch and timm"
    for k in (0, 2):
        (line,) = [line for line in lines if line.startswith(f"fold {k}: ")]
        assert "epoch 1 loss" in line and " img" in line
    assert len(lines) <= 8
    assert len(lines) == len(set(lines))
    assert "\x1b" not in answer.err + answer.out


def test_folds_and_columns_are_given_at_once_or_one_by_one(cli, tiny_run: list[str]) -> None:
    for folds in (["--fold", "0", "--fold", "1"], ["--fold", "0,1"], ["--fold", "0", "--fold=1,0"]):
        data = cli(*tiny_run, *folds, "--columns", "age", "--columns", "gender", "--json").json
        assert [fold["fold"] for fold in data["folds"]] == [0, 1]
        assert data["config"]["columns"] == ["age", "gender"]
    assert len(cli(*tiny_run, "--fold", "0", "--fold", "all", "--json").json["folds"]) == 3
    for odd in ("", "0-2", "one"):
        answer = cli(*tiny_run, "--fold", odd)
        assert answer.code == 2 and "give all, a number, or numbers as in 0,1." in answer.err


def test_a_run_has_one_seed(cli, tiny_run: list[str]) -> None:
    answer = cli(*tiny_run, "--seed", "0", "--seed", "1")
    assert answer.code == 2
    assert "--seed is given 2 times" in answer.err and "fusionbench sweep" in answer.err


def test_a_device_is_checked_before_anything_is_loaded(cli, tiny_run: list[str]) -> None:
    answer = cli(*tiny_run, "--device", "gpu")
    assert answer.code == 2
    assert answer.err == (
        "Error: --device gpu: give auto, cpu, cuda, cuda:1 or mps. See fusionbench run --help.\n"
    )


def test_a_failed_fold_ends_with_1_and_says_how_to_look(
    cli, tiny_run: list[str], tmp_path: Path
) -> None:
    plugin = tmp_path / "explodes.py"
    plugin.write_text(EXPLODES)
    answer = cli(*tiny_run, "--fusion", "explodes", "--plugins", plugin, "--fold", "0", "--json")
    assert answer.code == 1
    assert answer.json["folds"] == [] and answer.json["mean"] == {}
    (failed,) = answer.json["failures"]
    assert failed["fold"] == 0
    last = answer.err.splitlines()[-1]
    assert last.startswith("Error: fold 0: failed: The loss is not finite in epoch 1, step 1")
    assert f"fusionbench show {failed['run_id']}" in last
    assert "Traceback" not in answer.err
    shown = cli("show", failed["run_id"], "--store", tmp_path / "store")
    assert shown.code == 0
    assert "not finite" in shown.err and "Traceback" in shown.out


def test_settings_reach_the_run(cli, tiny_run: list[str]) -> None:
    data = cli(
        *tiny_run, "--fold", "0", "--set", "fusion.hidden=32", "--set", "loss.label_smoothing=.1",
        "--columns", "age, region", "--lr", "1e-3", "--seed", "7", "--json",
    ).json  # fmt: skip
    config = data["config"]
    assert config["params"] == {"fusion.hidden": "32", "loss.label_smoothing": ".1"}
    assert (config["columns"], config["lr"], config["seed"]) == (["age", "region"], 1e-3, 7)


def test_every_setting_has_an_option() -> None:
    assert {*SETTINGS} <= {p.name for p in run_module.run_command.params}


def test_names_are_checked_before_anything_slow_is_imported(
    cli, tiny_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fusionbench.runs.run", None)
    for flag, value, message in (
        ("--fusion", "sgcm", "no fusion called 'sgcm'. Did you mean sgmc"),
        ("--loss", "ce+focl", "no loss called 'focl'"),
        ("--dataset", "pad-ufes", "no dataset called 'pad-ufes'. Did you mean pad-ufes-20?"),
    ):
        answer = cli(*tiny_run, flag, value)
        assert answer.code == 2 and message in answer.err
        assert len(answer.err.splitlines()) == 1


def test_an_interrupted_run_says_what_is_kept(
    cli, tiny_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fusionbench.runs.run.run", stopped)
    answer = cli(*tiny_run)
    assert answer.code == 130 and answer.out == ""
    assert "Interrupted. Finished folds are kept" in answer.err
    assert "Traceback" not in answer.err


def test_checkpoints_may_be_left_out(
    cli, tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(Store, "write_checkpoint", lambda self, run, data: written.append(run))
    assert cli(*tiny_run, "--fold", "0", "--checkpoint-every", "inf").code == 0
    assert written == []
    assert cli(*tiny_run, "--fold", "1", "--checkpoint-every", "0").code == 0
    assert [run.split("_")[-3] for run in written] == ["f1"]
    assert cli(*tiny_run, "--checkpoint-every", "-1").code == 2


PRINTS = """
'''Prints wherever its code runs, in Python and below it.'''
import atexit, os, sys
from sklearn.dummy import DummyClassifier
from fusionbench.plugin.control import Control

def say():
    print("printed")
    os.write(1, b"written")
    sys.__stdout__.write("kept")
    atexit.register(print, "bye")

say()

class Prints(Control):
    def __init__(self):
        say()

    def estimator(self, seed):
        return Printing()

class Printing(DummyClassifier):
    def fit(self, x, y):
        say()
        return super().fit(x, y)
"""


@pytest.mark.parametrize("command", ["run", "check", "list"])
def test_what_a_plugin_prints_is_not_in_the_json(
    command: str, tmp_path: Path, tiny_card: Path
) -> None:
    plugin = tmp_path / "prints.py"
    plugin.write_text(PRINTS, encoding="utf-8")
    words = {
        "run": ["run", "--fusion", "prints", "--dataset", str(tiny_card), "--plugins", str(plugin),
                "--fold", "0", "--store", str(tmp_path / "store")],
        "check": ["check", str(plugin)],
        "list": ["list", "controls", "--plugins", str(plugin)],
    }[command]  # fmt: skip
    process = subprocess.run(
        [sys.executable, "-m", "fusionbench", *words, "--json"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert json.loads(process.stdout), process.stderr
    assert ("printed" in process.stderr) is (command != "list")


def test_a_quick_run_is_one_small_fold_and_says_so(
    cli, tiny_run: list[str], tmp_path: Path
) -> None:
    place = ["--store", tmp_path / "store", "--dataset", tiny_run[tiny_run.index("--dataset") + 1]]
    answer = cli(
        "run", "--fusion", "none", "--backbone", "test_resnet", "--quick", *place, "--json"
    )
    config = answer.json["config"]
    assert (config["epochs"], config["image_size"], config["weights"]) == (2, 64, "none")
    assert [fold["fold"] for fold in answer.json["folds"]] == [0]
    assert "a trial" in answer.err
    plain = cli("run", "--help").out
    assert "--quick" in plain and "--quick" in cli("--help").out
