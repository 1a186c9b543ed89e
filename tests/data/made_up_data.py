"""A made-up dataset of pebbles: other columns and classes than any real one."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from fusionbench.data.card import DatasetCard, read_card
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
