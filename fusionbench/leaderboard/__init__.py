"""Records -> tables: a pure function of the records, which never imports torch.

    blocks(records, *, current_sources=None, sort="bacc", level="image") -> list[Block]
    declared_blocks(table, declared, records, ...) -> list[Block]   the rows of a declared table
    without_controls(blocks) -> list[Block]     metadata-only and shuffled rows left out
    published.load() -> list[PublishedRow]  what papers report; published.load_changes(): ablations
    beside(blocks, rows, changes=(), *, show=None) -> list[PublishedBlock]
    render(blocks, format, *, metrics=None, command="fusionbench leaderboard", published=()) -> str
                            format: one of FORMATS = markdown, csv, latex, json
    Terminal(blocks, metrics=None, published=())    what `rich.console.Console.print` takes
    sheets(blocks, metrics=None, published=()) -> list[Sheet]   what every format draws
    PAPER: the default metrics, in the order of the papers' tables

A block holds the rows that may be compared: one dataset fingerprint, one protocol and split, and
the same photographs evaluated in every fold. A row is one configuration (an identity without fold
and seed). `current_sources` maps (kind, name) to `registry.source_hash` of the
plugin as it is now; a row made with another source is marked stale. A row carries the audit's
verdict, and what its metadata gain it over the image alone and over its shuffled twin.
"""

from __future__ import annotations

from fusionbench.leaderboard.block import Block, Row
from fusionbench.leaderboard.declared import declared_blocks
from fusionbench.leaderboard.published import PublishedRow, Value
from fusionbench.leaderboard.published_table import PublishedBlock, beside
from fusionbench.leaderboard.render import FORMATS, render, sheets
from fusionbench.leaderboard.rows import blocks, has_level, without_controls
from fusionbench.leaderboard.table_model import PAPER, Sheet, check_held, chosen
from fusionbench.leaderboard.terminal import Terminal

__all__ = [
    "FORMATS",
    "PAPER",
    "Block",
    "PublishedBlock",
    "PublishedRow",
    "Row",
    "Sheet",
    "Terminal",
    "Value",
    "beside",
    "blocks",
    "check_held",
    "chosen",
    "declared_blocks",
    "has_level",
    "render",
    "sheets",
    "without_controls",
]
