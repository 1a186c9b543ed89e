"""A made-up dataset of pebbles: other columns and classes than any real one."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusionbench.data.card import DatasetCard, read_card
from fusionbench.data.locate import find_data, open_card
from fusionbench.progress import Progress

CARD = """
name = "pebbles"
title = "Pebbles"
group = ["beach"]
lesion = ["stone"]
ignore = ["remark"]

[source]
url = "https://example.org/pebbles"

[files]
metadata = "pebbles.csv"
images = ["photos"]

[[views]]
name = "top"
column = "file"

[label]
column = "shape"
classes = ["flat", "round", "odd"]
patterns = { odd = ["odd *"] }

[[columns]]
name = "grams"
kind = "numeric"
minimum = 0
maximum = 500

[[columns]]
name = "colour"
kind = "categorical"
aliases = { gray = "grey" }

[[columns]]
name = "rock"
kind = "categorical"
values = ["granite", "slate"]

[[columns]]
name = "wet"
kind = "boolean"
aliases = { yes = "True" }

[[columns]]
name = "sorted_by"
kind = "categorical"
role = "forbidden"
"""

HEADER = ["file", "beach", "stone", "shape", "grams", "colour", "rock", "wet", "sorted_by"]


@dataclass
class Pebbles:
    """A dataset folder that a test may spoil before it is read."""

    folder: Path
    rows: list[dict[str, str]] = field(default_factory=list)

    @property
    def csv(self) -> Path:
        return self.folder / "pebbles.csv"

    def write(self, header: list[str] | None = None) -> None:
        names = header or HEADER
        with self.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.rows)

    def card(self, text: str = CARD) -> DatasetCard:
        (self.folder / "dataset.toml").write_text(text, encoding="utf-8")
        return read_card(self.folder / "dataset.toml")


class Notes(Progress):
    """Remembers what a user would have been told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


def photo(path: Path, seed: int, size: tuple[int, int] = (20, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def pebbles(tmp_path: Path) -> Pebbles:
    """12 photographs, 6 stones, 3 beaches; one empty cell and one UNK here and there."""
    data = Pebbles(tmp_path / "pebbles")
    data.folder.mkdir()
    for i in range(12):
        data.rows.append(
            {
                "file": f"p{i:02d}.png",
                "beach": f"b{i // 4}",
                "stone": str(i // 2 % 2),
                "shape": ["flat", "round", "odd cube"][i % 3],
                "grams": "" if i == 5 else str(10 * i),
                "colour": ["grey", "gray", "UNK", ""][i % 4],
                "rock": ["granite", "slate"][i % 2],
                "wet": ["True", "0", "yes", "FALSE", "UNK", ""][i % 6],
                "sorted_by": "shape",
            }
        )
        photo(data.folder / "photos" / f"p{i:02d}.png", i)
    data.write()
    return data


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def pad_ufes_20() -> tuple[DatasetCard, Path]:
    """The card and the real data; skipped where they are not on this machine."""
    base = os.environ.get("FUSIONBENCH_DATA")
    if not base or not (Path(base) / "pad-ufes-20" / "metadata.csv").is_file():
        pytest.skip("$FUSIONBENCH_DATA/pad-ufes-20 is not here")
    card = open_card("pad-ufes-20")
    return card, find_data(card, Path(base))


Snapshot = Callable[[Path], dict[str, int]]


@pytest.fixture
def snapshot() -> Snapshot:
    """All files below a folder with their sizes: to show that nothing was written."""
    return lambda folder: {
        str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()
    }
