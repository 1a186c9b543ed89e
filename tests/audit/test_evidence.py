"""The counting, against plain loops, scikit-learn and simulation."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fusionbench.audit.evidence import (
    FOLDS,
    Labels,
    auc,
    balanced_accuracy,
    class_scores,
    codes_of,
    information,
    labels_of,
    log_shares,
    malignancy_score,
    patterns,
)
from fusionbench.audit.measures import judge


def made_up(rng: np.random.Generator, patients: int = 60, classes: int = 6) -> Labels:
    """One to nine photographs a patient, who has a favourite class."""
    patient = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    favourite = rng.integers(0, classes, patients)[patient]
    y = np.where(rng.random(len(patient)) < 0.3, favourite, rng.integers(0, classes, len(patient)))
    shots = rng.integers(1, 4, len(patient))
    patient, y = np.repeat(patient, shots), np.repeat(y, shots)
    names = tuple("abcdef"[:classes])
    return Labels(y, names, y % 2 == 1, patient, rng.permutation(patients)[patient] % FOLDS)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9))
def test_auc_is_scikit_learns(seed, levels):
    rng = np.random.default_rng(seed)
    labels = made_up(rng)
    score = rng.integers(0, levels, len(labels)).astype(float)
    assert auc(score, labels).value == pytest.approx(roc_auc_score(labels.malignant, score))


def test_the_error_of_an_auc_by_plain_loops():
    rng = np.random.default_rng(3)
    labels = made_up(rng, 40)
    score = rng.normal(size=len(labels)).round(1) + 0.5 * labels.malignant
    found = auc(score, labels)
    positive = [i for i in range(len(labels)) if labels.malignant[i]]
    negative = [i for i in range(len(labels)) if not labels.malignant[i]]

    def beats(a, b):
        return 1.0 if score[a] > score[b] else 0.5 if score[a] == score[b] else 0.0

    value = sum(beats(i, j) for i in positive for j in negative) / len(positive) / len(negative)
    sums = dict.fromkeys(labels.patient.tolist(), 0.0)
    for i in positive:
        placed = sum(beats(i, j) for j in negative) / len(negative)
        sums[labels.patient[i]] += (placed - value) / len(positive)
    for j in negative:
        placed = sum(beats(i, j) for i in positive) / len(positive)
        sums[labels.patient[j]] += (placed - value) / len(negative)
    n = len(sums)
    error = math.sqrt(n / (n - 1) * sum(s * s for s in sums.values()))
    assert found.value == pytest.approx(value) and found.error == pytest.approx(error)


def test_rows_of_a_patient_do_not_count_as_more_patients():
    labels = made_up(np.random.default_rng(1))
    score = np.random.default_rng(2).normal(size=labels.patient.max() + 1)[labels.patient]
    again = Labels(
        np.tile(labels.y, 5),
        labels.classes,
        np.tile(labels.malignant, 5),
        np.tile(labels.patient, 5),
        np.tile(labels.fold, 5),
    )
    once, often = auc(score, labels), auc(np.tile(score, 5), again)
    assert often.value == pytest.approx(once.value) and often.error == pytest.approx(once.error)


def test_shares_by_plain_loops():
    rng = np.random.default_rng(0)
    labels = made_up(rng, 30)
    codes = rng.integers(0, 4, len(labels))
    found = log_shares(codes, labels.y, 6, labels.fold)
    for i in range(0, len(labels), 7):
        rest = [j for j in range(len(labels)) if labels.fold[j] != labels.fold[i]]
        everywhere = sum(codes[j] == codes[i] for j in rest) / len(rest)
        for k in range(6):
            mine = [j for j in rest if labels.y[j] == k]
            n = sum(codes[j] == codes[i] for j in mine)
            assert found[i, k] == pytest.approx(math.log((n + 2 * everywhere) / (len(mine) + 2)))


def test_no_row_is_scored_by_its_own_patient():
    """A code that is the patient's name tells all in training and nothing out of fold."""
    labels = made_up(np.random.default_rng(0))
    found = balanced_accuracy(class_scores(labels.patient, labels), labels)
    assert found.value == pytest.approx(1 / 6) and found.p == 1.0
    assert information(labels.patient, labels) == pytest.approx(0, abs=0.01)


def test_a_code_that_is_the_class():
    labels = made_up(np.random.default_rng(0))
    found = balanced_accuracy(class_scores(labels.y, labels), labels)
    assert found.value == 1 and found.error == 0 and found.p == 0
    assert information(labels.y, labels) > 0.9
    assert auc(malignancy_score(labels.y, labels), labels).value == 1


def test_too_few_patients_are_not_judged():
    labels = made_up(np.random.default_rng(0), 9)
    assert auc(np.arange(len(labels)), labels) is None
    assert balanced_accuracy(class_scores(labels.y, labels), labels) is None


def test_codes_of_cells():
    text = pd.Series(["x", None, "y", "x", "UNK"], dtype=object)
    codes = codes_of(text, numeric=False)
    assert codes[1] == 0 and codes[0] == codes[3] and len(set(codes.tolist())) == 4
    few = codes_of(pd.Series([1.0, np.nan, 2.5, 1.0]), numeric=True)
    assert few.tolist() == [1, 0, 2, 1]
    many = codes_of(pd.Series(np.arange(100.0)), numeric=True)
    assert np.bincount(many)[1:].tolist() == [10] * 10
    assert codes_of(pd.Series([np.nan] * 3), numeric=True).tolist() == [0, 0, 0]
    flags = np.array([[0, 1], [1, 1], [0, 1]], dtype=bool)
    assert patterns(flags)[0] == patterns(flags)[2] != patterns(flags)[1]


def test_folds_of_patients_do_not_depend_on_the_order_of_rows(plot):
    table = plot(patients=30).table()
    labels = labels_of(table)
    back = labels_of(table.take(np.arange(len(table))[::-1]))
    assert (back.fold[::-1] == labels.fold).all()
    for patient in np.unique(labels.patient):
        assert len(set(labels.fold[labels.patient == patient].tolist())) == 1


@pytest.mark.parametrize("patients", [40, 150])
def test_chance_is_called_a_finding_no_more_often_than_claimed(patients):
    """600 gaps that depend on the patient and not on the class; alpha is 0.01 per look."""
    rng = np.random.default_rng(patients)
    looks, below = 0, {"auc": 0, "bacc": 0}
    for _ in range(300):
        labels = made_up(rng, patients)
        flag = (rng.random(patients) < 0.3)[labels.patient]
        by_class = balanced_accuracy(class_scores(flag * 1, labels), labels)
        estimates = {"auc": auc(flag * 1.0, labels), "bacc": by_class}
        estimates = {kind: one for kind, one in estimates.items() if one is not None}
        for kind, estimate in estimates.items():
            looks += 1
            below[kind] += estimate.p < 0.01
        assert not judge({"flag": estimates})["flag"].strong
    # 0.01 of 300 is 3; nine or more would happen once in 200 trials.
    assert looks > 400 and below["auc"] <= 8 and below["bacc"] <= 8


def test_a_weak_true_effect_is_found_with_enough_patients():
    rng = np.random.default_rng(0)
    labels = made_up(rng, 600)
    flag = rng.random(len(labels)) < np.where(labels.malignant, 0.4, 0.2)
    measure = judge({"flag": {"auc": auc(flag * 1.0, labels)}})["flag"].auc
    assert measure.found and not measure.strong and 0.55 < measure.value < 0.65
