"""What several tests share: a small drawn dataset, and quick settings to train on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.data.card import DatasetCard
from fusionbench.data.locate import find_data, open_card
from fusionbench.plugin import registry

# One thread per process: the suite runs in parallel, and threads that wait for each other cost
# more than they bring at these sizes.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing of the tests' lands in the user's cache folder."""
    os.environ["FUSIONBENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))


class _Forgetful(set[str]):
    def add(self, _: str) -> None:
        pass


@pytest.fixture(autouse=True)
def _plugins_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's plugins are computed in this process, which takes seconds less, and where the test
    can look at them. Tests of what plugins do to a process undo it: `foreign_plugins`."""
    monkeypatch.setattr(registry, "ran_here", _Forgetful())


@pytest.fixture
def foreign_plugins(_plugins_run_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As everywhere else: plugins that do not come with fusionbench have processes of their own."""
    monkeypatch.setattr(registry, "ran_here", set())


@pytest.fixture(scope="session")
def tiny_card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset.toml for about a hundred drawn photographs, in three folds by patient."""
    text = (registry.builtin_root() / "datasets/synthetic/dataset.toml").read_text("utf-8")
    text = text[: text.index("[[protocols]]")]
    text = text.replace('name = "synthetic"', 'name = "tiny"', 1)
    text += """
[[protocols]]
name = "grouped-3fold"
kind = "grouped-kfold"
folds = 3
file = "splits/grouped-3fold.csv"

[[protocols]]
name = "image-3fold"
kind = "image-kfold"
folds = 3
file = "splits/image-3fold.csv"
leaks = ["patients"]

[[protocols]]
name = "holdout"
kind = "kfold-holdout"
folds = 2
file = "splits/holdout.csv"

[generator_options]
patients = 40
"""
    text = text.replace('default_protocol = "grouped-5fold"', 'default_protocol = "grouped-3fold"')
    card = tmp_path_factory.mktemp("tiny") / "dataset.toml"
    card.write_text(text, encoding="utf-8")
    return card


@pytest.fixture
def quick(tiny_card: Path) -> RunConfig:
    """Settings with which a fold takes about a second."""
    return RunConfig.of(
        fusion="concat",
        backbone="test_resnet",
        dataset=str(tiny_card),
        weights="none",
        epochs=2,
        batch_size=16,
        image_size=32,
        augment="flip",
        precision="fp32",
    )


@pytest.fixture
def here(tmp_path: Path) -> Execution:
    """On the CPU, into a store of the test's own, fold 0 only."""
    return Execution(store=tmp_path / "store", folds=(0,), device="cpu")


@pytest.fixture(scope="session")
def pad_ufes_20() -> tuple[DatasetCard, Path]:
    """The card and the real data; skipped where they are not on this machine."""
    base = os.environ.get("FUSIONBENCH_DATA")
    if not base or not (Path(base) / "pad-ufes-20" / "metadata.csv").is_file():
        pytest.skip("$FUSIONBENCH_DATA/pad-ufes-20 is not here")
    card = open_card("pad-ufes-20")
    return card, find_data(card, Path(base))
