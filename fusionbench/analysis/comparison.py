"""Rows of a leaderboard against each other: two of them, or many over several datasets. No torch.

block, a, b = choose(blocks, "sgmc", "none@resnet50")
compared = compare(block, a, b, records, store.predictions, ["bacc"])
paragraph(compared) -> str                      to paste into a paper

chosen = candidates(blocks)                     one block a dataset, and what was passed over
rank(chosen.blocks, "bacc") -> Ranking          Friedman and Nemenyi over their common methods
"""

from __future__ import annotations

from fusionbench.analysis.pair import Comparison, choose, compare, metric_unit
from fusionbench.analysis.paragraph import paragraph
from fusionbench.analysis.ranking import Ranking, candidates, rank

__all__ = [
    "Comparison",
    "Ranking",
    "candidates",
    "choose",
    "compare",
    "metric_unit",
    "paragraph",
    "rank",
]
