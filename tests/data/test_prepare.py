from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from made_up_data import CARD, HEADER, photo

from fusionbench.data import archive
from fusionbench.data.archive import unpack
from fusionbench.data.locate import find_data, open_card
from fusionbench.data.prepare import prepare, status, verify
from fusionbench.data.table import load_table
from fusionbench.errors import DataError, UsageError

EXPECT = "\n[expect]\nrows = 12\ngroups = 3\nclasses = { flat = 4, round = 4, odd = 4 }\n"


@pytest.fixture
def card(pebbles, tmp_path):
    """The card alone, in a folder without data."""
    pebbles.card(CARD + EXPECT)
    (tmp_path / "card").mkdir()
    shutil.copy(pebbles.folder / "dataset.toml", tmp_path / "card")
    return open_card(str(tmp_path / "card"))


def zipped(folder: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as pack:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            pack.write(file, f"{prefix}{file.relative_to(folder)}")
    return path


def tarred(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, "release/pebbles")
    return path


def nested(folder: Path, path: Path) -> Path:
    """As PAD-UFES-20 is published: the photographs in zips of their own."""
    work = path.parent / "nested"
    shutil.copytree(folder, work)
    inner = shutil.move(work / "photos", path.parent / "part_1")
    (work / "photos").mkdir()
    zipped(Path(inner), work / "photos" / "part_1.zip", "part_1/")
    return zipped(work, path, "download-1/")


@pytest.mark.parametrize("pack", [zipped, tarred, nested])
def test_an_archive_becomes_a_checked_dataset_with_a_cache(pebbles, card, tmp_path, pack):
    suffix = ".tar.gz" if pack is tarred else ".zip"
    source = pack(pebbles.folder, tmp_path / f"download{suffix}")
    report = prepare(card, source, image_size=10)
    assert report.ok and report.problems == () and report.checked_pixels
    assert (report.rows, report.groups, report.images_found, report.images_missing) == (
        12,
        3,
        12,
        0,
    )
    assert report.classes == {"flat": 4, "round": 4, "odd": 4}
    assert Path(report.cache).stat().st_size == 12 * 300
    root = find_data(card)  # found without being told where: it is where data belongs
    assert root.is_relative_to(card.folder / "data")
    original = load_table(card, pebbles.folder)
    assert load_table(card, root).fingerprint == original.fingerprint == report.fingerprint
    assert not list((card.folder / "data").rglob("*.zip"))
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True
    with pytest.raises(DataError, match="not empty"):
        prepare(card, source, image_size=10)


def test_a_folder_is_used_where_it_is(pebbles, card, tmp_path, snapshot):
    before = snapshot(pebbles.folder)
    here = prepare(card, pebbles.folder, image_size=10)
    assert here.ok and Path(here.root) == pebbles.folder
    assert snapshot(pebbles.folder) == before
    with pytest.raises(UsageError, match="--to is for archives"):
        prepare(card, pebbles.folder, tmp_path / "copy", image_size=10)


def test_inner_archives_of_an_unpacked_download_are_unpacked_once(pebbles, card, tmp_path):
    nested(pebbles.folder, tmp_path / "download.zip")
    folder = tmp_path / "nested"
    assert prepare(card, folder, image_size=10).ok
    unpacked = folder / "photos" / "part_1" / "part_1" / "p03.png"
    unpacked.unlink()
    assert prepare(card, folder, image_size=10).images_missing == 1


def test_mirrors_with_other_extensions_and_doubled_folders_verify(pebbles, card, tmp_path):
    root = tmp_path / "mirror" / "Pebbles" / "Pebbles"
    root.mkdir(parents=True)
    shutil.copy(pebbles.csv, root / "Pebbles.CSV")
    for i in range(12):
        photo(root / "photos" / "photos" / f"P{i:02d}.{['JPG', 'jpeg', 'Png'][i % 3]}", i)
    report = verify(card, find_data(card, tmp_path / "mirror"))
    assert report.ok, report.problems


def test_every_problem_is_in_one_list(pebbles, card):
    pebbles.rows[0]["shape"] = "cubic"
    pebbles.rows[1]["grams"] = "heavy"
    pebbles.rows[2]["file"] = "../p02.png"
    pebbles.write([n for n in HEADER if n != "rock"])
    (pebbles.folder / "photos" / "p05.png").unlink()
    (pebbles.folder / "photos" / "p06.png").write_bytes(b"no picture")
    shutil.copy(pebbles.folder / "photos" / "p07.png", pebbles.folder / "photos" / "p08.png")
    report = verify(card, pebbles.folder)
    found = [(p.get("row"), str(p["problem"])) for p in report.problems]
    expected = [
        (2, "unknown class"),
        (3, "not a number"),
        (4, "leaves its folder"),
        (1, "column is missing"),
        (7, "photograph is missing"),
        (8, "p06.png is text"),
        (None, "3 class flat, expected 4"),
    ]
    for row, text in expected:
        assert any(r == row and text in t for r, t in found), (row, text, found)
    assert not report.ok and report.fingerprint == ""
    assert any("p07.png, p08.png" in note for note in report.notes)
    missing = [p["file"] for p in report.problems if "photograph is missing" in str(p["problem"])]
    assert missing == ["../p02.png", "p05.png"]


def test_a_csv_that_cannot_be_read_is_one_problem(pebbles, card):
    pebbles.csv.write_bytes(b"\x00\xff")
    report = verify(card, pebbles.folder)
    assert not report.ok and len(report.problems) == 1


def test_status_says_what_is_there_without_decoding(pebbles, card, monkeypatch):
    absent = status(card)
    assert not absent.found and not absent.ok
    assert str(card.folder / "data") in str(absent.problems[0]["problem"])
    monkeypatch.setattr("fusionbench.data.prepare.verify_images", None)
    here = status(card, pebbles.folder)
    assert here.ok and here.images_found == 12 and here.cache == "" and not here.checked_pixels
    (pebbles.folder / "photos" / "p05.png").unlink()
    partly = status(card, pebbles.folder)
    assert partly.found and not partly.ok and partly.images_missing == 1
    assert partly.fingerprint not in ("", here.fingerprint)


def test_prepare_builds_the_cache_of_what_is_there(pebbles, card):
    (pebbles.folder / "photos" / "p05.png").unlink()
    report = prepare(card, pebbles.folder, image_size=10)
    assert not report.ok and report.images_missing == 1
    assert Path(report.cache).stat().st_size == 11 * 300


def test_a_wrong_archive_leaves_nothing_behind(pebbles, card, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "readme.txt").write_text("hello")
    source = zipped(tmp_path / "other", tmp_path / "other.zip")
    with pytest.raises(DataError, match="does not hold Pebbles"):
        prepare(card, source)
    assert [p.name for p in card.folder.iterdir()] == ["dataset.toml"]
    with pytest.raises(DataError, match="no archive or folder"):
        prepare(card, tmp_path / "absent.zip")
    text = tmp_path / "text.zip"
    text.write_text("hello")
    with pytest.raises(DataError, match="no archive that can be read"):
        prepare(card, text)


def hostile_zip(path: Path, entries: list[tuple[object, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as pack:
        for name, data in entries:
            pack.writestr(name, data)  # type: ignore[arg-type]
    return path


def _link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (0o120777 << 16)
    return info


@pytest.mark.parametrize(
    ("entries", "bad"),
    [
        ([("ok.txt", b"x"), ("../up.txt", b"x"), ("a/../../up2.txt", b"x")], 2),
        ([("/etc/absolute.txt", b"x")], 1),
        ([("C:/windows.txt", b"x")], 1),
        ([(_link("link"), b"/etc/passwd")], 1),
    ],
)
def test_members_that_would_leave_the_folder_are_all_refused(tmp_path, entries, bad):
    (tmp_path / "in").mkdir()
    source = hostile_zip(tmp_path / "in" / "x.zip", entries)
    with pytest.raises(DataError) as caught:
        unpack(source, tmp_path / "out" / "dest")
    assert len(caught.value.problems) == bad
    assert list((tmp_path / "out").rglob("*")) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    source = tmp_path / "x.tar"
    with tarfile.open(source, "w") as tar:
        plain = tarfile.TarInfo("plain.txt")
        plain.size = 5
        tar.addfile(plain, io.BytesIO(b"hello"))
        odd = tarfile.TarInfo("odd")
        odd.type, odd.linkname = kind, "/etc/passwd"
        tar.addfile(odd)
    with pytest.raises(DataError, match="link or a device"):
        unpack(source, tmp_path / "dest")
    assert not (tmp_path / "dest").exists()


def test_bombs_are_stopped_while_they_unpack(tmp_path):
    zeros = bytes(1 << 20)
    bomb = hostile_zip(tmp_path / "bomb.zip", [(f"{i}.bin", zeros) for i in range(4)])
    with pytest.raises(DataError, match="far more than its size"):
        unpack(bomb, tmp_path / "dest", max_bytes=1 << 20)
    with pytest.raises(DataError, match="more files than allowed"):
        unpack(bomb, tmp_path / "dest", max_files=3)
    # Inside another archive it counts as well.
    outer = hostile_zip(tmp_path / "outer.zip", [("bomb.zip", bomb.read_bytes())])
    with pytest.raises(DataError, match="far more than its size"):
        unpack(outer, tmp_path / "dest", max_bytes=1 << 20)
    assert not (tmp_path / "dest").exists()
    unpack(bomb, tmp_path / "dest")
    assert len(list((tmp_path / "dest").iterdir())) == 4


def test_damaged_archives_leave_nothing(pebbles, tmp_path):
    source = zipped(pebbles.folder, tmp_path / "whole.zip")
    data = bytearray(source.read_bytes())
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    data[len(data) // 3] ^= 0xFF  # inside a photograph: its checksum no longer fits
    (tmp_path / "rot.zip").write_bytes(data)
    tar = tarred(pebbles.folder, tmp_path / "whole.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(tar[: len(tar) // 2])
    for name in ("cut.zip", "rot.zip", "cut.tar.gz"):
        with pytest.raises(DataError):
            unpack(tmp_path / name, tmp_path / "dest")
    twice = tmp_path / "twice.zip"
    with pytest.warns(UserWarning, match="Duplicate"):
        hostile_zip(twice, [("a", b"1"), ("a", b"2")])
    with pytest.raises(DataError, match="twice"):
        unpack(twice, tmp_path / "dest")
    assert not (tmp_path / "dest").exists() and not list(tmp_path.glob(".dest*"))


def test_an_interrupted_unpacking_leaves_nothing(pebbles, tmp_path, monkeypatch):
    source = zipped(pebbles.folder, tmp_path / "whole.zip")
    written = []

    def stopping(source, out, length):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(source)

    monkeypatch.setattr(archive.shutil, "copyfileobj", stopping)
    with pytest.raises(KeyboardInterrupt):
        unpack(source, tmp_path / "dest")
    assert not (tmp_path / "dest").exists() and not list(tmp_path.glob(".dest*"))
