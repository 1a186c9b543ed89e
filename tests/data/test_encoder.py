from __future__ import annotations

import json
import math
from collections import Counter
from copy import deepcopy
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionbench.data.card import Column
from fusionbench.data.choices import input_columns
from fusionbench.data.encoder import BINS, ENCODINGS, MISSING, MetadataEncoder
from fusionbench.errors import DataError, UsageError

COLUMNS = (
    Column(name="age", kind="numeric"),
    Column(name="site", kind="categorical"),
    Column(name="sex", kind="categorical", values=("f", "m")),
    Column(name="itch", kind="boolean", values=("False", "True", "UNK")),
    Column(name="hurt", kind="boolean"),
)


def frame(*rows):
    """Rows of (age, site, sex, itch, hurt), typed as Table.metadata is."""
    columns = {c.name: [row[i] for row in rows] for i, c in enumerate(COLUMNS)}
    data = {
        c.name: pd.Series(columns[c.name], dtype="float64" if c.kind == "numeric" else object)
        for c in COLUMNS
    }
    return pd.DataFrame(data)


TRAIN = frame(
    (10, "arm", "f", "True", "True"),
    (20, "leg", None, "False", "UNK"),
    (math.nan, None, "f", None, "False"),
    (60, "arm", "f", "False", None),
)
TEST = frame((40, "nose", "m", "UNK", "UNK"), (math.nan, None, None, None, None))
MEAN, STD = 30.0, math.sqrt((20**2 + 10**2 + 30**2) / 3)


def encoded(encoding, missing, columns=COLUMNS):
    encoder = MetadataEncoder(columns, encoding=encoding, missing=missing).fit(TRAIN)
    return encoder, encoder.transform(TRAIN), encoder.transform(TEST)


def test_one_hot_by_hand():
    encoder, train, test = encoded("onehot", "zero")
    assert encoder.feature_names == (
        "age",
        "site=arm",
        "site=leg",
        "sex=f",
        "sex=m",
        "itch=False",
        "itch=True",
        "itch=UNK",
        "hurt=False",
        "hurt=True",
        "hurt=UNK",  # a value of its own because a training row holds it
    )
    a, b, d = (10 - MEAN) / STD, (20 - MEAN) / STD, (60 - MEAN) / STD
    by_hand = [
        [a, 1, 0, 1, 0, 0, 1, 0, 0, 1, 0],
        [b, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1],
        [0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0],
        [d, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0],
    ]
    np.testing.assert_allclose(train, by_hand, atol=1e-6)
    # 'nose' was never seen; 'm' is on the card; the second row recorded nothing.
    new = [[(40 - MEAN) / STD, 0, 0, 0, 1, 0, 0, 1, 0, 0, 1], [0] * 11]
    np.testing.assert_allclose(test, new, atol=1e-6)
    assert train.dtype == np.float32


def test_ordinal_by_hand_gives_one_feature_per_column():
    encoder, train, test = encoded("ordinal", "zero")
    assert encoder.feature_names == tuple(c.name for c in COLUMNS)
    by_hand = [
        [(10 - MEAN) / STD, 1 / 2, 1 / 2, 2 / 3, 2 / 3],
        [(20 - MEAN) / STD, 2 / 2, 0, 1 / 3, 3 / 3],
        [0, 0, 1 / 2, 0, 1 / 3],
        [(60 - MEAN) / STD, 1 / 2, 1 / 2, 1 / 3, 0],
    ]
    np.testing.assert_allclose(train, by_hand, atol=1e-6)
    new = [[(40 - MEAN) / STD, -1, 1, 1, 1], [0, 0, 0, 0, 0]]
    np.testing.assert_allclose(test, new, atol=1e-6)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_indicator_adds_one_flag_per_column_with_gaps_in_training(encoding):
    _, train0, test0 = encoded(encoding, "zero")
    encoder, train, test = encoded(encoding, "indicator")
    flags = [f"{c.name}:missing" for c in COLUMNS]
    assert [n for n in encoder.feature_names if n.endswith(":missing")] == flags
    at = [encoder.feature_names.index(f) for f in flags]
    assert train[:, at].tolist() == TRAIN.isna().astype(float).to_numpy().tolist()
    assert test[:, at].tolist() == [[0.0] * 5, [1.0] * 5]
    rest = [i for i in range(encoder.n_features) if i not in at]
    assert (train[:, rest] == train0).all() and (test[:, rest] == test0).all()
    full = MetadataEncoder(COLUMNS, encoding=encoding, missing="indicator").fit(TRAIN[:1])
    assert not any(name.endswith(":missing") for name in full.feature_names)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_impute_takes_median_and_most_frequent_of_training_and_imputes_unknown_too(encoding):
    encoder, train, test = encoded(encoding, "impute")
    filled = TRAIN.fillna({"age": 20.0, "site": "arm", "sex": "f", "itch": "False"})
    filled["hurt"] = ["True", "False", "False", "False"]  # a tie between True and False: the first
    expected = encoder.transform(filled)
    np.testing.assert_array_equal(train, expected)
    assert not any("UNK" in name for name in encoder.feature_names)
    new = encoder.transform(
        frame((40, "nose", "m", "False", "False"), (20, "arm", "f", "False", "False"))
    )
    np.testing.assert_array_equal(test, new)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_drop_rows_keeps_whole_rows_only_and_learns_from_them_alone(encoding):
    train = pd.concat([TRAIN, frame((90, "ear", "m", "UNK", "True"))], ignore_index=True)
    encoder = MetadataEncoder(COLUMNS, encoding=encoding, missing="drop-rows").fit(train)
    assert encoder.keeps(train).tolist() == [True, False, False, False, True]
    assert encoder.keeps(TEST).tolist() == [True, False]
    alone = MetadataEncoder(COLUMNS, encoding=encoding).fit(train.iloc[[0, 4]])
    np.testing.assert_array_equal(encoder.transform(TEST), alone.transform(TEST))
    for policy in ("zero", "indicator", "impute"):
        other = MetadataEncoder(COLUMNS, missing=policy).fit(train)
        assert other.keeps(train).all()
    with pytest.raises(DataError, match="No training row is left"):
        encoder.fit(TRAIN.iloc[1:])


def test_nothing_is_learnt_from_test_rows():
    encoder, _, before = encoded("onehot", "indicator")
    states = deepcopy(encoder._ready())
    encoder.transform(frame((1e6, "knee", "m", "UNK", "UNK")))
    assert encoder._ready() == states
    np.testing.assert_array_equal(encoder.transform(TEST), before)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("missing", MISSING)
def test_described_columns_say_which_features_a_column_feeds(encoding, missing):
    encoder, train, _ = encoded(encoding, missing)
    groups = {
        c.name: (*c.features, *(() if c.missing is None else (c.missing,)))
        for c in encoder.described
    }
    assert [i for positions in groups.values() for i in positions] == list(range(train.shape[1]))
    other = {"age": 99.0, "site": "leg", "sex": "m", "itch": "False", "hurt": "False"}
    for column in COLUMNS:
        changed = TRAIN.assign(**{column.name: [other[column.name]] * len(TRAIN)})
        moved = (encoder.transform(changed) != train).any(axis=0)
        assert set(np.flatnonzero(moved)) <= set(groups[column.name])
        assert moved.any()
        for i in groups[column.name]:
            assert encoder.feature_names[i].startswith(column.name)


def test_piecewise_linear_numbers_fill_the_bins_below_them():
    """Against the formula bin by bin, with quantiles by sorting."""
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(50, 15, 400))
    frame_ = pd.DataFrame({"age": [*values, np.nan]})
    encoder = MetadataEncoder(COLUMNS[:1], encoding="ple").fit(frame_)
    ordered = np.sort(values)
    edges = []
    for q in range(BINS + 1):
        at = q / BINS * (len(ordered) - 1)
        low = int(at)
        high = min(low + 1, len(ordered) - 1)
        edge = ordered[low] + (at - low) * (ordered[high] - ordered[low])
        if not edges or not np.isclose(edge, edges[-1]):
            edges.append(edge)
    assert encoder.n_features == len(edges) - 1 and encoder.described[0].values == ()
    probe = [*values[:50], 0.0, 200.0, edges[3]]
    got = encoder.transform(pd.DataFrame({"age": probe}))
    for row, value in zip(got, probe, strict=True):
        for t, (low, high) in enumerate(pairwise(edges)):
            want = (value - low) / (high - low)
            if value < low and t > 0:
                want = 0.0
            elif value >= high and t < len(edges) - 2:
                want = 1.0
            assert row[t] == pytest.approx(want, abs=1e-5)
    assert not encoder.transform(pd.DataFrame({"age": [np.nan]})).any()


def test_what_was_learnt_is_of_the_training_rows():
    one, _, _ = encoded("onehot", "zero")
    states = one._ready()
    assert states[0]["mean"] == MEAN and states[1]["categories"] == ["arm", "leg"]
    assert MetadataEncoder(COLUMNS).fit(TRAIN.iloc[:3])._ready() != states


def test_degenerate_columns_are_constant_not_nan():
    columns = (*COLUMNS, Column(name="none", kind="categorical"))
    rows = frame((5, None, "f", None, None), (5, None, "f", None, None))
    rows["none"] = pd.Series([None, None], dtype=object)
    nothing = rows.assign(age=[math.nan, math.nan])
    for encoding in ENCODINGS:
        for missing in ("zero", "indicator", "impute"):
            for train in (rows, nothing):
                encoder = MetadataEncoder(columns, encoding=encoding, missing=missing).fit(train)
                got = encoder.transform(pd.concat([rows, nothing]))
                assert np.isfinite(got).all() and got.shape == (4, encoder.n_features)
    assert MetadataEncoder(()).fit(rows).transform(rows).shape == (2, 0)


@pytest.mark.parametrize("ages", [(0.0, 1e-137), (-1e308, 1e308), (1e308, 1e308), (0.0, 5e-324)])
def test_far_apart_numbers_stay_finite(ages):
    train = frame(*[(age, "arm", "f", "True", "True") for age in ages])
    encoder = MetadataEncoder(COLUMNS[:1]).fit(train)
    far = frame(*[(age, "arm", "f", "True", "True") for age in (1.0, -1e308, 1e308)])
    assert np.isfinite(encoder.transform(far)).all()
    json.dumps(encoder._ready(), allow_nan=False)


def test_wrong_use_is_refused():
    with pytest.raises(UsageError, match="onehot, ordinal"):
        MetadataEncoder(COLUMNS, encoding="embedding")
    with pytest.raises(UsageError, match="drop-rows"):
        MetadataEncoder(COLUMNS, missing="mean")
    leak = Column(name="biopsed", kind="boolean", role="forbidden", note="True for every cancer")
    with pytest.raises(UsageError, match="True for every cancer"):
        MetadataEncoder((leak,))
    with pytest.raises(RuntimeError, match="before fit"):
        MetadataEncoder(COLUMNS).transform(TRAIN)


def test_inputs_are_the_cards_unless_named(pebbles):
    card = pebbles.card()
    assert [c.name for c in input_columns(card)] == ["grams", "colour", "rock", "wet"]
    assert [c.name for c in input_columns(card, ["wet", "grams"])] == ["grams", "wet"]
    with pytest.raises(UsageError, match="no column 'weight'"):
        input_columns(card, ["weight"])
    with pytest.raises(UsageError, match="sorted_by"):
        input_columns(card, ["sorted_by"])


cells = st.tuples(
    st.one_of(st.just(math.nan), st.floats(-1e6, 1e6)),
    st.sampled_from([None, "arm", "leg", "ear", "UNK", "nose"]),
    st.sampled_from([None, "f", "m", "UNK"]),
    st.sampled_from([None, "True", "False", "UNK"]),
    st.sampled_from([None, "True", "False", "UNK"]),
)


@given(st.lists(cells, min_size=1, max_size=8), st.lists(cells, min_size=1, max_size=4))
@settings(deadline=None, max_examples=30)
def test_against_plain_loops(train_rows, test_rows):
    train, test = frame(*train_rows), frame(*test_rows)
    got = MetadataEncoder(COLUMNS).fit(train).transform(test)
    for k, row in enumerate(test_rows):
        expected = []
        ages = [r[0] for r in train_rows if not math.isnan(r[0])]
        mean = sum(ages) / len(ages) if ages else 0.0
        std = math.sqrt(sum((a - mean) ** 2 for a in ages) / len(ages)) if ages else 0.0
        usable = ages and not math.isnan(row[0])
        if usable and std > 1e-9 * (1 + abs(mean)):
            expected.append((row[0] - mean) / std)
        else:
            expected.append(None)  # constant or empty: only finite is asked for
        for i, listed in (
            (1, []),
            (2, ["f", "m"]),
            (3, ["False", "True", "UNK"]),
            (4, ["False", "True"]),
        ):
            seen = Counter(r[i] for r in train_rows if r[i] is not None)
            for category in listed + sorted(set(seen) - set(listed)):
                expected.append(float(row[i] == category))
        assert got.shape[1] == len(expected)
        for have, want in zip(got[k].tolist(), expected, strict=True):
            assert math.isfinite(have)
            if want is not None:
                assert have == pytest.approx(want, rel=1e-4, abs=1e-4)


@given(
    st.lists(cells, min_size=1, max_size=6),
    st.lists(cells, min_size=1, max_size=6),
    st.sampled_from(ENCODINGS),
    st.sampled_from(["zero", "indicator", "impute"]),
)
@settings(deadline=None, max_examples=30)
def test_rows_are_encoded_one_by_one(train_rows, test_rows, encoding, missing):
    encoder = MetadataEncoder(COLUMNS, encoding=encoding, missing=missing).fit(frame(*train_rows))
    together = encoder.transform(frame(*test_rows))
    alone = np.concatenate([encoder.transform(frame(row)) for row in test_rows])
    np.testing.assert_array_equal(together, alone)
    assert np.isfinite(together).all()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("missing", MISSING)
def test_blank_is_a_row_without_any_record(encoding, missing):
    encoder, _, test = encoded(encoding, missing)
    blank = encoder.blank()
    np.testing.assert_array_equal(blank, test[1])  # the second test row recorded nothing
    assert blank.dtype == np.float32 and blank.shape == (encoder.n_features,)
    assert MetadataEncoder(()).fit(TRAIN).blank().shape == (0,)
