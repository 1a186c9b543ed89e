"""Declared tables: leaderboards/<name>.toml says which rows a table has and how each is run.

    table = read_table("sgmc-pad-ufes-20")      a built-in name, or the path of a file
    expand(table, Overrides(small=True))        -> what has to be run, row by row
    builtin_tables()                            -> name -> file

A row is a label and the settings in which it differs from the others; `[settings]` holds what all
of them share, `[small]` what turns the table into one that is made in minutes, on drawn lesions.
A row may name a control, a method that never sees the photograph: of the shared settings it takes
those that reach it (Setting.reaches_controls). leaderboards/README.md describes the format.
"""

from __future__ import annotations

from fusionbench.tables.schema import (
    Declared,
    DeclaredTable,
    Overrides,
    PublishedFilter,
    Small,
    TableRow,
)
from fusionbench.tables.table_file import builtin_tables, expand, read_table
from fusionbench.tables.variants import apply, note_of

__all__ = [
    "Declared",
    "DeclaredTable",
    "Overrides",
    "PublishedFilter",
    "Small",
    "TableRow",
    "apply",
    "builtin_tables",
    "expand",
    "note_of",
    "read_table",
]
