"""Columns that go missing together: questionnaires that were, or were not, taken at all."""

from __future__ import annotations

import numpy as np
import pandas as pd

# Rows empty in both, as a share of rows empty in either.
TOGETHER = 0.9


def recorded_together(frame: pd.DataFrame) -> tuple[tuple[str, ...], ...]:
    """Blocks of two or more columns that are empty in (nearly) the same rows, largest first.

    `frame` is Table.metadata, or any rows of it: None or NaN where nothing was recorded. Two
    columns belong together where the rows empty in both are at least TOGETHER of the rows empty in
    either (Jaccard index); in a block that holds for every pair. Columns without an empty cell are
    in no block; no column is in two. Blocks of equal size stand in the order of the frame.
    """
    empty = frame.isna().to_numpy(dtype=bool)
    blocks: list[list[int]] = []
    for j in np.flatnonzero(empty.any(axis=0)).tolist():
        for block in blocks:
            if all(_alike(empty[:, i], empty[:, j]) for i in block):
                block.append(j)
                break
        else:
            blocks.append([j])
    names = [tuple(str(frame.columns[j]) for j in block) for block in blocks if len(block) > 1]
    return tuple(sorted(names, key=len, reverse=True))


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a & b).sum() >= TOGETHER * (a | b).sum())
