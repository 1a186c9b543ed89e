"""Errors are one line with the remedy, and the exit code says whose they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WRONG_USE = [
    (["bogus"], "There is no command called 'bogus'. Known: run, sweep, leaderboard"),
    (["leaderbord"], "Did you mean leaderboard?"),
    (["--bogus"], "No such option"),
    (["run", "--fusoin", "sgmc"], "--fusion"),
    (["run", "--epochs", "0"], "--epochs 0: must be greater than or equal to 1."),
    (["run", "--epochs", "many"], "not a valid integer"),
    (["run", "--lr", "nan"], "--lr nan: "),
    (["run", "--lr", "inf"], "--lr inf: "),
    (["run", "--batch-size", "1"], "--batch-size 1: "),
    (["run", "--ema", "1.5"], "--ema 1.5: "),
    (["run", "--workers", "0"], "'--workers'"),
    (["run", "--select", "best"], "'last', 'inner-val', 'test-best'"),
    (["run", "--device", "tpu"], "give auto, cpu, cuda, cuda:1 or mps"),
    (["run", "--fold", "one"], "--fold one: give all, a number, or numbers as in 0,1."),
    (["run", "--set", "hidden"], "--set 'hidden' is not of the form KEY=VALUE. As in fusion.fr"),
    (["run", "--dataset", "no/such/dataset.toml"], "There is no dataset card at no/such"),
    (["run", "--plugins", "no/such.py"], "There is no plugin file or folder at no/such.py."),
    (["list", "fusion"], "'fusions'"),
    (
        ["leaderboard", "--metrics", "auc"],
        "Did you mean auc_ovr_macro or auc_ovr_weighted or auc/<CLASS>?",
    ),
    (["leaderboard", "--sort", "accuracy"], "no metric called 'accuracy'"),
    (["leaderboard", "--metrics", "recall/"], "no metric called 'recall/'"),
    (["leaderboard", "--format", "html"], "'markdown', 'csv', 'latex'"),
    (["data"], "Missing command. See fusionbench data --help."),
    (["data", "look", "synthetic"], "No such command 'look'. See fusionbench data --help."),
    (["data", "status"], "Missing argument 'NAME'. See fusionbench data status --help."),
    (["data", "status", "synthetik"], "Did you mean synthetic?"),
    (["check"], "Missing argument 'PLUGIN'"),
    (["check", "no/such.py"], "no/such.py"),
    (["new", "metric", "mine"], "'fusion', 'loss'"),
    (["new", "fusion", "sgmc"], "There is a fusion called 'sgmc' already"),
]

READING = [
    ["show"], ["show", "x"], ["leaderboard"], ["leaderboard", "sgmc-pad-ufes-20"], ["rank"],
    ["compare", "a", "b"], ["stress", "x"], ["subgroups", "x"], ["store", "list"],
    ["store", "verify"], ["store", "prune", "--failures"],
]  # fmt: skip
WRONG_USE += [([*command, "--store", "nowhere"], "There is no store at ") for command in READING]
FAILED = [
    (["show", "nothing", "--store", "."], "fit 'nothing'"),
    (["leaderboard", "--store", "."], "There is no finished run in "),
    (["data", "prepare", "pad-ufes-20", "no.zip"], "There is no archive or folder at no.zip."),
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("arguments", "message"), WRONG_USE, ids=lambda v: " ".join(v)[:40])
def test_wrong_use_is_one_line_and_exit_code_2(arguments, message, cli) -> None:
    answer = cli(*arguments)
    assert (answer.code, answer.out) == (2, "")
    *before, last = answer.err.splitlines()
    assert before in ([], ["loading PyTorch and timm"])
    assert last.startswith("Error: ") and message in last
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(("arguments", "message"), FAILED, ids=lambda v: " ".join(v)[:40])
def test_what_is_not_there_is_one_line_and_exit_code_1(arguments, message, cli) -> None:
    answer = cli(*arguments)
    assert (answer.code, answer.out) == (1, "")
    (line,) = answer.err.splitlines()
    assert line.startswith("Error: ") and message in line


def test_without_arguments_the_help_is_shown(cli) -> None:
    assert cli() == cli("--help")
    assert cli().code == 0 and "leaderboard" in cli().out


@pytest.mark.parametrize("where", [0, 1, 5])
def test_a_traceback_is_shown_with_debug_only(where: int, cli) -> None:
    arguments = ["leaderboard", "--store", ".", "--dataset", "mine"]
    quiet = cli(*arguments)
    debug = cli(*arguments[:where], "--debug", *arguments[where:])
    assert "Traceback" not in quiet.err
    assert "Traceback (most recent call last)" in debug.err
    assert debug.err.splitlines()[-1:] == quiet.err.splitlines()
    assert debug.code == quiet.code == 1
    assert cli("run", "--epochs", "0", "--debug").code == 2


def test_a_mistake_of_ours_is_one_line_too(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("fusionbench.cli.listing.rows_of", broken)
    answer = cli("list")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == (
        "Error: Internal error, KeyError: 'surprise'. Run again with --debug for the traceback.\n"
    )
    assert "in broken" in cli("list", "--debug").err


def test_absent_data_says_where_to_get_it_and_what_to_try_meanwhile(cli, tmp_path: Path) -> None:
    answer = cli("data", "verify", "pad-ufes-20", "--data", tmp_path)
    assert (answer.code, answer.out) == (1, "")
    first, *rest = answer.err.splitlines()
    assert first.startswith("Error: The data of PAD-UFES-20 is not here: no metadata.csv in ")
    text = "\n".join(rest)
    for part in ("data.mendeley.com", "fusionbench data prepare", "--data", "--dataset synthetic"):
        assert part in text


def test_an_error_is_red_on_a_terminal_and_only_its_first_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fusionbench.cli import terminal

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal.print_error("it [broke]", "Mend it.")
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "\x1b[31mit [broke] Mend it." in err
    terminal.print_error("it broke:\n  line 7", "Mend it.\nOr not.")
    first, *rest = capsys.readouterr().err.splitlines()
    assert "\x1b[31mit broke:" in first
    assert rest == ["  line 7", "Mend it.", "Or not."]


def test_a_reader_that_goes_away_is_no_error() -> None:
    ran = subprocess.run(
        f"{sys.executable} -m fusionbench list backbones | head -1",
        shell=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert len(ran.stdout.splitlines()) == 1
    assert ran.stderr == ""


def test_a_long_list_of_problems_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    from fusionbench.cli import terminal

    problems: list[dict[str, object]] = [
        {"file": f"/data/set/P_{i}.png", "problem": "photograph is missing"} for i in range(1200)
    ]
    problems += [
        {"file": "m.csv", "row": i, "column": "age", "value": f"x{i}", "problem": "not a number"}
        for i in range(3)
    ]
    problems += [
        {"file": f"/data/set/D_{i}.png", "problem": f"D_{i}.png is damaged", "fix": "Get it anew."}
        for i in range(11)
    ]
    terminal.print_problems(problems, root="/data/set")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 + (10 + 1) + 3 + (10 + 1) + 1
    assert [line.split()[0] for line in lines[1:3]] == ["P_0.png", "P_1.png"]
    assert lines[11].strip() == "… and 1,190 more" and lines[25].strip() == "… and 1 more"
    assert lines[12].split() == ["m.csv", "0", "age", "x0", "not", "a", "number"]
    assert lines[-1] == "Get it anew."
    kinds = [{"problem": "abcdefghijklmnopqrstuvwxyz"[:i] + "!"} for i in range(1, 26)]
    terminal.print_problems(kinds)
    assert "and 5 problems of other kinds" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="limits its address space")
def test_too_little_memory_for_pytorch_is_no_internal_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fusionbench", "run", "--fusion", "concat", "--dataset",
               "synthetic", "--weights", "none", "--store", str(tmp_path)]  # fmt: skip
    process = subprocess.run(
        ["bash", "-c", 'ulimit -v 700000; exec "$@"', "-", *command],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert process.returncode == 1 and "ulimit -v" in process.stderr, process.stderr
    assert "Internal" not in process.stderr and "Traceback" not in process.stderr


def test_what_a_file_or_machine_refuses_is_no_mistake_of_ours(cli, monkeypatch) -> None:
    def broken(*args: object) -> None:
        raise OSError(24, "Too many open files", "some.csv")

    monkeypatch.setattr("fusionbench.cli.listing.rows_of", broken)
    answer = cli("list")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith("Error: some.csv: Too many open files. Check the file")
