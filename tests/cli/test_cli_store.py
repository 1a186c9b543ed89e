"""fusionbench store: what is printed, what is asked, and how it ends."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from made_up_records import failed, finished

from fusionbench.records import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two finished folds and a failure."""
    made = Store(tmp_path / "store")
    for fold in range(2):
        made.write(*finished(fold=fold))
    made.write_failure(failed(fold=2))
    return made


def test_verify_says_that_nothing_is_wrong(cli, store) -> None:
    answer = cli("store", "verify", "--store", store.folder, "--recompute")
    assert answer.code == 0
    assert "2 whole" in answer.out and "Nothing is wrong." in answer.out
    assert re.search(r"recomputed +\d+ numbers from predictions", answer.out)
    found = cli("store", "verify", "--store", store.folder, "--json").json
    assert (found["ok"], found["records"], found["failures"]) == (True, 2, 1)
    assert found["problems"] == []


def test_verify_names_file_and_remedy_and_ends_with_1(cli, store, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    path = store.files("records")[1]
    path.write_text(path.read_text()[:100])
    (store.folder / "predictions" / ".0123456789abcdef.tmp").write_text("half")
    answer = cli("store", "verify", "--store", store.folder)
    assert answer.code == 1 and "2 problems." in answer.out
    assert f"records/{path.name} " in answer.err
    assert re.search(r"predictions/\.0123456789abcdef\.tmp +was left half written\.", answer.err)
    assert "delete it and run again" in answer.err
    assert "`fusionbench store prune --leftovers` removes it." in answer.err
    found = cli("store", "verify", "--store", store.folder, "--json")
    assert found.code == 1
    assert found.json["problems"][0]["path"] == str(path)
    assert all(p["remedy"] for p in found.json["problems"])


@pytest.mark.parametrize("columns", ["80", "120"])
def test_list_has_a_line_per_run(cli, store, monkeypatch, columns) -> None:
    broken = store.files("records")[1]
    broken.write_text("{")
    monkeypatch.setenv("COLUMNS", columns)
    answer = cli("store", "list", "--store", store.folder)
    assert answer.code == 0 and "1 finished, 2 not." in answer.out
    assert max(map(len, answer.out.splitlines())) <= int(columns)
    rows = [line for line in answer.out.splitlines() if re.match(r"[0-9a-f]{12} ", line)]
    assert [line.split()[1] for line in rows] == ["ok", "unreadable", "failed"]
    assert "2025-01-01" in rows[0] and "kB" in rows[0]
    lines = cli("store", "list", "--store", store.folder, "--json").json
    assert [line["status"] for line in lines] == ["ok", "unreadable", "failed"]
    first = store.read(lines[0]["run"])
    assert (lines[0]["fold"], lines[0]["seed"]) == (0, 0)
    assert lines[0]["method"] == "sgmc resnet18 ce+self-contrastive"
    size = sum(p.stat().st_size for p in store.folder.rglob(f"{first.run_id}.*"))
    assert lines[0]["bytes"] == size and lines[0]["date"] == first.measured.started


def test_merge_copies_and_shows_a_conflict(cli, store, tmp_path) -> None:
    other = Store(tmp_path / "other")
    other.write(*finished(fold=0, seed=7))
    other.write(*finished(fold=2))
    dry = cli("store", "merge", other.folder, "--store", store.folder, "--dry-run")
    assert dry.code == 1 and "This was a dry run" in dry.out
    assert len(list(store)) == 2 and not (store.folder / "conflicts").exists()
    answer = cli("store", "merge", other.folder, "--store", store.folder)
    assert answer.code == 1
    assert "1 finished run copied, 1 conflict." in answer.out
    assert re.search(r"\n  acc: 0\.\d+ here, 0\.\d+ there \([+-][\d.e-]+\)\n", answer.out)
    (kept,) = (store.folder / "conflicts").glob("*.json")
    assert f"kept, not counted, as {kept}" in answer.out
    assert len(list(store)) == 3
    found = cli("store", "merge", other.folder, "--store", store.folder, "--json")
    assert found.code == 1 and found.json["ok"] is False
    assert [r["action"] for r in found.json["runs"]] == ["conflict", "same"]
    assert found.json["runs"][0]["kept_at"] == str(kept)


def test_merge_into_a_new_store_and_from_several(cli, store, tmp_path) -> None:
    other = Store(tmp_path / "other")
    other.write(*finished(fold=3))
    answer = cli("store", "merge", store.folder, other.folder, "--store", tmp_path / "new")
    assert answer.code == 0 and "3 finished runs copied, 1 failure copied." in answer.out
    assert cli("store", "verify", "--store", tmp_path / "new").code == 0
    # All others are looked at before the first is copied.
    answer = cli("store", "merge", store.folder, tmp_path, "--store", tmp_path / "newer")
    assert answer.code == 2 and "is no store" in answer.err
    assert not (tmp_path / "newer").exists()


def test_prune_shows_and_deletes_only_when_told(cli, store) -> None:
    (store.folder / "predictions" / "gone.csv").write_text("half")
    names = {p.name for p in store.folder.rglob("*") if p.is_file()}
    where = ("--store", store.folder)
    answer = cli("store", "prune", *where)
    assert (
        answer.code == 2
        and "Give --leftovers, --failures, --weights or --checkpoints." in answer.err
    )
    answer = cli("store", "prune", "--leftovers", "--failures", *where)
    assert answer.code == 2 and "Nothing was deleted. Add --yes" in answer.err
    assert "predictions/gone.csv" in answer.out and "2 files" in answer.out
    assert "is a failure" in answer.out
    assert {p.name for p in store.folder.rglob("*") if p.is_file()} == names
    answer = cli("store", "prune", "--leftovers", "--yes", *where)
    assert answer.code == 0 and "Deleted 1 file." in answer.out
    left = {p.name for p in store.folder.rglob("*") if p.is_file()}
    assert left == names - {"gone.csv"} and len(store.failures()) == 1
    assert cli("store", "prune", "--failures", "--yes", *where).code == 0
    assert store.failures() == [] and len(list(store)) == 2
    answer = cli("store", "prune", "--weights", "--yes", *where)
    assert answer.code == 0 and "There is nothing to delete." in answer.out


@pytest.mark.parametrize("command", ["verify", "list", "prune --failures"])
def test_a_store_that_is_not_there_is_wrong_use(cli, tmp_path, command) -> None:
    answer = cli("store", *command.split(), "--store", tmp_path / "nowhere")
    assert answer.code == 2 and f"There is no store at {tmp_path / 'nowhere'}." in answer.err


def test_json_of_an_empty_store_is_json(cli, tmp_path) -> None:
    assert cli("store", "list", "--store", tmp_path, "--json").json == []
    assert json.dumps(cli("store", "verify", "--store", tmp_path, "--json").json)
