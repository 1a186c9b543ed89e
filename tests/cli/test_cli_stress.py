"""fusionbench stress: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusionbench.analysis.stress.stress_text import FORMATS
from fusionbench.records import Store


@pytest.fixture
def stressed(cli, tiny_run: list[str], tiny_card: Path, tmp_path: Path) -> list[str]:
    """`stress concat` on two finished folds with saved weights."""
    answer = cli(*tiny_run, "--save-weights", "--fold", "0,1")
    assert answer.code == 0
    here = ["--dataset", str(tiny_card), "--store", str(tmp_path / "store"), "--device", "cpu"]
    return ["stress", "concat", "--mask-seeds", "2", *here]


def test_a_report_a_picture_and_one_json_object(
    cli, stressed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / "out" / f"report{suffix}" for suffix in FORMATS]
    answer = cli(*stressed, *(x for path in files for x in ("--output", path)))
    assert answer.code == 0
    text = " ".join(answer.out.split())
    for words in (
        "concat@test_resnet",
        "tiny / grouped-3fold; 2 folds of 3; ",
        "test rows; 2 mask seeds",
        "reproduce the recorded predictions exactly",
        "BACC (%), metadata withheld",
        "random cells, 10 %",
        "area under the curve",
        "everything",
        "columns together: smoke, ",
        "One answer inverted",
        "to malignant to benign",
    ):
        assert words in text
    assert all(path.stat().st_size > 500 for path in files)

    answer = cli(*stressed, "--json")
    assert answer.code == 0
    assert answer.json == json.loads(files[0].read_text())
    assert [run["fold"] for run in answer.json["runs"]] == [0, 1]
    assert len(answer.json["curve"]) == 11 and answer.json["metric"] == "bacc"
    for width in (80, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        assert max(map(len, cli(*stressed).out.splitlines())) <= width


def test_one_record_is_one_fold_and_another_metric_is_in_its_own_unit(
    cli, stressed: list[str], tmp_path: Path
) -> None:
    run = next(r.run_id for r in Store(tmp_path / "store") if r.identity.fold == 1)
    answer = cli("stress", run[-8:], *stressed[2:], "--metric", "nll")
    assert answer.code == 0
    assert "; fold 1 of 3; " in answer.out and "NLL, metadata withheld" in answer.out


def test_what_cannot_be_done_is_said_with_a_remedy(
    cli, stressed: list[str], tmp_path: Path
) -> None:
    for arguments, words in (
        (["stress", "sgmc", *stressed[2:]], "sgmc"),
        ([*stressed, "--metric", "accuracy"], "no metric called"),
        ([*stressed, "--metric", "recall/XYZ"], "recall/XYZ"),
        ([*stressed, "--output", "report.pdf"], "must end in .json, .csv, .png or .svg"),
        ([x for x in stressed if x not in stressed[4:6]], "--dataset path/to/dataset.toml"),
    ):
        answer = cli(*arguments)
        assert answer.code == 2 and words in answer.err and not answer.out
    for path in (tmp_path / "store" / "weights").iterdir():
        path.unlink()
    answer = cli(*stressed)
    assert answer.code == 1 and "--save-weights --existing redo" in answer.err
