"""Named numbers from labels and probabilities. Importing this module costs numpy only.

    compute(y, probabilities, classes) -> dict[str, float]     every metric, by exact name
    confusion(y, probabilities, k) -> ndarray (K, K) int64     rows true class, columns prediction
    balanced_nll(y, probabilities) -> float                    to choose an epoch by

What they are called and mean stands in fusionbench.metrics.names.

Per class: `recall/<CLASS>`, `precision/`, `f1/`, `auc/`, and `sens_at_spec80/`, `90/`, `95/`: the
greatest sensitivity at a specificity of at least that many percent, the class against the rest. A
photograph is called positive where the class's probability is at or above a threshold. Thresholds
are the probabilities that occur, and one above them all (none is positive: sensitivity 0,
specificity 1), so equal probabilities are called together and nothing is interpolated: it is a
point that can be had. Specificities are compared as whole counts, 100 * true negatives >= s *
negatives, so that 9 of 10 are 90 %. The threshold is chosen on the rows that it is measured on, as
for any point of a ROC curve; with few rows of a class it flatters.

Edge rules, the same for all:

* The prediction is the class of highest probability; where several tie, the first in class order.
* A class absent from `y` has no recall (`recall/<CLASS>` is NaN, stored as null), no one-vs-rest
  AUC and no sensitivity; macro recall and both AUCs leave it out.
* Precision and F1 average over the classes that occur in `y` or among the predictions, which is
  scikit-learn's default; a class that is never predicted has precision 0, one that is never right
  has F1 0 (zero_division=0). Per class they are NaN where the class does neither, so that the macro
  values are the means of what is there.
* Equal probabilities count half in an AUC. With one class only in `y` there is no AUC and no
  sensitivity at a specificity.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fusionbench.metrics.names import METRICS, PER_CLASS
from fusionbench.metrics.weighted import Floats, Ints, Weighted

SUM_TOLERANCE = 1e-4  # float32 softmax is within 1e-6; anything worse is no distribution


def compute(y: ArrayLike, probabilities: ArrayLike, classes: Sequence[str]) -> dict[str, float]:
    """Every metric of METRICS, then those per class, as plain floats; NaN where undefined.

    `y`: (n,) class indices; `probabilities`: (n, K), rows sum to 1; `classes`: the K names.
    Raises ValueError naming the first bad row (not finite, negative, sum is not 1, label outside
    0..K-1), and where shapes disagree or n is 0.
    """
    rows = Weighted(*checked(y, probabilities, len(classes)), classes)
    names = [*METRICS, *(f"{family}{name}" for family in PER_CLASS for name in classes)]
    return {name: float(rows.metric(name)[0]) for name in names}


def balanced_nll(y: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean over the classes present in `y` (n,) of the class's mean -log p; (n, K) probabilities.

    The cross-entropy weighted by 1 / n_k, n_k counted in `y`. Raises ValueError as compute does.
    """
    rows = Weighted(*checked(y, probabilities))
    return float(np.mean([rows.cost[rows.y == k].mean() for k in np.unique(rows.y)]))


def confusion(y: ArrayLike, probabilities: ArrayLike, k: int) -> Ints:
    """(K, K) counts: row = true class, column = predicted class. Raises ValueError as compute."""
    labels, probs = checked(y, probabilities, k)
    cells = np.bincount(labels * k + probs.argmax(axis=1), minlength=k * k)
    return cells.reshape(k, k).astype(np.int64)


def checked(y: ArrayLike, probabilities: ArrayLike, k: int | None = None) -> tuple[Ints, Floats]:
    """(n,) int64 labels and (n, K) float64 probabilities, K as given or as many columns as there
    are. Raises ValueError as compute does."""
    raw = np.asarray(y)
    probs = np.asarray(probabilities, dtype=np.float64)
    if k is None:
        k = probs.shape[1] if probs.ndim == 2 else 0
    if raw.ndim != 1 or probs.shape != (len(raw), k):
        raise ValueError(
            f"Labels of shape {raw.shape} and probabilities of shape {probs.shape} do not fit: "
            f"expected (n,) and (n, {k})."
        )
    if len(raw) == 0:
        raise ValueError("There is nothing to evaluate: no labels.")
    if not np.issubdtype(raw.dtype, np.integer):
        raise ValueError(f"Labels must be class indices (integers), not {raw.dtype}.")
    labels = raw.astype(np.int64)
    finite = np.isfinite(probs).all(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        is_sum = np.abs(probs.sum(axis=1) - 1.0) <= SUM_TOLERANCE
    for good, problem in (
        ((labels >= 0) & (labels < k), f"has a label outside 0..{k - 1}"),
        (finite, "has a probability that is not finite"),
        ((probs >= 0).all(axis=1), "has a negative probability"),
        (is_sum, "has probabilities that do not sum to 1"),
    ):
        if not good.all():
            row = int(np.argmin(good))
            raise ValueError(
                f"Row {row} {problem} (label {labels[row]}, probabilities {probs[row].tolist()}); "
                f"{int((~good).sum())} of {len(labels)} rows do."
            )
    return labels, probs
