"""Estimates judged together: corrected for their number, and called found or strong by one rule.

Chance must not be reported as a finding, nor a trifle that many rows make certain. So `found` asks
for both: p < ALPHA after Holm's correction over all estimates of a section, and an effect of at
least FOUND; `strong`, which the verdict repeats, for an effect of at least STRONG.
"""

from __future__ import annotations

from dataclasses import dataclass

from fusionbench.audit.evidence import Estimate
from fusionbench.audit.findings import Measure, Told
from fusionbench.stats import holm

ALPHA = 0.01


@dataclass(frozen=True)
class Scale:
    """How far from chance (0) towards perfect (1) counts."""

    found: float
    strong: float


# An AUC of 0.55 or 0.45 is worth a line, one of 0.70 or 0.30 ("acceptable discrimination": Hosmer &
# Lemeshow, Applied Logistic Regression, chapter 5) a badge. Balanced accuracy is spread over more
# classes: of six, chance 16.7 %, found from 20.8 %, strong from 33.3 %; of two, 50, 52.5 and 60 %.
SCALES = {"auc": Scale(found=0.10, strong=0.40), "bacc": Scale(found=0.05, strong=0.20)}

Key = tuple[str, ...]
Kind = str  # "auc" (malignant against benign), "bacc", or "auc/<class>" (against the rest)
Estimates = dict[tuple[Key, Kind], Estimate | None]
Measures = dict[tuple[Key, Kind], Measure | None]


def judge(estimates: Estimates) -> Measures:
    """Measures of a section's estimates, by (what, kind); None stays None."""
    some = {key: e for key, e in estimates.items() if e is not None}
    adjusted = holm({key: e.p for key, e in some.items()})
    return {
        key: None if e is None else _measure(e, key[1], adjusted[key])
        for key, e in estimates.items()
    }


def best_told(measures: Measures, key: Key) -> Told | None:
    """The class that is told best from the rest; None where none was looked at."""
    some = {
        kind.partition("/")[2]: measure
        for (of, kind), measure in measures.items()
        if of == key and "/" in kind and measure is not None
    }
    if not some:
        return None
    name = max(some, key=lambda n: (some[n].strong, some[n].found, abs(some[n].value - 0.5)))
    return Told(class_name=name, auc=some[name])


def _measure(estimate: Estimate, kind: Kind, p: float) -> Measure:
    kind = kind.partition("/")[0]
    scale, value, chance = SCALES[kind], estimate.value, estimate.chance
    effect = 2 * abs(value - chance) if kind == "auc" else (value - chance) / (1 - chance)
    return Measure(
        value=value,
        error=estimate.error,
        p=p,
        found=p < ALPHA and effect >= scale.found,
        strong=p < ALPHA and effect >= scale.strong,
    )
