"""fusionbench data status | verify | prepare"""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from fusionbench.data.locate import find_data, open_card

CARD = """
name = "moles"
title = "Made-up moles"
[files]
metadata = "moles.csv"
[[views]]
name = "photo"
column = "photo"
[label]
column = "kind"
classes = ["good", "bad"]
[[columns]]
name = "age"
kind = "numeric"
[source]
obtain = "Ask for it."
"""
ROWS = 1201


@pytest.fixture
def moles(tmp_path: Path) -> Path:
    """A dataset of 1,201 rows with one photograph; 1,200 are missing."""
    folder = tmp_path / "moles"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (20, 16), "tan").save(folder / "images" / "m_0.png")
    lines = [f"m_{i}.png,{20 + i % 50},{'good' if i % 3 else 'bad'}" for i in range(ROWS)]
    (folder / "moles.csv").write_text("\n".join(["photo,age,kind", *lines]) + "\n")
    (folder / "dataset.toml").write_text(CARD)
    return folder


def test_status_and_verify_of_whole_data(cli, tiny_card: Path) -> None:
    for command, checked in (("status", False), ("verify", True)):
        data = cli("data", command, tiny_card, "--json").json
        assert data["ok"] is True and data["found"] is True
        assert data["images_found"] == data["rows"] == sum(data["classes"].values()) > 50
        assert data["images_missing"] == 0 and data["problems"] == []
        assert data["checked_pixels"] is checked
        answer = cli("data", command, tiny_card)
        assert answer.code == 0 and "Nothing is wrong." in answer.out
        assert f"{data['rows']} found" in answer.out and data["fingerprint"] in answer.out


def test_1200_missing_photographs_are_a_dozen_lines(cli, moles: Path) -> None:
    card = moles / "dataset.toml"
    for command in ("status", "verify"):
        answer = cli("data", command, card)
        assert answer.code == 1
        assert len(answer.err.splitlines()) == 12  # a heading, ten of them, the rest
        assert "… and 1,190 more" in answer.err
        assert "1 found, 1,200 missing" in answer.out
        assert answer.out.splitlines()[-1].startswith("1,200 problems; a run can use the rest")
        data = cli("data", command, card, "--json").json
        assert data["ok"] is False and len(data["problems"]) == 1200  # --json leaves nothing out


def test_a_run_on_them_says_how_many_and_what_to_do(cli, moles: Path, tmp_path: Path) -> None:
    answer = cli(
        *("run", "--dataset", moles / "dataset.toml", "--weights", "none", "--store", tmp_path),
        *("--backbone", "test_resnet", "--device", "cpu"),
    )
    assert (answer.code, answer.out) == (1, "")
    lines = answer.err.splitlines()
    assert len(lines) == 1 + 12 + 1
    assert "… and 1,190 more" in lines[-2]
    assert lines[-1].startswith("Error: 1200 photographs of Made-up moles are missing")
    assert "--allow-missing-images" in lines[-1]


def test_bad_rows_are_listed_with_their_lines(cli, moles: Path) -> None:
    csv = moles / "moles.csv"
    csv.write_text("photo,age,kind\nm_0.png,old,good\n../m_1.png,30,ugly\n")
    answer = cli("data", "verify", moles / "dataset.toml")
    assert answer.code == 1
    for text in ("moles.csv", "old", "ugly", "../m_1.png", "age", "kind"):
        assert text in answer.err
    rows = {(p["row"], p["column"]) for p in
            cli("data", "verify", moles / "dataset.toml", "--json").json["problems"]
            if p.get("column")}  # fmt: skip
    assert {(2, "age"), (3, "kind"), (3, "photo")} <= rows


def test_absent_data_is_not_here(cli, moles: Path, tmp_path: Path) -> None:
    (moles / "moles.csv").unlink()
    answer = cli("data", "status", moles / "dataset.toml", "--data", tmp_path / "nowhere")
    assert answer.code == 1 and answer.out == "Not here.\n"
    assert "Ask for it." in answer.err and "nowhere" in answer.err
    data = cli("data", "status", moles / "dataset.toml", "--json").json
    assert data["ok"] is data["found"] is False


def test_prepare_takes_an_archive(cli, tiny_card: Path, tmp_path: Path) -> None:
    root = find_data(open_card(str(tiny_card)))
    archive = tmp_path / "download.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                out.write(path, Path("some folder") / path.relative_to(root))
    answer = cli(
        "data", "prepare", tiny_card, archive, "--to", tmp_path / "data", "--image-size", 24,
        "--json",
    )  # fmt: skip
    assert answer.code == 0
    data = answer.json
    assert data["ok"] is data["checked_pixels"] is True
    assert Path(data["root"]).is_relative_to(tmp_path / "data")
    assert "-24-" in data["cache"]
    # A second time the folder is in the way; the data can be used from where it is.
    again = cli("data", "prepare", tiny_card, archive, "--to", tmp_path / "data")
    assert again.code == 1 and "not empty" in again.err
    assert cli("data", "verify", tiny_card, "--data", tmp_path / "data").code == 0


def test_prepare_refuses_what_is_no_such_dataset(cli, tiny_card: Path, tmp_path: Path) -> None:
    archive = tmp_path / "other.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("readme.txt", "nothing")
    answer = cli("data", "prepare", tiny_card, archive, "--to", tmp_path / "data")
    assert answer.code == 1 and "does not hold" in answer.err
    assert not (tmp_path / "data").exists()


def test_bars_are_drawn_on_a_terminal_and_only_on_stderr(tiny_card: Path) -> None:
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "fusionbench", "data", "verify", str(tiny_card), "--json"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"},
    )
    os.close(theirs)
    out, _ = child.communicate(timeout=60)
    seen = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not chunk:
            break
        seen += chunk
    os.close(ours)
    assert child.returncode == 0
    assert b"opening photographs" in seen and "━".encode() in seen and b"\x1b[" in seen
    assert b"\x1b" not in out and b'"ok": true' in out
