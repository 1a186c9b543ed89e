"""One row of the leaderboard and the metadata of its photographs -> what is reported of groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusionbench.analysis.row_facts import RowFacts, pooled, row_facts
from fusionbench.analysis.subgroups.gaps import MIN_N, Attribute, compare
from fusionbench.data.card import Subgroup
from fusionbench.data.table import Table
from fusionbench.errors import DataError
from fusionbench.leaderboard import Block, Row
from fusionbench.records import Store
from fusionbench.stats.pooled import Pooled


@dataclass(frozen=True)
class SubgroupReport(RowFacts):
    """What `fusionbench subgroups` shows of one row."""

    classes: tuple[str, ...]
    n: int  # photographs, of every fold
    patients: int
    min_n: int
    attributes: tuple[Attribute, ...]


def report(
    store: Store, block: Block, row: Row, table: Table, min_n: int = MIN_N
) -> SubgroupReport:
    """The row's out-of-fold predictions, every fold and seed, by the subgroups of `table.card`.

    Raises RecordError for predictions that cannot be trusted or pooled, DataError as attributes.
    """
    predictions = pooled(store, row)
    return SubgroupReport(
        **row_facts(block, row),
        classes=predictions.classes,
        n=len(predictions.rows),
        patients=predictions.n_patients,
        min_n=min_n,
        attributes=attributes(predictions, table, min_n),
    )


def attributes(predictions: Pooled, table: Table, min_n: int = MIN_N) -> tuple[Attribute, ...]:
    """Every subgroup that the table's card declares; see the package's text.

    Raises DataError where the card declares none, and where the table lacks a predicted row.
    """
    declared = table.card.subgroups
    if not declared:
        raise DataError(
            f"The card of {table.card.name} declares no subgroups.",
            "Add [[subgroups]] with name and column to it (datasets/README.md).",
        )
    names = [name for _, name in predictions.rows]
    places = pd.Index(table.ids).get_indexer(names)
    if lacking := [name for name, i in zip(names, places, strict=True) if i < 0]:
        raise DataError(
            f"{len(lacking)} predicted photographs are not in the data, for example {lacking[0]}.",
            "Name the folder of the data that the run was made on with --data.",
        )
    rows = table.take(places)
    found = []
    for subgroup in declared:
        values, order = group_values(rows, subgroup)
        found.append(compare(predictions, values, order, subgroup.name, subgroup.column, min_n))
    return tuple(found)


def group_values(table: Table, subgroup: Subgroup) -> tuple[NDArray[np.object_], tuple[str, ...]]:
    """(n,) group of each row, None where nothing was recorded; and the groups in order."""
    raw = table.metadata[subgroup.column]
    recorded = raw.notna() & ~raw.isin(table.card.unknown)
    values = np.full(len(raw), None, dtype=object)
    values[recorded.to_numpy()] = [subgroup.group_of(v) for v in raw[recorded]]
    # Numbers and bands rise; names in the order of the alphabet.
    first = raw[recorded].groupby(values[recorded.to_numpy()]).min()
    numeric = pd.api.types.is_numeric_dtype(raw)
    return values, tuple((first.sort_values() if numeric else first.sort_index()).index)
