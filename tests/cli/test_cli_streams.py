"""What reaches the terminal: text of any file as text, on streams of any kind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from made_up_records import CLASSES, failed, finished
from msgspec import structs

from fusionbench.records import Failure, Record, Store

# Clear the screen, set the title, a C1 control, the start of the line, text from right to left, an
# invisible tag.
ODD = "x\x1b[2J\x1b]0;title\x07\x9b31m\rY\u202eZ\u2066\U000e0041"
# A cell of a csv of this project or of a card may hold no line break, but all of these.
READING = [
    ["leaderboard"], ["leaderboard", "--format", "markdown"], ["leaderboard", "--format", "latex"],
    ["leaderboard", "--format", "csv"], ["leaderboard", "--json"], ["show"], ["show", "f0_s0"],
    ["show", "f1_s0"], ["show", "f0_s0", "--json"], ["store", "verify"], ["store", "list"],
    ["store", "list", "--json"], ["compare", "concat", ODD], ["rank"], ["subgroups", "f0_s0"],
    ["stress", ODD],
]  # fmt: skip


def controls(text: str) -> set[str]:
    """What is neither a letter, a mark nor a line break."""
    return {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")}


@pytest.fixture
def odd_store(tmp_path: Path) -> Store:
    """A finished run and a failure, every text of which is odd."""
    store = Store(tmp_path / "store")
    names = {
        "dataset": ODD, "protocol": ODD, "backbone": ODD, "fusion_params": {ODD: ODD},
        "settings": {"columns": [ODD]},
    }  # fmt: skip
    made, predictions = finished(
        **names, environment={"device": ODD, ODD: ODD}, result={"flags": (ODD,), "verdict": ODD}
    )
    odd_class = json.dumps(f"{CLASSES[0]}{ODD}")[1:-1]
    text = made.to_json().replace(CLASSES[0], odd_class)
    text = text.replace('"started":"2025-01-01T00:00:00Z"', f'"started":{json.dumps(ODD)}')
    record = structs.replace(made, **_decoded(text))
    classes = (f"{CLASSES[0]}{ODD}", *CLASSES[1:])
    labels = tuple(classes[CLASSES.index(label)] for label in predictions.labels)
    predictions = type(predictions)(**{**vars(predictions), "classes": classes, "labels": labels})
    store.write(record, predictions)
    failure = failed(fold=1, **names)
    store.write_failure(
        structs.replace(failure, error=Failure(type=ODD, message=ODD, traceback=ODD))
    )
    return store


def _decoded(text: str) -> dict[str, object]:
    from fusionbench.records.schema import decode

    whole: Record = decode(text.encode())
    return {"result": whole.result, "measured": whole.measured}


@pytest.mark.parametrize("command", READING, ids=lambda c: " ".join(c).replace(ODD, "ODD"))
@pytest.mark.parametrize("colour", ["", "1"])
def test_no_text_of_a_record_reaches_the_terminal_as_a_command(
    cli, odd_store, monkeypatch, command, colour
) -> None:
    if colour:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)
    answer = cli(*command, "--store", odd_store.folder)
    assert "Internal error" not in answer.err
    text = answer.out + answer.err
    if colour:  # rich's own: styles, and the cursor of a progress bar
        text = re.sub(r"\x1b\[([\d;]*m|\d?[AK]|\?25[lh])|\r(?=\x1b|$)", "", text)
    assert not controls(text)
    assert text.strip()


def test_names_of_files_options_and_plugins_are_text_too(cli, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(f"{ODD}.py").write_text(f'"""{ODD}"""\nfrom fusionbench import Fusion\nimport {ODD}\n')
    Path("card").mkdir()
    Path("card/dataset.toml").write_text(f"name = {json.dumps(ODD)}\n", encoding="utf-8")
    for command in (
        ["list", "fusions", "--plugins", f"{ODD}.py"],
        ["check", f"{ODD}.py"],
        ["list", ODD],
        [ODD],
        ["run", "--dataset", ODD],
        ["run", "--fusion", ODD, "--set", ODD],
        ["data", "status", "card/dataset.toml"],
        ["leaderboard", "--metrics", ODD, "--store", ODD],
        ["new", "fusion", ODD],
    ):
        for more in ([], ["--debug"]):
            answer = cli(*command, *more)
            text = answer.out + answer.err
            assert not controls(text) and "Internal error" not in text, text


def python(*arguments: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "fusionbench", *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run(command, timeout=120, **options)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-16"])
def test_a_stream_of_any_encoding_gets_what_it_can_hold(tmp_path, encoding) -> None:
    store = Store(tmp_path / "store")
    store.write(*finished(backbone="é-網路", result={"verdict": "naïve ±"}))
    store.write_failure(failed(fold=1, backbone="é-網路"))
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    for command in (
        ["leaderboard"],
        ["leaderboard", "--json"],
        ["show", "f1_s0"],
        ["show", "網路"],
    ):
        ran = python(*command, "--store", store.folder, env=env)
        text = ran.stdout.decode(encoding) + ran.stderr.decode(encoding)
        assert "Internal error" not in text and "Traceback" not in text
        assert ran.returncode == (2 if command[-1] == "網路" else 0), text
        if "--json" in command:
            (table,) = json.loads(ran.stdout.decode(encoding))["tables"]
            assert table["rows"][0]["backbone"] == "é-網路"


@pytest.mark.parametrize(
    ("shell", "code", "said"),
    [
        ("{} list backbones | head -1", 0, ""),
        ("{} list backbones 2>&1 >/dev/null | head -0", 0, ""),
        ("{} list fusions >&-", 0, ""),
        ("{} list fusions 2>&-", 0, "sgmc"),
        ("{} list nothing 2>&-", 2, ""),
        ("{} list fusions >&- 2>&-", 0, ""),
        ("{} list fusions 2>/dev/full", 0, "sgmc"),
        ("{} list fusions >/dev/full", 1, "Standard output cannot be written: No space left"),
        ("{} list --json >/dev/full", 1, "Standard output cannot be written: No space left"),
        ("{} --help >/dev/full", 1, "Standard output cannot be written: No space left"),
        ("{} list nothing >/dev/full", 2, "Error: Invalid value"),
    ],
)
def test_a_stream_that_is_closed_or_full_is_no_internal_error(shell, code, said) -> None:
    command = shell.format(f"{sys.executable} -m fusionbench")
    ran = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert ran.returncode == code and said in ran.stdout + ran.stderr, ran
    assert len(ran.stderr.splitlines()) <= 1 and "Exception ignored" not in ran.stderr
