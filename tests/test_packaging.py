"""A wheel, installed outside the checkout, is the same program: plugins and cards travel in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fusionbench import __version__
from fusionbench.data.locate import open_card
from fusionbench.protocols import hash_of, read_split

CHECKOUT = Path(__file__).parents[1]


def call(command: list[str | Path], cwd: Path, **environment: str) -> str:
    ran = subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment}
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    call(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, CHECKOUT],
        folder,
    )
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which nothing but the wheel is installed; what it needs comes from here."""
    folder = tmp_path_factory.mktemp("site")
    call(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile",
         "--quiet", "--disable-pip-version-check", "--target", folder, wheel],
        folder,
    )  # fmt: skip
    return folder


def installed(site: Path, *arguments: str, cwd: Path, **environment: str) -> str:
    command = [sys.executable, "-m", "fusionbench", *arguments]
    return call(command, cwd, PYTHONPATH=str(site), PYTHONSAFEPATH="1", **environment)


def test_the_wheel_holds_plugins_cards_and_splits_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert tops == {"fusionbench", f"fusionbench-{__version__}.dist-info"}
    listed = call(["git", "ls-files", "fusionbench", "plugins", "datasets"], CHECKOUT).split("\n")
    for path in filter(None, listed):
        if (CHECKOUT / path).is_file():
            there = path if path.startswith("fusionbench/") else f"fusionbench/builtin/{path}"
            assert there in names
    builtin = {name for name in names if name.startswith("fusionbench/builtin/")}
    assert any(name.endswith("splits/grouped-5fold.csv") for name in builtin)
    assert any(name.startswith("fusionbench/builtin/plugins/losses/") for name in builtin)
    tables = {path.name for path in (CHECKOUT / "leaderboards").glob("*.toml")}
    there = {n for n in names if n.startswith("fusionbench/builtin/leaderboards/")}
    expected = tables | {"published.csv", "published_changes.csv"}
    assert there == {f"fusionbench/builtin/leaderboards/{name}" for name in expected}
    for part in ("tests/", "datasets/synthetic/data/", "__pycache__", ".pth"):
        assert not [name for name in names if f"/{part}" in f"/{name}"], part


def test_the_users_data_stays_out_of_the_wheel() -> None:
    """Photographs lie in datasets/<name>/data, under the folder that is packed."""
    import tomllib

    hatch = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]
    for target in ("wheel", "sdist"):
        assert "datasets/*/data" in hatch["build"]["targets"][target]["exclude"]


def test_an_installed_fusionbench_lists_what_the_checkout_lists(site: Path, tmp_path: Path) -> None:
    where = installed(site, "--version", cwd=tmp_path)
    assert where.strip().endswith(__version__)
    there = installed(site, "list", "--json", cwd=tmp_path)
    here = call(
        [sys.executable, "-m", "fusionbench", "list", "--json"], tmp_path, PYTHONPATH=str(CHECKOUT)
    )
    assert json.loads(there) == json.loads(here)
    assert there == here
    code = "import fusionbench.plugin.registry as r; print(r.builtin_root())"
    root = call([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(site)).strip()
    assert root == str(site / "fusionbench" / "builtin")


def test_it_finds_card_split_and_data_without_the_checkout(site: Path, tmp_path: Path) -> None:
    report = json.loads(installed(site, "data", "status", "synthetic", "--json", cwd=tmp_path))
    assert report["ok"] is True and report["rows"] == sum(report["classes"].values()) > 0
    # The committed splits are read from inside the package, and are those of the checkout.
    code = """
from fusionbench.data.locate import default_folder, open_card
from fusionbench.protocols import hash_of, read_split
for name in ("synthetic", "pad-ufes-20"):
    card = open_card(name)
    print(card.folder)
    print(default_folder(card))
    for spec in card.protocols:
        if spec.file:
            print(spec.name, hash_of(read_split(card.folder / spec.file, spec)))
"""
    lines = call([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(site)).splitlines()
    expected = []
    for name in ("synthetic", "pad-ufes-20"):
        card = open_card(name)
        expected.append(str(site / "fusionbench" / "builtin" / "datasets" / name))
        # A user's own photographs belong beside them, never into the package.
        expected.append(str(tmp_path / "datasets" / name / "data"))
        expected += [
            f"{spec.name} {hash_of(read_split(card.folder / spec.file, spec))}"
            for spec in card.protocols
            if spec.file
        ]
    assert lines == expected
    assert len(lines) > 2 * 2 + 3
