"""Photographs that were mirrored, turned, cut or framed are found; others are no copies."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from fusionbench.audit.altered import altered_pairs
from fusionbench.data.photo_facts import facts_of, unframed

SIZE = (300, 240)


def drawn(seed: int) -> Image.Image:
    """A lesion on skin with a grain, freckles and hairs, as photographs have."""
    rng = np.random.default_rng(seed)
    grain = rng.normal(0, 1, (60, 75, 1)).repeat(4, 0).repeat(4, 1)
    light = np.linspace(0, rng.uniform(-30, 30), SIZE[0])[None, :, None]
    skin = np.array([205, 160, 135]) + 7 * grain + light
    picture = Image.fromarray(skin.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for _ in range(40):
        x, y, r = rng.uniform(0, 300), rng.uniform(0, 240), rng.uniform(2, 6)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=(150, 100, 80))
    x, y, r = rng.uniform(120, 180), rng.uniform(100, 140), rng.uniform(30, 55)
    pen.ellipse((x - r, y - r, x + r, y + 0.8 * r), fill=(90, 50, 40))
    for _ in range(6):
        pen.line(rng.uniform(0, 300, 4).tolist(), fill=(40, 30, 30), width=2)
    return picture


def cut(left: float, top: float, right: float, bottom: float):
    def change(picture: Image.Image) -> Image.Image:
        w, h = picture.size
        return picture.crop((int(left * w), int(top * h), int(right * w), int(bottom * h)))

    return change


def framed(share: float, colour: tuple[int, int, int]):
    return lambda p: ImageOps.expand(p, int(share * min(p.size)), colour)


CHANGES = {
    "mirrored": ImageOps.mirror,
    "upside down": ImageOps.flip,
    "turned by 90": lambda p: p.transpose(Image.Transpose.ROTATE_90),
    "turned by 180": lambda p: p.transpose(Image.Transpose.ROTATE_180),
    "turned by 270": lambda p: p.transpose(Image.Transpose.ROTATE_270),
    "transposed": lambda p: p.transpose(Image.Transpose.TRANSPOSE),
    "cut by 5": cut(0.02, 0.03, 0.97, 0.98),
    "cut by 10": cut(0.1, 0.05, 1, 0.95),
    "cut by 20": cut(0.1, 0.15, 0.9, 0.95),
    "cut on one side": cut(0, 0, 0.85, 1),
    "black frame": framed(0.06, (0, 0, 0)),
    "wide white frame": framed(0.2, (255, 255, 255)),
    "mirrored, cut, lighter": lambda p: ImageEnhance.Brightness(
        cut(0.1, 0.1, 0.95, 0.95)(ImageOps.mirror(p))
    ).enhance(1.1),
    "turned, framed": lambda p: framed(0.1, (90, 90, 120))(p.transpose(Image.Transpose.ROTATE_90)),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    files = [folder / f"{seed}.png" for seed in range(40)]
    for seed, file in enumerate(files):
        drawn(seed).save(file)
    return files, [facts_of(file).look for file in files]


def pairs_of(files, looks):
    return altered_pairs(looks, lambda rows: np.stack([unframed(files[i]) for i in rows]))


@pytest.mark.parametrize("name", CHANGES)
def test_altered_copies_are_found(originals, name, tmp_path):
    files, looks = map(list, originals)
    wanted = range(0, 40, 4)
    for k in wanted:
        buffer = io.BytesIO()
        CHANGES[name](drawn(k)).save(buffer, "JPEG", quality=85)
        files.append(tmp_path / f"{k}.jpg")
        files[-1].write_bytes(buffer.getvalue())
        looks.append(facts_of(files[-1]).look)
    found = pairs_of(files, looks)
    expected = {(k, 40 + n) for n, k in enumerate(wanted)}
    assert {(a, b) for a, b, _ in found} <= expected and len(found) >= 9
    words = {word for *_, how in found for word in how.split(", ")}
    assert ("mirrored or turned" in words) == any(w in name for w in ("mirror", "turn", "down",
                                                                     "transposed"))  # fmt: skip


def test_no_copy_is_invented(originals):
    assert pairs_of(*originals) == []


def test_discs_on_even_ground_are_no_copies(tmp_path):
    files = []
    for k in range(30):
        rng = np.random.default_rng(k)
        noise = rng.normal(0, 3, (200, 200, 3)) + np.array([200, 170, 150])
        picture = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
        r = rng.uniform(30, 70)
        ImageDraw.Draw(picture).ellipse((100 - r, 100 - r, 100 + r, 100 + r), fill=(90, 50, 40))
        files.append(tmp_path / f"{k}.png")
        picture.save(files[-1])
    assert pairs_of(files, [facts_of(file).look for file in files]) == []
