"""Temperature scaling.

Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, ICML 2017
(https://proceedings.mlr.press/v70/guo17a.html): probabilities softmax(logits / T) with the one
number T > 0 that minimises the negative log-likelihood on rows that the model was not trained on.
The order of the classes in a row does not change, so neither do accuracy, recall and confusion.

Logits are not needed: the logarithms of the probabilities are the logits up to a constant per row,
which softmax takes out again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusionbench.metrics.compute import checked
from fusionbench.metrics.names import SCALED
from fusionbench.metrics.weighted import Weighted

# What a temperature may be. A model that needs more than that has nothing to scale.
COLDEST, HOTTEST = 0.05, 20.0
# Where a single-precision softmax ends; a logarithm needs a number above 0.
LEAST = 1e-45


def fit_temperature(y: ArrayLike, probabilities: ArrayLike) -> float:
    """The temperature that fits best on rows not trained on; 1 changes nothing.

    `y`: (n,) class indices; `probabilities`: (n, K), rows sum to 1. Between COLDEST and HOTTEST.
    1.0 where these rows cannot tell: every one has its true class on top (the colder the better,
    without end), or nothing beats 1. Raises ValueError as fusionbench.metrics.compute.compute does.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    labels, probs = checked(y, probabilities)
    logits = _logits(probs)
    truth = np.take_along_axis(logits, labels[:, None], axis=1)
    if bool(((logits < truth).sum(axis=1) == logits.shape[1] - 1).all()):
        return 1.0
    margins = logits - truth

    def nll(log_temperature: float) -> float:
        return float(logsumexp(margins / np.exp(log_temperature), axis=1).mean())

    # In the logarithm of T it has one valley: it is convex in 1 / T.
    found = minimize_scalar(
        nll,
        bounds=(np.log(COLDEST), np.log(HOTTEST)),
        method="bounded",
        options={"xatol": 1e-8, "maxiter": 200},
    )
    return float(np.exp(found.x)) if found.fun < nll(0.0) else 1.0


def apply_temperature(probabilities: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """(n, K) probabilities softmax(log p / T). Raises ValueError for a T that is not above 0."""
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"A temperature is a finite number above 0, not {temperature!r}.")
    probs = np.asarray(probabilities, dtype=np.float64)
    if temperature == 1.0:
        return probs.copy()
    from scipy.special import softmax

    return np.asarray(softmax(_logits(probs) / temperature, axis=1))


def scaled(y: ArrayLike, probabilities: ArrayLike, temperature: float) -> dict[str, float]:
    """nll_scaled, brier_scaled, ece_scaled of (n,) classes and (n, K) probabilities before scaling.

    Raises ValueError as fusionbench.metrics.compute.compute and apply_temperature do.
    """
    labels, probs = checked(y, probabilities)
    rows = Weighted(labels, apply_temperature(probs, temperature))
    return {name: float(rows.metric(name.removesuffix("_scaled"))[0]) for name in SCALED}


def _logits(probs: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(np.maximum(probs, LEAST))
