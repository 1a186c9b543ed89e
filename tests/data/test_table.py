from __future__ import annotations

import csv
import math
import posixpath
import string

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_data import CARD, HEADER, Notes, photo

from fusionbench.data import digests
from fusionbench.data.card import Column
from fusionbench.data.csv_rows import read_rows
from fusionbench.data.schema import unsafe_path, value_of
from fusionbench.data.table import _joined, load_table
from fusionbench.errors import DataError


def problems_of(data, **kwargs):
    with pytest.raises(DataError) as caught:
        load_table(data.card(), data.folder, **kwargs)
    assert caught.value.exit_code == 1
    return {(p["row"], p["column"]): p["problem"] for p in caught.value.problems}


@pytest.mark.parametrize(
    ("bounds", "says"),
    [({"minimum": 0}, "at least 0"), ({"maximum": 5}, "at most 5"),
     ({"minimum": 0, "maximum": 5}, "0 to 5")],
)  # fmt: skip
def test_a_number_out_of_range_is_told_its_bounds(bounds, says):
    column = Column(name="grams", kind="numeric", **bounds)
    with pytest.raises(ValueError, match=rf"^out of range \({says}\)$"):
        value_of(column, "-3" if "minimum" in bounds else "7", ())


def test_a_table_is_what_the_file_says(pebbles):
    table = load_table(pebbles.card(), pebbles.folder)
    assert len(table) == 12 and table.complete and table.views == ("top",)
    assert table.ids.tolist() == [row["file"] for row in pebbles.rows]
    assert table.labels.tolist() == [0, 1, 2] * 4 and table.labels.dtype == np.int64
    assert table.groups.tolist() == [row["beach"] for row in pebbles.rows]
    assert len(set(table.lesions)) == 6  # stone numbers repeat on every beach
    assert [p.name for p in table.images["top"]] == table.ids.tolist()
    meta = table.metadata
    assert list(meta) == ["grams", "colour", "rock", "wet", "sorted_by"]
    assert meta["grams"].dtype == np.float64 and math.isnan(meta["grams"][5])
    assert meta["colour"].tolist() == ["grey", "grey", "UNK", None] * 3
    assert meta["wet"].tolist() == ["True", "False", "True", "False", "UNK", None] * 2


def test_rows_keep_the_order_of_the_file_and_take_selects(pebbles):
    pebbles.rows.reverse()
    pebbles.write()
    table = load_table(pebbles.card(), pebbles.folder)
    assert table.ids[0] == "p11.png" and table.rows.tolist() == list(range(12))
    part = table.take(np.array([3, 0]))
    assert part.ids.tolist() == [table.ids[3], table.ids[0]]
    assert part.images["top"] == (table.images["top"][3], table.images["top"][0])
    assert part.metadata["grams"].tolist() == table.metadata["grams"].iloc[[3, 0]].tolist()
    assert len(table.take(table.labels == 1)) == 4


def test_every_offending_row_is_listed_and_nothing_is_written(pebbles, snapshot, tmp_path):
    rows = pebbles.rows
    rows[0]["shape"] = "cubic"
    rows[1]["file"] = rows[2]["file"]
    rows[3]["grams"] = "heavy"
    rows[4]["grams"] = "5000"
    rows[5]["file"] = "../../secret.png"
    rows[6]["rock"] = "chalk"
    rows[7]["wet"] = "damp"
    rows[8]["beach"] = ""
    rows[9]["grams"] = "nan"
    pebbles.write()
    pebbles.card()
    before = snapshot(tmp_path)
    found = problems_of(pebbles)
    assert snapshot(tmp_path) == before
    assert "unknown class" in found[2, "shape"]
    assert found[3, "file"] == "duplicate id: also in row 4"
    assert found[4, "file"] == "duplicate id: also in row 3"
    assert found[5, "grams"] == found[11, "grams"] == "is not a number"
    assert "0 to 500" in found[6, "grams"]
    assert found[7, "file"] == "leaves its folder"
    assert "granite, slate" in found[8, "rock"]
    assert "neither True nor False" in found[9, "wet"]
    assert "patient" in found[10, "beach"]
    assert len(found) == 10


@pytest.mark.parametrize(
    "name",
    [
        "../x.png",
        "a/../../x.png",
        "/etc/x.png",
        "..\\x.png",
        "C:/x.png",
        "a\x00.png",
        "a\n.png",
        "",
    ],
)
def test_ids_that_leave_the_image_folder_are_refused(pebbles, name):
    pebbles.rows[4]["file"] = name
    pebbles.write()
    found = problems_of(pebbles, allow_missing_images=True)
    assert set(found) == {(6, "file")}


@given(st.text(alphabet="ab./\\:\x00 ", max_size=12))
@settings(deadline=None, max_examples=300)
def test_no_allowed_name_leaves_a_folder(name):
    if unsafe_path(name) == "":
        joined = posixpath.normpath(posixpath.join("/root/in", name))
        assert joined.startswith("/root/in/") and "\\" not in name and "\x00" not in name


def test_missing_columns_are_named_and_unlisted_ones_are_only_noted(pebbles):
    pebbles.write([name for name in HEADER if name not in ("grams", "shape")])
    found = problems_of(pebbles)
    assert found == {(1, "grams"): "column is missing", (1, "shape"): "column is missing"}

    for row in pebbles.rows:
        row.update(remark="x", extra="y")
    pebbles.write([*HEADER, "remark", "extra"])
    notes = Notes()
    load_table(pebbles.card(), pebbles.folder, progress=notes)
    assert len(notes.lines) == 1 and "extra" in notes.lines[0] and "remark" not in notes.lines[0]


def test_row_numbers_are_lines_of_the_file(pebbles):
    lines = pebbles.csv.read_text().splitlines()
    lines[3] = lines[3].replace(",10,", ",ten,").replace(",20,", ",twenty,")
    lines.insert(2, "")  # a blank line counts as a line, not as a row
    pebbles.csv.write_text("\n".join(lines))
    assert list(problems_of(pebbles)) == [(5, "grams")]


def test_row_numbers_count_line_breaks_inside_cells(pebbles):
    for row in pebbles.rows:
        row["remark"] = "two\nlines" if row["file"] == "p01.png" else ""
    pebbles.rows[0]["grams"] = pebbles.rows[1]["grams"] = pebbles.rows[2]["grams"] = "ten"
    pebbles.write([*HEADER, "remark"])
    assert list(problems_of(pebbles)) == [(2, "grams"), (3, "grams"), (5, "grams")]


def test_rows_of_the_wrong_length_are_listed(pebbles):
    lines = pebbles.csv.read_text().splitlines()
    lines[2] += ",more"
    lines[5] = "p04.png,b1"
    pebbles.csv.write_text("\n".join(lines))
    assert set(problems_of(pebbles)) == {(3, "(row)"), (6, "(row)")}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"file,shape\n", "no rows"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe\x00", "not a UTF-8"),
        (b"PK\x03\x04\x00\x00\x00", "binary"),
        (b"file;shape\na;b\n", "not separated by commas"),
        (b"file,file\na,b\n", "same name"),
        (b'file,shape\n"a,b\n', "not a readable csv"),
        ("file,shape\nKüste,b\n".encode("latin-1"), "UTF-8"),
    ],
)
def test_a_file_that_is_no_csv_says_so(pebbles, content, says):
    pebbles.csv.write_bytes(content)
    with pytest.raises(DataError, match=says):
        load_table(pebbles.card(), pebbles.folder)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(pebbles):
    plain = load_table(pebbles.card(), pebbles.folder)
    text = pebbles.csv.read_text().replace("\n", "\r\n")
    pebbles.csv.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_table(pebbles.card(), pebbles.folder).fingerprint == plain.fingerprint


def test_missing_photographs_are_counted_and_named(pebbles):
    for i in (2, 7):
        (pebbles.folder / f"photos/p{i:02d}.png").unlink()
    with pytest.raises(DataError) as caught:
        load_table(pebbles.card(), pebbles.folder)
    text = str(caught.value)
    assert "2 photographs" in text and "p02.png, p07.png" in text and "--allow-missing" in text
    table = load_table(pebbles.card(), pebbles.folder, allow_missing_images=True)
    assert len(table) == 10 and not table.complete
    assert table.missing_images == ("p02.png", "p07.png")
    assert table.rows.tolist() == [0, 1, 3, 4, 5, 6, 8, 9, 10, 11]
    assert table.metadata["grams"].iloc[2] == 30


def test_fewer_rows_than_expected_is_not_complete(pebbles):
    card = pebbles.card(CARD + "\n[expect]\nrows = 13\n")
    assert not load_table(card, pebbles.folder).complete


def test_the_fingerprint_follows_the_data_and_nothing_else(pebbles, tmp_path):
    card = pebbles.card()

    def fingerprint():
        return load_table(card, pebbles.folder).fingerprint

    first = fingerprint()
    assert first == fingerprint() and len(first) == 16
    changed = {first}
    for key, value in [("grams", "11"), ("shape", "odd one"), ("beach", "b2"), ("wet", "")]:
        kept = pebbles.rows[1][key]
        pebbles.rows[1][key] = value
        pebbles.write()
        changed.add(fingerprint())
        pebbles.rows[1][key] = kept
    photo(pebbles.folder / "photos" / "p03.png", 99)
    pebbles.write()
    changed.add(fingerprint())
    photo(pebbles.folder / "photos" / "p03.png", 3)
    (pebbles.folder / "photos" / "p03.png").unlink()
    changed.add(load_table(card, pebbles.folder, allow_missing_images=True).fingerprint)
    photo(pebbles.folder / "photos" / "p03.png", 3)
    assert len(changed) == 7
    # Another spelling of the same value, another order of columns, another place: the same data.
    pebbles.rows[0]["grams"], pebbles.rows[0]["wet"] = "0.0", "1"
    pebbles.write(HEADER[::-1])
    moved = pebbles.folder.rename(tmp_path / "moved")
    assert load_table(card, moved).fingerprint == first


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"flat", "round", "odd"]', '"flat", "round", "odd", "new"]'),
        ('["granite", "slate"]', '["slate", "granite"]'),
        ('group = ["beach"]', 'group = ["beach", "stone"]'),
        ('name = "pebbles"', 'name = "pebbles"\nunknown = ["UNK", "?"]'),
    ],
)
def test_the_fingerprint_follows_what_the_card_means(pebbles, old, new):
    first = load_table(pebbles.card(), pebbles.folder).fingerprint
    assert old in CARD
    card = pebbles.card(CARD.replace(old, new))
    assert load_table(card, pebbles.folder).fingerprint != first
    noted = pebbles.card(CARD.replace("minimum = 0", 'minimum = -1\nnote = "weighed wet"'))
    assert load_table(noted, pebbles.folder).fingerprint == first


def test_a_file_that_has_just_changed_is_not_trusted_to_stay(pebbles, monkeypatch):
    card = pebbles.card()
    monkeypatch.setattr(digests, "_SETTLED_NS", 10**15)
    load_table(card, pebbles.folder)
    read = []
    real = digests._sha256
    monkeypatch.setattr(digests, "_sha256", lambda path: read.append(path.name) or real(path))
    load_table(card, pebbles.folder)
    assert len(read) == 12


def test_reopening_reads_no_photograph_again_unless_it_changed(pebbles, monkeypatch):
    card = pebbles.card()
    monkeypatch.setattr(digests, "_SETTLED_NS", -(10**12))
    first = load_table(card, pebbles.folder)
    read = []
    real = digests._sha256
    monkeypatch.setattr(digests, "_sha256", lambda path: read.append(path.name) or real(path))
    assert load_table(card, pebbles.folder).fingerprint == first.fingerprint and read == []
    photo(pebbles.folder / "photos" / "p03.png", 77)
    assert load_table(card, pebbles.folder).fingerprint != first.fingerprint
    assert read == ["p03.png"]
    (index,) = digests.cache_folder().glob("digests/*.json")
    index.write_text('{"half')
    read.clear()
    load_table(card, pebbles.folder)
    assert len(read) == 12


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(deadline=None, max_examples=200)
def test_every_finite_number_is_read_back(value):
    assert value_of(Column(name="x", kind="numeric"), repr(value), ()) == value


@given(st.text(alphabet=string.digits + "+-.eE_,naif ", max_size=8))
@settings(deadline=None, max_examples=300)
def test_only_finite_decimal_numbers_are_numbers(text):
    column = Column(name="x", kind="numeric")
    try:
        value = value_of(column, text, ("UNK",))
    except ValueError:
        return
    assert text == "" or (math.isfinite(value) and value == float(text) and "_" not in text)


@given(st.lists(st.tuples(st.text("a|\\", max_size=3), st.text("a|\\", max_size=3)), min_size=2))
@settings(deadline=None, max_examples=200)
def test_joined_keys_are_equal_only_where_every_part_is(pairs):
    frame = pd.DataFrame(pairs, columns=["p", "q"], dtype=object)
    keys = _joined(frame, ("p", "q"), np.arange(len(pairs)).astype(str))
    for i, one in enumerate(pairs):
        for j, other in enumerate(pairs):
            assert (keys[i] == keys[j]) == (one == other)


@given(
    st.lists(
        st.lists(st.text("ab,\"'\n; é", max_size=5), min_size=2, max_size=2).filter(
            lambda cells: any(c.strip() for c in cells)
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(deadline=None, max_examples=100)
def test_any_csv_is_read_back_cell_by_cell(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("csv") / "m.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["a", "b"], *records])
    frame, problems = read_rows(path)
    assert problems == []
    assert frame.to_numpy().tolist() == [[cell.strip() for cell in row] for row in records]


@pytest.mark.parametrize("kind", ["categorical", "boolean", "numeric"])
def test_an_alias_of_the_empty_text_means_not_recorded_as_an_empty_cell_does(pebbles, kind):
    column = Column(name="c", kind=kind, aliases={"not asked": "", "n/a": "UNK"})
    assert pd.isna(value_of(column, "not asked", ("UNK",)))
    assert pd.isna(value_of(column, "", ("UNK",)))
    assert (value_of(column, "n/a", ("UNK",)) == "UNK") == (kind != "numeric")


def test_rows_with_an_aliased_and_with_an_empty_cell_are_missing_alike(pebbles):
    cells = {"colour": "none", "wet": "n/a", "grams": "?"}
    text = CARD.replace('gray = "grey"', 'gray = "grey", none = ""')
    text = text.replace('yes = "True"', 'yes = "True", "n/a" = ""')
    text = text.replace("minimum = 0", 'minimum = 0\naliases = { "?" = "" }')
    tables = []
    for values in (dict.fromkeys(cells, ""), cells):
        pebbles.rows[3] |= values
        pebbles.write()
        tables.append(load_table(pebbles.card(text), pebbles.folder).metadata)
    assert tables[0].iloc[3][list(cells)].isna().all()
    pd.testing.assert_frame_equal(*tables)
