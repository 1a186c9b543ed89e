"""Named numbers from labels and probabilities. Importing this module costs numpy only.

    compute(y, probabilities, classes) -> dict[str, float]     every metric, by exact name
    probability_scores(y, probabilities) -> dict               nll, brier and ece alone
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
from numpy.typing import ArrayLike, NDArray

from fusionbench.metrics.names import ECE_BINS, METRICS, PER_CLASS, RECALL, SPECIFICITIES

Labels = NDArray[np.int64]
Floats = NDArray[np.float64]

SUM_TOLERANCE = 1e-4  # float32 softmax is within 1e-6; anything worse is no distribution


def compute(y: ArrayLike, probabilities: ArrayLike, classes: Sequence[str]) -> dict[str, float]:
    """Every metric of METRICS, then those per class, as plain floats; NaN where undefined.

    `y`: (n,) class indices; `probabilities`: (n, K), rows sum to 1; `classes`: the K names.
    Raises ValueError naming the first bad row (not finite, negative, sum is not 1, label outside
    0..K-1), and where shapes disagree or n is 0.
    """
    numbers, per_class = _everything(*checked(y, probabilities, len(classes)))
    return numbers | {
        f"{family}{c}": float(value)
        for family in PER_CLASS
        for c, value in zip(classes, per_class[family], strict=True)
    }


def probability_scores(y: ArrayLike, probabilities: ArrayLike) -> dict[str, float]:
    """nll, brier and ece of (n,) labels and (n, K) probabilities; errors as compute."""
    return _scores(*checked(y, probabilities))


def balanced_nll(y: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean over the classes present in `y` (n,) of the class's mean -log p; (n, K) probabilities.

    The cross-entropy weighted by 1 / n_k, n_k counted in `y`. Raises ValueError as compute does.
    """
    labels, probs = checked(y, probabilities)
    truth = np.take_along_axis(probs, labels[:, None], axis=1)[:, 0]
    nll = -np.log(np.maximum(truth, np.finfo(np.float64).eps))
    return float(np.mean([nll[labels == k].mean() for k in np.unique(labels)]))


def confusion(y: ArrayLike, probabilities: ArrayLike, k: int) -> Labels:
    """(K, K) counts: row = true class, column = predicted class. Raises ValueError as compute."""
    labels, probs = checked(y, probabilities, k)
    return _counts(labels, probs, k)


def checked(y: ArrayLike, probabilities: ArrayLike, k: int | None = None) -> tuple[Labels, Floats]:
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


def _counts(labels: Labels, probs: Floats, k: int) -> Labels:
    cells = np.bincount(labels * k + probs.argmax(axis=1), minlength=k * k)
    return cells.reshape(k, k).astype(np.int64)


def _everything(labels: Labels, probs: Floats) -> tuple[dict[str, float], dict[str, Floats]]:
    """The metrics of METRICS in order, and per family the K values in class order."""
    k = probs.shape[1]
    counts = _counts(labels, probs, k)
    support, claimed, right = counts.sum(axis=1), counts.sum(axis=0), np.diag(counts)
    seen = support + claimed > 0
    per_class = {
        RECALL: _ratio(right, support, support > 0),
        "precision/": _ratio(right, np.maximum(claimed, 1), seen),
        "f1/": _ratio(2 * right, support + claimed, seen),
        **_roc(labels, probs, support),
    }
    numbers = {"acc": right.sum() / len(labels), "bacc": _mean(per_class[RECALL], None)}
    for name, family in (("precision", "precision/"), ("f1", "f1/"), ("auc_ovr", "auc/")):
        numbers[f"{name}_weighted"] = _mean(per_class[family], support)
        numbers[f"{name}_macro"] = _mean(per_class[family], None)
    numbers |= _scores(labels, probs)
    return {name: float(numbers[name]) for name in METRICS}, per_class


def _ratio(part: Labels, whole: Labels, where: NDArray[np.bool_]) -> Floats:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=where)


def _mean(values: Floats, weights: Labels | None) -> float:
    """Over what is defined; NaN where nothing is."""
    defined = ~np.isnan(values)
    if not defined.any():
        return float("nan")
    return float(np.average(values[defined], weights=None if weights is None else weights[defined]))


def _roc(labels: Labels, probs: Floats, support: Labels) -> dict[str, Floats]:
    """Area and sensitivities at fixed specificities, each class against the rest."""
    from sklearn.metrics import auc, roc_curve

    families = ("auc/", *(f"sens_at_spec{s}/" for s in SPECIFICITIES))
    found = {family: np.full(len(support), np.nan) for family in families}
    for c in np.flatnonzero((support > 0) & (support < len(labels))):
        # Every point: one on a straight piece of the curve is still a threshold.
        fpr, tpr, _ = roc_curve(labels == c, probs[:, c], drop_intermediate=False)
        negatives = len(labels) - support[c]
        false = np.rint(fpr * negatives).astype(np.int64)
        found["auc/"][c] = auc(fpr, tpr)
        for s in SPECIFICITIES:
            enough = 100 * (negatives - false) >= s * negatives
            found[f"sens_at_spec{s}/"][c] = tpr[enough].max()
    return found


def _scores(labels: Labels, probs: Floats) -> dict[str, float]:
    truth = np.take_along_axis(probs, labels[:, None], axis=1)[:, 0]
    return {
        "nll": float(-np.log(np.maximum(truth, np.finfo(np.float64).eps)).mean()),
        "brier": float(((probs - np.eye(probs.shape[1])[labels]) ** 2).sum(axis=1).mean()),
        "ece": _ece(probs.max(axis=1), probs.argmax(axis=1) == labels),
    }


def confidence_bins(confidence: Floats, bins: int = ECE_BINS) -> NDArray[np.intp]:
    """The bin, from 0, of each top probability: bin i holds (i/bins, (i+1)/bins]."""
    # Confidence 1 falls in the last one, and 0 cannot be a maximum.
    return np.clip(np.ceil(confidence * bins).astype(np.intp) - 1, 0, bins - 1)


def _ece(confidence: Floats, right: NDArray[np.bool_]) -> float:
    gap = np.bincount(confidence_bins(confidence), weights=right - confidence, minlength=ECE_BINS)
    return float(np.abs(gap).sum() / len(confidence))
