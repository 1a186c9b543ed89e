"""What is withheld or inverted: scenarios as masks over the cells of the test rows. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusionbench.data.card import Column
from fusionbench.data.encoder import MetadataEncoder

Kind = Literal["cells", "column", "block", "flip"]

SHARES = tuple(i / 10 for i in range(11))
INVERSE = {"True": "False", "False": "True"}
# Tells the masks' random numbers from others of the same numbers.
STREAM = 40


@dataclass(frozen=True)
class Scenario:
    """One thing that is done to the metadata of n test rows with C columns.

    cells    random cells withheld, each with chance `share`; 0 is the record's own, 1 everything
    column   one characteristic withheld
    block    columns that go unrecorded together withheld
    flip     one answer inverted where it is True or False
    """

    kind: Kind
    columns: tuple[str, ...]  # that may be touched
    touched: NDArray[np.bool_]  # (n, C)
    share: float = 0.0
    mask_seed: int | None = None  # None: nothing is drawn

    def encoded(self, cells: Cells, start: int, stop: int) -> NDArray[np.float32]:
        """(stop - start, M): what the model is told of the rows from `start` to before `stop`."""
        other = cells.inverted[start:stop] if self.kind == "flip" else cells.blank
        told = np.where(self.touched[start:stop, cells.sources], other, cells.recorded[start:stop])
        return np.asarray(told, dtype=np.float32)


@dataclass(frozen=True)
class Cells:
    """n rows encoded (M features) as recorded, and what may stand in place of each cell. The
    encoder takes column by column, so that a feature depends on the cell of its column alone."""

    recorded: NDArray[np.float32]  # (n, M)
    inverted: NDArray[np.float32]  # (n, M) of the rows with every yes for no and no for yes
    blank: NDArray[np.float32]  # (M,) of a cell in which nothing was recorded
    sources: NDArray[np.int64]  # (M,) which column a feature is of

    @classmethod
    def of(cls, frame: pd.DataFrame, encoder: MetadataEncoder) -> Cells:
        """For rows of Table.metadata and an encoder of its columns."""
        other = frame.copy()
        for column in encoder.columns:
            if column.kind == "boolean":
                other[column.name] = frame[column.name].map(lambda v: INVERSE.get(v, v))
        return cls(
            encoder.transform(frame), encoder.transform(other), encoder.blank(), encoder.sources
        )


def scenarios(
    frame: pd.DataFrame,
    columns: Sequence[Column],
    blocks: Sequence[tuple[str, ...]],
    masks: int,
    key: Sequence[int],
) -> list[Scenario]:
    """Everything that is done to the rows of `frame`, whose columns are `columns`.

    The cells withheld at one share are withheld at every greater one: a mask seed draws one number
    per cell, and a cell is withheld where that is below the share. `key` are numbers that tell runs
    on other rows apart. The first scenario withholds nothing.
    """
    names = tuple(c.name for c in columns)

    def alike(kind: Kind, touched: tuple[str, ...], share: float = 0.0) -> Scenario:
        """In every row."""
        row = np.array([name in touched for name in names])
        return Scenario(kind, touched, np.broadcast_to(row, frame.shape), share)

    found = [alike("cells", ())]
    for mask_seed in range(masks):
        draws = np.random.default_rng([mask_seed, *key, STREAM]).random(frame.shape)
        found += [Scenario("cells", names, draws < s, s, mask_seed) for s in SHARES[1:-1]]
    found.append(alike("cells", names, share=1.0))
    found += [alike("column", (name,)) for name in names]
    found += [alike("block", block) for block in blocks]
    found += [alike("flip", (c.name,)) for c in columns if c.kind == "boolean"]
    return found
