"""Files as other programs and other systems write them."""

from __future__ import annotations

import gzip
import os
import unicodedata
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from made_up_data import CARD, HEADER
from PIL import Image

from fusionbench.data.archive import unpack
from fusionbench.data.images import EXTENSIONS, decode
from fusionbench.data.locate import find_data
from fusionbench.data.prepare import status
from fusionbench.data.table import load_table
from fusionbench.errors import DataError


def load(pebbles, card=CARD):
    return load_table(pebbles.card(card), pebbles.folder)


def rename(pebbles, name_of):
    """Rename every photograph to what `name_of` gives for the name in the csv."""
    for row in pebbles.rows:
        (path,) = (pebbles.folder / "photos").rglob(row["file"])
        path.rename(path.with_name(name_of(row["file"])))


@pytest.mark.parametrize("suffix", EXTENSIONS)
def test_photographs_of_every_suffix_are_found_and_read(pebbles, suffix):
    for row in pebbles.rows:
        (path,) = (pebbles.folder / "photos").rglob(row["file"])
        picture = Image.open(path).copy()
        path.unlink()
        picture.save(path.with_suffix(suffix), "JPEG" if suffix.startswith(".j") else None)
    paths = load(pebbles).images["top"]
    assert {path.suffix for path in paths} == {suffix}
    assert decode(paths[0], 16).shape == (16, 16, 3)


@pytest.mark.parametrize("suffix", [".heic", ".dng", ".gif", ".txt"])
def test_photographs_of_a_kind_that_is_not_read_are_named(pebbles, suffix):
    rename(pebbles, lambda name: name.rpartition(".")[0] + suffix)
    with pytest.raises(DataError, match=rf"a kind that is not read, such as \S+\{suffix}; save it"):
        load(pebbles)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize(
    "change", [str, str.upper, lambda name: f"{name.rpartition('.')[0]} .png", "{} ".format]
)
def test_unicode_form_case_and_blanks_of_a_file_do_not_matter(pebbles, form, change):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    rename(pebbles, lambda name: unicodedata.normalize(other, f"gal\u00e9t {name}"))
    for row in pebbles.rows:
        row["file"] = change(unicodedata.normalize(form, f"gal\u00e9t {row['file']}"))
    pebbles.write()
    assert len(load(pebbles)) == len(pebbles.rows)


@pytest.mark.parametrize("folder", ["Photos", "PHOTOS", "photos"])
def test_the_case_of_the_image_folder_does_not_matter(pebbles, folder):
    (pebbles.folder / "photos").rename(pebbles.folder / folder)
    assert len(load(pebbles)) == len(pebbles.rows)


def test_a_backslash_in_the_csv_separates_folders_and_escapes_none(pebbles):
    plain = load(pebbles).images
    for row in pebbles.rows:
        (path,) = (pebbles.folder / "photos").rglob(row["file"])
        row["file"] = str(path.relative_to(pebbles.folder)).replace("/", "\\")
    pebbles.write()
    assert load(pebbles).images == plain
    pebbles.rows[2]["file"] = "photos\\..\\..\\secret.png"
    pebbles.rows[3]["file"] = "C:\\photos\\a.png"
    pebbles.write()
    with pytest.raises(DataError) as caught:
        load(pebbles)
    problems = [(p["row"], p["problem"]) for p in caught.value.problems]
    assert problems == [(4, "leaves its folder"), (5, "is an absolute path")]


def csv_lines(pebbles):
    return pebbles.csv.read_text("utf-8").splitlines()


DIALECTS = {
    "columns without a name behind": lambda lines: [f"{line},," for line in lines],
    "columns without a name in front": lambda lines: [
        lines[0].join((",,", "")),
        *(f"{i},{i},{line}" for i, line in enumerate(lines[1:])),
    ],
    "empty cells beyond the header": lambda lines: [lines[0], *(f"{x},,," for x in lines[1:])],
    "Excel's first line": lambda lines: ["sep=,", *lines],
    "empty lines": lambda lines: [x for line in lines for x in (line, "", ",,")],
    "blanks around cells": lambda lines: [line.replace(",", " , ") for line in lines],
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_csv_files_as_other_programs_write_them_are_the_same_table(pebbles, dialect):
    plain = load(pebbles)
    pebbles.csv.write_text("\n".join(DIALECTS[dialect](csv_lines(pebbles))), encoding="utf-8-sig")
    table = load(pebbles)
    assert table.fingerprint == plain.fingerprint
    assert list(table.metadata) == list(plain.metadata)


def other_header(pebbles):
    pebbles.write([*HEADER[1:], "image_id"])


def other_separator(pebbles):
    pebbles.csv.write_text(pebbles.csv.read_text("utf-8").replace(",", ";"), encoding="utf-8")


def quoted_semicolons(pebbles):
    lines = (f'"{line}"'.replace(",", '";"') for line in csv_lines(pebbles))
    pebbles.csv.write_text("\n".join(lines), encoding="utf-8")


def utf_16(pebbles):
    pebbles.csv.write_text(pebbles.csv.read_text("utf-8"), encoding="utf-16")


def in_place_of_it(put):
    def spoil(pebbles):
        pebbles.csv.unlink()
        put(pebbles.csv)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (other_header, "file '': column is missing"),
        (other_separator, "not separated by commas"),
        (quoted_semicolons, "not separated by commas"),
        (utf_16, "not a UTF-8 csv file but UTF-16"),
        (
            lambda p: p.csv.write_bytes(b"PK\x03\x04" + bytes(99)),
            "but binary: an Excel workbook or a",
        ),
        (
            lambda p: p.csv.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1" + bytes(99)),
            "but binary: an Excel work",
        ),
        (lambda p: p.csv.write_bytes(gzip.compress(p.csv.read_bytes())), r"compressed \(gzip\)"),
        (lambda p: p.csv.write_text("\n<!DOCTYPE html><html>"), "but a web page"),
        (lambda p: p.csv.write_text("version https://git-lfs.github.com"), "git lfs pull"),
        (lambda p: p.csv.write_text('[{"file": "p00.png"}]'), "but JSON"),
        (lambda p: p.csv.write_bytes(b""), "is empty"),
        (lambda p: p.csv.write_bytes(bytes(99)), "is a binary file"),
        (in_place_of_it(Path.mkdir), "is a folder"),
        (in_place_of_it(os.mkfifo), "is no file"),
        (in_place_of_it(lambda path: path.symlink_to("nowhere.csv")), "is no file, or a link"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_csv_that_is_there_and_does_not_fit_is_never_called_absent(
    pebbles, spoil, reason, named, monkeypatch
):
    monkeypatch.delenv("FUSIONBENCH_DATA", raising=False)
    spoil(pebbles)
    card = pebbles.card()
    with pytest.raises(DataError, match=reason):
        load_table(card, find_data(card, pebbles.folder if named else None))


@pytest.mark.parametrize("depth", ["sub", "sub/below"])
def test_a_csv_that_is_deeper_and_does_not_fit_is_named(pebbles, tmp_path, depth):
    card, folder = pebbles.card(), tmp_path / "other" / depth
    other_header(pebbles)
    folder.mkdir(parents=True)
    pebbles.csv.rename(folder / pebbles.csv.name)
    with pytest.raises(DataError, match=rf"^{folder}/pebbles.csv does not fit .* 'file' and 'sha"):
        find_data(card, tmp_path / "other")


@pytest.mark.parametrize("name", ["data.csv", "pebbles.csv.csv", "pebbles.xlsx", "pebbles.csv.gz"])
def test_a_file_of_another_name_is_offered(pebbles, name):
    card = pebbles.card()
    pebbles.csv.rename(pebbles.folder / name)
    with pytest.raises(DataError, match=rf"holds {name}: .*\(files\.metadata = 'pebbles\.csv'\)"):
        find_data(card, pebbles.folder)


def test_a_column_that_is_missing_is_looked_for(pebbles):
    def fix(column, header):
        pebbles.write(header)
        problems = status(pebbles.card(), pebbles.folder).problems
        return next(p["fix"] for p in problems if p["column"] == column)

    for row in pebbles.rows:
        row |= {"Colour": "x", "flat": "1", "round": "0", "odd": "0"}
    others = [name for name in HEADER if name != "colour"]
    assert "did you mean Colour" in fix("colour", [*others, "Colour"])
    assert "columns of pebbles.csv: file, beach, stone" in fix("colour", others)
    unlabelled = [name for name in HEADER if name != "shape"]
    one_hot = "one column per class. Write the class of each row into a column 'shape'"
    assert f"pebbles.csv has {one_hot}" in fix("shape", [*unlabelled, "flat", "round", "odd"])
    (pebbles.folder / "truth.csv").write_text("file,flat,odd,round\n")
    assert f"truth.csv has {one_hot}" in fix("shape", unlabelled)
    (pebbles.folder / "a.csv").write_text("file,shape\n")
    os.mkfifo(pebbles.folder / "a pipe.csv")
    assert "a.csv has the column 'shape'" in fix("shape", unlabelled)


def test_two_photographs_with_one_id_are_explained(pebbles):
    card = f'id = "case"\n{CARD}'
    for i, row in enumerate(pebbles.rows):
        row["case"] = f"c{i // 2}"
    pebbles.write([*HEADER, "case"])
    (fix,) = {str(p["fix"]) for p in status(pebbles.card(card), pebbles.folder).problems}
    assert "take id = 'file' in the card" in fix and 'group = ["case"]' in fix
    assert len(load(pebbles, CARD.replace('group = ["beach"]', 'group = ["case"]'))) == 12


def test_a_csv_of_another_dataset_in_a_shared_folder_is_named(pebbles, tmp_path, monkeypatch):
    shared = tmp_path / "shared"
    shared.mkdir()
    other_header(pebbles)
    pebbles.csv.rename(shared / pebbles.csv.name)
    monkeypatch.setenv("FUSIONBENCH_DATA", str(shared))
    with pytest.raises(DataError, match="is not here") as caught:
        find_data(pebbles.card())
    assert f"{shared / pebbles.csv.name} is another dataset's" in str(caught.value)


def test_backslashes_in_a_zip_separate_folders_under_the_same_checks(tmp_path):
    def packed(*names):
        with zipfile.ZipFile(tmp_path / "w.zip", "w") as pack:
            for name in names:
                info = zipfile.ZipInfo("placeholder")
                info.filename = name
                pack.writestr(info, b"" if name.endswith("\\") else b"x")
        return tmp_path / "w.zip"

    unpack(packed("photos\\", "photos\\a.jpg", "b\\c\\d.jpg"), tmp_path / "good")
    files = (p.relative_to(tmp_path / "good") for p in (tmp_path / "good").rglob("*.jpg"))
    assert sorted(map(str, files)) == ["b/c/d.jpg", "photos/a.jpg"]
    for name in ("..\\a.jpg", "b\\..\\..\\a.jpg", "C:\\a.jpg", "\\a.jpg"):
        with pytest.raises(DataError, match="may not be unpacked"):
            unpack(packed(name), tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_a_photograph_of_todays_largest_cameras_is_read_without_a_warning(tmp_path):
    path = tmp_path / "large.jpg"
    Image.new("RGB", (16320, 12240), (90, 60, 30)).save(path, quality=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.abs(decode(path, 32).astype(int) - (90, 60, 30)).max() < 8


def set_cells(pebbles, column, cells):
    """Write these cells, row number -> text, into a column."""
    for i, cell in cells.items():
        pebbles.rows[i][column] = cell
    pebbles.write()


@pytest.mark.parametrize("labels", [["unknown"], [""], ["unknown", ""], ["[?]", "unk*", "N/A"]])
def test_rows_with_ignored_labels_are_left_out_counted_and_part_of_the_fingerprint(pebbles, labels):
    whole = load(pebbles)
    set_cells(pebbles, "shape", {2 * i: label for i, label in enumerate(labels)})
    with pytest.raises(DataError, match="unknown class"):
        load(pebbles)
    ignoring = CARD.replace("patterns =", f"ignore = {labels}\npatterns =")
    table = load(pebbles, ignoring)
    gone = [f"p{2 * i:02d}.png" for i in range(len(labels))]
    assert list(table.left_out) == gone
    assert table.ids.tolist() == [i for i in whole.ids if i not in gone]
    assert table.ids.tolist() == whole.ids[table.rows].tolist()
    report = status(pebbles.card(ignoring), pebbles.folder)
    assert report.ok and (report.rows, report.left_out) == (len(table), len(gone))
    assert any("left out for their label" in note for note in report.notes)
    # A dataset of the same rows that ignores nothing is other data.
    pebbles.rows = [row for row in pebbles.rows if row["file"] not in gone]
    pebbles.write()
    assert load(pebbles).fingerprint != table.fingerprint


@pytest.mark.parametrize("label", ["flat", "odd *"])
def test_a_label_is_of_a_class_or_ignored(pebbles, label):
    with pytest.raises(DataError, match="ignored, and of a class"):
        pebbles.card(CARD.replace("patterns =", f"ignore = ['{label}']\npatterns ="))


def test_a_dataset_of_ignored_labels_alone_is_refused(pebbles):
    set_cells(pebbles, "shape", dict.fromkeys(range(12), "x"))
    with pytest.raises(DataError, match="no row whose label is not ignored"):
        load(pebbles, CARD.replace("patterns =", "ignore = ['x']\npatterns ="))


@pytest.mark.parametrize("group", [["beach"], ["beach", "stone"], ["stone", "beach"]])
def test_rows_without_a_group_are_groups_by_themselves_where_the_card_says_so(pebbles, group):
    set_cells(pebbles, "beach", {0: "", 5: "", 6: "", 1: "p00.png", 2: "p05.png|"})
    declared = CARD.replace('group = ["beach"]', f"group = {group}")
    with pytest.raises(DataError, match="the patient of every row must be known") as caught:
        load(pebbles, declared)
    assert [p["row"] for p in caught.value.problems] == [2, 7, 8]
    own = f'group_missing = "own"\n{declared}'
    table = load(pebbles, own)
    for i in (0, 5, 6):
        assert (table.groups == table.groups[i]).sum() == 1
        assert (table.lesions == table.lesions[i]).sum() == 1
    report = status(pebbles.card(own), pebbles.folder)
    assert report.ok and report.groups == len(set(table.groups))
    assert any(note.startswith("3 row(s) without") for note in report.notes)


def test_a_declared_reading_of_missing_groups_changes_nothing_where_none_is_missing(pebbles):
    own = load(pebbles, f'group_missing = "own"\n{CARD}')
    assert own.fingerprint == load(pebbles).fingerprint
