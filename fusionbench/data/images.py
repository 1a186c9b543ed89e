"""Photographs: which file belongs to a row, and how a file becomes pixels."""

from __future__ import annotations

import io
import os
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from fusionbench.config.run_config import Resize
from fusionbench.data.card import DatasetCard
from fusionbench.data.threads import in_threads
from fusionbench.errors import DataError
from fusionbench.files import reading
from fusionbench.progress import SILENT, Progress

EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")  # MPO (several JPEGs in one file) opens as JPEG
# Beyond today's cameras; a file that claims more is taken for a decompression bomb.
MAX_PIXELS = 250_000_000
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit is lower, and warns
# Broken EXIF: the picture itself is whole, and the warning does not say which file it is of.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
# Part of every cache key: raise it when `decode` gives other pixels for the same file.
DECODER = "1"


@dataclass(frozen=True)
class ImageIndex:
    """The image files below a data root, by stem (as `folded` gives it)."""

    root: Path
    by_stem: Mapping[str, list[Path]]
    skipped_links: tuple[Path, ...] = ()
    # By stem: files of other kinds, and what is no file.
    others: Mapping[str, Path] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(paths) for paths in self.by_stem.values())

    def candidates(self, name: str) -> tuple[Path, ...]:
        """Every file that `name` (a file name, or a relative path such as `NEL/NEL025.JPG`) may
        mean, the best kind of match only: exact, other case, same stem with another extension.
        A backslash separates folders, too; Unicode forms of a letter are the same letter.
        More than one: the caller must see whether they are copies of each other."""
        wanted = PurePosixPath(name.replace("\\", "/"))
        if wanted.name in ("", ".."):
            return ()
        stem = wanted.stem if wanted.suffix.lower() in EXTENSIONS else wanted.name
        alike = [p for p in self.by_stem.get(folded(stem), ()) if _ends_with(p, wanted)]
        named = [p for p in alike if folded(p.name) == folded(wanted.name)]
        exact = [p for p in named if _composed(p.name) == _composed(wanted.name)]
        return tuple(exact or named or alike)

    def unread(self, name: str) -> Path | None:
        """What has that stem and is of a kind that is not read, or no file."""
        stem = PurePosixPath(name.replace("\\", "/"))
        return self.others.get(folded(stem.name)) or self.others.get(folded(stem.stem))


def index_images(root: Path, card: DatasetCard) -> ImageIndex:
    """Every image file under the card's image folders (shell patterns allowed), at any depth.

    Links that lead out of `root` are not followed and are listed. An image folder that does not
    exist is passed over: rows without a file are reported where rows are read. Raises DataError
    for a pattern that cannot be used.
    """
    root = root.resolve()
    files: dict[Path, None] = {}
    others: dict[str, Path] = {}
    skipped: list[Path] = []
    no_files: list[Path] = []
    for pattern in card.files.images:
        for folder in _folders(root, pattern, card):
            if not _inside(folder, root):
                skipped.append(folder)
            elif folder.is_dir():
                files.update(dict.fromkeys(_walk(folder, root, skipped, no_files)))
    by_stem = defaultdict(list)
    for path in files:
        if path.suffix.lower() in EXTENSIONS:
            by_stem[folded(path.stem)].append(path)
        else:
            others[folded(path.stem)] = path
    others |= {folded(path.stem): path for path in no_files}
    return ImageIndex(root, by_stem, tuple(dict.fromkeys(skipped)), others)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def folded(name: str) -> str:
    """A file's name without case, Unicode form and blanks at its ends."""
    return _composed(name).strip().lower()


def decode(
    source: Path | bytes, size: int, *, resize: Resize = "squash", name: str = ""
) -> np.ndarray:
    """A photograph (a file or its bytes) as a uint8 array (size, size, 3), RGB.

    The EXIF orientation is applied; transparency is laid on black (opaque alpha, as in most
    PAD-UFES-20 files, changes nothing); colour profiles are ignored, as ImageNet training does.
    `squash` scales both sides to `size`; `crop` scales the short side and cuts out the centre.
    Scaling is bicubic with antialiasing; a JPEG is first reduced while decoding, never below twice
    `size`. Raises DataError where the file is no whole 8-bit picture of at most MAX_PIXELS.
    """
    picture = _open(source, 2 * size, name)
    if resize == "crop":
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
    else:
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture, dtype=np.uint8)


def verify_images(paths: Sequence[Path], *, progress: Progress = SILENT) -> dict[Path, str]:
    """Decode every file in full; what is wrong with those that do not open."""

    def check(path: Path) -> None:
        _open(path, None)

    return in_threads(check, paths, "opening photographs", "img", progress=progress)[1]


def _open(source: Path | bytes, least: int | None, name: str = "") -> Image.Image:
    """Decoded, upright RGB. `least`: both sides may be reduced to this while decoding."""
    if isinstance(source, Path):
        name = name or source.name
        with reading(name):
            source = source.read_bytes()
    if not source:
        raise DataError(f"{name} is empty.")
    try:
        with Image.open(io.BytesIO(source), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise DataError(f"{name} has {width} x {height} pixels; at most {MAX_PIXELS:,}.")
            if least is not None and picture.format in ("JPEG", "MPO"):
                picture.draft("RGB", (least, least))
            picture.load()
            return _rgb(ImageOps.exif_transpose(picture), name)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{name} claims too many pixels; at most {MAX_PIXELS:,}.") from None
    except (DataError, MemoryError):
        raise
    except Exception:  # Pillow's decoders raise many kinds of error for damaged files
        raise DataError(f"{name} {_fault(source)}.") from None


def _fault(contents: bytes) -> str:
    """Why a file that does not decode is no photograph."""
    start = contents[:200].lstrip()
    if contents[4:8] == b"ftyp":
        return "is a HEIC, AVIF or video file, which are not read; save it as JPEG"
    if start.startswith(b"GIF8"):
        return "is a GIF, which is not read; save it as PNG"
    if start.isascii() and not set(start) & {0, *range(14, 27)}:
        return f"is text, not a photograph; it begins with {start[:20].decode()!r}"
    return "is damaged, cut off or no image"


def _rgb(picture: Image.Image, name: str) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    if picture.mode.startswith(("I", "F")):
        raise DataError(f"{name} has more than 8 bits per channel ({picture.mode}).")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if np.asarray(picture.getchannel("A")).min() < 255:
            black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
            picture = Image.alpha_composite(black, picture)
    return picture.convert("RGB")


def _folders(root: Path, pattern: str, card: DatasetCard) -> list[Path]:
    if pattern in (".", "./"):
        return [root]
    either = (f"[{c.lower()}{c.upper()}]" if c.isalpha() else c for c in pattern)
    try:
        return sorted(root.glob(pattern)) or sorted(root.glob("".join(either)))
    except (OSError, ValueError, NotImplementedError) as error:
        raise DataError(
            f"The card of {card.name} names the image folder {pattern[:80]!r}: {error}."
        ) from None


def _walk(folder: Path, root: Path, skipped: list[Path], no_files: list[Path]) -> Iterable[Path]:
    with reading(folder), os.scandir(folder) as entries:
        found = sorted(entries, key=lambda e: e.name)
    for entry in found:
        path = Path(entry.path)
        if entry.name.startswith((".", "__MACOSX")):
            continue
        if entry.is_symlink() and (entry.is_dir() or not _inside(path, root)):
            skipped.append(path)
        elif entry.is_dir():
            if path.suffix.lower() in EXTENSIONS:
                no_files.append(path)
            yield from _walk(path, root, skipped, no_files)
        elif entry.is_file():
            yield path
        else:
            no_files.append(path)


def _inside(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root)


def _ends_with(path: Path, wanted: PurePosixPath) -> bool:
    """Whether the folders of `wanted` are the last folders of `path`."""
    parts = list(map(folded, wanted.parts[:-1]))
    return not parts or list(map(folded, path.parts[-1 - len(parts) : -1])) == parts
