"""Derm7pt in its published layout, on made-up cases."""

from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from derm7pt_layout import DIAGNOSES, PARTS, VALUES, write_derm7pt

from fusionbench.data.choices import input_columns
from fusionbench.data.encoder import MetadataEncoder
from fusionbench.data.locate import find_data, open_card
from fusionbench.data.prepare import verify
from fusionbench.data.table import load_table
from fusionbench.errors import DataError, UsageError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("derm7pt")
    write_derm7pt(folder)
    return folder


@pytest.fixture(scope="module")
def card():
    return open_card("derm7pt")


@pytest.fixture
def few(tmp_path):
    return write_derm7pt(tmp_path, per_diagnosis=2)


def test_the_published_layout_verifies_without_a_finding(whole, card):
    report = verify(card, find_data(card, whole))
    assert report.problems == () and report.ok
    assert (report.rows, report.images_found, report.images_missing) == (1011, 2022, 0)
    assert report.classes == {"BCC": 42, "NEV": 575, "MEL": 252, "MISC": 97, "SK": 45}


def test_twenty_labels_become_five_classes(card):
    counts = Counter()
    for diagnosis, number in DIAGNOSES.items():
        counts[card.label.class_of(diagnosis)] += number
    assert dict(counts) == card.expect.classes
    assert card.label.class_of("nevus") is None and card.label.class_of("melanomatosis") is None
    assert set(card.label.malignant) == {"BCC", "MEL"}


def test_the_dermoscopic_photograph_by_default_the_clinical_by_option(whole, card):
    root = find_data(card, whole)
    meta = pd.read_csv(root / "meta" / "meta.csv", dtype=str)
    derm = load_table(card, root)
    clinic = load_table(card, root, view="clinical")
    both = load_table(card, root, view=["dermoscopic", "clinical"])
    for table, column in ((derm, "derm"), (clinic, "clinic")):
        names = [f"{p.parent.name}/{p.name}".lower() for p in table.images[table.views[0]]]
        assert names == meta[column].str.lower().tolist()
    assert derm.fingerprint != clinic.fingerprint
    assert both.images == {**derm.images, **clinic.images}
    assert derm.ids.tolist() == meta["case_num"].tolist()
    assert len(set(derm.groups)) == 1011  # no patient is named: every case is its own
    with pytest.raises(UsageError, match="dermoscopic, clinical"):
        load_table(card, root, view="histology")


def test_rows_can_be_addressed_by_the_published_index_files(whole, card):
    root = find_data(card, whole)
    table = load_table(card, root)
    meta = pd.read_csv(root / "meta" / "meta.csv", dtype=str)
    seen = []
    for part, count in PARTS.items():
        positions = pd.read_csv(root / "meta" / f"{part}_indexes.csv")["indexes"].to_numpy()
        assert len(positions) == count
        chosen = np.isin(table.rows, positions)
        assert table.ids[chosen].tolist() == meta["case_num"].iloc[positions].tolist()
        seen += positions.tolist()
    assert sorted(seen) == list(range(1011))


def test_the_clinicians_reading_is_no_default_input(card):
    assert [c.name for c in input_columns(card)] == ["sex", "location", "elevation"]
    reading = {c.name for c in card.columns if c.role == "proxy"}
    assert reading == set(VALUES) - {"sex", "location", "elevation"} | {"seven_point_score"}


def test_the_card_knows_every_published_value(whole, card):
    for column in card.columns:
        if column.kind == "categorical":
            assert set(column.values) == set(VALUES[column.name])
    metadata = load_table(card, find_data(card, whole)).metadata
    encoder = MetadataEncoder(input_columns(card)).fit(metadata)
    assert encoder.n_features == 2 + 9 + 3
    ordinal = MetadataEncoder(input_columns(card), encoding="ordinal").fit(metadata)
    assert ordinal.n_features == 3


def test_a_missing_clinical_photograph_matters_only_where_it_is_used(few, card):
    next(few.rglob("*c.jpg")).unlink()
    assert load_table(card, few).complete is False  # fewer cases than published
    with pytest.raises(DataError, match="1 photographs"):
        load_table(card, few, view="clinical")
    assert len(load_table(card, few, view="clinical", allow_missing_images=True)) == 38
    assert len(load_table(card, few)) == 39  # two of each diagnosis, but one plain melanoma


@pytest.mark.parametrize("nest", ["release_v0", "release_v0/release_v0", "derm7pt/release_v0"])
def test_it_is_found_however_deep_it_was_unpacked(few, card, tmp_path, nest):
    target = tmp_path / "given" / nest
    target.parent.mkdir(parents=True)
    shutil.move(few, target)
    assert find_data(card, tmp_path / "given") == target


def test_unknown_labels_and_values_are_listed(few, card):
    path = few / "meta" / "meta.csv"
    text = path.read_text().replace("blue nevus", "green nevi").replace("palpable", "hilly")
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        load_table(card, few)
    columns = Counter(p["column"] for p in caught.value.problems)
    assert columns["diagnosis"] == 2 and columns["elevation"] == text.count("hilly")
