"""Photographs that are there and do not open."""

from __future__ import annotations

import os
import re
import shutil
import zlib
from pathlib import Path

import pytest
from made_up_data import CARD, HEADER, Notes, photo
from PIL import Image

from fusionbench.data import digests, photo_facts
from fusionbench.data.image_cache import open_or_build
from fusionbench.data.prepare import prepare, status, verify
from fusionbench.data.table import load_table
from fusionbench.errors import DataError


def truncated(path: Path) -> None:
    path.write_bytes(photo(path, 1, (200, 200)).read_bytes()[:-40])


def claims_too_much(path: Path) -> None:
    data = bytearray(photo(path, 0).read_bytes())
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)


# What is wrong with a file, and what a user is told.
SPOILT = {
    "truncated": (truncated, "is damaged, cut off or no image"),
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
    "zeros": (lambda p: p.write_bytes(bytes(4000)), "is damaged, cut off or no image"),
    "page": (lambda p: p.write_text("<!DOCTYPE html>\n<html>404"), "is text, .* '<!DOCTYPE html>"),
    "pointer": (lambda p: p.write_text("version https://git-lfs"), "is text"),
    "heic": (lambda p: p.write_bytes(b"\0\0\0\x18ftypheic" + bytes(99)), "is a HEIC"),
    "gif": (lambda p: Image.new("RGB", (9, 9)).save(p, "GIF"), "is a GIF"),
    "bomb": (claims_too_much, "has 30000 x 30000 pixels"),
}


@pytest.fixture
def spoilt(pebbles):
    """The made-up dataset with a damaged photograph of each kind, and one of them twice: their
    paths and what is wrong with them."""
    paths = [pebbles.folder.resolve() / "photos" / f"p{i:02d}.png" for i in range(len(SPOILT) + 1)]
    for path, (spoil, _) in zip(paths, SPOILT.values(), strict=False):
        spoil(path)
    shutil.copy(paths[3], paths[-1])
    reasons = [reason for _, reason in SPOILT.values()]
    return dict(zip(paths, [*reasons, reasons[3]], strict=True))


def test_all_are_named_with_row_and_reason(pebbles, spoilt):
    card = pebbles.card()
    table = load_table(card, pebbles.folder)
    with pytest.raises(DataError, match="--allow-missing-images") as caught:
        open_or_build(table.images["top"], table.digests["top"], 8, lines=table.lines.tolist())
    report = verify(card, pebbles.folder)
    assert (report.images_found, report.images_missing, report.images_damaged) == (12, 0, 9)
    for problems in (caught.value.problems, report.problems):
        assert [(p["file"], p["row"]) for p in problems] == [
            (str(path), i + 2) for i, path in enumerate(spoilt)
        ]
        for problem, (path, reason) in zip(problems, spoilt.items(), strict=True):
            assert re.match(f"{path.name} {reason}", str(problem["problem"]))


def test_where_it_is_allowed_their_rows_are_left_out_as_if_the_files_were_missing(pebbles, spoilt):
    card, notes = pebbles.card(), Notes()
    whole = load_table(card, pebbles.folder)
    table = load_table(card, pebbles.folder, allow_missing_images=True, progress=notes)
    assert table.ids.tolist() == ["p09.png", "p10.png", "p11.png"]
    assert table.lines.tolist() == [11, 12, 13] and not table.complete
    assert table.missing_images == tuple(path.name for path in spoilt)
    assert "9 photographs cannot be read" in notes.lines[0] and "p00.png (row 2)" in notes.lines[0]
    assert load_table(card, pebbles.folder, photographs="optional").pictured().sum() == 3
    report = prepare(card, pebbles.folder, image_size=8)
    assert report.fingerprint == table.fingerprint != whole.fingerprint
    assert Path(report.cache).stat().st_size == 3 * 8 * 8 * 3
    for path in spoilt:
        path.unlink()
    assert load_table(card, pebbles.folder, allow_missing_images=True).fingerprint == (
        table.fingerprint
    )


def test_nothing_is_left_out_where_all_open(pebbles):
    card = pebbles.card()
    allowed = load_table(card, pebbles.folder, allow_missing_images=True)
    assert allowed.complete and allowed.fingerprint == load_table(card, pebbles.folder).fingerprint


def test_one_view_of_two_is_enough_to_leave_a_row_out(pebbles):
    for i, row in enumerate(pebbles.rows):
        row["side"] = f"s{i:02d}.png"
        photo(pebbles.folder / "photos" / row["side"], 50 + i)
    pebbles.write([*HEADER, "side"])
    two = '[[views]]\nname = "side"\ncolumn = "side"\n\n[label]'
    card = pebbles.card(CARD.replace("[label]", two))
    truncated(pebbles.folder / "photos" / "s04.png")
    left = load_table(card, pebbles.folder, view=("top", "side"), allow_missing_images=True)
    assert set(range(12)) - set(left.rows.tolist()) == {4}
    assert len(load_table(card, pebbles.folder, view="top", allow_missing_images=True)) == 12


def test_a_file_that_may_not_be_read_counts_as_damaged(pebbles, monkeypatch):
    secret = pebbles.folder.resolve() / "photos" / "p05.png"
    sha256_of = digests.sha256_of

    def denied(path):
        if path == secret:
            raise PermissionError(13, "Permission denied")
        return sha256_of(path)

    monkeypatch.setattr(digests, "sha256_of", denied)
    with pytest.raises(DataError, match="Permission denied"):
        load_table(pebbles.card(), pebbles.folder)
    table = load_table(pebbles.card(), pebbles.folder, allow_missing_images=True)
    assert "p05.png" not in table.ids and len(table) == 11


@pytest.mark.parametrize(
    ("put", "what"),
    [
        (Path.mkdir, "which is a folder"),
        (os.mkfifo, "which is no file"),
        (lambda path: path.symlink_to("nowhere.png"), "which is no file"),
    ],
)
def test_what_is_no_file_is_named_as_what_it_is(pebbles, put, what):
    path = pebbles.folder / "photos" / "p05.png"
    path.unlink()
    put(path)
    with pytest.raises(DataError, match=rf"such as p05\.png, {what}") as caught:
        load_table(pebbles.card(), pebbles.folder)
    assert [(p["file"], p["row"]) for p in caught.value.problems] == [("p05.png", 7)]
    assert len(load_table(pebbles.card(), pebbles.folder, allow_missing_images=True)) == 11


def test_status_opens_nothing(pebbles, spoilt, monkeypatch):
    monkeypatch.setattr(photo_facts, "facts_of", None)
    report = status(pebbles.card(), pebbles.folder)
    assert report.ok and report.images_damaged == 0
