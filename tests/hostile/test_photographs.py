"""Photographs that are none, that claim too much, or that are of an unusual kind."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from attempts import Attempts, mutated
from PIL import Image

from fusionbench.data.images import decode, verify_images
from fusionbench.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)


def encoded(kind: str, mode: str = "RGB", **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(out, kind, **options)
    return out.getvalue()


def exif() -> bytes:
    tags = Image.Exif()
    tags[0x0112] = 6
    return tags.tobytes()


def animated(kind: str) -> bytes:
    frames = [Image.fromarray(np.roll(PIXELS, i, axis=0)) for i in range(3)]
    out = io.BytesIO()
    frames[0].save(out, kind, save_all=True, append_images=frames[1:])
    return out.getvalue()


GOOD = {
    "a.jpg": encoded("JPEG"),
    "progressive.jpg": encoded("JPEG", progressive=True),
    "cmyk.jpg": encoded("JPEG", "CMYK"),
    "grey.jpg": encoded("JPEG", "L"),
    "turned.jpg": encoded("JPEG", exif=exif()),
    "a.png": encoded("PNG"),
    "alpha.png": encoded("PNG", "RGBA"),
    "palette.png": encoded("PNG", "P"),
    "one.png": encoded("PNG", "1"),
    "animated.png": animated("PNG"),
    "a.bmp": encoded("BMP"),
    "a.webp": encoded("WEBP"),
    "animated.webp": animated("WEBP"),
    "a.tiff": encoded("TIFF"),
    "jpeg.tiff": encoded("TIFF", compression="jpeg"),
    "lzw.tiff": encoded("TIFF", compression="tiff_lzw"),
    "deflate.tiff": encoded("TIFF", "RGBA", compression="tiff_adobe_deflate"),
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.hostile("photographs")
def test_mutated_photographs(attempts: Attempts, name: str) -> None:
    draw = random.Random(name)
    good = GOOD[name]
    assert decode(good, 16, name=name).shape == (16, 16, 3)
    path = Path(name)
    for case in range(70):
        data = mutated(draw, good) if case % 3 else good[: draw.randrange(len(good))]
        path.write_bytes(data)
        if attempts(lambda: decode(path, 16, resize=draw.choice(["squash", "crop"])), name):
            assert decode(path, 16).shape == (16, 16, 3)
    attempts.finish(70, refused=20)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int = 8, colour: int = 2, body: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(body or b"\x00" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def webp_of(width: int, height: int) -> bytes:
    body = b"VP8X" + struct.pack("<I", 10) + b"\x00" * 4
    body += struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def bmp_of(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


def jpeg_of(width: int, height: int) -> bytes:
    data = bytearray(GOOD["a.jpg"])
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


SIZES = [
    (1, 250_000_001),
    (16_000, 16_000),
    (65_535, 65_535),
    (2**31 - 1, 2**31 - 1),
    (2**24, 2**24),
]
CLAIMS: list[tuple[str, bytes]] = [
    *((f"{w}x{h}.png", png(w, h)) for w, h in [*SIZES, (0, 0), (0, 5), (2**32 - 1, 1)]),
    *((f"{w}x{h}.bmp", bmp_of(w, h)) for w, h in [*SIZES, (-5, 5), (5, -(2**31)), (0, 0)]),
    *((f"{w}x{h}.webp", webp_of(w, h)) for w, h in [(2**14, 2**14), (2**24, 2**24), (16_384, 1)]),
    *((f"{w}x{h}.jpg", jpeg_of(w, h)) for w, h in [(65_535, 65_535), (65_000, 4_000), (0, 0)]),
    ("bomb.png", png(8_000, 8_000, body=b"\x00" * 10_000)),  # within the limit, but cut off
    ("text-bomb.png", png(4, 4)[:33] + chunk(b"zTXt", b"a\x00\x00" + zlib.compress(bytes(10**8)))),
    (
        "profile-bomb.png",
        png(4, 4)[:33] + chunk(b"iCCP", b"a\x00\x00" + zlib.compress(bytes(10**8))),
    ),
    ("sixteen.png", encoded("PNG", "I;16")),
    ("float.tiff", encoded("TIFF", "F")),
    ("a.gif", encoded("GIF", "P")),
    ("a.ppm", encoded("PPM")),
    ("a.ico", encoded("ICO")),
    ("tiff16.png", encoded("TIFF", "I;16")),
    ("script.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(victim) run\n"),
    ("vector.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/>'),
    ("archive.png", b"PK\x03\x04" + b"\x00" * 50),
    ("empty.jpg", b""),
    ("magic.png", b"\x89PNG\r\n\x1a\n"),
    ("magic.jpg", b"\xff\xd8\xff"),
    ("magic.webp", b"RIFF\xff\xff\xff\xffWEBPVP8 "),
    ("html.jpg", b"<!DOCTYPE html><html>not found</html>"),
]


@pytest.mark.parametrize(("name", "data"), CLAIMS, ids=[name for name, _ in CLAIMS])
@pytest.mark.hostile("photographs")
def test_what_is_no_photograph_is_refused(attempts: Attempts, name: str, data: bytes) -> None:
    path = Path(name)
    path.write_bytes(data)
    assert not attempts(lambda: decode(path, 16), name)
    attempts.finish(1)
    assert [*verify_images([path])] == [path]


@pytest.mark.hostile("photographs")
def test_odd_but_whole_photographs_are_read(attempts: Attempts) -> None:
    for name, data in GOOD.items():
        assert attempts(lambda d=data, n=name: decode(d, 16, name=n), name)
    # Sixteen bits of grey are refused, not silently cut to eight.
    with pytest.raises(DataError, match="8 bits"):
        decode(encoded("PNG", "I;16"), 16, name="sixteen.png")
    long = io.BytesIO()
    Image.new("RGB", (20_000, 1)).save(long, "PNG")
    assert attempts(lambda: decode(long.getvalue(), 16, name="long.png"), "long.png")
    attempts.finish(len(GOOD) + 1, refused=0)


@pytest.mark.hostile("photographs")
def test_what_is_no_file_is_refused(attempts: Attempts) -> None:
    Path("folder.png").mkdir()
    Path("link.png").symlink_to("nowhere.png")
    for name in ("folder.png", "link.png", "absent.png", "a" * 300 + ".png"):
        assert not attempts(lambda n=name: decode(Path(n), 16), name)
    attempts.finish(4, refused=4)
