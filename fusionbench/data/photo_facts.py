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

VERSION = 1  # of the facts; a change reads the photographs again
SIDE = 256  # pixels; colour, sharpness, border and hash are of the photograph squashed to this
HASH_BITS = 256
# A picture without structure (one colour, a plain gradient) sets few bits of a hash that compares
# coefficients with their median; such hashes say nothing.
_STRUCTURE = HASH_BITS // 4
_STRIP = SIDE // 16  # width of the frame that counts as border
_BLACK, _WHITE, _FLAT = 30, 247, 1.5  # 8-bit levels; _FLAT is a standard deviation


@dataclass(frozen=True)
class PhotoFacts:
    """One photograph.

    `width`, `height` in pixels, upright; `bytes` of the file; `format` as Pillow names it; `red`,
    `green`, `blue` mean levels 0..255; `sharpness` = log10(1 + variance of the Laplacian of the
    grey picture); `border` = share of the outer frame (a sixteenth of a side) that is black or
    white, or share of the four edge strips that are of one colour, whichever is more; `hash` = 64
    hex digits of a 256-bit perceptual hash, "" where the picture has no structure.
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
    hash: str


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
        if header.getexif().get(0x0112) in (5, 6, 7, 8):  # lies on its side
            width, height = height, width
        kind = str(header.format)
    picture = Image.fromarray(pixels)
    grey = np.asarray(picture.convert("L"), dtype=np.int16)
    bits = imagehash.phash(picture, hash_size=16).hash.ravel()
    structured = bits.sum() >= _STRUCTURE
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
        hash=np.packbits(bits).tobytes().hex() if structured else "",
    )


def hash_bits(hashes: Sequence[str]) -> np.ndarray:
    """bool (n, 256) of the hashes of PhotoFacts; none may be ""."""
    raw = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8)
    return np.unpackbits(raw.reshape(len(hashes), HASH_BITS // 8), axis=1).astype(bool)


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
