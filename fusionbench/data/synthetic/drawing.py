"""Draw a lesion: skin in the patient's own tone and light, a rim, a core, hair; and write a PNG.

Only additions, multiplications, divisions and square roots: the same bytes on every machine.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from fusionbench.data.synthetic.truth import Floats, Stream

# family -> colour (RGB, 0..255). Core and rim have palettes of their own: which is which shows in
# the colour alone, so a small network finds the cues within a few epochs.
CORE = np.array([[205, 30, 45], [35, 30, 45], [250, 205, 30]], dtype=np.float64)
RIM = np.array([[165, 75, 205], [40, 160, 165], [250, 250, 245]], dtype=np.float64)
# Skin by Fitzpatrick type 1..6.
SKIN = np.array(
    [[240, 208, 188], [231, 190, 163], [214, 168, 137],
     [188, 138, 105], [152, 106, 78], [110, 76, 56]], dtype=np.float64,
)  # fmt: skip
SIZES = ((80, 80), (96, 80), (80, 96), (72, 72))  # width, height in pixels: one camera each


def draw_lesion(
    seed: int, photo: int, patient: int, fitzpatrick: int, lesion: int, core: int, rim: int
) -> NDArray[np.uint8]:
    """One photograph, (H, W, 3) RGB; `fitzpatrick` is 1..6, `core` and `rim` are families.

    All photographs of a patient share skin, light, hair, grain and size; all of a lesion its shape,
    which tells nothing about its class. Place, turn, light and grain vary from one to the next.
    """
    style, shape, draw = Stream(seed, 5, patient), Stream(seed, 6, lesion), Stream(seed, 7, photo)
    gain, hairy = style.uniform(2, [0.82, 0], [1.08, 1])
    skin = SKIN[fitzpatrick - 1] + style.uniform(3, -8, 8)
    gains = gain * style.uniform(3, 0.94, 1.06)  # per channel
    slope = style.uniform(2, -0.18, 0.18)  # of the light across x and y
    hair_colour = style.uniform(1, 20, 110) * np.array([1.0, 0.8, 0.6])
    (level,) = style.uniform(1, 2, 9)  # of the grain
    width, height = SIZES[style.pick(1, (0.4, 0.2, 0.2, 0.2))[0]]

    # Radius as a share of half the shorter side, the core's as a share of it, width to height.
    size, share, ratio = shape.uniform(3, [0.62, 0.52, 0.88], [0.8, 0.64, 1.14])
    falling = np.array([[0.07], [0.05], [0.035], [0.025]])
    waves = shape.uniform(8, -1, 1).reshape(4, 2) * falling
    tint = shape.uniform(6, -14, 14).reshape(2, 3)

    half = min(width, height) / 2
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    x, y = (x + 0.5 - width / 2) / half, (y + 0.5 - height / 2) / half
    light = 1 + slope[0] * x + slope[1] * y

    *shift, scale = draw.uniform(3, [-0.1, -0.1, 0.92], [0.1, 0.1, 1.08])
    turn = draw.uniform(2, -1, 1)
    # Not `turn @ turn`: a BLAS may fuse multiply and add.
    turn = turn / max(float(np.sqrt(turn[0] * turn[0] + turn[1] * turn[1])), 1e-6)
    u, v = (x - shift[0]) / scale * ratio, (y - shift[1]) / scale / ratio
    u, v = turn[0] * u - turn[1] * v, turn[1] * u + turn[0] * v
    radius = np.sqrt(u * u + v * v) + 1e-9
    outline = _outline(u / radius, v / radius, waves)
    edge = 2.5 / half
    in_rim = _step((size * outline - radius) / edge)
    in_core = _step((size * share * (2 - outline) - radius) / edge)

    image = np.broadcast_to(skin, (height, width, 3))
    for mask, colour in ((in_rim, RIM[rim] + tint[1]), (in_core, CORE[core] + tint[0])):
        image = image + mask[:, :, None] * (colour - image)
    hairs = _hairs(draw, x, y, round(10 * hairy * hairy * draw.uniform(1, 0.6, 1.4)[0]))
    image = image + 0.8 * hairs[:, :, None] * (hair_colour - image)
    image = image * (gains * draw.uniform(1, 0.95, 1.05)) * light[:, :, None]
    grain = draw.uniform(height * width * 3, -level, level)
    return np.clip(image + grain.reshape(image.shape) + 0.5, 0, 255).astype(np.uint8)


def _outline(cos1: Floats, sin1: Floats, waves: Floats) -> Floats:
    """1 + sum of harmonics 2..5 of the angle, by the addition theorem; `waves` are (4, 2) cosine
    and sine amplitudes."""
    total, cos, sin = np.ones_like(cos1), cos1, sin1
    for a, b in waves:
        cos, sin = cos * cos1 - sin * sin1, sin * cos1 + cos * sin1
        total = total + a * cos + b * sin
    return total


def _step(distance: Floats) -> Floats:
    """0 outside, 1 inside, smooth over one unit on either side."""
    t = np.clip((distance + 1) / 2, 0, 1)
    return t * t * (3 - 2 * t)


def _hairs(draw: Stream, x: Floats, y: Floats, count: int) -> Floats:
    """(H, W) opacity of `count` bent hairs across the picture."""
    opacity = np.zeros_like(x)
    for _ in range(count):
        ax, ay, dx, dy, bend, thin = draw.uniform(6, -1, 1)
        length = float(np.sqrt(dx * dx + dy * dy)) + 1e-6
        along = ((x - ax) * dx + (y - ay) * dy) / length
        across = ((x - ax) * dy - (y - ay) * dx) / length + 0.4 * bend * along * along
        thickness = 0.018 + 0.006 * thin
        opacity = np.maximum(opacity, np.clip(1.5 - np.abs(across) / thickness, 0, 1))
    return opacity


def png_bytes(image: NDArray[np.uint8], alpha: bool) -> bytes:
    """A PNG of an (H, W, 3) picture; with an opaque alpha channel as most of PAD-UFES-20's.

    Stored, not compressed: a compressor's bytes depend on the zlib at hand.
    """
    height, width, _ = image.shape
    if alpha:
        image = np.concatenate([image, np.full((height, width, 1), 255, np.uint8)], axis=2)
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1)
    raw = rows.tobytes()
    blocks = [raw[i : i + 0xFFFF] for i in range(0, len(raw), 0xFFFF)]
    stream = b"\x78\x01" + b"".join(
        struct.pack("<BHH", i == len(blocks) - 1, len(block), len(block) ^ 0xFFFF) + block
        for i, block in enumerate(blocks)
    )
    stream += struct.pack(">I", zlib.adler32(raw))
    header = struct.pack(">IIBBBBB", width, height, 8, 6 if alpha else 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", stream), (b"IEND", b""))
    )
