"""Named numbers from labels and probabilities. Importing this module costs numpy only.

    compute(y, probabilities, classes) -> dict[str, float]     every metric, by exact name
    confusion(y, probabilities, k) -> ndarray (K, K) int64     rows true class, columns prediction
    balanced_nll(y, probabilities) -> float                    to choose an epoch by
    describe(name) -> Metric                                   also for `recall/<CLASS>`
    METRICS: dict[str, Metric]                                 the table behind `list metrics`

Edge rules, the same for all:

* The prediction is the class of highest probability; where several tie, the first in class order.
* A class absent from `y` has no recall (`recall/<CLASS>` is NaN, stored as null) and no one-vs-rest
  AUC; macro recall and both AUCs leave it out.
* Precision and F1 average over the classes that occur in `y` or among the predictions, which is
  scikit-learn's default; a class that is never predicted has precision 0, one that is never right
  has F1 0 (zero_division=0).
* Equal probabilities count half in an AUC. With one class only in `y` both AUCs are NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusionbench.metric_names import ECE_BINS, METRICS, RECALL, Metric, describe

__all__ = ["METRICS", "RECALL", "Metric", "balanced_nll", "compute", "confusion", "describe"]

SUM_TOLERANCE = 1e-4  # float32 softmax is within 1e-6; anything worse is no distribution


def compute(y: ArrayLike, probabilities: ArrayLike, classes: Sequence[str]) -> dict[str, float]:
    """Every metric of METRICS plus `recall/<CLASS>`, as plain floats; NaN where undefined.

    `y`: (n,) class indices; `probabilities`: (n, K), rows sum to 1; `classes`: the K names.
    Raises ValueError naming the first bad row (not finite, negative, sum is not 1, label outside
    0..K-1), and where shapes disagree or n is 0.
    """
    from sklearn.metrics import precision_recall_fscore_support

    k = len(classes)
    labels, probs = _checked(y, probabilities, k)
    counts = _counts(labels, probs, k)
    support = counts.sum(axis=1)
    present = support > 0
    right = np.diag(counts)
    recall = np.divide(right, support, out=np.full(k, np.nan), where=present)
    predicted = probs.argmax(axis=1)

    numbers = {"acc": float(right.sum() / len(labels)), "bacc": float(recall[present].mean())}
    for average in ("weighted", "macro"):
        precision, _, f1, _ = precision_recall_fscore_support(
            labels, predicted, average=average, zero_division=0
        )
        numbers[f"precision_{average}"] = float(precision)
        numbers[f"f1_{average}"] = float(f1)
    numbers.update(_auc(labels, probs, support))

    truth = np.take_along_axis(probs, labels[:, None], axis=1)[:, 0]
    numbers["nll"] = float(-np.log(np.maximum(truth, np.finfo(np.float64).eps)).mean())
    numbers["brier"] = float(((probs - np.eye(k)[labels]) ** 2).sum(axis=1).mean())
    numbers["ece"] = _ece(probs.max(axis=1), predicted == labels)
    ordered = {name: numbers[name] for name in METRICS}
    return ordered | {f"{RECALL}{c}": float(r) for c, r in zip(classes, recall, strict=True)}


def balanced_nll(y: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean over the classes present in `y` (n,) of the class's mean -log p; (n, K) probabilities.

    The cross-entropy weighted by 1 / n_k, n_k counted in `y`. Raises ValueError as compute does.
    """
    given = np.asarray(probabilities)
    labels, probs = _checked(y, probabilities, given.shape[1] if given.ndim == 2 else 0)
    truth = np.take_along_axis(probs, labels[:, None], axis=1)[:, 0]
    nll = -np.log(np.maximum(truth, np.finfo(np.float64).eps))
    return float(np.mean([nll[labels == k].mean() for k in np.unique(labels)]))


def confusion(y: ArrayLike, probabilities: ArrayLike, k: int) -> NDArray[np.int64]:
    """(K, K) counts: row = true class, column = predicted class. Raises ValueError as compute."""
    labels, probs = _checked(y, probabilities, k)
    return _counts(labels, probs, k)


def _checked(
    y: ArrayLike, probabilities: ArrayLike, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    raw = np.asarray(y)
    probs = np.asarray(probabilities, dtype=np.float64)
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


def _counts(labels: NDArray[np.int64], probs: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    cells = np.bincount(labels * k + probs.argmax(axis=1), minlength=k * k)
    return cells.reshape(k, k).astype(np.int64)


def _auc(
    labels: NDArray[np.int64], probs: NDArray[np.float64], support: NDArray[np.int64]
) -> dict[str, float]:
    from sklearn.metrics import roc_auc_score

    usable = [c for c, n in enumerate(support) if 0 < n < len(labels)]
    if not usable:
        return {"auc_ovr_macro": float("nan"), "auc_ovr_weighted": float("nan")}
    areas = np.array([roc_auc_score(labels == c, probs[:, c]) for c in usable])
    return {
        "auc_ovr_macro": float(areas.mean()),
        "auc_ovr_weighted": float(np.average(areas, weights=support[usable])),
    }


def _ece(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    # Bins ((i-1)/15, i/15]: confidence 1 falls in the last one, and 0 cannot be a maximum.
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    gap = np.bincount(bins, weights=right - confidence, minlength=ECE_BINS)
    return float(np.abs(gap).sum() / len(confidence))
