"""What is known of a photograph besides its lesion: size, file, colour, sharpness, border, hash.

For audits: what a class can be told from without looking at the lesion, and which photographs are
copies of each other. Every file is decoded once; what was found is remembered by its contents.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageStat

from fusionbench.data.images import DECODER, FORMATS, decode
from fusionbench.data.threads import remembered
from fusionbench.files import Memory, cache_folder, reading
from fusionbench.progress import SILENT, Progress

VERSION = 3  # of the facts; a change reads the photographs again
SIDE = 256  # pixels; colour, sharpness, border and hash are of the photograph squashed to this
HASH_BITS = 256
# A picture without structure (one colour, a plain gradient) sets few bits of a hash that compares
# coefficients with their median; such hashes say nothing.
_STRUCTURE = HASH_BITS // 4
_STRIP = SIDE // 16  # width of the frame that counts as border
_BLACK, _WHITE, _FLAT = 30, 247, 1.5  # 8-bit levels; _FLAT is a standard deviation
LOOK = 32  # pixels a side of the thumbnail
# A frame: lines of pixels that deviate less than this, at most so deep. JPEG leaves some deviation.
_EVEN, _DEEPEST = 6.0, 0.3 * SIDE
_CELL = SIDE // 8


@dataclass(frozen=True)
class PhotoFacts:
    """One photograph.

    `width`, `height` in pixels, upright; `bytes` of the file; `format` as Pillow names it; `red`,
    `green`, `blue` mean levels 0..255; `sharpness` = log10(1 + variance of the Laplacian of the
    grey picture); `border` = share of the outer frame (a sixteenth of a side) that is black or
    white, or share of the four edge strips that are of one colour, whichever is more; `frame` =
    share of the picture in even lines along its edges; `corners` = how much darker (below 0) the
    corners are than the middles of the edges, grey levels; `edge_colour`, `edge_sharpness` = how
    far the 28 fields along the edge (an eighth of a side) lie apart in colour (of the farthest from
    their median, levels) and in log sharpness; `quantisation` = mean of a JPEG's luminance table,
    0 for other files; `camera` as the EXIF data name it; `hash` = 64 hex digits of a 256-bit
    perceptual hash, `look` a grey thumbnail without the frame in hex digits, both "" where the
    picture has no structure.
    """

    width: int
    height: int
    bytes: int
    format: str
    red: float
    green: float
    blue: float
    sharpness: float
    border: float
    frame: float
    corners: float
    edge_colour: float
    edge_sharpness: float
    quantisation: float
    camera: str
    hash: str
    look: str


def photo_facts(
    paths: Mapping[str, Path], *, name: str, progress: Progress = SILENT
) -> dict[str, PhotoFacts]:
    """sha256 (Table.digests) -> facts of every file, by its sha256.

    Remembered below the cache folder by content, one file per `name` (that of the dataset). Raises
    DataError for an unreadable file.
    """
    index = cache_folder() / "photo-facts" / f"{name}-v{VERSION}-{DECODER}.json"
    memory = Memory(index, PhotoFacts)
    return remembered(memory, facts_of, paths, "looking at photographs", "img", progress=progress)


def facts_of(path: Path) -> PhotoFacts:
    """Decode one file. Raises DataError where it is unreadable or no image."""
    import imagehash

    with reading(path):
        raw = path.read_bytes()
    pixels = decode(raw, SIDE, name=path.name)
    with Image.open(io.BytesIO(raw), formats=FORMATS) as header:
        width, height = header.size
        exif = header.getexif()
        if exif.get(0x0112) in (5, 6, 7, 8):  # lies on its side
            width, height = height, width
        kind = str(header.format)
        tables = getattr(header, "quantization", None) or {0: [0]}
    picture = Image.fromarray(pixels)
    grey = np.asarray(picture.convert("L"), dtype=np.int16)
    bits = imagehash.phash(picture, hash_size=16).hash.ravel()
    structured = bits.sum() >= _STRUCTURE
    inside = left, top, right, bottom = _inside(grey.astype(np.float32))
    look = picture.convert("L").crop(inside).resize((LOOK, LOOK), Image.Resampling.BOX)
    red, green, blue = (round(c, 2) for c in ImageStat.Stat(picture).mean)
    return PhotoFacts(
        width=width,
        height=height,
        bytes=len(raw),
        format="JPEG" if kind == "MPO" else kind,
        red=red,
        green=green,
        blue=blue,
        sharpness=round(float(np.log10(1 + _laplacian(grey).var())), 4),
        border=round(_border(pixels), 4),
        frame=round(1 - (bottom - top) * (right - left) / SIDE**2, 4),
        **_along_edge(picture.crop(inside).resize((SIDE, SIDE))),
        quantisation=round(float(np.mean(tables[min(tables)])), 2),
        camera=" ".join(str(exif.get(tag, "")).strip("\0 ") for tag in (0x010F, 0x0110)).strip(),
        hash=np.packbits(bits).tobytes().hex() if structured else "",
        look=look.tobytes().hex() if structured else "",
    )


def hash_bits(hashes: Sequence[str]) -> np.ndarray:
    """bool (n, 256) of the hashes of PhotoFacts; none may be ""."""
    raw = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8)
    return np.unpackbits(raw.reshape(len(hashes), HASH_BITS // 8), axis=1).astype(bool)


def thumbnails(looks: Sequence[str]) -> np.ndarray:
    """float (n, 32, 32) of the looks of PhotoFacts; none may be ""."""
    raw = np.frombuffer(bytes.fromhex("".join(looks)), dtype=np.uint8)
    return raw.reshape(-1, LOOK, LOOK).astype(np.float64)


def unframed(path: Path) -> np.ndarray:
    """uint8 (SIDE, SIDE): the photograph in grey, without its frame."""
    grey = Image.fromarray(decode(path, SIDE)).convert("L")
    inside = grey.crop(_inside(np.asarray(grey, dtype=np.float32)))
    return np.asarray(inside.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.uint8)


def _inside(grey: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is left without even lines along the edges."""
    box, most = [0, SIDE, 0, SIDE], int(_DEEPEST)
    for axis in (0, 1, 0, 1):  # lines across a frame are uneven until its other half is off
        part = grey[box[0] : box[1], box[2] : box[3]]
        mean, square = part.mean(axis=1 - axis), (part * part).mean(axis=1 - axis)
        uneven = np.flatnonzero(square - mean * mean >= _EVEN**2)
        if len(uneven):
            first, last = box[2 * axis] + uneven[0], box[2 * axis] + uneven[-1] + 1
            box[2 * axis : 2 * axis + 2] = min(first, most), max(last, SIDE - most)
    return box[2], box[0], box[3], box[1]


def _along_edge(picture: Image.Image) -> dict[str, float]:
    """`corners`, `edge_colour` and `edge_sharpness`, of a picture without its frame."""
    grey = np.asarray(picture.convert("L"), dtype=np.float32)
    colour = np.asarray(picture.reduce(_CELL), dtype=np.float32)
    ring = np.ones((8, 8), dtype=bool)
    ring[1:-1, 1:-1] = False
    apart = colour[ring] - np.median(colour[ring], axis=0)
    steps = np.abs(grey[1:, 1:] - grey[:-1, 1:]) + np.abs(grey[1:, 1:] - grey[1:, :-1])
    cells = np.pad(steps, ((0, 1), (0, 1))).reshape(8, _CELL, 8, _CELL).mean(axis=(1, 3))
    fine = np.log(1 + cells[ring])
    light = colour.mean(axis=2)
    corners = light[[0, 0, -1, -1], [0, -1, 0, -1]].mean()
    middles = np.concatenate([light[[0, -1], 3:5].ravel(), light[3:5, [0, -1]].ravel()]).mean()
    return {
        "corners": round(float(corners - middles), 2),
        "edge_colour": round(float(np.linalg.norm(apart, axis=1).max()), 2),
        "edge_sharpness": round(float(fine.max() - np.median(fine)), 4),
    }


def _laplacian(grey: np.ndarray) -> np.ndarray:
    inner = grey[1:-1, 1:-1]
    return grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner


def _border(pixels: np.ndarray) -> float:
    inside = slice(_STRIP, -_STRIP)
    slabs = (pixels[:_STRIP], pixels[-_STRIP:], pixels[inside, :_STRIP], pixels[inside, -_STRIP:])
    ring = np.concatenate([slab.reshape(-1, 3) for slab in slabs]).T
    extreme = (ring.max(axis=0) < _BLACK) | (ring.min(axis=0) > _WHITE)
    # Half the frame's width: a narrow frame of one colour is one, too.
    w = _STRIP // 2
    edges = (pixels[:w], pixels[-w:], pixels[:, :w], pixels[:, -w:])
    flat = [
        max(ImageStat.Stat(Image.fromarray(e)).stddev) < _FLAT
        for e in map(np.ascontiguousarray, edges)
    ]
    return max(float(extreme.mean()), float(np.mean(flat)))
