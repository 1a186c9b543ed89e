"""Records -> tables: a pure function of the records, which never imports torch.

    blocks(records, *, current_sources=None, sort="bacc") -> list[Block]
    render(blocks, format, *, metrics=None, command="fusionbench leaderboard") -> str
                            format: one of FORMATS = markdown, csv, latex, json
    Terminal(blocks, metrics=None)          something that `rich.console.Console.print` takes
    to_data(blocks, metrics=None) -> list[dict]     what the json format holds under "blocks"
    PAPER: the default metrics, in the order of the papers' tables

A block holds the rows that may be compared: one dataset fingerprint, one protocol and split, and
the same photographs evaluated in every fold. A row is one configuration (an identity without fold
and seed). `current_sources` maps ("fusions" | "losses", name) to `registry.source_hash` of the
plugin as it is now; a row made with another source is marked stale.
"""

from __future__ import annotations

from fusionbench.leaderboard.render import FORMATS, render, to_data
from fusionbench.leaderboard.rows import Block, PartStats, Row, Stat, blocks
from fusionbench.leaderboard.table import PAPER
from fusionbench.leaderboard.terminal import Terminal

__all__ = [
    "FORMATS",
    "PAPER",
    "Block",
    "PartStats",
    "Row",
    "Stat",
    "Terminal",
    "blocks",
    "render",
    "to_data",
]
