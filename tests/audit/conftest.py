"""A drawn dataset in which leaks can be planted, and the real one where it is there."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from fusionbench.audit.examine import audit
from fusionbench.audit.findings import Audit
from fusionbench.data.card import Column, DatasetCard, Expect, ProtocolSpec
from fusionbench.data.locate import open_card
from fusionbench.data.synthetic.generate import Knobs, generate
from fusionbench.data.table import Table, load_table
from fusionbench.protocols import Fold, Split, make_split

Row = dict[str, str]


@dataclass
class Plot:
    """A copy of a drawn dataset to plant things in; its rows are changed in memory."""

    folder: Path
    card: DatasetCard
    rows: list[Row]
    columns: list[Column] = field(default_factory=list)  # beyond the card's

    def file(self, row: Row) -> Path:
        return next(self.folder.glob(f"images/*/{row['img_id']}"))

    def replace(self, row: Row) -> Path:
        """Where to write another photograph for this row: a file of its own, no longer a link."""
        path = self.file(row)
        path.unlink()
        return path

    def table(self) -> Table:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with (self.folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)
        card = self.card.model_copy(update={"columns": (*self.card.columns, *self.columns)})
        return load_table(card, self.folder, photographs="optional")

    def audit(self, kind: str = "grouped-kfold") -> Audit:
        table = self.table()
        return audit(table, split(table, kind), leak_value=False)


def split(table: Table, kind: str = "grouped-kfold", folds: int = 4) -> Split:
    """A protocol made on the spot."""
    spec = ProtocolSpec(name=kind, kind=kind, folds=folds, file="made.csv")  # type: ignore[arg-type]
    parts = make_split(spec, table.ids.tolist(), table.labels, table.groups)
    part = np.array([parts[i] for i in table.ids.tolist()])
    return Split(
        spec,
        "0" * 16,
        tuple(
            Fold(
                k,
                np.flatnonzero((part != str(k)) & (part != "holdout")),
                np.flatnonzero(part == str(k)),
                extra={"holdout": np.flatnonzero(part == "holdout")} if "holdout" in part else {},
            )
            for k in range(folds)
        ),
    )


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Knobs], Path]:
    """Each set of knobs is drawn once per process."""
    base = tmp_path_factory.mktemp("drawn")
    return lambda knobs: generate(base / f"{abs(hash(knobs))}", knobs)


@pytest.fixture
def plot(drawn: Callable[[Knobs], Path], tmp_path: Path) -> Callable[..., Plot]:
    """`plot(seed=1, patients=120)`: knobs of the generator."""

    def make(**knobs: float) -> Plot:
        source = drawn(Knobs(**{"patients": 110, **knobs}))  # type: ignore[arg-type]
        folder = tmp_path / "plot"
        # Photographs are linked, not copied: only planted ones are files of their own.
        shutil.copytree(source, folder, copy_function=os.link)
        (folder / "metadata.csv").unlink()
        with (source / "metadata.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        card = open_card("synthetic").model_copy(update={"expect": Expect()})
        return Plot(folder, card, rows)

    return make


@pytest.fixture(scope="session")
def cut() -> Callable[..., Split]:
    """`cut(table, "image-kfold")`: folds by patient or by photograph."""
    return split
