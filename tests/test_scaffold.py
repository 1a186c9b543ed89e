"""A new plugin works as it is written: it passes its contract, its own test, and the linter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fusionbench.contract import assert_ok, check_fusion
from fusionbench.contract.plugin_files import load_file
from fusionbench.errors import UsageError
from fusionbench.plugin import registry
from fusionbench.plugin.scaffold import write_plugin

CHECKOUT = Path(__file__).parents[1]


def test_new_plugins_pass_their_contracts_by_their_own_tests(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there yet"
    for kind, registry_kind, name in (
        ("fusion", "fusions", "my-gate"),
        ("loss", "losses", "my-focus"),
    ):
        plugin, test = write_plugin(kind, name, folder)
        stem = name.replace("-", "_")
        assert (plugin, test) == (folder / f"{stem}.py", folder / f"test_{stem}.py")
        entry = registry.find(registry_kind, name, [folder])
        assert entry.summary.startswith(name.replace("-", " ").capitalize() + ": ")
        assert entry.parameters
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout


@pytest.mark.parametrize("name", ["x", "a-rather-long-name-" + "l" * 21])
@pytest.mark.parametrize("kind", ["fusion", "loss"])
def test_new_files_are_clean_to_the_linter(kind: str, name: str, tmp_path: Path) -> None:
    files = [str(path) for path in write_plugin(kind, name, tmp_path)]
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--config", CHECKOUT / "pyproject.toml"]
        ran = subprocess.run([*ruff, *files], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout


def test_a_new_loss_is_the_formula_it_states(tmp_path: Path) -> None:
    import torch

    from fusionbench.plugin.fusion import Spec, Stage
    from fusionbench.plugin.loss import Output

    plugin, _ = write_plugin("loss", "focal-like", tmp_path)
    cls = load_file(plugin)[1]
    spec = Spec(stages=(Stage(4, (1, 1)),) * 2, width=4, metadata=1, classes=3, embedding=4)
    logits, target = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.1, 0.0]]), torch.tensor([0, 2])
    (got,) = cls(spec, weight=0.5, gamma=3.0)(Output(logits, logits, ()), target).values()
    p = torch.softmax(logits, 1)[torch.arange(2), target]
    assert torch.allclose(got, 0.5 * ((1 - p) ** 3 * -p.log()).mean())


@pytest.mark.parametrize("name", ["Fusion", "tensor", "spec"])
def test_a_name_that_clashes_with_an_import_still_works(name: str, tmp_path: Path) -> None:
    plugin, _ = write_plugin("fusion", name, tmp_path)
    _, cls = load_file(plugin)
    assert cls.__name__ == f"{name.capitalize()}Method"
    assert_ok(check_fusion(cls, backbones=("test_vit",), losses={}, only={"shapes"}))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "2nd",
        "my gate",
        "my--gate",
        "-gate",
        "gate-",
        "a.b",
        "../up",
        "gäte",
        "lambda",
        "l" * 41,
    ],
)
def test_impossible_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be the name"):
        write_plugin("fusion", name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_taken_names_and_existing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'sgmc' already: .*sgmc\.py"):
        write_plugin("fusion", "SGMC", tmp_path)
    write_plugin("loss", "sgmc", tmp_path)  # a loss may be called as a fusion is
    with pytest.raises(UsageError, match="read as a test"):
        write_plugin("fusion", "test-me", tmp_path)
    (tmp_path / "test_mine.py").write_text("# kept")
    with pytest.raises(UsageError, match=r"test_mine\.py exists"):
        write_plugin("fusion", "mine", tmp_path)
    assert (tmp_path / "test_mine.py").read_text() == "# kept"
    assert not (tmp_path / "mine.py").exists()
    write_plugin("fusion", "my-own", tmp_path)
    with pytest.raises(UsageError, match="already"):
        write_plugin("fusion", "my_own", tmp_path)


def test_scaffold_imports_no_torch() -> None:
    code = (
        "import sys, fusionbench.plugin.scaffold; assert not {'torch', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=CHECKOUT)
