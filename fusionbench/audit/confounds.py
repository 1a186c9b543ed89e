"""Can the class be told from a photograph without looking at the lesion?

From its size, its file, its border. Mean colour, sharpness and the size of the file are partly the
lesion's own (a naevus is brown, a scaly lesion is rough, and what is rough compresses badly), so
they are reported and never held against a dataset.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fusionbench.audit.evidence import (
    Labels,
    against_rest,
    auc,
    balanced_accuracy,
    class_scores,
    codes_of,
    malignancy_score,
)
from fusionbench.audit.findings import Confound, Confounds
from fusionbench.audit.measures import Estimates, best_told, judge
from fusionbench.audit.missingness import chance_of
from fusionbench.data.photo_facts import PhotoFacts

# Shown as -> fields of PhotoFacts. Several fields are taken as independent, given the class.
FACTS = {
    "width": ("width",),
    "height": ("height",),
    "format": ("format",),
    "border": ("border",),
    "mean colour": ("red", "green", "blue"),
    "sharpness": ("sharpness",),
    "file size": ("bytes",),
}
LESION_TOO = ("mean colour", "sharpness", "file size")
ALL_BUT = "all but these three"
ALL = "all together"
THERE = "photograph is here"


def find_confounds(facts: Sequence[PhotoFacts | None], labels: Labels) -> Confounds | None:
    """Over the rows whose photograph is here (facts are not None); None where none is."""
    rows = np.array([f is not None for f in facts], dtype=bool)
    if not rows.any():
        return None
    own = labels.take(rows)
    there = [f for f in facts if f is not None]
    codes = {
        field: codes_of(pd.Series([getattr(f, field) for f in there]), numeric=field != "format")
        for fields in FACTS.values()
        for field in fields
    }
    apart = tuple(f for name, fields in FACTS.items() if name not in LESION_TOO for f in fields)
    looks = {**FACTS, ALL_BUT: apart, ALL: tuple(codes)}
    estimates: Estimates = {}
    for name, fields in looks.items():
        by_class = sum((class_scores(codes[f], own) for f in fields), np.zeros(1))
        estimates[(name,), "bacc"] = balanced_accuracy(by_class, own)
        sides = {f"auc/{k}": rest for k, rest in against_rest(own).items()}
        if own.malignant is not None:
            sides["auc"] = own
        for kind, side in sides.items():
            score = sum((malignancy_score(codes[f], side) for f in fields), np.zeros(1))
            estimates[(name,), kind] = auc(score, side, one_sided=True)
    if not rows.all():
        estimates |= _presence(rows, labels)
    measures = judge(estimates)

    def confound(name: str) -> Confound:
        return Confound(
            fact=name,
            auc=measures.get(((name,), "auc")),
            bacc=measures.get(((name,), "bacc")),
            told=best_told(measures, (name,)),
            lesion_too=name in (*LESION_TOO, ALL),
        )

    return Confounds(
        photographs=int(rows.sum()),
        rows=len(rows),
        chance=chance_of(own),
        there=None if rows.all() else confound(THERE),
        facts=tuple(confound(name) for name in looks),
    )


def _presence(rows: np.ndarray, labels: Labels) -> Estimates:
    """Are the photographs that are here a random part, as far as the class shows?"""
    score = rows.astype(np.float64)
    estimates: Estimates = {((THERE,), "auc"): auc(score, labels)}
    for name, side in against_rest(labels).items():
        estimates[(THERE,), f"auc/{name}"] = auc(score, side)
    return estimates
