"""Subgroups against plain loops, published intervals, and simulated runs with and without a gap."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionbench.analysis.subgroups import (
    attributes,
    comparable,
    compare,
    effective_size,
    group_values,
)
from fusionbench.data.card import DatasetCard, Subgroup, read_card
from fusionbench.data.locate import find_data
from fusionbench.data.table import Table, load_table
from fusionbench.errors import DataError
from fusionbench.stats.pooled import Pooled

CLASSES = ("ACK", "BCC", "MEL")
K = len(CLASSES)
SUBGROUP = Subgroup(name="x", column="x")


def pooled_of(y: np.ndarray, predicted: np.ndarray, patients: np.ndarray) -> Pooled:
    """`predicted`: (S, n) top classes."""
    probabilities = np.full((*predicted.shape, K), 0.1)
    np.put_along_axis(probabilities, predicted[:, :, None], 0.8, axis=2)
    rows = tuple((0, f"i{i:05}") for i in range(len(y)))
    return Pooled(rows, y, probabilities, np.unique(patients, return_inverse=True)[1], CLASSES)


def simulated(
    seed: int, n_groups: int = 3, patients: int = 150, bias: float = 0.0, recall: float = 0.7
) -> tuple[Pooled, np.ndarray]:
    """One to four photographs of each patient, all right or all wrong; group a is worse by bias."""
    rng = np.random.default_rng(seed)
    group, label = rng.integers(n_groups, size=patients), rng.integers(K, size=patients)
    right = rng.random(patients) < recall - bias * (group == 0)
    owner = np.repeat(np.arange(patients), rng.integers(1, 5, size=patients))
    y = label[owner]
    predicted = np.where(right[owner], y, (y + 1) % K)
    return pooled_of(y, predicted[None], owner), np.array(list("abcd"), dtype=object)[group[owner]]


def plain_recalls(pooled: Pooled, values: np.ndarray) -> dict[tuple[str, str], float]:
    """Class and group -> recall, by counting."""
    hits: dict[tuple[str, str], list[bool]] = {}
    for seed in pooled.probabilities:
        for i, value in enumerate(values):
            if value is not None:
                key = (pooled.classes[pooled.y[i]], value)
                hits.setdefault(key, []).append(seed[i].argmax() == pooled.y[i])
    return {key: sum(found) / len(found) for key, found in hits.items()}


@pytest.mark.parametrize("seed", range(3))
def test_plain_loops_count_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 300
    y, patients = rng.integers(0, K, n), rng.integers(0, 120, n)
    values = rng.choice(np.array(["f", "m", None], dtype=object), n, p=[0.5, 0.3, 0.2])
    pooled = pooled_of(y, rng.integers(0, K, (2, n)), patients)
    found = compare(pooled, values, ("f", "m"), SUBGROUP, 20)
    expected = plain_recalls(pooled, values)
    assert found.n_rows == n and found.n_recorded == sum(v is not None for v in values)
    for group in found.groups:
        rows = [i for i in range(n) if values[i] == group.value]
        assert group.n == len(rows) and group.patients == len({patients[i] for i in rows})
        hits = [p[i].argmax() == y[i] for p in pooled.probabilities for i in rows]
        assert group.acc == pytest.approx(sum(hits) / len(hits))
        assert group.bacc == pytest.approx(np.mean([expected[c, group.value] for c in CLASSES]))
        for k, name in enumerate(CLASSES):
            share = group.recalls[name]
            mine = [i for i in rows if y[i] == k]
            assert share.value == pytest.approx(expected[name, group.value])
            assert share.n == len(mine) and share.patients == len({patients[i] for i in mine})
            assert 0 <= share.low <= share.value <= share.high <= 1
    assert found.mean is not None and found.common == CLASSES
    assert found.mean.widest.gap == pytest.approx(abs(found.groups[0].bacc - found.groups[1].bacc))


def test_newcombe_gives_the_published_interval() -> None:
    """56 of 70 against 48 of 80: 0.2, 0.0524 to 0.3339 (Newcombe 1998, table II, method 10)."""
    y = np.ones(150, dtype=np.int64)
    values = np.array(["a"] * 70 + ["b"] * 80, dtype=object)
    right = np.r_[np.arange(70) < 56, np.arange(80) < 48]
    pooled = pooled_of(y, np.where(right, 1, 0)[None], np.arange(150))
    found = compare(pooled, values, ("a", "b"), SUBGROUP, 20).by_class["BCC"]
    assert found.pairs == 1
    assert (found.widest.lower, found.widest.higher) == ("b", "a")
    assert found.widest.gap == pytest.approx(0.2)
    assert found.widest.low == pytest.approx(0.0524, abs=5e-5)
    assert found.widest.high == pytest.approx(0.3339, abs=5e-5)
    assert found.findings == (found.widest,)


def test_copies_of_a_photograph_are_no_evidence() -> None:
    """Five photographs of every patient, all alike, narrow no interval."""
    pooled, values = simulated(0)
    first = np.unique(pooled.patients, return_index=True)[1]
    once = pooled_of(
        pooled.y[first], pooled.probabilities[:, first].argmax(axis=2), pooled.patients[first]
    )
    often = pooled_of(
        np.repeat(once.y, 5),
        np.repeat(once.probabilities.argmax(axis=2), 5, axis=1),
        np.repeat(once.patients, 5),
    )
    single = compare(once, values[first], tuple("abc"), SUBGROUP, 5)
    copied = compare(often, np.repeat(values[first], 5), tuple("abc"), SUBGROUP, 5)
    assert single.mean is not None and copied.mean is not None
    assert copied.mean.widest.low == pytest.approx(single.mean.widest.low)
    assert copied.mean.widest.high == pytest.approx(single.mean.widest.high)
    assert copied.mean.lowest.n == 5 * single.mean.lowest.n


def test_equal_groups_are_rarely_told_apart() -> None:
    """Even where a patient's photographs are all right or all wrong together."""
    told = {"mean": 0, "by class": 0}
    for seed in range(150):
        pooled, values = simulated(seed)
        found = compare(pooled, values, tuple("abc"), SUBGROUP, 10)
        told["mean"] += bool(found.mean and found.mean.findings)
        told["by class"] += any(gap.findings for gap in found.by_class.values())
    # 5 % of 150 are 7.5; more than 14 would happen once in a hundred times.
    assert max(told.values()) <= 14, told


def test_a_planted_gap_is_found_and_named() -> None:
    named = 0
    for seed in range(20):
        pooled, values = simulated(seed, patients=400, bias=0.3)
        found = compare(pooled, values, tuple("abc"), SUBGROUP, 10).mean
        assert found is not None
        named += bool(found.findings) and all(pair.lower == "a" for pair in found.findings)
    assert named >= 19


def test_a_small_group_does_not_hide_what_two_large_ones_show() -> None:
    """The widest gap is the small group's and may be chance; the next one is none."""
    y = np.zeros(1012, dtype=np.int64)
    values = np.array(["a"] * 500 + ["b"] * 500 + ["small"] * 12, dtype=object)
    right = np.r_[np.arange(500) < 350, np.arange(500) < 250, np.arange(12) < 5]
    pooled = pooled_of(y, np.where(right, 0, 1)[None], np.arange(len(y)))
    found = compare(pooled, values, ("a", "b", "small"), SUBGROUP, 10).by_class["ACK"]
    assert found.widest.lower == "small" and found.widest.low < 0
    assert [(p.lower, p.higher) for p in found.findings] == [("b", "a")]
    # With the usual minimum it is not compared at all.
    few = compare(pooled, values, ("a", "b", "small"), SUBGROUP, 20).by_class["ACK"]
    assert few.groups == ("a", "b")


def test_another_mix_of_classes_is_no_gap() -> None:
    """Every class is found equally well in both groups; accuracy differs, recall does not."""
    y = np.repeat([0, 1, 0, 1], [100, 20, 20, 100])
    values = np.repeat(np.array(["young", "old"], dtype=object), 120)
    right = np.concatenate(
        [np.arange(n) % 10 < r for n, r in ((100, 9), (20, 5), (20, 9), (100, 5))]
    )
    pooled = pooled_of(y, np.where(right, y, 2)[None], np.arange(240))
    found = compare(pooled, values, ("young", "old"), SUBGROUP, 20)
    assert abs(found.groups[0].acc - found.groups[1].acc) > 0.2
    assert found.mean is not None and found.mean.widest.gap == pytest.approx(0)
    assert not found.mean.findings


def test_groups_without_a_class_in_common_are_not_compared() -> None:
    y = np.repeat([0, 1], 30)
    values = np.repeat(np.array(["young", "old"], dtype=object), 30)
    found = compare(pooled_of(y, y[None], np.arange(60)), values, ("young", "old"), SUBGROUP, 20)
    assert found.mean is None and found.by_class == {} and found.common == ()
    assert [g.mean for g in found.groups] == [None, None]


def test_nothing_recorded_says_so() -> None:
    pooled, values = simulated(0)
    found = compare(pooled, np.full(len(values), None), (), SUBGROUP, 20)
    assert found.n_recorded == 0 and found.groups == () and found.mean is None


@given(
    st.lists(st.lists(st.integers(0, 40), min_size=3, max_size=3), min_size=1, max_size=5),
    st.integers(1, 30),
)
@settings(deadline=None, max_examples=100)
def test_what_is_compared_has_enough_of_everything(table: list[list[int]], min_n: int) -> None:
    sizes = {
        f"g{i}": {c: n for c, n in zip(CLASSES, row, strict=True) if n}
        for i, row in enumerate(table)
    }
    groups, common = comparable(sizes, min_n)
    assert (len(groups) > 1) == bool(common)
    assert all(sizes[g].get(c, 0) >= min_n for g in groups for c in common)
    assert list(groups) == [g for g in sizes if g in groups]
    assert list(common) == [c for c in CLASSES if c in common]
    # As many groups as can be: no class is shared by more of them; and all classes that they share.
    holders = [[g for g in sizes if sizes[g].get(c, 0) >= min_n] for c in CLASSES]
    most = max(map(len, holders))
    assert len(groups) == (most if most > 1 else 0)
    shared = [c for c in CLASSES if all(sizes[g].get(c, 0) >= min_n for g in groups)]
    assert not groups or list(common) == shared


@pytest.fixture(scope="module")
def table(tiny_card: Path) -> Table:
    card = read_card(tiny_card)
    return load_table(card, find_data(card))


def test_values_are_grouped_as_the_card_says(table: Table) -> None:
    for subgroup in table.card.subgroups:
        values, order = group_values(table, subgroup)
        assert [v for v in order if v in set(values)] == list(order)
        assert {v for v in values if v is not None} == set(order)
        for value, raw in zip(values, table.metadata[subgroup.column], strict=True):
            missing = raw is None or raw != raw or raw == "UNK"
            assert (value is None) == missing
    ages, order = group_values(table, next(s for s in table.card.subgroups if s.name == "age"))
    lower = {"0 to <30": 0, "30 to <50": 30, "50 to <70": 50, "70 and over": 70}
    assert list(order) == [name for name in lower if name in order]
    for name, age in zip(ages, table.metadata["age"], strict=True):
        assert lower[name] <= age < lower[name] + (30 if name == "0 to <30" else 20) or age >= 70


def test_an_unknown_mark_is_no_group(table: Table) -> None:
    metadata = table.metadata.assign(gender=["UNK", None, *table.metadata["gender"][2:]])
    values, order = group_values(
        replace(table, metadata=metadata), Subgroup(name="sex", column="gender")
    )
    assert values[0] is None and values[1] is None and order == ("FEMALE", "MALE")


def test_rows_are_found_by_id_whatever_their_order(table: Table) -> None:
    order = np.random.default_rng(0).permutation(len(table))
    classes = table.card.classes

    def pooled(rows: np.ndarray) -> Pooled:
        p = np.random.default_rng(1).dirichlet(np.ones(len(classes)), len(table))[rows]
        return Pooled(
            tuple((0, name) for name in table.ids[rows].tolist()),
            table.labels[rows],
            p[None],
            np.unique(table.groups, return_inverse=True)[1][rows],
            classes,
        )

    first = attributes(pooled(np.arange(len(table))), table, 3)
    assert [a.name for a in first] == ["Fitzpatrick type", "sex", "age", "body region"]
    second = attributes(pooled(order), table, 3)
    for a, b in zip(first, second, strict=True):
        assert [(g.value, g.n, g.patients) for g in a.groups] == [
            (g.value, g.n, g.patients) for g in b.groups
        ]
        assert [g.acc for g in a.groups] == pytest.approx([g.acc for g in b.groups])


def test_a_row_that_the_data_lacks_is_an_error(table: Table) -> None:
    y = np.zeros(1, dtype=np.int64)
    stranger = Pooled(((0, "who.png"),), y, np.full((1, 1, 6), 1 / 6), y, table.card.classes)
    with pytest.raises(DataError, match=r"who\.png"):
        attributes(stranger, table)
    plain = replace(table, card=table.card.model_copy(update={"subgroups": ()}))
    with pytest.raises(DataError, match="declares no subgroups"):
        attributes(stranger, plain)


@pytest.mark.parametrize(
    ("value", "bands", "name"),
    [
        (3.0, (), "3"),
        (29.9, (0, 30, 50), "0 to <30"),
        (30.0, (0, 30, 50), "30 to <50"),
        (80.0, (0, 30, 50), "50 and over"),
        (-1.0, (0, 30), "under 0"),
    ],
)
def test_bands_are_lower_bounds(value: float, bands: tuple[float, ...], name: str) -> None:
    assert Subgroup(name="x", column="x", bands=bands).group_of(value) == name


def test_values_may_go_under_one_name() -> None:
    region = Subgroup(name="x", column="x", merge={"limbs": ("ARM", "LEG")})
    assert [region.group_of(v) for v in ("ARM", "LEG", "BACK")] == ["limbs", "limbs", "BACK"]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('column = "gender"', 'column = "sex"', "no column 'sex'"),
        ("bands = [0, 30, 50, 70]", "bands = [0, 50, 30]", "bands must rise"),
        ('column = "gender"', 'column = "gender"\nbands = [1, 2]', "bands need a numeric"),
        ('trunk = ["ABDOMEN"', 'trunk = ["TUMMY"', "no values of region: TUMMY"),
        ('trunk = ["ABDOMEN"', 'trunk = ["EAR"', "merged twice: EAR"),
        ('name = "sex"', 'name = "age"', "subgroups: the name"),
    ],
)
def test_a_card_with_bad_subgroups_says_why(
    tiny_card: Path, tmp_path: Path, old: str, new: str, problem: str
) -> None:
    text = tiny_card.read_text("utf-8")
    assert old in text
    changed = tmp_path / "dataset.toml"
    changed.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DataError) as raised:
        read_card(changed)
    assert any(problem in str(p["problem"]) for p in raised.value.problems)


def test_subgroups_are_no_part_of_the_data(table: Table) -> None:
    """Declared after a run, they must not make its records strangers."""
    card = table.card.model_copy(update={"subgroups": ()})
    assert isinstance(card, DatasetCard)
    assert load_table(card, find_data(card)).fingerprint == table.fingerprint


def test_a_single_patient_weighs_as_one() -> None:
    assert effective_size(np.array([3, 3, 3, 3])) == 1.0
    assert effective_size(np.array([1, 2, 3])) == 3.0
    # One patient with 10 photographs beside ten with one each: (20)^2 / (100 + 10).
    assert math.isclose(effective_size(np.r_[np.zeros(10, int), 1:11]), 400 / 110)
