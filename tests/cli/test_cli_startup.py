"""Help and lists are instant: what they import is measured, not how long they take."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import timm

from fusionbench.cli import COMMANDS, LazyGroup, cli
from fusionbench.cli.listing import TOPICS, backbone_names
from fusionbench.cli.run import SECTIONS, run_command

CALLS = [
    [],
    ["--help"],
    ["--version"],
    *([name, "--help"] for name in COMMANDS),
    *(["data", name, "--help"] for name in ("status", "prepare", "verify")),
    ["list"],
    ["list", "--json"],
    *(["list", topic] for topic in TOPICS),
]

# In a process of its own: this one has imported everything already.
PROBE = """
import contextlib, io, json, sys
from fusionbench.cli import main
found = []
for call in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            main(call)
        except SystemExit as ended:
            code = ended.code
    found.append([code, bool(out.getvalue()), sorted(set(sys.modules) & set(sys.argv[2:]))])
json.dump(found, sys.stdout)
"""


def test_help_and_lists_import_nothing_slow() -> None:
    slow = ["torch", "timm", "torchvision", "pandas", "sklearn", "scipy", "numpy"]
    ran = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(CALLS), *slow],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    for call, (code, printed, imported) in zip(CALLS, json.loads(ran.stdout), strict=True):
        assert (code, printed, imported) == (0, True, []), call
    assert ran.stderr == ""


def test_the_probe_would_see_an_import() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "import numpy\n" + PROBE, json.dumps([["--version"]]), "numpy"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(ran.stdout) == [[0, True, ["numpy"]]]


def test_backbones_are_exactly_those_of_timm() -> None:
    assert backbone_names() == sorted(timm.list_models())


def test_every_command_is_listed_and_can_be_loaded() -> None:
    assert isinstance(cli, LazyGroup)
    for name in COMMANDS:
        command = cli.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None and command.name == name


def test_every_option_of_run_has_its_place_in_the_help() -> None:
    flags = {max(p.opts, key=len).lstrip("-") for p in run_command.params} | {"help"}
    placed = [name for names in SECTIONS.values() for name in names]
    assert sorted(placed) == sorted(flags)  # each exactly once


@pytest.mark.parametrize("columns", ["80", "120"])
def test_help_of_run_shows_every_option_under_headings(columns: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "fusionbench", "run", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": columns},
    )
    lines = ran.stdout.splitlines()
    assert max(map(len, lines)) <= int(columns)
    for title, names in SECTIONS.items():
        below = lines[lines.index(f"{title}:") + 1 :]
        section = below[: below.index("")] if "" in below else below
        shown = [line.split()[0] for line in section if line.startswith("  -")]
        assert [name.removeprefix("-h,") for name in shown if name != "-h,"] == [
            f"--{name}" for name in names if name != "help"
        ]
    assert "Other:" not in lines
