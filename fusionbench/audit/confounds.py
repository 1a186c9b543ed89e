"""Can the class be told from a photograph without looking at the lesion?

From its size, its file, its border, its corners, a mark (ink, a ruler) at its edge. Mean colour,
sharpness and the size of the file are partly the lesion's own (a naevus is brown, a scaly lesion is
rough, and what is rough compresses badly), so they are reported and never held against a dataset.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import pandas as pd

from fusionbench.audit.evidence import Labels, Looks, codes_of, look
from fusionbench.audit.findings import Confound, Confounds
from fusionbench.audit.measures import judge
from fusionbench.data.photo_facts import PhotoFacts

# Shown as -> fields of PhotoFacts. Several fields are taken as independent, given the class.
FACTS = {
    "width": ("width",),
    "height": ("height",),
    "format": ("format",),
    "border": ("border", "frame"),
    "corners": ("corners",),
    "mark at the edge": ("edge_colour", "edge_sharpness"),
    "camera": ("camera",),
    "mean colour": ("red", "green", "blue"),
    "sharpness": ("sharpness",),
    "file size": ("bytes",),
}
LESION_TOO = ("mean colour", "sharpness", "file size")
ALL_BUT = "all but these three"
ALL = "all together"
THERE = "photograph is here"
QUALITY = "JPEG quality"  # among the JPEG files


def find_confounds(facts: Sequence[PhotoFacts | None], labels: Labels) -> Confounds | None:
    """Over the rows whose photograph is here (facts are not None); None where none is."""
    rows = np.array([f is not None for f in facts], dtype=bool)
    if not rows.any():
        return None
    own = labels.take(rows)
    there = pd.DataFrame([fact for fact in facts if fact is not None])
    codes = {
        field: codes_of(there[field], numeric=field not in ("format", "camera"))
        for field in chain.from_iterable(FACTS.values())
    }
    apart = tuple(f for name, fields in FACTS.items() if name not in LESION_TOO for f in fields)
    told_by = {**FACTS, ALL_BUT: apart, ALL: tuple(codes)}
    looks: dict[str, Looks] = {
        name: look([codes[f] for f in fields], own) for name, fields in told_by.items()
    }
    jpeg = (there.quantisation > 0).to_numpy()
    if jpeg.any():
        told_by[QUALITY] = ()
        quality = codes_of(there.quantisation[jpeg], numeric=True)
        looks[QUALITY] = look([quality], own.take(jpeg))
    if not rows.all():
        # Are the photographs that are here a random part, as far as the class shows?
        here = look([rows.astype(np.int64)], labels, flag=True)
        looks[THERE] = {kind: estimate for kind, estimate in here.items() if kind != "bacc"}
    signs = judge(looks)

    def confound(name: str) -> Confound:
        return Confound(**dict(signs[name]), fact=name, lesion_too=name in (*LESION_TOO, ALL))

    return Confounds(
        chance=own.chance,
        there=None if rows.all() else confound(THERE),
        facts=tuple(confound(name) for name in told_by),
    )
