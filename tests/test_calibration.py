"""Temperatures against a grid, known factors and plain loops."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionbench.metrics import compute as metrics
from fusionbench.metrics.calibration import (
    COLDEST,
    HOTTEST,
    apply_temperature,
    fit_temperature,
    scaled,
)


def softmax(z: np.ndarray) -> np.ndarray:
    weights = np.exp(z - z.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def drawn(seed: int, n: int = 4000, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from their softmax: perfectly calibrated."""
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=(n, k))
    y = (rng.random(n)[:, None] > softmax(z).cumsum(axis=1)).sum(axis=1).clip(max=k - 1)
    return y, z


@pytest.mark.parametrize("factor", [0.3, 1.0, 2.5, 8.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_known_factor_is_found_again(factor: float, seed: int) -> None:
    y, z = drawn(seed)
    assert fit_temperature(y, softmax(factor * z)) == pytest.approx(factor, rel=0.06)
    # The data's own best factor, whatever that is, is exact: T scales with the logits.
    assert fit_temperature(y, softmax(factor * z)) == pytest.approx(
        factor * fit_temperature(y, softmax(z)), rel=1e-5
    )


@pytest.mark.parametrize("seed", range(4))
def test_no_temperature_of_a_grid_is_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k = 60, 4
    y = rng.integers(0, k, n)
    p = softmax(3 * rng.normal(size=(n, k)) + 2 * np.eye(k)[y])
    best = fit_temperature(y, p)

    def nll(t: float) -> float:
        total = 0.0
        for label, row in zip(y, p, strict=True):
            z = [math.log(value) / t for value in row]
            total += math.log(sum(math.exp(v - max(z)) for v in z)) + max(z) - z[label]
        return total / n

    grid = np.geomspace(COLDEST, HOTTEST, 400)
    costs = [nll(t) for t in grid]
    assert nll(best) <= min(costs) + 1e-9
    assert best == pytest.approx(grid[int(np.argmin(costs))], rel=0.02)
    assert scaled(y, p, best)["nll_scaled"] == pytest.approx(nll(best), rel=1e-9)


def test_an_overconfident_model_is_better_calibrated_after_it_on_other_rows() -> None:
    y, z = drawn(3, n=6000)
    p = softmax(4 * z)
    t = fit_temperature(y[:3000], p[:3000])
    before = scaled(y[3000:], p[3000:], 1.0)
    after = scaled(y[3000:], p[3000:], t)
    for name, value in before.items():
        assert after[name] < value
    assert before["ece_scaled"] > 0.15 and after["ece_scaled"] < 0.03


def test_rows_that_cannot_tell_leave_everything_as_it_is() -> None:
    perfect = softmax(3 * np.eye(3)[[0, 1, 2, 2]])
    assert fit_temperature([0, 1, 2, 2], perfect) == 1.0
    assert fit_temperature([0, 1], np.full((2, 4), 0.25)) == 1.0


def test_probabilities_of_exactly_nought_and_one_stay_finite() -> None:
    p = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    t = fit_temperature([0, 1, 1], p)  # certain and wrong once
    assert 1 < t <= HOTTEST
    assert np.isfinite(apply_temperature(p, t)).all()
    assert all(math.isfinite(v) for v in scaled([0, 1, 1], p, t).values())


def test_worse_than_chance_is_made_flat_not_turned_round() -> None:
    y, z = drawn(5, n=500)
    assert fit_temperature(y, softmax(-z)) == pytest.approx(HOTTEST, rel=1e-3)


@given(st.integers(0, 10_000), st.floats(COLDEST, HOTTEST))
@settings(deadline=None, max_examples=50)
def test_the_order_within_a_row_stays(seed: int, t: float) -> None:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(4), 20)
    q = apply_temperature(p, t)
    np.testing.assert_allclose(q.sum(axis=1), 1, rtol=1e-12)
    assert (q.argmax(axis=1) == p.argmax(axis=1)).all()
    if t >= 1:  # colder, the least probabilities underflow and do not come back
        np.testing.assert_allclose(apply_temperature(q, 1 / t), p, atol=1e-6)
    z = np.log(p) + rng.normal(size=(20, 1))  # logits that the model might have had
    np.testing.assert_allclose(q, softmax(z / t), atol=1e-9)


def test_one_is_the_identity() -> None:
    y, z = drawn(0, n=50)
    p = softmax(z)
    assert (apply_temperature(p, 1.0) == p).all()
    plain = metrics.compute(y, p, "abcde")
    assert scaled(y, p, 1.0) == {f"{m}_scaled": plain[m] for m in ("nll", "brier", "ece")}


@pytest.mark.parametrize("t", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_is_a_positive_number(t: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        apply_temperature(np.full((1, 2), 0.5), t)


def test_bad_rows_are_named() -> None:
    with pytest.raises(ValueError, match="Row 1"):
        fit_temperature([0, 0], [[0.5, 0.5], [0.9, 0.9]])


def test_importing_costs_no_scipy() -> None:
    code = (
        "import sys; import fusionbench.metrics.calibration, fusionbench.metrics.lesions;"
        "bad = {'sklearn', 'scipy', 'torch', 'pandas'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
