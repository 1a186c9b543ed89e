from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from made_up_data import CARD, photo
from PIL import Image

from fusionbench.data import images
from fusionbench.data.images import decode, index_images, verify_images
from fusionbench.data.table import load_table
from fusionbench.errors import DataError


def save(path, array, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **kwargs)
    return path


@pytest.mark.parametrize(
    "place",
    [
        "photos/{}",
        "photos/part_1/part_1/{}",
        "photos/deep/er/still/{}",
    ],
)
@pytest.mark.parametrize("change", [str, str.upper, lambda n: n.replace(".png", ".JPG")])
def test_a_file_is_found_in_any_folder_case_and_extension(pebbles, place, change):
    moved = pebbles.folder / place.format(change("p04.png"))
    moved.parent.mkdir(parents=True, exist_ok=True)
    (pebbles.folder / "photos" / "p04.png").rename(moved)
    table = load_table(pebbles.card(), pebbles.folder)
    assert table.images["top"][4] == moved.resolve()


def test_relative_names_are_told_apart_by_their_folder(pebbles):
    a = photo(pebbles.folder / "photos/release/NEL/Nel025.jpg", 1)
    b = photo(pebbles.folder / "photos/release/FAL/nel025.JPG", 2)
    index = index_images(pebbles.folder, pebbles.card())
    assert index.candidates("NEL/NEL025.JPG") == (a.resolve(),)
    assert index.candidates("fal/Nel025.jpg") == (b.resolve(),)
    assert index.candidates("XXX/NEL025.JPG") == ()
    assert set(index.candidates("nel025.png")) == {a.resolve(), b.resolve()}


@pytest.mark.parametrize("name", ["", ".", "..", "a/..", "nothing.png", "p04"])
def test_odd_names_are_no_error(pebbles, name):
    found = index_images(pebbles.folder, pebbles.card()).candidates(name)
    assert [p.name for p in found] == (["p04.png"] if name == "p04" else [])


def test_folders_may_be_patterns(pebbles):
    (pebbles.folder / "photos").rename(pebbles.folder / "imgs_part_2")
    card = pebbles.card(CARD.replace('["photos"]', '["images", "imgs_part_*"]'))
    assert len(load_table(card, pebbles.folder)) == 12
    photo(pebbles.folder / "imgs_part_3" / "p04.png", 4)  # a copy: no doubt
    assert len(load_table(card, pebbles.folder)) == 12


def test_two_different_files_for_one_name_are_a_problem(pebbles):
    photo(pebbles.folder / "photos" / "again" / "p04.png", 77)
    with pytest.raises(DataError) as caught:
        load_table(pebbles.card(), pebbles.folder)
    (only,) = caught.value.problems
    assert only["row"] == 6 and "several files: photos/" in str(only["problem"])


def test_the_exact_name_wins_over_the_same_stem(pebbles):
    photo(pebbles.folder / "photos" / "p04.jpg", 77)
    photo(pebbles.folder / "photos" / "more" / "P04.PNG", 78)
    table = load_table(pebbles.card(), pebbles.folder)
    assert table.images["top"][4] == (pebbles.folder / "photos/p04.png").resolve()


def test_two_rows_may_not_share_a_file(pebbles):
    pebbles.rows[1]["file"] = "p00.jpg"
    pebbles.write()
    with pytest.raises(DataError) as caught:
        load_table(pebbles.card(), pebbles.folder)
    assert [(p["row"], p["column"]) for p in caught.value.problems] == [(3, "file")]


def test_links_out_of_the_folder_are_not_followed(pebbles, tmp_path):
    outside = photo(tmp_path / "outside" / "p04.png", 4)
    inside = pebbles.folder / "photos" / "p04.png"
    inside.unlink()
    inside.symlink_to(outside)
    (pebbles.folder / "photos" / "sub").symlink_to(outside.parent)
    with pytest.raises(DataError, match=r"p04\.png.*Links that leave"):
        load_table(pebbles.card(), pebbles.folder)
    inside.unlink()
    photo(pebbles.folder / "photos" / "kept" / "other.png", 4)
    inside.symlink_to(pebbles.folder / "photos" / "kept" / "other.png")
    assert len(load_table(pebbles.card(), pebbles.folder)) == 12


def test_squash_is_a_plain_bicubic_resize_and_crop_takes_the_centre(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    path = save(tmp_path / "a.png", array)
    whole = Image.fromarray(array)
    squashed = whole.resize((16, 16), Image.Resampling.BICUBIC)
    assert (decode(path, 16) == np.asarray(squashed)).all()
    centre = whole.resize((16, 16), Image.Resampling.BICUBIC, box=(10, 0, 50, 40))
    assert (decode(path, 16, resize="crop") == np.asarray(centre)).all()
    assert decode(path.read_bytes(), 16).shape == (16, 16, 3)


def test_transparency_is_laid_on_black_and_opaque_alpha_changes_nothing(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    alpha = np.full((8, 8, 1), 255, np.uint8)
    opaque = save(tmp_path / "o.png", np.concatenate([rgb, alpha], 2))
    assert (decode(opaque, 8) == rgb).all()
    alpha[:4] = 0
    half = decode(save(tmp_path / "t.png", np.concatenate([rgb, alpha], 2)), 8)
    assert (half[:4] == 0).all() and (half[4:] == rgb[4:]).all()


def test_exif_orientation_is_applied(tmp_path):
    array = np.zeros((8, 8, 3), np.uint8)
    array[0] = 255  # a bright top edge
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: top is right
    turned = decode(save(tmp_path / "a.png", array, exif=exif), 8)
    assert (turned[:, -1] == 255).all() and (turned[:, :-1] == 0).all()


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "LA", "1", "RGBX"])
def test_other_colour_modes_become_rgb(tmp_path, mode):
    picture = Image.new("RGB", (10, 10), (200, 200, 200)).convert("L" if mode == "LA" else mode)
    picture = picture.convert("LA") if mode == "LA" else picture
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "RGBX") else "a.png")
    (picture if mode != "RGBX" else picture.convert("RGB")).save(path)
    got = decode(path, 4)
    assert got.shape == (4, 4, 3) and got.dtype == np.uint8
    assert (abs(got.astype(int) - 200) <= 60).all()


def test_jpeg_reduction_while_decoding_hardly_changes_the_pixels(tmp_path):
    y, x = np.mgrid[:512, :512]
    array = np.stack([x / 2, y / 2, 128 + 100 * np.sin(x / 25)], 2).astype(np.uint8)
    path = save(tmp_path / "a.jpg", array, quality=95)
    full = np.asarray(Image.open(path).resize((32, 32), Image.Resampling.BICUBIC), dtype=int)
    assert abs(decode(path, 32).astype(int) - full).mean() < 1.5


def test_damaged_files_are_named(tmp_path):
    good = photo(tmp_path / "good.jpg", 0, (200, 200))
    (tmp_path / "cut.jpg").write_bytes(good.read_bytes()[:-900])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    png = bytearray(photo(tmp_path / "g.png", 0, (64, 64)).read_bytes())
    png[len(png) // 2] ^= 0xFF
    (tmp_path / "bitrot.png").write_bytes(png)
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "drawing.png", format="GIF")
    names = [
        "good.jpg",
        "cut.jpg",
        "drawing.png",
        "text.png",
        "empty.png",
        "bitrot.png",
        "script.png",
        "deep.png",
    ]
    paths = [tmp_path / n for n in names] + [tmp_path / "absent.png"]
    assert [*verify_images(paths)] == paths[1:]
    for path in paths[1:]:
        with pytest.raises(DataError, match=path.name):
            decode(path, 8)


def test_decompression_bombs_are_refused_without_unpacking_them(tmp_path, monkeypatch):
    # A PNG of a few bytes that claims 30,000 x 30,000 pixels.
    data = bytearray(photo(tmp_path / "a.png", 0).read_bytes())
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(DataError, match="pixels"):
        decode(bytes(data), 8)
    monkeypatch.setattr(images, "MAX_PIXELS", 99)
    buffer = io.BytesIO()
    Image.new("RGB", (10, 10)).save(buffer, "PNG")
    with pytest.raises(DataError, match="10 x 10 pixels"):
        decode(buffer.getvalue(), 8)
