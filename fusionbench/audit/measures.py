"""Estimates judged together: corrected for their number, and called found or strong by one rule.

Chance must not be reported as a finding, nor a trifle that many rows make certain. So `found` asks
for both: p < ALPHA after Holm's correction over all estimates of a section, and an effect of at
least FOUND; `strong`, which the verdict repeats, for an effect of at least STRONG.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

from fusionbench.audit.evidence import Estimate, Looks
from fusionbench.audit.findings import Measure, Signs, Told
from fusionbench.stats.resampled import holm

ALPHA = 0.01
# How far from chance (0) towards perfect (1) counts. An AUC of 0.55 or 0.45 is worth a line, one of
# 0.70 or 0.30 ("acceptable discrimination": Hosmer & Lemeshow, Applied Logistic Regression, chapter
# 5) a badge. Balanced accuracy is spread over more classes: of six, chance 16.7 %, found from
# 20.8 %, strong from 33.3 %; of two, 50, 52.5 and 60 %.
FOUND = {"auc": 0.10, "bacc": 0.05}
STRONG = {"auc": 0.40, "bacc": 0.20}

Key = TypeVar("Key", bound=Hashable)


def judge(looks: Mapping[Key, Looks]) -> dict[Key, Signs]:
    """What a section looked at -> what it tells, corrected for all of it together."""
    adjusted = holm({
        (key, kind): estimate.p
        for key, estimates in looks.items()
        for kind, estimate in estimates.items()
    })  # fmt: skip
    return {
        key: _signs({
            kind: _measure(estimate, kind.partition("/")[0], adjusted[key, kind])
            for kind, estimate in estimates.items()
        })
        for key, estimates in looks.items()
    }  # fmt: skip


def _signs(measures: Mapping[str, Measure]) -> Signs:
    by_class = {kind[len("auc/") :]: one for kind, one in measures.items() if "/" in kind}
    clearest = max(
        by_class.items(),
        key=lambda item: (item[1].strong, item[1].found, abs(item[1].value - 0.5)),
        default=None,
    )
    return Signs(
        auc=measures.get("auc"),
        bacc=measures.get("bacc"),
        told=clearest and Told(**dict(clearest[1]), class_name=clearest[0]),
    )


def _measure(estimate: Estimate, kind: str, p: float) -> Measure:
    value, chance = estimate.value, estimate.chance
    off = abs(value - chance) if kind == "auc" else value - chance
    effect = off / max(1 - chance, 1e-9)
    return Measure(
        value=value,
        error=estimate.error,
        p=p,
        found=p < ALPHA and effect >= FOUND[kind],
        strong=p < ALPHA and effect >= STRONG[kind],
    )
