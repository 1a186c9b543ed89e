"""The bootstrap against plain resampling of rows, one resample at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionbench.errors import RecordError
from fusionbench.metrics.compute import compute
from fusionbench.records import Predictions
from fusionbench.stats.bootstrap import draw, evaluate, paired, two_sided
from fusionbench.stats.pooled import Pooled, pool

CLASSES = ("ACK", "BCC", "MEL")


def made_up(
    seed: int, n: int, patients: int, *, seeds: int = 1, coarse: int = 0, skill: float = 1.0
) -> Pooled:
    """Predictions of some skill; `coarse` rounds scores, so that ties are frequent."""
    rng = np.random.default_rng(seed)
    k = len(CLASSES)
    y = rng.choice(k, n, p=[0.6, 0.3, 0.1])
    logits = rng.normal(size=(seeds, n, k)) + skill * np.eye(k)[y]
    p = np.exp(logits)
    p /= p.sum(axis=2, keepdims=True)
    if coarse:
        p = np.round(p * coarse) + 1e-300
        p /= p.sum(axis=2, keepdims=True)
    owner = np.unique(rng.integers(0, patients, n), return_inverse=True)[1]
    return Pooled(tuple((0, f"i{i}") for i in range(n)), y, p, owner, CLASSES)


def slowly(pooled: Pooled, weights: np.ndarray) -> list[dict[str, float]]:
    """compute() of the rows of every drawn patient, once per draw; mean over seeds."""
    found = []
    for one in weights:
        rows = [
            i for patient, times in enumerate(one) for _ in range(times)
            for i in range(len(pooled.y)) if pooled.patients[i] == patient
        ]  # fmt: skip
        by_seed = [compute(pooled.y[rows], p[rows], CLASSES) for p in pooled.probabilities]
        found.append({m: float(np.mean([one[m] for one in by_seed])) for m in by_seed[0]})
    return found


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 25),
    seeds=st.integers(1, 2),
    coarse=st.sampled_from([0, 2, 4]),
)
def test_every_metric_equals_plain_resampling(seed: int, n: int, seeds: int, coarse: int) -> None:
    """Small n: classes vanish, patients own several rows, scores tie."""
    pooled = made_up(seed, n, max(1, n // 2), seeds=seeds, coarse=coarse)
    weights = draw(pooled.n_patients, 4, seed)
    expected = slowly(pooled, weights)
    names = list(expected[0])
    assert {"bacc", "auc_ovr_macro", "ece", "f1/MEL", "sens_at_spec90/MEL"} <= set(names)
    found = evaluate(pooled, names, weights)
    for name in names:
        np.testing.assert_allclose(
            found[name], [e[name] for e in expected], rtol=1e-9, atol=1e-12, err_msg=name
        )


def test_weights_of_one_are_the_metrics_themselves() -> None:
    pooled = made_up(3, 300, 120, seeds=2)
    plain = [compute(pooled.y, p, CLASSES) for p in pooled.probabilities]
    for name, (value,) in evaluate(pooled, list(plain[0])).items():
        assert value == pytest.approx((plain[0][name] + plain[1][name]) / 2, rel=1e-12)


def test_an_unknown_metric_is_an_error() -> None:
    pooled = made_up(4, 60, 30)
    for name in ("auc", "recall/XYZ", "mcc/MEL"):
        with pytest.raises(KeyError):
            evaluate(pooled, [name], draw(pooled.n_patients, 7))


def test_a_class_that_vanishes_is_counted_and_its_own_metric_left_out() -> None:
    """One patient of ten owns the only MEL: (1 - 1/10)^10 = 35 % of draws lack it."""
    y = np.array([0] * 5 + [1] * 4 + [2])
    p = np.full((1, 10, 3), 0.1) + 0.7 * np.eye(3)[y]
    pooled = Pooled(tuple((0, str(i)) for i in range(10)), y, p, np.arange(10), CLASSES)
    found = paired(pooled, pooled, ["bacc", "recall/MEL"], n_resamples=2000)
    weights = draw(10, 2000)
    assert found["recall/MEL"].undefined == (weights[:, 9] == 0).sum()
    assert 0.31 < found["recall/MEL"].undefined / 2000 < 0.39
    lacking = (weights[:, :5].sum(1) == 0) | (weights[:, 5:9].sum(1) == 0) | (weights[:, 9] == 0)
    assert found["bacc"].lacking_class == lacking.sum()
    assert found["bacc"].undefined == 0 and found["bacc"].value_a == 1.0


def test_a_pair_sees_the_same_patients() -> None:
    a, b = made_up(6, 120, 50, skill=2.0), made_up(6, 120, 50, skill=1.0)
    found = paired(a, b, ["bacc", "nll"], n_resamples=80, seed=2)
    weights = draw(a.n_patients, 80, 2)
    left, right = slowly(a, weights), slowly(b, weights)
    for name, one in found.items():
        d = np.array([x[name] - y[name] for x, y in zip(left, right, strict=True)])
        assert (one.low, one.high) == pytest.approx(tuple(np.quantile(d, [0.025, 0.975])))
        beyond = min((d <= 0).sum(), (d >= 0).sum())
        assert one.p == pytest.approx(min(1, 2 * (1 + beyond) / 81))
        assert one.value_a == pytest.approx(compute(a.y, a.probabilities[0], CLASSES)[name])
        assert one.difference == pytest.approx(one.value_a - one.value_b)
        assert (one.n_rows, one.n_patients, one.n_resamples) == (120, a.n_patients, 80)
    turned = paired(b, a, ["bacc"], n_resamples=80, seed=2)["bacc"]
    assert (turned.difference, turned.low, turned.p) == pytest.approx(
        (-found["bacc"].difference, -found["bacc"].high, found["bacc"].p)
    )


def test_a_method_does_not_differ_from_itself() -> None:
    a = made_up(7, 50, 20)
    one = paired(a, a, ["bacc"], n_resamples=100)["bacc"]
    assert (one.difference, one.low, one.high, one.p) == (0, 0, 0, 1)
    assert math.isnan(two_sided(np.array([])))


def predictions(fold: int, rows: list[tuple[str, str, str]], shift: float = 0.0) -> Predictions:
    """rows: (id, patient, label)."""
    p = np.array([[0.5 - shift, 0.3, 0.2 + shift]] * len(rows))
    return Predictions(
        ids=tuple(r[0] for r in rows),
        parts=("test",) * len(rows),
        fold=fold,
        labels=tuple(r[2] for r in rows),
        probabilities=p,
        classes=CLASSES,
        groups=tuple(r[1] for r in rows),
        lesions=tuple(r[1] for r in rows),
    )


def test_folds_are_pooled_whatever_their_order() -> None:
    first = predictions(0, [("b", "P1", "ACK"), ("a", "P2", "MEL")])
    second = predictions(1, [("c", "P1", "BCC"), ("d", "", "BCC")], shift=0.1)
    pooled = pool({0: [second, first]})
    assert pooled.rows == ((0, "a"), (0, "b"), (1, "c"), (1, "d"))
    assert pooled.y.tolist() == [2, 0, 1, 1]
    patients = pooled.patients.tolist()
    assert patients[1] == patients[2] and len(set(patients)) == 3  # d is its own patient
    assert pooled.probabilities[0, 2].tolist() == pytest.approx([0.4, 0.3, 0.3])
    both = pool({3: [first, second], 1: [second, first]})
    assert both.probabilities.shape == (2, 4, 3)


def test_what_does_not_belong_together_is_refused() -> None:
    rows = [("a", "P1", "ACK"), ("b", "P2", "BCC")]
    good = predictions(0, rows)
    for other, problem in (
        (predictions(0, rows[:1]), "1 photographs that only one of them predicted, for example b"),
        (predictions(0, [("a", "P1", "MEL"), rows[1]]), "1 photographs with different labels"),
        (predictions(0, [("a", "P2", "ACK"), rows[1]]), "different patients"),
    ):
        with pytest.raises(RecordError, match=problem):
            pool({0: [good], 1: [other]})
        with pytest.raises(RecordError, match=problem):
            paired(pool({0: [good]}), pool({0: [other]}), ["acc"])
    with pytest.raises(RecordError, match="twice"):
        pool({0: [good, good]})
    with pytest.raises(RecordError, match="no predictions of test rows"):
        pool({0: [replace(good, parts=("holdout", "holdout"))]})
