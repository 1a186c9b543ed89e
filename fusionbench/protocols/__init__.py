"""Which rows train, validate and test: split files, how they are made, the rows of a fold."""

from __future__ import annotations

from fusionbench.protocols.generated import inner_split, make_split
from fusionbench.protocols.split import (
    Fold,
    Split,
    class_notes,
    hash_of,
    load_protocol,
    overlap,
    split_of,
    write_split,
)
from fusionbench.protocols.split_files import read_split

__all__ = [
    "Fold",
    "Split",
    "class_notes",
    "hash_of",
    "inner_split",
    "load_protocol",
    "make_split",
    "overlap",
    "read_split",
    "split_of",
    "write_split",
]
