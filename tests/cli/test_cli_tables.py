"""fusionbench sweep TABLE and leaderboard TABLE."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import pytest

from fusionbench.records import Store

TABLE = """
title = "Two methods"
dataset = "{card}"
columns = ["bacc", "acc"]

[settings]
backbone = "resnet50"
loss = "ce"

[[rows]]
label = "with metadata"
fusion = "concat"

[[rows]]
label = "image only"
fusion = "none"

[small]
note = "Drawn lesions only."
dataset = "{card}"
backbones = {{ resnet50 = "test_resnet" }}
settings = {{ epochs = 1, image_size = 32, batch_size = 16, weights = "none", precision = "fp32" }}
"""


@pytest.fixture
def table(tmp_path: Path, tiny_card: Path) -> Path:
    path = tmp_path / "two-methods.toml"
    path.write_text(TABLE.format(card=tiny_card), encoding="utf-8")
    return path


def test_a_dry_run_computes_nothing(
    cli, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "fusionbench.runs.network_trainer.fit", lambda *a, **k: pytest.fail("trained")
    )
    store = tmp_path / "store"
    answer = cli("sweep", table, "--small", "--dry-run", "--store", store)
    assert answer.code == 0 and not store.exists()
    assert "6 runs: 0 done, 6 to run." in answer.out
    rows = [line for line in answer.out.splitlines() if "test_resnet" in line]
    assert [line.count("to run") for line in rows] == [3, 3]
    data = cli("sweep", table, "--small", "--dry-run", "--store", store, "--json").json
    assert [(r["fold"], r["label"], r["state"]) for r in data["runs"]] == [
        (k, label, "missing") for label in ("with metadata", "image only") for k in range(3)
    ]


def test_a_sweep_and_its_table(cli, table: Path, tiny_run: list[str], tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    where = ("--small", "--store", store)
    before = cli("leaderboard", table, *where)
    assert before.code == 0 and before.out.count("n=0/3") == 2

    # One fold of one row is there already; so is a run that the table does not declare.
    same = [*tiny_run, "--fusion", "none", "--batch-size", "16"]
    assert cli(*same, "--fold", "1").code == 0
    assert cli(*same, "--fold", "1", "--epochs", "2").code == 0
    half = cli("leaderboard", table, *where)
    assert half.out.count("n=0/3") == 1 and half.out.count("n=1/3") == 1
    assert half.out.index("with metadata") < half.out.index("image only")

    answer = cli("sweep", table, *where, "--device", "cpu", "--json")
    assert answer.code == 0, answer.err
    states = {(r["label"], r["fold"]): r["state"] for r in answer.json["runs"]}
    assert states.pop(("image only", 1)) == "done"
    assert set(states.values()) == {"finished"} and len(states) == 5
    again = cli("sweep", table, *where)
    assert again.code == 0 and "run 1 of" not in again.err
    assert "Two methods (small version)" in again.out and "Drawn lesions only." in again.out

    data = cli("leaderboard", table, *where, "--json").json
    (found,) = data["tables"]
    assert [(r["label"], r["fusion"], r["runs_done"]) for r in found["rows"]] == [
        ("with metadata", "concat", 3),
        ("image only", "none", 3),
    ]
    ids = {run for row in found["rows"] for run in row["run_ids"]}
    assert ids == {r["run_id"] for r in answer.json["runs"]}
    assert len(list(Store(store).records())) == 7  # the undeclared one is there, and not shown
    # Without a table, the leaderboard is what it was: every run, best first, no labels.
    every = cli("leaderboard", "--store", store, "--json").json["tables"]
    assert sum(len(b["rows"]) for b in every) == 3
    assert {r["label"] for b in every for r in b["rows"]} == {""}


def test_seeds_and_folds_of_a_table_may_be_chosen(
    cli, table: Path, tiny_card: Path, tmp_path: Path
) -> None:
    """On a card that declares no protocols, as well: the usual ones are made for it."""
    card = shutil.copytree(tiny_card.parent, tmp_path / "bare") / "dataset.toml"
    text = card.read_text("utf-8")
    assert "[[protocols]]" in text
    text = text[: text.index("[[protocols]]")].replace("default_protocol =", "# ")
    card.write_text(text, "utf-8")
    text = TABLE.format(card=card).replace("columns =", "folds = [2]\ncolumns =")
    table.write_text(text[: text.index("[settings]")] + CONTROLS, "utf-8")
    where = (table, "--store", tmp_path / "store")
    for words, runs in (
        ((), {(0, 2)}),
        (("--seed", "3,4", "--fold", "0"), {(3, 0), (4, 0)}),
        (("--fold", "all"), {(0, k) for k in range(5)}),
    ):
        planned = cli("sweep", *where, "--dry-run", "--json", *words)
        assert planned.code == 0, planned.err
        assert {(r["seed"], r["fold"]) for r in planned.json["runs"]} == runs
    assert cli("sweep", *where, "--seed", "3", "--fold", "0,1").code == 0
    (shown,) = cli("leaderboard", *where, "--seed", "3", "--fold", "0,1", "--json").json["tables"]
    assert [(r["seeds"], r["runs_done"]) for r in shown["rows"]] == [([3], 2)]
    assert "Changed from what is declared: seeds 3, folds 0 and 1." in shown["notes"][-1]
    # Neither the table's own seed nor its own fold has run.
    (other,) = cli("leaderboard", *where, "--json").json["tables"]
    assert other["rows"][0]["runs_done"] == 0


CONTROLS = """
[[rows]]
label = "regression"
fusion = "metadata-logistic"
"""


def test_a_generated_table_names_rows_and_command(cli, table: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    where = (table, "--small", "--store", store, "--epochs", "3")
    for suffix in ("md", "csv", "tex"):
        assert cli("leaderboard", *where, "--output", tmp_path / f"t.{suffix}").code == 0
    text = (tmp_path / "t.md").read_text("utf-8")
    command = "fusionbench leaderboard two-methods.toml --small --epochs 3 --format markdown"
    assert command in text.splitlines()[0] and str(tmp_path) not in text
    assert "Two methods (small version)" in text and "Drawn lesions only." in text
    assert "Changed from what is declared: epochs 3." in text
    header = next(line for line in text.splitlines() if line.startswith("| Row"))
    assert header.index("BACC") < header.index("ACC", header.index("BACC") + 4)
    assert "F1" not in header
    rows = [line for line in text.splitlines() if "n=0/3" in line]
    assert [line.split("|")[1].strip() for line in rows] == ["with metadata", "image only"]
    cells = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text("utf-8"))))
    assert [(c["label"], c["fusion"], c["runs_done"]) for c in cells] == [
        ("with metadata", "concat", "0"),
        ("image only", "none", "0"),
    ]
    assert "with metadata" in (tmp_path / "t.tex").read_text("utf-8")


@pytest.mark.parametrize(
    ("flag", "value"), [("--epochs", "3"), ("--backbone", "test_vit"), ("--lr", "1"),
                        ("--weights", "imagenet")],
)  # fmt: skip
def test_runs_with_other_settings_are_not_the_rows(
    cli, table: Path, tiny_run: list[str], tmp_path: Path, flag: str, value: str
) -> None:
    store = tmp_path / "store"
    cli(*tiny_run, "--fusion", "none", "--batch-size", "16", "--fold", "0")
    plain = cli("leaderboard", table, "--small", "--store", store)
    assert plain.out.count("n=1/3") == 1
    other = cli("leaderboard", table, "--small", "--store", store, flag, value)
    assert other.out.count("n=1/3") == 0 and other.out.count("n=0/3") == 2


def test_control_rows_are_swept_and_found_again(cli, table: Path, tmp_path: Path) -> None:
    """A metadata-only row and a shuffled twin beside the row that they belong to."""
    text = table.read_text("utf-8").replace(
        "[small]",
        '[[rows]]\nlabel = "twin"\nfusion = "concat"\nshuffle_metadata = true\n\n'
        '[[rows]]\nlabel = "regression"\nfusion = "metadata-logistic"\n\n'
        '[[rows]]\nlabel = "stronger"\nfusion = "metadata-logistic"\n'
        'params = { "fusion.c" = "0.1" }\n\n[small]',
    )
    table.write_text(text, "utf-8")
    where = (table, "--small", "--store", tmp_path / "store")
    (tmp_path / "store").mkdir()
    before = cli("leaderboard", *where, "--json").json["tables"][0]["rows"]
    assert [(r["label"], r["backbone"], r["control"]) for r in before] == [
        ("with metadata", "test_resnet", False),
        ("image only", "test_resnet", False),
        ("twin", "test_resnet", True),
        ("regression", None, True),
        ("stronger", None, True),
    ]
    answer = cli("sweep", *where, "--device", "cpu", "--json")
    assert answer.code == 0, answer.err
    (found,) = cli("leaderboard", *where, "--json").json["tables"]
    assert [(r["label"], r["runs_done"]) for r in found["rows"]] == [
        (label, 3) for label in ("with metadata", "image only", "twin", "regression", "stronger")
    ]
    rows = {r["label"]: r for r in found["rows"]}
    gains = rows["with metadata"]
    assert gains["vs_image"]["against"] == rows["image only"]["key"]
    assert gains["vs_shuffled"]["against"] == rows["twin"]["key"]
    means = {k: r["metrics"]["bacc"]["mean"] for k, r in rows.items()}
    assert gains["vs_image"]["mean"] == pytest.approx(means["with metadata"] - means["image only"])
    assert rows["stronger"]["settings"] == {"fusion.c": "0.1"}
    assert "epochs" not in rows["regression"]["settings"]
    # Every row carries the audit's verdict, and lesions were counted with the photographs.
    assert all(r["verdict"] for r in found["rows"])
    lesions = cli("leaderboard", *where, "--level", "lesion", "--json").json["tables"][0]["rows"]
    assert all(0 < few["n"] < many["n"] for few, many in zip(lesions, found["rows"], strict=True))
    # Without them, the rows that are left still say what they gain.
    target = tmp_path / "t.md"
    assert cli("leaderboard", *where, "--no-controls", "--output", target).code == 0
    text = target.read_text("utf-8")
    assert "--small --no-controls --format markdown" in text.splitlines()[0]
    labels = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert labels[2:] == ["with metadata", "image only"]
    assert "vs shuffled" in text


def test_parameters_tell_rows_apart(cli, tiny_card: Path, tmp_path: Path) -> None:
    """cf=off and the whole SGMC share everything but one resolved parameter."""
    path = tmp_path / "ablation.toml"
    text = TABLE[: TABLE.index("[[rows]]")].format(card=tiny_card)
    text += (
        '[[rows]]\nlabel = "whole"\nfusion = "sgmc"\n'
        '[[rows]]\nlabel = "stages"\nfusion = "sgmc"\nparams = { "fusion.stages" = "1,2" }\n'
        '[[rows]]\nlabel = "smooth"\nfusion = "sgmc"\n'
        'params = { "loss.label_smoothing" = ".1", "fusion.cf" = "no" }\n'
    )
    path.write_text(text.replace('loss = "ce"', SETTINGS), encoding="utf-8")
    store = tmp_path / "store"
    store.mkdir()
    run = (
        f"run --fusion sgmc --loss ce --dataset {tiny_card} --backbone test_resnet --weights none "
        f"--epochs 1 --image-size 32 --device cpu --fold 0 --store {store}"
    ).split()
    swap = ("--backbone", "resnet50=test_resnet", "--store", store, "--json")

    def done() -> dict[str, int]:
        (found,) = cli("leaderboard", path, *swap).json["tables"]
        return {row["label"]: row["runs_done"] for row in found["rows"]}

    assert done() == {"whole": 0, "stages": 0, "smooth": 0}
    cli(*run, "--set", "fusion.stages=1")  # no row's
    assert done() == {"whole": 0, "stages": 0, "smooth": 0}
    cli(*run, "--set", "fusion.stages=1,2")
    assert done() == {"whole": 0, "stages": 1, "smooth": 0}
    cli(*run, "--set", "loss.ce.label_smoothing=0.10", "--set", "fusion.cf=off")
    assert done() == {"whole": 0, "stages": 1, "smooth": 1}
    cli(*run)
    assert done() == {"whole": 1, "stages": 1, "smooth": 1}


SETTINGS = 'loss = "ce"\nepochs = 1\nimage_size = 32\nweights = "none"'


def test_a_failing_row_ends_with_1_and_a_summary(cli, table: Path, tmp_path: Path) -> None:
    text = table.read_text("utf-8").replace(
        "[small]", '[[rows]]\nlabel = "unfit"\nfusion = "metanet"\n\n[small]'
    )
    table.write_text("folds = [0]\n" + text.replace("[small]", "[small]\nfolds = [0]"), "utf-8")
    answer = cli("sweep", table, "--small", "--store", tmp_path / "store", "--json")
    assert answer.code == 1
    assert [r["state"] for r in answer.json["runs"]] == ["finished", "finished", "missing"]
    (failure,) = answer.json["failures"]
    assert failure["label"] == "unfit" and failure["fold"] is None
    assert answer.err.splitlines()[-1].startswith("Error: unfit, seed 0: metanet views")
    assert "Traceback" not in answer.err


def test_wrong_use_is_said_before_anything_slow(
    cli, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fusionbench.runs", None)
    for words, message in (
        (("sweep", "sgmc-loses"), "Did you mean sgmc-losses"),
        (("sweep", tmp_path / "no.toml"), "no table file at"),
        (("sweep", table, "--backbone", "resnet50="), "give NEW or OLD=NEW"),
        (("leaderboard", "--small"), "--small changes a TABLE"),
        (("leaderboard", "--backbone", "x"), "--backbone changes a TABLE"),
        (("leaderboard", table, "--protocol", "5fold"), "no protocol of tiny"),
    ):
        answer = cli(*words)
        assert answer.code == 2 and message in answer.err
    table.write_text(table.read_text("utf-8").replace('"concat"', '"conct"'), "utf-8")
    answer = cli("sweep", table)
    assert answer.code == 1 and "rows[0] (with metadata)" in answer.err
    assert "Did you mean concat" in answer.err
