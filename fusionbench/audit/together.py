"""Do inputs tell the class together that say little one by one, as two whose XOR is the label?

* Every two inputs (of at most MOST): their joint code against the better of each alone and both
  taken as independent given the class.
* All inputs: the control metadata-forest with TREES trees against the best of one input alone, all
  taken as independent, and the control metadata-logistic. It also sees three that go together.

Both are judged out of fold by patient, on the folds of evidence.py, not on the split: what
a forest gains from patients that it has met is the leak's worth (leak_value.py). The error of the
difference is taken over patients, and how far it goes is measured from what the inputs tell apart
(0) to perfect (1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from fusionbench.audit.evidence import FOLDS, Labels, Looks, beyond, codes_of, look, looks_of
from fusionbench.audit.findings import JointSigns, Together
from fusionbench.audit.leak_value import estimators
from fusionbench.audit.measures import judge
from fusionbench.data.card import Column
from fusionbench.data.encoder import MetadataEncoder
from fusionbench.data.table import Table

TREES = 100
MOST = 40
SHOWN_PAIRS = 10

Key = tuple[str, ...]


def find_together(table: Table, labels: Labels, columns: Sequence[Column]) -> Together | None:
    """Of these inputs; None where there are fewer than two."""
    if len(columns) < 2:
        return None
    codes = {c.name: codes_of(table.metadata[c.name], numeric=c.kind == "numeric") for c in columns}
    alone = {name: look([code], labels) for name, code in codes.items()}
    looks: dict[Key, Looks] = {}
    apart: dict[Key, Looks] = {}
    for a, b in combinations(codes, 2) if len(codes) <= MOST else ():
        joint = codes[a] * (codes[b].max() + 1) + codes[b]
        apart[a, b] = _best([alone[a], alone[b], look([codes[a], codes[b]], labels, each=False)])
        looks[a, b] = look([joint], labels, each=False)
    models = estimators(0)
    forest = models["metadata-forest"].set_params(n_estimators=TREES)
    sums = [
        look([*codes.values()], labels),
        _model(models["metadata-logistic"], table, labels, columns),
    ]
    apart[()] = _best([*alone.values(), *sums])
    looks[()] = _model(forest, table, labels, columns)
    signs = judge({
        key: {kind: beyond(one, apart[key][kind]) for kind, one in found.items()}
        for key, found in looks.items()
    })  # fmt: skip

    def joint_signs(key: Key) -> JointSigns:
        known = {kind: estimate.value for kind, estimate in apart[key].items()}
        return JointSigns(
            **dict(signs[key]),
            columns=key,
            auc_apart=known.get("auc"),
            bacc_apart=known.get("bacc"),
        )

    telling = [key for key in signs if key and signs[key].telling]
    telling.sort(key=lambda key: -max(m.value for m in signs[key].measures))
    return Together(
        pairs=tuple(map(joint_signs, telling[:SHOWN_PAIRS])),
        looked_at=len(looks) - 1,
        forest=joint_signs(()),
    )


def _best(looks: Iterable[Looks]) -> Looks:
    best: Looks = {}
    for one in looks:
        for kind, estimate in one.items():
            if kind not in best or estimate.value > best[kind].value:
                best[kind] = estimate
    return best


def _model(model: Any, table: Table, labels: Labels, columns: Sequence[Column]) -> Looks:
    shares = np.zeros((len(labels), len(labels.classes)))
    for k in range(FOLDS):
        train, held = labels.fold != k, labels.fold == k
        if not held.any() or len(np.unique(labels.y[train])) < 2:
            continue
        encoder = MetadataEncoder(
            columns, missing="indicator", unknown=table.card.unknown, forbidden=True
        ).fit(table.metadata[train])
        model.fit(encoder.transform(table.metadata[train]), labels.y[train])
        known = model.predict_proba(encoder.transform(table.metadata[held]))
        shares[np.ix_(held, model.classes_)] = known

    def score(side: Labels) -> np.ndarray:
        assert side.malignant is not None
        return np.asarray(shares[:, np.unique(side.y[side.malignant])].sum(axis=1))

    return looks_of(score, shares, labels)
