"""Does the class show in what was not recorded, or in what was answered "unknown"?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fusionbench.audit.evidence import Labels, Looks, look, patterns
from fusionbench.audit.findings import EmptyCells, Gaps, Missingness
from fusionbench.audit.measures import judge
from fusionbench.data.blocks import recorded_together
from fusionbench.data.card import Column
from fusionbench.data.table import Table

Columns = tuple[str, ...]
_MASK: Columns = ()


def find_missingness(table: Table, labels: Labels, columns: Sequence[Column]) -> Missingness:
    """Gaps of those columns, alone, in blocks and all together."""
    names = [c.name for c in columns]
    frame = table.metadata[names]
    empty = frame.isna().to_numpy(dtype=bool)
    marked = frame.isin(list(table.card.unknown)).to_numpy(dtype=bool)
    return Missingness(
        chance=labels.chance,
        not_recorded=_gaps(labels, names, empty, recorded_together(frame)),
        unknown=_gaps(labels, names, marked, ()),
        marks=table.card.unknown,
    )


def _gaps(
    labels: Labels, names: Sequence[str], flags: np.ndarray, blocks: Sequence[Columns]
) -> Gaps:
    where = {name: j for j, name in enumerate(names)}
    parts: dict[Columns, np.ndarray] = {
        (name,): flags[:, j] for name, j in where.items() if flags[:, j].any()
    }
    # Of a block's columns some are empty in a few rows more: missing is where most of them are.
    parts |= {b: flags[:, [where[n] for n in b]].mean(axis=1) > 0.5 for b in blocks}
    codes = patterns(flags)
    looks: dict[Columns, Looks] = {
        key: look([flag.astype(np.int64)], labels, flag=True) for key, flag in parts.items()
    }
    if codes.max(initial=0) > 0:
        looks[_MASK] = look([codes], labels)
    signs = judge(looks)

    def cells(key: Columns) -> EmptyCells:
        rows = parts[key]
        counts = np.bincount(labels.y[rows], minlength=len(labels.classes)).tolist()
        return EmptyCells(
            **dict(signs[key]),
            columns=key,
            rows=int(rows.sum()),
            share=float(rows.mean()),
            malignant_rows=None if labels.malignant is None else int(labels.malignant[rows].sum()),
            by_class=dict(zip(labels.classes, counts, strict=True)),
        )

    return Gaps(
        columns=tuple(cells((name,)) for name in names if (name,) in parts),
        blocks=tuple(map(cells, blocks)),
        mask=signs.get(_MASK),
    )
