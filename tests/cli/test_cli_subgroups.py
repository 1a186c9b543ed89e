"""fusionbench subgroups, on a run of the tiny dataset."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def finished(tiny_card: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one finished row on all three folds."""
    from fusionbench.config.run_config import Execution, RunConfig
    from fusionbench.runs.run import run

    store = tmp_path_factory.mktemp("subgroups") / "store"
    config = RunConfig.of(
        fusion="concat",
        backbone="test_resnet",
        dataset=str(tiny_card),
        weights="none",
        epochs=1,
        image_size=32,
        precision="fp32",
    )
    run(config, Execution(store=store, device="cpu"))
    return store


def test_the_report_reads_at_eighty_columns(
    cli, finished: Path, tiny_card: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    answer = cli("subgroups", "concat", "--store", finished, "--dataset", tiny_card, "--min-n", 5)
    assert answer.code == 0, answer.err
    assert max(map(len, answer.out.splitlines())) <= 80
    for text in ("Fitzpatrick type", "body region", "70 and over", "FEMALE", "Mean recall of"):
        assert text in answer.out
    assert "…" not in answer.out  # no column was cut


def test_json_holds_every_number(cli, finished: Path, tiny_card: Path) -> None:
    answer = cli("subgroups", "concat@test_resnet", "--store", finished, "--dataset", tiny_card,
                 "--min-n", 5, "--json")  # fmt: skip
    assert answer.code == 0, answer.err
    data = answer.json
    assert data["dataset"] == "tiny" and data["min_n"] == 5 and data["runs_done"] == 3
    predictions = sorted((finished / "predictions").glob("*.csv"))
    rows = sum(len(p.read_text("utf-8").splitlines()) - 1 for p in predictions)
    assert data["n"] == rows
    sex = next(a for a in data["attributes"] if a["name"] == "sex")
    assert [g["value"] for g in sex["groups"]] == ["FEMALE", "MALE"]
    assert sum(g["n"] for g in sex["groups"]) == sex["n_recorded"] <= rows
    assert sex["mean"]["widest"]["gap"] >= 0 and sex["mean"]["pairs"] == 1
    json.dumps(data, allow_nan=False)


def test_too_few_of_everything_is_said(cli, finished: Path, tiny_card: Path) -> None:
    answer = cli("subgroups", "concat", "--store", finished, "--dataset", tiny_card,
                 "--min-n", 500)  # fmt: skip
    assert answer.code == 0 and "No two groups have 500 photographs" in answer.out


def test_other_data_than_the_runs_is_refused(
    cli, finished: Path, tiny_card: Path, tmp_path: Path
) -> None:
    other = tmp_path / "dataset.toml"
    text = tiny_card.read_text("utf-8")
    other.write_text(text.replace("patients = 40", "patients = 41"), encoding="utf-8")
    answer = cli("subgroups", "concat", "--store", finished, "--dataset", other)
    assert answer.code == 1 and "not what the run was made on" in answer.err
    answer = cli("subgroups", "concat", "--store", finished, "--dataset", "synthetic")
    assert answer.code == 2 and "the card of synthetic" in answer.err


def test_a_row_that_is_not_there_is_named(cli, finished: Path, tmp_path: Path) -> None:
    answer = cli("subgroups", "concta", "--store", finished)
    assert answer.code == 2 and "Did you mean concat" in answer.err
    answer = cli("subgroups", "concat", "--store", tmp_path / "nothing")
    assert answer.code == 2 and "There is no store at" in answer.err


def test_the_default_minimum_is_the_librarys() -> None:
    from fusionbench.analysis.subgroups import MIN_N
    from fusionbench.cli.subgroups import subgroups_command

    option = next(p for p in subgroups_command.params if p.name == "min_n")
    assert option.default == MIN_N


def test_what_is_told_apart_is_named_beside_the_widest_gap() -> None:
    from fusionbench.analysis.subgroups import Pair, RecallGap, Share
    from fusionbench.cli.subgroups import _sentence

    chance = Pair("tiny", "FEMALE", 0.31, -0.02, 0.55)
    real = Pair("MALE", "FEMALE", 0.2, 0.12, 0.28)
    low, high = Share(0.4, 0.2, 0.6, 20, 11), Share(0.71, 0.6, 0.8, 1200, 900)
    groups = ("FEMALE", "MALE", "tiny")
    text = _sentence(RecallGap(low, high, chance, (real,), 3, groups))
    assert text == (
        "lowest tiny 40.0 (n 20, 11 patients), highest FEMALE 71.0 (n 1,200, 900 patients): gap "
        "31.0 points [-2.0, 55.0], corrected for 3 pairs. Groups that differ significantly: "
        "MALE below FEMALE by 20.0 points [12.0, 28.0]."
    )
    none = _sentence(RecallGap(low, high, chance, (), 1, groups[1:]))
    assert none.endswith("[-2.0, 55.0], not significant.")
