"""Draw a lesion: skin in the patient's own tone and light, a rim, a core, hair; and write a PNG.

Only additions, multiplications, divisions and square roots: the same bytes on every machine.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Style:
    """What all photographs of a patient have in common."""

    skin: Floats  # (3,) RGB
    light: Floats  # (3,) gain per channel
    gradient: Floats  # (2,) slope of the light across x and y
    hair: float  # mean number of hairs
    hair_colour: Floats  # (3,)
    grain: float  # amplitude of the noise
    size: tuple[int, int]  # width, height


def style_of(draw: Stream, fitzpatrick: int) -> Style:
    """The style of a patient of that Fitzpatrick type (1..6)."""
    gain = draw.uniform(1, 0.82, 1.08)
    hairy = draw.uniform(1)[0]
    return Style(
        skin=SKIN[fitzpatrick - 1] + draw.uniform(3, -8, 8),
        light=gain * draw.uniform(3, 0.94, 1.06),
        gradient=draw.uniform(2, -0.18, 0.18),
        hair=float(10 * hairy * hairy),
        hair_colour=draw.uniform(1, 20, 110) * np.array([1.0, 0.8, 0.6]),
        grain=float(draw.uniform(1, 2, 9)[0]),
        size=SIZES[draw.pick(1, (0.4, 0.2, 0.2, 0.2))[0]],
    )


@dataclass(frozen=True)
class Shape:
    """What all photographs of a lesion have in common."""

    rim: float  # mean radius as a share of half the shorter side
    core: float  # core's radius as a share of the rim's
    ratio: float  # width to height of the outline
    waves: Floats  # (4, 2) cosine and sine amplitudes of the outline's harmonics 2..5
    tint: Floats  # (2, 3) offsets of core's and rim's colour


def shape_of(draw: Stream) -> Shape:
    """The shape of a lesion; tells nothing about its class."""
    falling = np.array([[0.07], [0.05], [0.035], [0.025]])
    return Shape(
        rim=float(draw.uniform(1, 0.62, 0.8)[0]),
        core=float(draw.uniform(1, 0.52, 0.64)[0]),
        ratio=float(draw.uniform(1, 0.88, 1.14)[0]),
        waves=draw.uniform(8, -1, 1).reshape(4, 2) * falling,
        tint=draw.uniform(6, -14, 14).reshape(2, 3),
    )


def draw_lesion(draw: Stream, style: Style, shape: Shape, core: int, rim: int) -> NDArray[np.uint8]:
    """One photograph, (H, W, 3) RGB: place, turn, light and grain vary from one to the next."""
    width, height = style.size
    half = min(width, height) / 2
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    x, y = (x + 0.5 - width / 2) / half, (y + 0.5 - height / 2) / half
    light = 1 + style.gradient[0] * x + style.gradient[1] * y

    shift, scale = draw.uniform(2, -0.1, 0.1), draw.uniform(1, 0.92, 1.08)[0]
    turn = draw.uniform(2, -1, 1)
    # Not `turn @ turn`: a BLAS may fuse multiply and add.
    turn = turn / max(float(np.sqrt(turn[0] * turn[0] + turn[1] * turn[1])), 1e-6)
    u, v = (x - shift[0]) / scale * shape.ratio, (y - shift[1]) / scale / shape.ratio
    u, v = turn[0] * u - turn[1] * v, turn[1] * u + turn[0] * v
    radius = np.sqrt(u * u + v * v) + 1e-9
    outline = _outline(u / radius, v / radius, shape.waves)
    edge = 2.5 / half
    in_rim = _step((shape.rim * outline - radius) / edge)
    in_core = _step((shape.rim * shape.core * (2 - outline) - radius) / edge)

    image = np.broadcast_to(style.skin, (height, width, 3))
    for mask, colour in (
        (in_rim, RIM[rim] + shape.tint[1]),
        (in_core, CORE[core] + shape.tint[0]),
    ):
        image = image + mask[:, :, None] * (colour - image)
    hairs = _hairs(draw, x, y, round(style.hair * float(draw.uniform(1, 0.6, 1.4)[0])))
    image = image + 0.8 * hairs[:, :, None] * (style.hair_colour - image)
    image = image * (style.light * draw.uniform(1, 0.95, 1.05)) * light[:, :, None]
    grain = draw.uniform(height * width * 3, -style.grain, style.grain)
    return np.clip(image + grain.reshape(image.shape) + 0.5, 0, 255).astype(np.uint8)


def _outline(cos1: Floats, sin1: Floats, waves: Floats) -> Floats:
    """1 + sum of harmonics 2..5 of the angle, by the addition theorem."""
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
