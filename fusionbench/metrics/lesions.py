"""From photographs to lesions: several photographs of one lesion are one decision."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def by_lesion(
    y: ArrayLike, probabilities: ArrayLike, lesions: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Average the probabilities (arithmetic mean) over each lesion's photographs.

    `y`: (n,) class indices; `probabilities`: (n, K); `lesions`: (n,) keys, unique across patients.
    Returns (L,) classes, (L, K) probabilities and (L,) numbers of photographs, lesions in the order
    in which they first occur. A lesion is what is there: photographs that another fold tests are
    not in its mean.

    Photographs under one key that carry different classes cannot be one lesion: each of them counts
    as a lesion of its own, with its own probabilities. (Were they averaged per class instead, the
    label would say which photographs to average.) Raises ValueError where lengths differ.
    """
    labels = np.asarray(y, dtype=np.int64)
    probs = np.asarray(probabilities, dtype=np.float64)
    keys = np.asarray(lesions)
    if probs.ndim != 2 or not labels.shape == keys.shape == probs.shape[:1]:
        raise ValueError(
            f"Labels {labels.shape}, probabilities {probs.shape} and lesions {keys.shape} do not "
            "fit: expected (n,), (n, K) and (n,)."
        )
    lesion = _numbered(keys)
    lowest, highest = (np.full(len(keys), start) for start in (np.iinfo(np.int64).max, -1))
    np.minimum.at(lowest, lesion, labels)
    np.maximum.at(highest, lesion, labels)
    torn = (lowest != highest)[lesion]
    # A row of a torn lesion takes a number that no lesion has; then count anew in order.
    lesion = _numbered(np.where(torn, len(keys) + np.arange(len(keys)), lesion))
    sizes = np.bincount(lesion).astype(np.int64)
    sums = np.zeros((len(sizes), probs.shape[1]))
    np.add.at(sums, lesion, probs)
    classes = np.zeros(len(sizes), dtype=np.int64)
    classes[lesion] = labels
    return classes, sums / sizes[:, None], sizes


def _numbered(keys: NDArray[np.generic]) -> NDArray[np.int64]:
    """(n,) numbers of the distinct keys, 0 for the one that occurs first."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    place = np.empty(len(first), dtype=np.int64)
    place[np.argsort(first)] = np.arange(len(first))
    return place[inverse.reshape(-1)]
