"""The best accuracies that the synthetic dataset allows, by enumeration of its planted model."""

from __future__ import annotations

from itertools import product

import numpy as np
from sklearn.linear_model import LogisticRegression

from fusionbench.data.synthetic.truth import FAMILY, MALIGNANT, Floats, Knobs


def joint(knobs: Knobs) -> Floats:
    """(6, 9, 8) probability of (class, image cell, metadata cell).

    Image cell: 3 * core + rim. Metadata cell: 4 * core_counts + 2 * malignant + missing.
    """
    prior, lacking = knobs.prior(), knobs.missing_by_class()
    table = np.zeros((6, 9, 8))
    for label, planted, decoy, core_counts, missing in product(
        range(6), range(6), range(3), (0, 1), (0, 1)
    ):
        family = FAMILY[planted]
        p = prior[label] * (knobs.noise / 6 + (1 - knobs.noise) * (planted == label))
        p *= 0.5 * (knobs.agree if decoy == family else (1 - knobs.agree) / 2)
        p *= lacking[label] if missing else 1 - lacking[label]
        core, rim = (family, decoy) if core_counts else (decoy, family)
        cell = 4 * core_counts + 2 * int(MALIGNANT[planted]) + missing
        table[label, 3 * core + rim, cell] += p
    return table


def bayes_accuracies(knobs: Knobs | None = None) -> dict[str, float]:
    """The best expected accuracy, by enumeration, of a classifier that sees

    image        the image alone
    metadata     the metadata alone
    additive     both, but only adds their logits: f(image) + g(metadata), any f and g, at the
                 optimum of the cross-entropy. What concatenation before a linear head converges to
    interaction  both, without restriction
    """
    table = joint(knobs or Knobs())
    logits = _additive_logits(table)
    # A float's breadth of ties is broken the same way everywhere.
    choice = np.argmax(np.round(logits, 6), axis=0)
    added = np.take_along_axis(table, choice[None], axis=0).sum()
    return {
        "image": float(table.sum(axis=2).max(axis=0).sum()),
        "metadata": float(table.sum(axis=1).max(axis=0).sum()),
        "additive": float(added),
        "interaction": float(table.max(axis=0).sum()),
    }


def _additive_logits(table: Floats) -> Floats:
    """(6, 9, 8): f + g at the minimum of the expected cross-entropy under `table`; convex."""
    labels, cells, answers = (index.ravel() for index in np.indices(table.shape))
    seen = np.hstack([np.eye(9)[cells], np.eye(8)[answers]])
    # A breath of ridge: without noise the optimum lies at infinity.
    model = LogisticRegression(C=1e8, tol=1e-10, max_iter=5000)
    model.fit(seen, labels, sample_weight=table.ravel())
    return model.decision_function(seen[: 9 * 8]).T.reshape(table.shape)
