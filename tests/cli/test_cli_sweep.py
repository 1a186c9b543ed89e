"""fusionbench sweep: grids, plans, failures of before, a cluster."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from made_up_control import Traced

from fusionbench.records import Store


@pytest.fixture
def traced(tmp_path: Path, tiny_card: Path) -> Traced:
    return Traced(tmp_path, tiny_card)


def words(traced: Traced, path: Path, *more: object) -> tuple[object, ...]:
    return ("sweep", path, "--plugins", traced.plugin, "--store", traced.folder / "store", *more)


def test_a_grid_on_the_command_line(
    cli, tmp_path: Path, tiny_card: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ("--dataset", tiny_card, "--store", tmp_path / "store", "--device", "cpu")
    networks = (
        *("sweep", "--fusion", "none,concat", "--backbone", "test_resnet,test_vit", "--loss", "ce"),
        *("--seed", "0,1", "--fold", "1", "--weights", "none", "--image-size", "32", *where),
        *("--setting", "augment=flip", "--setting", "precision=fp32"),
    )
    monkeypatch.setattr(
        "fusionbench.runs.network_trainer.fit", lambda *a, **k: pytest.fail("trained")
    )
    planned = cli(*networks, "--epochs", "2", "--dry-run")
    assert planned.code == 0, planned.err
    assert "8 runs: 0 done, 8 to run." in planned.out
    assert sum("concat, test_vit" in line for line in planned.out.splitlines()) == 2  # seeds
    assert "How long is unknown" in planned.out
    assert not (tmp_path / "store").exists()

    controls = ("sweep", "--fusion", "metadata-logistic,missingness", "--fold", "0,2", *where)
    data = cli(*controls, "--json")
    assert data.code == 0, data.err
    assert [(r["label"], r["fold"], r["state"]) for r in data.json["runs"]] == [
        (label, k, "finished") for label in ("metadata-logistic", "missingness") for k in (0, 2)
    ]
    again = cli(*controls, "--dry-run", "--json").json
    assert {r["state"] for r in again["runs"]} == {"done"}
    assert again["expected"]["weight_bytes"] == 0
    other = cli(*controls, "--seed", "3", "--dry-run")
    assert "4 runs: 0 done, 4 to run." in other.out
    assert "of computing (from 4 like runs)" in other.out
    shown = cli(*controls)
    assert "metadata-logistic" in shown.out and "n=2/3" in shown.out


def test_failures_of_before_are_listed_and_repeated_on_request(cli, traced: Traced) -> None:
    path = traced.table(2, folds="0, 1", failing=1)
    first = cli(*words(traced, path))
    assert first.code == 1 and first.err.count("the disk is on fire") >= 2
    assert "failed before" not in first.err and "fusionbench show" in first.err
    plan = cli(*words(traced, path, "--dry-run"))
    assert plan.code == 0 and "4 runs: 2 done, 2 failed before, 0 to run." in plan.out
    starts = len(traced.lines("start"))
    second = cli(*words(traced, path, "--json"))
    assert second.code == 1 and len(traced.lines("start")) == starts
    assert [f["before"] for f in second.json["failures"]] == [True, True]
    assert {r["state"] for r in second.json["runs"]} == {"done", "failed"}
    assert second.err.count("failed before: the disk is on fire") == 2
    assert "--retry-failed repeats them" in second.err
    plan = cli(*words(traced, path, "--dry-run", "--retry-failed"))
    assert "2 failed before, 2 to run." in plan.out and "retry" in plan.out
    third = cli(*words(traced, path, "--retry-failed", "--json"))
    assert third.code == 1 and len(traced.lines("start")) == starts + 2
    assert [f["before"] for f in third.json["failures"]] == [False, False]


def test_wrong_use_is_said_at_once(
    cli, traced: Traced, tiny_card: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = traced.table(1)
    grid = ("sweep", "--fusion", "none", "--loss", "ce", "--dataset", tiny_card)
    for given, message in (
        (("sweep",), "Name a TABLE, or the methods of a grid"),
        (words(traced, path, "--fusion", "none"), "--fusion belongs to a grid"),
        (words(traced, path, "--set", "fusion.c=1"), "--set belongs to a grid"),
        (words(traced, path, "--gpus-per-run", "1"), "add --on ray"),
        (words(traced, path, "--on", "ray", "--folds-at-once", "2"), "leave out --on"),
        (words(traced, path, "--on", "elsewhere"), "--on elsewhere is no place"),
        (words(traced, path, "--fold", "9"), "has no fold 9"),
        (words(traced, path, "--memory-per-run", "8G"), "add --on ray"),
        (words(traced, path, "--on", "ray", "--memory-per-run", "lots"), "no amount of memory"),
        ((*grid, "--small"), "--small belongs to a TABLE"),
        ((*grid, "--seed", "one"), "give numbers"),
        ((*grid, "--fold", "9", "--dry-run"), "has no fold 9"),
        ((*grid, "--set", "fusion.c=1"), "no method of the grid takes it"),
        ((*grid, "--setting", "augmnt=flip"), "Did you mean augment"),
        (("sweep", "--fusion", "conct", "--dataset", tiny_card), "Did you mean concat"),
    ):
        answer = cli(*given)
        assert answer.code == 2 and message in answer.err, (given, answer.err)
    monkeypatch.setitem(sys.modules, "ray", None)
    answer = cli(*words(traced, path, "--on", "ray"))
    assert answer.code == 2 and "pip install 'fusionbench[ray]'" in answer.err
    assert list(Store(traced.folder / "store")) == []


@pytest.mark.parametrize("columns", [80, 120])
def test_help_and_plan_fit_the_screen(
    cli, traced: Traced, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for given in (("sweep", "--help"), words(traced, traced.table(3), "--dry-run")):
        answer = cli(*given)
        assert answer.code == 0
        assert max(map(len, answer.out.splitlines())) <= columns
