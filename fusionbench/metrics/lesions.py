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
    as one lesion, with its own probabilities. (Were they averaged per class instead, the
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
    from pandas import Series, factorize

    # Numbered in the order in which they first occur.
    lesion = factorize(keys, use_na_sentinel=False)[0]
    torn = Series(labels).groupby(lesion).transform("nunique").to_numpy() > 1
    # A row of a torn lesion takes a number that no lesion has; then count again in order.
    lesion = factorize(np.where(torn, len(keys) + np.arange(len(keys)), lesion))[0]
    sizes = np.bincount(lesion).astype(np.int64)
    sums = np.zeros((len(sizes), probs.shape[1]))
    np.add.at(sums, lesion, probs)
    classes = np.zeros(len(sizes), dtype=np.int64)
    classes[lesion] = labels
    return classes, sums / sizes[:, None], sizes
