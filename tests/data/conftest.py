"""Fixtures over the made-up dataset, and the real one where it is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_data import Pebbles, photo


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


Snapshot = Callable[[Path], dict[str, int]]


@pytest.fixture
def snapshot() -> Snapshot:
    """All files below a folder with their sizes: to show that nothing was written."""
    return lambda folder: {
        str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()
    }
