"""Patients that may be one under several spellings: P17, p17, P017, P-17, P 17, 17.0.

Two keys may be one patient's where they agree after Unicode form, case, blanks, punctuation,
leading zeros and a trailing `.0` of a number are left out. P1 and P10, 1-2 and 12 stay two. Where
the data contradict it, nothing is said: each spelling has several rows, and they differ in a column
that never changes within any patient of the dataset (sex, say).
"""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pandas as pd

from fusionbench.data.table import Table

MANY = 10  # patients of several rows that show a column to be the same for all rows of a patient
_PART = re.compile(r"\|+|\d+|[^\W\d_]+")


def plain(key: str) -> str:
    """`P-017`, `p 17` and `P17` -> `p 17`."""
    text = unicodedata.normalize("NFKC", key).casefold()
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    text = re.sub(r"(?<=\d)\.0+(?=\s*(\||$))", "", text)
    return " ".join(str(int(p)) if p.isdecimal() else p for p in _PART.findall(text))


def joined(keys: np.ndarray, table: Table) -> tuple[np.ndarray, tuple[str, ...]]:
    """(n,) keys (patients, or lesions) in which the spellings that may mean one are one text,
    `P17 = p17`; and those texts. Ids of rows, where the card names neither, stay as they are."""
    if not (table.card.group or table.card.lesion):
        return keys, ()
    distinct = pd.Series(np.unique(keys))
    groups = distinct.groupby(distinct.map(plain)).agg(tuple)
    several = [found for name, found in groups.items() if name and len(found) > 1]
    if not several:
        return keys, ()
    by_key = table.metadata.groupby(keys)
    steady = (by_key.nunique() <= 1).all() & ((by_key.count() > 1).sum() >= MANY)
    fixed, rows = table.metadata.loc[:, steady[steady].index], pd.Series(keys).value_counts()

    def contradicted(spellings: tuple[str, ...]) -> bool:
        if rows[list(spellings)].min() < 2:
            return False
        return bool((fixed[np.isin(keys, spellings)].nunique() > 1).any())

    texts = {found: " = ".join(found) for found in several if not contradicted(found)}
    one = {key: text for found, text in texts.items() for key in found}
    return np.array([one.get(key, key) for key in keys.tolist()], dtype=str), (*texts.values(),)
