"""Shares of a split by plain loops, near-duplicates by the hash library's own distance."""

from __future__ import annotations

import imagehash
import numpy as np
from PIL import Image

from fusionbench.audit.examine import _facts, _pictured
from fusionbench.audit.overlap import NEAR_BITS, find_overlap, find_pairs
from fusionbench.data.blocks import recorded_together
from fusionbench.data.photo_facts import PhotoFacts, facts_of, hash_bits, photo_facts
from fusionbench.progress import SILENT


def test_shares_by_plain_loops(plot, cut):
    ground = plot(patients=50)
    source, target = ground.rows[0], ground.rows[7]
    assert source["patient_id"] != target["patient_id"]
    data = ground.file(source).read_bytes()
    ground.replace(target).write_bytes(data)
    table = ground.table()
    protocol = cut(table, "image-kfold")
    pairs = find_pairs(table, _facts(table, SILENT))
    found = find_overlap(table, protocol, pairs, _pictured(table))

    rows = patients = lesions = same = 0
    both: set[str] = set()
    for fold, part in zip(protocol.folds, found.folds, strict=True):
        here = 0
        for i in fold.test.tolist():
            rows += 1
            hit = any(table.groups[i] == table.groups[j] for j in fold.train.tolist())
            patients, here = patients + hit, here + hit
            lesions += any(table.lesions[i] == table.lesions[j] for j in fold.train.tolist())
            digest = table.digests["clinical"]
            same += any(digest[i] == digest[j] for j in fold.train.tolist())
            if hit:
                both.add(table.groups[i])
        assert part.patients.rows == here
    (total,) = found.total
    assert (total.rows, total.patients.rows, total.lesions.rows) == (rows, patients, lesions)
    assert total.patients.keys == len(both)
    assert total.patients.share == patients / rows
    assert total.identical.rows == same


def test_near_pairs_are_those_of_the_hash_library(plot):
    ground = plot(patients=40)
    with Image.open(ground.file(ground.rows[0])) as picture:
        copy = picture.convert("RGB").resize((150, 150))
    copy.save(ground.replace(ground.rows[5]), format="PNG")
    table = ground.table()
    facts = _facts(table, SILENT)["clinical"]
    pairs = find_pairs(table, {"clinical": facts})
    pairs = pairs[pairs.altered == ""]
    hashes = [imagehash.hex_to_hash(f.hash) for f in facts]
    expected = {
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if hashes[i] - hashes[j] <= NEAR_BITS
    }
    assert expected == set(zip(pairs.a.tolist(), pairs.b.tolist(), strict=True))
    assert (0, 5) in expected
    for a, b, bits in zip(pairs.a, pairs.b, pairs.distance, strict=True):
        assert hashes[a] - hashes[b] == bits


def test_pictures_without_structure_are_no_copies_of_each_other(tmp_path):
    for i, grey in enumerate((10, 128, 250)):
        Image.new("RGB", (50, 40), (grey, grey, grey)).save(tmp_path / f"{i}.png")
    facts = [facts_of(tmp_path / f"{i}.png") for i in range(3)]
    assert [f.hash for f in facts] == ["", "", ""]
    assert [f.border for f in facts] == [1.0, 1.0, 1.0]


def test_facts_of_a_photograph(tmp_path):
    pixels = np.zeros((60, 90, 3), dtype=np.uint8)
    pixels[6:-6, 9:-9] = np.random.default_rng(0).integers(60, 220, (48, 72, 3))
    pixels[..., 2] //= 2
    Image.fromarray(pixels).save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    png, jpg = facts_of(tmp_path / "a.png"), facts_of(tmp_path / "a.jpg")
    assert (png.width, png.height, png.format) == (90, 60, "PNG")
    assert (jpg.width, jpg.height, jpg.format) == (60, 90, "JPEG")
    assert png.bytes == (tmp_path / "a.png").stat().st_size
    assert abs(png.red - pixels[..., 0].mean()) < 2 and png.blue < 0.6 * png.red
    assert png.border > 0.95 and len(png.hash) == 64
    smooth = facts_of(_blurred(tmp_path / "a.png"))
    assert smooth.sharpness < png.sharpness


def _blurred(path):
    with Image.open(path) as picture:
        picture.resize((9, 6)).resize((90, 60)).save(path.with_name("b.png"))
    return path.with_name("b.png")


def test_facts_are_remembered(plot, tmp_path, monkeypatch):
    table = plot(patients=12).table()
    paths = dict(zip(table.digests["clinical"], table.images["clinical"], strict=True))
    one = photo_facts(paths, name="x")
    monkeypatch.setattr("fusionbench.data.photo_facts.facts_of", None)  # nothing is decoded again
    assert one == photo_facts(paths, name="x")
    assert one.keys() == paths.keys() and all(isinstance(f, PhotoFacts) for f in one.values())


def test_hash_bits_are_those_of_the_text():
    assert hash_bits(["80" + "00" * 30 + "01"])[0].nonzero()[0].tolist() == [0, 255]


def test_blocks_of_columns(plot):
    ground = plot(missing=0.3)
    for i, row in enumerate(ground.rows):
        if i % 11 == 0:
            row["itch"] = row["hurt"] = ""
        row["grew"] = "" if i % 2 else row["grew"]
    blocks = recorded_together(ground.table().metadata)
    assert len(blocks[0]) == 13 and blocks[1:] == (("itch", "hurt"),)
    assert recorded_together(ground.table().metadata[["grew", "age"]]) == ()


def test_few_photographs_of_which_no_two_are_alike_have_no_copies(tmp_path):
    from made_up_data import photo

    from fusionbench.audit.altered import altered_pairs
    from fusionbench.data.photo_facts import facts_of

    looks = [facts_of(photo(tmp_path / f"{i}.png", i, (40, 40))).look for i in range(3)]
    assert altered_pairs(looks, lambda numbers: None) == []
