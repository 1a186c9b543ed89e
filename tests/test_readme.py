"""What the README shows is true: its plugin, its table, its commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fusionbench.contract import assert_ok, check_file
from fusionbench.plugin import registry

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_plugin_keeps_its_contract(tmp_path: Path) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "low_rank.py"
    path.write_text(source, encoding="utf-8")
    assert_ok(check_file(path))
    entry = registry.find("fusions", "low-rank", [path])
    assert dict(entry.parameters) == {"rank": "64"}


TABLE = ROOT / "leaderboards/small/sgmc-pad-ufes-20/table.md"


def generated() -> str:
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("<!--")).strip()


def test_the_table_is_the_generated_one() -> None:
    shown = README.split("<!-- table:begin -->")[1].split("<!-- table:end -->")[0].strip()
    assert shown == generated()


def _commands() -> list[str]:
    indented = [line.strip() for line in README.splitlines() if line.startswith("    fusionbench ")]
    return [line.split("#")[0].strip() for line in indented]


@pytest.mark.parametrize("line", _commands())
def test_every_command_line_is_understood(line: str) -> None:
    """Parsed, not run: an option that does not exist, or a missing argument, raises."""
    from fusionbench.cli import cli

    words = shlex.split(line)[1:]
    context = cli.make_context("fusionbench", list(words))
    name, command, rest = cli.resolve_command(context, words)
    assert command is not None
    if rest != ["--help"]:
        command.make_context(name, rest, parent=context, resilient_parsing=False)
