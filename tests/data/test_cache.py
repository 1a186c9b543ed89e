from __future__ import annotations

import hashlib
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from made_up_data import Notes, photo

from fusionbench.data import image_cache as cache
from fusionbench.data.image_cache import cache_key, open_or_build
from fusionbench.data.images import decode
from fusionbench.errors import DataError


@pytest.fixture
def photos(tmp_path):
    paths = [photo(tmp_path / "in" / f"{i}.png", i) for i in range(10)]
    return paths, [hashlib.sha256(p.read_bytes()).hexdigest() for p in paths]


def expected(paths, size):
    return np.stack([decode(p, size) for p in paths])


def decoded(monkeypatch):
    """A list that gets an entry for every photograph that is decoded from now on."""
    calls = []
    monkeypatch.setattr(
        cache, "decode", lambda data, size, **kw: calls.append(1) or decode(data, size, **kw)
    )
    return calls


def test_the_cache_holds_exactly_the_decoded_photographs_and_is_read_only(photos):
    paths, digests = photos
    first = open_or_build(paths, digests, 12)
    assert first.dtype == np.uint8 and (first == expected(paths, 12)).all()
    again = open_or_build(paths, digests, 12)
    assert isinstance(again, np.memmap) and (again == first).all()
    with pytest.raises(ValueError, match="read-only"):
        again[0] = 0
    leftovers = {p.suffix for p in Path(first.filename).parent.iterdir()} - {".lock"}
    assert leftovers == {".u8", ".crc32"}


def test_reopening_decodes_nothing(photos, monkeypatch):
    open_or_build(*photos, 12)
    monkeypatch.setattr(cache, "decode", None)
    assert len(open_or_build(*photos, 12)) == 10


def test_the_key_follows_contents_order_and_settings(photos, monkeypatch):
    _, digests = photos
    keys = {
        cache_key(digests, 12),
        cache_key(digests, 13),
        cache_key(digests, 12, "crop"),
        cache_key(digests[::-1], 12),
        cache_key(digests[1:], 12),
    }
    monkeypatch.setattr(cache, "DECODER", "other")
    keys.add(cache_key(digests, 12))
    assert len(keys) == 6


def spoil_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def spoil_length(path):
    path.write_bytes(path.read_bytes()[:-5])


def spoil_sums(path):
    sums = path.with_suffix(".crc32")
    raw = bytearray(sums.read_bytes())
    raw[12] ^= 1
    sums.write_bytes(raw)


@pytest.mark.parametrize(
    ("spoil", "rows"),
    [
        (spoil_bit, 1),
        (spoil_length, 1),
        (spoil_sums, 1),
        (lambda p: p.write_bytes(p.read_bytes() + b"more"), 0),
        (lambda p: p.unlink(), 10),
        (lambda p: p.write_bytes(b""), 10),
        (lambda p: p.with_suffix(".crc32").unlink(), 10),
        (lambda p: p.with_suffix(".crc32").write_bytes(b"half"), 10),
    ],
)
def test_damaged_rows_of_a_cache_are_noticed_and_decoded_again(photos, spoil, rows, monkeypatch):
    spoil(Path(open_or_build(*photos, 12).filename))
    notes, calls = Notes(), decoded(monkeypatch)
    assert (open_or_build(*photos, 12, progress=notes) == expected(photos[0], 12)).all()
    assert len(calls) == rows
    assert not rows or not notes.lines or f"{rows} rows" in notes.lines[0]
    assert (open_or_build(*photos, 12) == expected(photos[0], 12)).all()
    assert len(calls) == rows


def interrupted(photos, monkeypatch, after):
    """A build that is stopped by Ctrl-C at the photograph number `after`."""
    calls = []

    def stopping(data, size, **kwargs):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(1)
        return decode(data, size, **kwargs)

    monkeypatch.setattr(cache, "decode", stopping)
    with pytest.raises(KeyboardInterrupt):
        open_or_build(*photos, 12, workers=1)


def test_an_interrupted_build_is_no_cache_and_goes_on_where_it_stopped(photos, monkeypatch):
    interrupted(photos, monkeypatch, after=6)
    notes, calls = Notes(), decoded(monkeypatch)
    resumed = open_or_build(*photos, 12, workers=1, progress=notes)
    assert (resumed == expected(photos[0], 12)).all()
    assert len(calls) == 4 and any("6 of 10" in line for line in notes.lines)


def test_rows_that_did_not_reach_the_disk_are_decoded_again(photos, monkeypatch):
    interrupted(photos, monkeypatch, after=6)
    (path,) = cache.cache_folder().glob("images/*.u8")
    data = bytearray(path.read_bytes())
    row = 12 * 12 * 3
    data[2 * row : 3 * row] = bytes(row)  # as after a power cut
    path.write_bytes(data)
    calls = decoded(monkeypatch)
    assert (open_or_build(*photos, 12) == expected(photos[0], 12)).all()
    assert len(calls) == 5


def test_photographs_that_do_not_decode_or_changed_are_all_named(photos):
    paths, digests = photos
    photo(paths[3], 99)
    paths[5].write_bytes(b"no picture")
    digests[5] = hashlib.sha256(b"no picture").hexdigest()
    paths[7].unlink()
    with pytest.raises(DataError) as caught:
        open_or_build(paths, digests, 12)
    found = {p["file"]: str(p["problem"]) for p in caught.value.problems}
    assert set(found) == {str(paths[i]) for i in (3, 5, 7)}
    assert "changed" in found[str(paths[3])] and "5.png" in found[str(paths[5])]


def _build(args):
    paths, digests = args
    notes = Notes()
    cache.decode = lambda data, size, **kw: notes.note("decoded") or decode(data, size, **kw)
    open_or_build(paths, digests, 12, progress=notes)
    return notes.lines.count("decoded")


def test_of_several_processes_one_builds_and_all_can_read(photos):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        built = pool.map(_build, [photos] * 4, chunksize=1)
    assert sum(built) == 10
    assert (open_or_build(*photos, 12) == expected(photos[0], 12)).all()


def test_a_folder_that_cannot_be_written_is_an_error_with_a_remedy(photos, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="FUSIONBENCH_CACHE"):
        open_or_build(*photos, 12)


def test_any_number_of_views_can_be_cached_side_by_side(photos):
    paths, digests = photos
    one = open_or_build(paths[:5], digests[:5], 12, name="d-top")
    two = open_or_build(paths[5:], digests[5:], 12, name="d-side")
    assert one.filename != two.filename and (two == expected(paths[5:], 12)).all()
