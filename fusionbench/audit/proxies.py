"""Columns that nearly determine the label, found by counting, beside what the card says of them.

Over the rows where a column was recorded (gaps are looked at elsewhere), out of fold by patient, a
column is a proxy when one of these holds:

* it takes away at least half of the class's entropy;
* it tells malignant from benign, or one class from the rest, with an AUC of 0.97 or more after
  two errors are taken off;
* values that go with one side almost without exception (at most 1 row in 200, in the rows of at
  least 100 patients) cover a fifth of the rows or more, and its AUC is 0.80 or more; or they cover
  a third, and its AUC is 0.70 or more. So `biopsed` of PAD-UFES-20: no cancer went without a
  biopsy; and `management` of Derm7pt: none of 406 cases of 1,011 that were not excised is one.

An honest sign of disease (a lesion that bled, an old patient) has exceptions and stays below. With
few patients there may be none yet, so the last two rules need a hundred patients.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from fusionbench.audit.evidence import Labels, Looks, codes_of, information, look
from fusionbench.audit.findings import Proxies, ProxyColumn, Signs
from fusionbench.audit.measures import judge
from fusionbench.config.wording import percent
from fusionbench.data.table import Table

INFORMATION = 0.5
AUC = 0.97
CERTAIN = ((0.20, 0.80), (1 / 3, 0.70))  # share of the rows, AUC
EXCEPTIONS = 1 / 200
MANY_PATIENTS = 100  # without exception in so many: at most 3 % are, at 95 % confidence
MIN_ROWS = 20
SHOWN_VALUES = 5
FEW_VALUES = 50  # of a column that the card does not read; more are names, not groups
NOT_READ = "not read"


def find_proxies(table: Table, labels: Labels) -> Proxies:
    """Every column of the card, whatever its role, and others of few values."""
    looks: dict[str, Looks] = {}
    recorded: dict[str, tuple[Labels, np.ndarray, pd.Series]] = {}
    columns: list[tuple[str, str, bool, pd.Series]] = [
        (c.name, c.role, c.kind == "numeric", table.metadata[c.name]) for c in table.card.columns
    ]
    for name in table.others:
        cells = table.others[name].replace("", None)
        if 2 <= cells.nunique() <= FEW_VALUES:
            columns.append((str(name), NOT_READ, False, cells))
    roles = {name: role for name, role, *_ in columns}
    for name, _, numeric, cells in columns:
        rows = cells.notna().to_numpy(dtype=bool)
        if rows.sum() < MIN_ROWS:
            continue
        own, cells = labels.take(rows), cells[rows].reset_index(drop=True)
        codes = codes_of(cells, numeric=numeric)
        looks[name] = look([codes], own)
        recorded[name] = own, codes, cells
    signs = judge(looks)
    told = tuple(_column(name, roles[name], *recorded[name], signs[name]) for name in recorded)
    found = tuple(c.name for c in told if c.proxy)
    named = {c.name for c in table.card.columns if c.role in ("forbidden", "proxy")}
    return Proxies(
        columns=told,
        found=found,
        unlisted=tuple(n for n in found if n not in named and roles[n] != NOT_READ),
        confounds=tuple(
            c.name for c in told if c.role in ("optional", NOT_READ) and c.strong and not c.proxy
        ),
        unconfirmed=tuple(c.name for c in told if c.name in named and not c.proxy),
    )


def _column(
    name: str, role: str, labels: Labels, codes: np.ndarray, cells: pd.Series, signs: Signs
) -> ProxyColumn:
    share, values = _certain(labels, codes, cells)
    known = information(codes, labels)
    told, best = signs.auc, signs.told
    why = []
    if known >= INFORMATION:
        why.append(f"takes away {percent(known, 0)} of the class's entropy")
    if len(np.unique(labels.patient)) >= MANY_PATIENTS:
        sides = [(told, "malignant from benign")]
        sides += [(best, f"{best.class_name} from the rest")] if best is not None else []
        why += [
            f"tells {side} with an AUC of {measure.value:.2f}"
            for measure, side in sides
            if measure is not None and measure.found and measure.value - 2 * measure.error >= AUC
        ]
    enough = told is not None and any(share >= s and told.value >= a for s, a in CERTAIN)
    if told is not None and told.found and enough:
        why.append(f"{', '.join(values)}: without exception, {percent(share, 0)} of the rows")
    return ProxyColumn(
        **dict(signs),
        name=name,
        role=role,
        rows=len(labels),
        information=known,
        certain=share,
        certain_values=values,
        proxy=bool(why),
        why="; ".join(why),
    )


def _certain(labels: Labels, codes: np.ndarray, cells: pd.Series) -> tuple[float, tuple[str, ...]]:
    """(share of rows whose value goes with one side only, what it goes with)."""
    if labels.malignant is None:
        return 0.0, ()
    covered, values = 0, []
    for code in np.unique(codes).tolist():
        rows = codes == code
        malignant = float(labels.malignant[rows].mean())
        if len(np.unique(labels.patient[rows])) < MANY_PATIENTS:
            continue
        if min(malignant, 1 - malignant) <= EXCEPTIONS:
            covered += int(rows.sum())
            side = "malignant" if malignant > 0.5 else "benign"
            values.append(f"{_value(cells[rows])} is {side}")
    return covered / len(codes), tuple(values[:SHOWN_VALUES])


def _value(cells: pd.Series) -> str:
    if cells.dtype == np.float64 and cells.min() < cells.max():
        return f"{cells.min():g} to {cells.max():g}"
    return f"{cells.iloc[0]:g}" if cells.dtype == np.float64 else str(cells.iloc[0])
