"""The audit of PAD-UFES-20's own file, and of the photographs that are on this machine."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from fusionbench.audit.examine import audit
from fusionbench.audit.leak_value import estimators
from fusionbench.data.blocks import recorded_together
from fusionbench.data.locate import metadata_file
from fusionbench.data.table import load_table
from fusionbench.protocols import load_protocol


@pytest.fixture(scope="module")
def table(pad_ufes_20):
    return load_table(*pad_ufes_20, photographs="optional")


def protocol(table, root, name):
    ids = table.ids.tolist()
    return load_protocol(table.card, ids, table.labels, table.groups, name, root=root)


@pytest.fixture(scope="module")
def found(pad_ufes_20, table):
    names = ("image-5fold", "grouped-5fold")
    splits = {name: protocol(table, pad_ufes_20[1], name) for name in names}
    return {name: audit(table, split, leak_value=False) for name, split in splits.items()}


def test_every_row_is_there_without_its_photograph(pad_ufes_20, table):
    assert len(table) == 2298 and table.complete
    here = int(table.pictured().sum())
    assert here == 2298 - len(table.missing_images)
    if here < 2298:
        trained = load_table(*pad_ufes_20, allow_missing_images=True)
        assert len(trained) == here and trained.fingerprint != table.fingerprint


def test_thirteen_columns_go_missing_together_and_only_for_benign_lesions(table, found):
    (block,) = recorded_together(table.metadata)
    assert len(block) == 13
    (gap,) = found["grouped-5fold"].missingness.not_recorded.blocks
    assert (gap.columns, gap.rows, gap.malignant_rows) == (block, 804, 0)
    assert gap.auc.value == pytest.approx(0.5 - 804 / 1209 / 2)
    assert found["grouped-5fold"].missingness.not_recorded.mask.auc.value > 0.8


def test_biopsed_is_the_only_proxy(found):
    proxies = found["grouped-5fold"].proxies
    assert proxies.found == ("biopsed",) and not proxies.unlisted and not proxies.unconfirmed


def test_the_verdicts(pad_ufes_20, table, found):
    path = metadata_file(*pad_ufes_20)
    with path.open(encoding="utf-8", newline="") as file:
        patient = {row["img_id"]: row["patient_id"] for row in csv.DictReader(file)}
    split = pad_ufes_20[0].folder / "splits/image-5fold.csv"
    with split.open(encoding="utf-8", newline="") as file:
        part = {row["id"]: row["part"] for row in csv.DictReader(file)}
    folds: dict[str, set[str]] = {}
    for name, where in part.items():
        folds.setdefault(patient[name], set()).add(where)
    leaked = sum(len(folds[patient[name]]) > 1 for name in part)
    share = f"{100 * leaked / 2298:.0f} %"
    assert found["image-5fold"].verdict == f"leaky: patients {share}; shortcut: missingness"
    assert found["grouped-5fold"].verdict == "shortcut: missingness"
    assert found["grouped-5fold"].overlap.total[0].patients.rows == 0


def test_identical_photographs_of_the_subset(table, found):
    if int(table.pictured().sum()) != 1098:
        pytest.skip("not the subset")
    copies = found["image-5fold"].overlap.copies
    identical = {frozenset((c.a, c.b)) for c in copies if c.identical}
    assert identical == {
        frozenset(("PAT_759_1538_566.png", "PAT_759_1433_914.png")),
        frozenset(("PAT_419_2767_323.png", "PAT_419_833_148.png")),
    }
    # Others are of one patient; no two patients are confused. Some were cut out of another
    # photograph of the same lesion.
    assert all(c.same_patient for c in copies)
    assert sum(c.altered == "" for c in copies) == 4
    assert sum("cut" in c.altered and c.same_lesion for c in copies) >= 8


def test_a_forest_loses_ten_points_and_more_when_patients_are_kept_apart(
    pad_ufes_20, table, monkeypatch
):
    forest = estimators(0)["metadata-forest"].set_params(n_estimators=40)
    monkeypatch.setattr(
        "fusionbench.audit.leak_value.estimators", lambda seed: {"metadata-forest": forest}
    )
    split = protocol(table, pad_ufes_20[1], "image-5fold")
    (gap,) = audit(table, split).leak_value.models
    assert gap.gap("bacc") > 0.10 and np.mean(gap.here.bacc) > 0.7
