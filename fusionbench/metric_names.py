"""What the metrics are called, how tables print them, and what they mean. No imports but dataclass:
listing them must cost nothing. fusionbench.metrics computes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ECE_BINS = 15


@dataclass(frozen=True)
class Metric:
    """What a number is called, how a table prints it, and which way is better."""

    name: str
    title: str
    better: Literal["high", "low"]
    definition: str
    # A fraction of one that tables print times a hundred.
    percent: bool = True


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("acc", "ACC", "high", "share of photographs whose top class is right"),
        Metric("bacc", "BACC", "high", "mean recall over the classes present in y"),
        Metric(
            "precision_weighted",
            "Precision",
            "high",
            "precision per class, weighted by the class counts of y; zero_division=0",
        ),
        Metric(
            "precision_macro",
            "Precision (macro)",
            "high",
            "mean precision over classes present in y or predicted; zero_division=0",
        ),
        Metric(
            "f1_weighted",
            "F1",
            "high",
            "F1 per class, weighted by the class counts of y; zero_division=0",
        ),
        Metric(
            "f1_macro",
            "F1 (macro)",
            "high",
            "mean F1 over classes present in y or predicted; zero_division=0",
        ),
        Metric(
            "auc_ovr_macro",
            "AUC",
            "high",
            "area under ROC, each class against the rest, mean over classes present in y",
        ),
        Metric(
            "auc_ovr_weighted",
            "AUC (weighted)",
            "high",
            "area under ROC, each class against the rest, weighted by the class counts of y",
        ),
        Metric(
            "nll",
            "NLL",
            "low",
            "mean of -ln p(true class), natural logarithm, p clipped at 2.2e-16",
            percent=False,
        ),
        Metric(
            "brier",
            "Brier",
            "low",
            "mean over photographs of the squared error summed over classes (0 to 2)",
            percent=False,
        ),
        Metric(
            "ece",
            "ECE",
            "low",
            f"expected calibration error of the top class: {ECE_BINS} equal-width bins "
            "((i-1)/15, i/15], sum of n_bin/n * |accuracy - mean confidence|",
        ),
    )
}

RECALL = "recall/"


def describe(name: str) -> Metric:
    """The Metric of a name, per-class recalls included. Raises KeyError for an unknown name."""
    if name.startswith(RECALL) and len(name) > len(RECALL):
        label = name.removeprefix(RECALL)
        return Metric(
            name, f"Recall {label}", "high", f"share of {label} found; null without {label} in y"
        )
    return METRICS[name]
