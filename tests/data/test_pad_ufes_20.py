"""PAD-UFES-20's own file; its photographs as far as this machine has them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fusionbench.data.choices import input_columns
from fusionbench.data.csv_rows import read_rows
from fusionbench.data.encoder import MetadataEncoder
from fusionbench.data.image_cache import open_or_build
from fusionbench.data.images import decode
from fusionbench.data.locate import metadata_file, open_card
from fusionbench.data.prepare import status
from fusionbench.data.schema import check_rows
from fusionbench.data.table import load_table
from fusionbench.errors import DataError, UsageError


@pytest.fixture(scope="module")
def raw(pad_ufes_20):
    """The file as pandas reads it, independently: text, and pandas' own idea of empty."""
    card, root = pad_ufes_20
    return pd.read_csv(metadata_file(card, root), dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def table(pad_ufes_20):
    return load_table(*pad_ufes_20, allow_missing_images=True)


def test_the_card_states_the_published_dataset():
    card = open_card("pad-ufes-20")
    assert card.expect.rows == 2298 and card.expect.groups == 1373
    assert len(input_columns(card)) == 21
    assert set(card.label.malignant) == {"BCC", "SCC", "MEL"}
    assert {p.name: p.leaks for p in card.protocols} == {
        "grouped-5fold": (),
        "image-5fold": ("patients",),
        "metablock-2021": ("patients",),
    }
    with pytest.raises(UsageError, match="biopsed"):
        input_columns(card, ["age", "biopsed"])


def test_the_whole_file_fits_the_card(pad_ufes_20, raw):
    card, root = pad_ufes_20
    path = metadata_file(card, root)
    frame, problems = read_rows(path)
    assert problems == [] and check_rows(card, frame, path, ("clinical",)) == []
    assert (frame.to_numpy() == raw.to_numpy()).all() and list(frame) == list(raw)


def test_counts_of_the_whole_file(pad_ufes_20):
    card, root = pad_ufes_20
    report = status(card, root)
    assert (report.rows, report.groups, report.classes) == (2298, 1373, card.expect.classes)
    others = [p for p in report.problems if p["problem"] != "photograph is missing"]
    assert others == []
    assert report.images_found + report.images_missing == 2298


def test_missing_photographs_are_named_or_left_out(pad_ufes_20, table):
    card, root = pad_ufes_20
    if table.complete:
        pytest.skip("all photographs are here")
    with pytest.raises(DataError) as caught:
        load_table(card, root)
    gone = 2298 - len(table)
    assert f"{gone} photographs" in str(caught.value) and len(caught.value.problems) == gone
    assert len(table.missing_images) == gone
    assert not set(table.missing_images) & set(table.ids.tolist())


def test_the_trial_subset(table):
    if len(table) != 1098:
        pytest.skip("not the 1,098 photographs of the trials")
    counts = Counter(table.card.classes[k] for k in table.labels)
    assert counts == {"ACK": 260, "BCC": 346, "MEL": 48, "NEV": 219, "SCC": 61, "SEK": 164}
    assert len(table.missing_images) == 1200


def test_every_row_carries_the_cells_of_its_line(table, raw):
    rows = raw.iloc[table.rows].reset_index(drop=True)
    assert table.ids.tolist() == rows["img_id"].tolist()
    assert table.groups.tolist() == rows["patient_id"].tolist()
    assert [table.card.classes[k] for k in table.labels] == rows["diagnostic"].tolist()
    assert len(set(table.lesions)) == len(rows[["patient_id", "lesion_id"]].drop_duplicates())
    for name in table.metadata:
        cells, column = rows[name], table.metadata[name]
        assert (column.isna() == (cells == "")).all(), name
        here = cells != ""
        if column.dtype == np.float64:
            assert (column[here] == cells[here].astype(float)).all(), name
        else:
            assert (column[here] == cells[here].replace("BRASIL", "BRAZIL")).all(), name
    assert [p.stem for p in table.images["clinical"]] == [i.split(".")[0] for i in table.ids]


def test_twenty_one_ordinal_features_and_one_width_in_every_part(table):
    columns = input_columns(table.card)
    ordinal = MetadataEncoder(columns, encoding="ordinal").fit(table.metadata)
    assert ordinal.n_features == 21 and ordinal.transform(table.metadata).shape == (len(table), 21)
    order = np.random.default_rng(0).permutation(len(table))
    widths = {
        MetadataEncoder(columns).fit(table.metadata.iloc[part]).n_features
        for part in np.array_split(order, 5)
    }
    # Fathers, mothers, seven questions of two answers, six of three, gender, region, four numbers.
    assert widths == {12 + 11 + 7 * 2 + 6 * 3 + 2 + 14 + 4}


def test_the_thirteen_columns_that_are_empty_together(table):
    encoder = MetadataEncoder(input_columns(table.card), missing="indicator").fit(table.metadata)
    flags = [n.split(":")[0] for n in encoder.feature_names if n.endswith(":missing")]
    assert len(flags) == 13 and "age" not in flags and "itch" not in flags
    kept = MetadataEncoder(input_columns(table.card), missing="drop-rows").keeps(table.metadata)
    benign = ~np.isin(table.labels, [table.card.classes.index(c) for c in ("BCC", "SCC", "MEL")])
    block = table.metadata["smoke"].isna().to_numpy()
    assert not (kept & block).any() and benign[block].all()


def test_published_pngs_decode_as_their_opaque_pixels(pad_ufes_20):
    _, root = pad_ufes_20
    originals = sorted((root / "originals").glob("*.png"))
    if not originals:
        pytest.skip("no untouched PNGs here")
    modes = Counter()
    for path in originals[:8]:
        with Image.open(path) as picture:
            modes[picture.mode] += 1
            rgb = Image.fromarray(np.asarray(picture)[..., :3].copy())
        expected = np.asarray(rgb.resize((32, 32), Image.Resampling.BICUBIC))
        assert (decode(path, 32) == expected).all()
    assert modes["RGBA"] > 0


def test_the_cache_of_real_photographs(table):
    part = table.take(np.arange(0, len(table), 25))
    paths, digests = part.images["clinical"], part.digests["clinical"]
    array = open_or_build(paths, digests, 64)
    assert (array[3] == decode(paths[3], 64)).all()
    assert array.std() > 20
