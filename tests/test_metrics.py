"""Every metric against scikit-learn's own composite functions and against plain loops."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from fusionbench.metrics import compute as metrics
from fusionbench.metrics import names as metric_names

CLASSES = ("ACK", "BCC", "MEL", "NEV")
K = len(CLASSES)


@st.composite
def evaluations(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities with many ties, absent classes and small n."""
    n = draw(st.integers(1, 40))
    y = draw(st.lists(st.integers(0, K - 1), min_size=n, max_size=n))
    # Small whole numbers make ties between classes and between rows frequent.
    cells = st.lists(st.integers(0, 4), min_size=K, max_size=K).filter(any)
    rows = draw(st.lists(cells, min_size=n, max_size=n))
    raw = np.array(rows, dtype=np.float64)
    return np.array(y, dtype=np.int64), raw / raw.sum(axis=1, keepdims=True)


def complete(seed: int = 0, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """An evaluation with every class present, skilful but far from perfect."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(K), rng.choice(K, n - K, p=[0.5, 0.3, 0.05, 0.15])])
    logits = rng.normal(size=(n, K)) + 1.5 * np.eye(K)[y]
    weights = np.exp(logits)
    return y, weights / weights.sum(axis=1, keepdims=True)


def same(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_scikit_learn_gives_the_same_numbers(seed: int) -> None:
    y, p = complete(seed)
    top = p.argmax(axis=1)
    expected = {
        "acc": sk.accuracy_score(y, top),
        "bacc": sk.balanced_accuracy_score(y, top),
        "precision_weighted": sk.precision_score(y, top, average="weighted"),
        "precision_macro": sk.precision_score(y, top, average="macro"),
        "f1_weighted": sk.f1_score(y, top, average="weighted"),
        "f1_macro": sk.f1_score(y, top, average="macro"),
        "auc_ovr_macro": sk.roc_auc_score(y, p, multi_class="ovr", average="macro"),
        "auc_ovr_weighted": sk.roc_auc_score(y, p, multi_class="ovr", average="weighted"),
        "nll": sk.log_loss(y, p),
        "brier": sum(sk.brier_score_loss(y == c, p[:, c]) for c in range(K)),
    }
    got = metrics.compute(y, p, CLASSES)
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, rel=1e-12), name
    per_class = {
        "recall": sk.recall_score(y, top, average=None),
        "precision": sk.precision_score(y, top, average=None),
        "f1": sk.f1_score(y, top, average=None),
        "auc": [sk.roc_auc_score(y == c, p[:, c]) for c in range(K)],
    }
    for s in (80, 90, 95):
        curves = [sk.roc_curve(y == c, p[:, c], drop_intermediate=False) for c in range(K)]
        # No count is so near a whole percent that rounding decides.
        per_class[f"sens_at_spec{s}"] = [
            tpr[fpr <= 1 - s / 100 + 1e-9].max() for fpr, tpr, _ in curves
        ]
    for family, values in per_class.items():
        assert [got[f"{family}/{c}"] for c in CLASSES] == pytest.approx(list(values)), family
    assert (metrics.confusion(y, p, K) == sk.confusion_matrix(y, top, labels=range(K))).all()


def loops(y: list[int], p: list[list[float]]) -> dict[str, float]:
    """The definitions, spelled out slowly."""
    n = len(y)
    top = [row.index(max(row)) for row in p]
    right = [a == b for a, b in zip(y, top, strict=True)]
    out = {"acc": sum(right) / n}
    recall: dict[int, float] = {}
    area: dict[int, float] = {}
    precision: dict[int, float] = {}
    f1: dict[int, float] = {}
    for c in range(K):
        mine = [i for i in range(n) if y[i] == c]
        rest = [i for i in range(n) if y[i] != c]
        claimed = [i for i in range(n) if top[i] == c]
        hits = sum(top[i] == c for i in mine)
        if mine:
            recall[c] = hits / len(mine)
        if mine and rest:
            wins = sum((p[i][c] > p[j][c]) + 0.5 * (p[i][c] == p[j][c]) for i in mine for j in rest)
            area[c] = wins / (len(mine) * len(rest))
        if mine or claimed:
            precision[c] = hits / len(claimed) if claimed else 0.0
            f1[c] = 2 * hits / (len(mine) + len(claimed))
        out[f"recall/{CLASSES[c]}"] = recall.get(c, math.nan)
        out[f"precision/{CLASSES[c]}"] = precision.get(c, math.nan)
        out[f"f1/{CLASSES[c]}"] = f1.get(c, math.nan)
        out[f"auc/{CLASSES[c]}"] = area.get(c, math.nan)
        for s in (80, 90, 95):
            out[f"sens_at_spec{s}/{CLASSES[c]}"] = sensitivity_at(
                Fraction(s, 100), [p[i][c] for i in mine], [p[i][c] for i in rest]
            )
    out["bacc"] = sum(recall.values()) / len(recall)
    out["precision_macro"] = sum(precision.values()) / len(precision)
    out["f1_macro"] = sum(f1.values()) / len(f1)
    out["precision_weighted"] = sum(v * y.count(c) for c, v in precision.items()) / n
    out["f1_weighted"] = sum(v * y.count(c) for c, v in f1.items()) / n
    weight = sum(y.count(c) for c in area)
    out["auc_ovr_macro"] = sum(area.values()) / len(area) if area else math.nan
    out["auc_ovr_weighted"] = (
        sum(v * y.count(c) for c, v in area.items()) / weight if area else math.nan
    )
    out["nll"] = sum(-math.log(max(p[i][y[i]], 2.0**-52)) for i in range(n)) / n
    out["brier"] = sum(sum((p[i][c] - (y[i] == c)) ** 2 for c in range(K)) for i in range(n)) / n
    out["ece"] = 0.0
    for b in range(1, 16):
        inside = [i for i in range(n) if b - 1 < max(p[i]) * 15 <= b]
        if inside:
            accuracy = sum(right[i] for i in inside) / len(inside)
            confidence = sum(max(p[i]) for i in inside) / len(inside)
            out["ece"] += len(inside) / n * abs(accuracy - confidence)
    return out


def sensitivity_at(specificity: Fraction, positives: list[float], negatives: list[float]) -> float:
    """Try every threshold, in whole counts; nobody called positive is one of them."""
    if not positives or not negatives:
        return math.nan
    best = Fraction(0)
    for threshold in {*positives, *negatives}:
        kept = sum(p < threshold for p in negatives)
        if Fraction(kept, len(negatives)) >= specificity:
            found = sum(p >= threshold for p in positives)
            best = max(best, Fraction(found, len(positives)))
    return float(best)


@given(evaluations())
@settings(deadline=None, max_examples=150)
def test_plain_loops_give_the_same_numbers(evaluation: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = evaluation
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # absent classes must not warn at a user
        got = metrics.compute(y, p, CLASSES)
    expected = loops(y.tolist(), p.tolist())
    assert got.keys() == expected.keys()
    wrong = {k: (got[k], expected[k]) for k in got if not same(got[k], expected[k])}
    assert not wrong
    counts = metrics.confusion(y, p, K)
    assert counts.sum() == len(y)
    for true in range(K):
        for predicted in range(K):
            pairs = zip(y, p.argmax(axis=1), strict=True)
            assert counts[true, predicted] == sum(pair == (true, predicted) for pair in pairs)


def test_hand_computed() -> None:
    y = np.array([0, 0, 0, 1])
    p = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
    got = metrics.compute(y, p, ("benign", "malignant"))
    assert got["acc"] == 0.75
    assert got["bacc"] == pytest.approx((2 / 3 + 1) / 2)
    assert got["precision_weighted"] == pytest.approx((3 * 1 + 1 * 0.5) / 4)
    assert got["f1_macro"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert got["auc_ovr_macro"] == pytest.approx(2 / 3)  # one of three benign beats the other way
    assert got["nll"] == pytest.approx(-math.log(0.9 * 0.6 * 0.2 * 0.7) / 4)
    assert got["brier"] == pytest.approx(2 * (0.01 + 0.16 + 0.64 + 0.09) / 4)
    # Each row in a bin of its own: 0.9, 0.6 right, 0.8 wrong, 0.7 right.
    assert got["ece"] == pytest.approx((0.1 + 0.4 + 0.8 + 0.3) / 4)
    assert got["recall/malignant"] == 1.0


def test_a_class_absent_from_y_has_no_recall_and_counts_in_no_mean_of_recalls() -> None:
    y, p = np.array([0, 1]), np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    got = metrics.compute(y, p, ("a", "b", "c"))
    assert math.isnan(got["recall/c"])
    assert got["bacc"] == got["auc_ovr_macro"] == got["f1_macro"] == 1.0


def test_one_class_only_has_no_auc() -> None:
    got = metrics.compute(np.array([1, 1]), np.full((2, 2), 0.5), ("a", "b"))
    assert math.isnan(got["auc_ovr_macro"]) and math.isnan(got["auc_ovr_weighted"])
    assert got["acc"] == 0.0  # a tie goes to the first class


def test_certain_and_wrong_is_bad_but_finite() -> None:
    got = metrics.compute(np.array([1]), np.array([[1.0, 0.0]]), ("a", "b"))
    assert got["nll"] == pytest.approx(52 * math.log(2))


@pytest.mark.parametrize(
    ("y", "row", "problem"),
    [
        (0, [0.5, math.nan, 0.5, 0.0], "not finite"),
        (0, [math.inf, 0.0, 0.0, 0.0], "not finite"),
        (0, [1.2, -0.2, 0.0, 0.0], "negative"),
        (0, [0.5, 0.4, 0.0, 0.0], "sum to 1"),
        (4, [1.0, 0.0, 0.0, 0.0], "outside 0..3"),
        (-1, [1.0, 0.0, 0.0, 0.0], "outside 0..3"),
    ],
)
def test_a_bad_row_is_named(y: int, row: list[float], problem: str) -> None:
    labels, p = complete()
    labels[17], p[17] = y, row
    with pytest.raises(ValueError, match=rf"Row 17 .*{problem}"):
        metrics.compute(labels, p, CLASSES)
    with pytest.raises(ValueError, match="Row 17"):
        metrics.confusion(labels, p, K)


def test_shapes_and_kinds_must_fit() -> None:
    y, p = complete()
    with pytest.raises(ValueError, match="do not fit"):
        metrics.compute(y, p[:, :3], CLASSES)
    with pytest.raises(ValueError, match="do not fit"):
        metrics.compute(y[:-1], p, CLASSES)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        metrics.compute(y[:0], p[:0], CLASSES)
    with pytest.raises(ValueError, match="integers"):
        metrics.compute(y.astype(float), p, CLASSES)


def test_single_precision_softmax_is_close_enough_to_a_distribution() -> None:
    y, p = complete()
    single = metrics.compute(y, p.astype(np.float32), CLASSES)
    assert single["nll"] == pytest.approx(metrics.compute(y, p, CLASSES)["nll"], rel=1e-5)


def test_ten_percent_of_ten_is_allowed_at_ninety() -> None:
    """1 - 0.9 is less than 0.1 in binary: whole counts must decide."""
    y = np.array([1] * 4 + [0] * 10)
    score = np.array([0.9, 0.7, 0.5, 0.1, 0.8, *[0.2] * 9])
    got = metrics.compute(y, np.stack([1 - score, score], axis=1), ("benign", "MEL"))
    # One of ten is above 0.5 and 0.7; below it all nine others come at once.
    assert got["sens_at_spec90/MEL"] == 0.75
    assert got["sens_at_spec95/MEL"] == 0.25
    assert got["sens_at_spec80/MEL"] == 0.75


def test_equal_scores_are_called_together() -> None:
    y, p = np.array([0] * 10 + [1] * 10), np.full((20, 2), 0.5)
    got = metrics.compute(y, p, ("a", "b"))
    assert got["auc/b"] == 0.5
    assert got["sens_at_spec80/b"] == 0.0  # not 0.2: no threshold gives a part of them


def test_a_threshold_on_a_straight_piece_of_the_curve_counts() -> None:
    """Ties of one positive and one negative, ten times: a diagonal of points that can be had."""
    score, y = np.repeat(np.arange(10, 0, -1) / 11, 2), np.tile([0, 1], 10)
    got = metrics.compute(y, np.stack([1 - score, score], axis=1), ("a", "b"))
    assert got["sens_at_spec80/b"] == pytest.approx(0.2)
    assert got["sens_at_spec90/b"] == pytest.approx(0.1)
    assert got["sens_at_spec95/b"] == 0.0


@given(evaluations(), st.permutations(range(K)), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_order_of_rows_and_names_of_classes_do_not_matter(
    evaluation: tuple[np.ndarray, np.ndarray], classes: list[int], random: Random
) -> None:
    y, p = evaluation
    order = list(range(len(y)))
    random.shuffle(order)
    before = metrics.compute(y, p, CLASSES)
    shuffled = metrics.compute(y[order], p[order], CLASSES)
    assert all(same(before[name], shuffled[name]) for name in before)
    # Class c becomes class classes[c]. Top classes must be unique: a tie goes by position.
    clear = (p == p.max(axis=1, keepdims=True)).sum(axis=1) == 1
    if not clear.any():
        return
    y, p = y[clear], p[clear]
    place = np.array(classes)
    moved, names = np.empty_like(p), [""] * K
    moved[:, place] = p
    for c in range(K):
        names[classes[c]] = CLASSES[c]
    before, after = metrics.compute(y, p, CLASSES), metrics.compute(place[y], moved, names)
    assert before.keys() == after.keys()
    assert all(same(before[name], after[name]) for name in before)


@given(evaluations())
@settings(deadline=None, max_examples=60)
def test_bounds_and_what_follows_from_what(evaluation: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = evaluation
    got = metrics.compute(y, p, CLASSES)
    for name, value in got.items():
        top = {"nll": 37.0, "brier": 2.0}.get(name, 1.0)
        assert math.isnan(value) or 0 <= value <= top + 1e-12, name
    for c in CLASSES:
        strict = [got[f"sens_at_spec{s}/{c}"] for s in (95, 90, 80)]
        assert all(math.isnan(v) for v in strict) or strict == sorted(strict)
        assert math.isnan(got[f"f1/{c}"]) == math.isnan(got[f"precision/{c}"])
    for whole, family in (
        ("bacc", "recall"),
        ("precision_macro", "precision"),
        ("f1_macro", "f1"),
        ("auc_ovr_macro", "auc"),
    ):
        values = [v for c in CLASSES if not math.isnan(v := got[f"{family}/{c}"])]
        assert same(got[whole], float(np.mean(values)) if values else math.nan)


def test_every_number_is_described() -> None:
    y, p = complete()
    for name in [*metrics.compute(y, p, CLASSES), *metric_names.SCALED]:
        metric = metric_names.describe(name)
        assert metric.name == name and metric.definition and "{" not in metric.title
        assert "{" not in metric.definition and metric_names.is_known(name)
        lower = name.removesuffix("_scaled") in {"nll", "brier", "ece"}
        assert metric.better == ("low" if lower else "high")
    assert metric_names.describe("sens_at_spec90/MEL").title == "Sens@90 MEL"
    for unknown in ("auc", "f1", "recall/", "recall", "auc/", "acc_scaled", "acc/MEL", "/MEL", ""):
        assert not metric_names.is_known(unknown)
        with pytest.raises(KeyError):
            metric_names.describe(unknown)


def test_the_list_names_every_family_once() -> None:
    y, p = complete()
    names = [m.name for m in metric_names.listed()]
    assert len(names) == len(set(names))
    families = {
        n.replace(f"/{c}", "/<CLASS>")
        for n in metrics.compute(y, p, CLASSES)
        for c in CLASSES
        if n.endswith(f"/{c}")
    }
    assert set(names) == {*metric_names.METRICS, *metric_names.SCALED, *families}
    assert len({m.title for m in metric_names.listed()}) == len(names)


def test_the_table_of_metrics_costs_no_scikit_learn() -> None:
    code = (
        "import sys; from fusionbench.metrics import compute, names; assert len(names.METRICS) > 9;"
        "bad = {'sklearn', 'scipy', 'torch', 'pandas'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
