"""Imports point down, nothing that lists or tabulates needs torch, and modules are named well."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
CONFIG = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
VAGUE = {"utils", "util", "misc", "helpers", "helper", "common", "tools", "functions", "stuff"}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    # The folder it runs in comes first on the path, so that a copy is looked at, not the checkout.
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); " + (
        "from importlinter.cli import lint_imports_command; lint_imports_command()"
    )
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache"], capture_output=True, text=True, cwd=folder
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and its contracts, to be broken."""
    shutil.copytree(
        CHECKOUT / "fusionbench", tmp_path / "fusionbench",
        ignore=shutil.ignore_patterns("__pycache__"),
    )  # fmt: skip
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_contract_is_kept() -> None:
    ran = lint(CHECKOUT)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"Contracts: {len(CONFIG['contracts'])} kept, 0 broken." in ran.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("data/csv_rows.py", "def f():\n    import torch", "may import torch"),
        ("plugin/registry.py", "from fusionbench.data import card", "imports point down"),
    ],
)
def test_the_contracts_see_a_breach(copy: Path, module: str, line: str, contract: str) -> None:
    file = copy / "fusionbench" / module
    file.write_text(file.read_text("utf-8") + f"\n{line}\n", "utf-8")
    ran = lint(copy)
    assert ran.returncode == 1
    broken = [text for text in ran.stdout.splitlines() if text.endswith("BROKEN")]
    assert len(broken) == 1 and contract in broken[0]


def test_every_module_has_its_layer() -> None:
    layered = {
        name.strip().removeprefix("fusionbench.")
        for layer in CONFIG["contracts"][0]["layers"]
        for name in layer.split("|")
    }
    package = CHECKOUT / "fusionbench"
    modules = {p.stem for p in package.glob("*.py") if not p.name.startswith("__")}
    modules |= {p.parent.name for p in package.glob("*/__init__.py")}
    assert modules == layered


def test_no_module_is_named_for_nothing() -> None:
    folders = [CHECKOUT / name for name in ("fusionbench", "plugins", "tests")]
    names = {path.relative_to(CHECKOUT) for f in folders for path in f.rglob("*.py")}
    assert len(names) > 50
    assert not [n for n in names if {*n.with_suffix("").parts} & VAGUE]


def test_no_file_stem_and_no_class_name_is_used_twice() -> None:
    """Whoever looks a name up finds one place. Commands are named for what they show; `__init__`
    and `schema` say what they are by their folder."""
    package = CHECKOUT / "fusionbench"
    files = [p for p in package.rglob("*.py") if p.relative_to(package).parts[0] != "cli"]
    stems = Counter(p.stem for p in files if p.stem not in ("__init__", "schema"))
    assert len(stems) > 100
    assert not [stem for stem, n in stems.items() if n > 1]
    classes = Counter(
        node.name
        for path in package.rglob("*.py")
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef)
    )
    assert not [name for name, n in classes.items() if n > 1]
