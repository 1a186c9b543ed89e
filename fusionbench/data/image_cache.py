"""Decoded photographs on disk: decode once, map into memory ever after.

One file of uint8 rows per (files, size, resize policy), named after a hash of the files' contents
and of everything that decides their pixels. A manifest beside it holds a checksum per row; it is
written last, so a cache without a manifest is not one, and every row is checked on opening
(crc32 in threads: about as fast as reading the file, which training does next anyway).

While a cache is built, a journal holds the checksum of every finished row. After an interruption
finished rows that still have their checksum are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from filelock import AcquireReturnProxy, FileLock, Timeout

from fusionbench.config.run_config import Resize
from fusionbench.data.images import DECODER, decode
from fusionbench.data.paths import plain_name
from fusionbench.data.threads import in_threads
from fusionbench.errors import DataError
from fusionbench.files import cache_folder, write_atomically
from fusionbench.progress import SILENT, Progress

FORMAT = 1


@dataclass(frozen=True)
class ImageCache:
    """`array`: read-only uint8 (n, size, size, 3), RGB, in the order of the paths given."""

    array: np.ndarray
    path: Path
    key: str
    built: bool  # False: it was there already

    def __len__(self) -> int:
        return len(self.array)


def open_or_build(
    paths: Sequence[Path],
    digests: Sequence[str],
    size: int,
    *,
    resize: Resize = "squash",
    name: str = "images",
    cache_dir: Path | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> ImageCache:
    """The decoded photographs of one view: `paths` with the sha256 of each (Table.images and
    Table.digests), `size` in pixels. `name` only makes the file recognisable.

    A second process that wants the same cache waits for the first. A damaged or cut-off file is
    built anew. Raises DataError listing every photograph that does not decode or that changed
    since its digest was taken; OSError problems (disk full) as DataError too.
    """
    key = cache_key(digests, size, resize)
    folder = cache_folder(cache_dir) / "images"
    shape = (len(paths), size, size, 3)
    target = folder / f"{plain_name(name)}-{size}-{key}.u8"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_suffix(".lock"), progress):
            array = _open(target, key, shape, workers, progress)
            if array is not None:
                return ImageCache(array, target, key, built=False)
            _build(target, key, shape, paths, digests, resize, workers, progress)
            array = _open(target, key, shape, workers, progress)
    except OSError as error:
        raise DataError(
            f"The image cache in {folder} cannot be used: {error.strerror or error}.",
            "Free space there, or set $FUSIONBENCH_CACHE to another folder.",
        ) from error
    if array is None:
        raise DataError(f"{target} does not keep what is written to it.", "Check the disk.")
    return ImageCache(array, target, key, built=True)


def cache_key(digests: Sequence[str], size: int, resize: Resize = "squash") -> str:
    """16 hex digits of everything that decides the pixels, the version of Pillow included."""
    text = json.dumps([FORMAT, DECODER, PIL.__version__, size, resize, list(digests)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find_caches(
    digests: Sequence[str], *, cache_dir: Path | None = None
) -> tuple[dict[str, object], ...]:
    """The finished caches of those photographs: path, size, resize, bytes."""
    found: list[dict[str, object]] = []
    for manifest in sorted((cache_folder(cache_dir) / "images").glob("*.json")):
        raw = _manifest(manifest)
        size, resize = raw.get("size"), raw.get("resize")
        data = manifest.with_suffix(".u8")
        if not isinstance(size, int) or not data.is_file():
            continue
        if raw.get("key") == cache_key(digests, size, "crop" if resize == "crop" else "squash"):
            found.append(
                {"path": str(data), "size": size, "resize": resize, "bytes": data.stat().st_size}
            )
    return tuple(found)


def _locked(path: Path, progress: Progress) -> AcquireReturnProxy[FileLock]:
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0.1)
    except Timeout:
        progress.note(f"Waiting for another process that builds {path.stem}.")
        return lock.acquire(timeout=-1)


def _open(
    target: Path, key: str, shape: tuple[int, ...], workers: int | None, progress: Progress
) -> np.ndarray | None:
    """The finished cache, every row checked; None where there is none or it is damaged."""
    manifest = target.with_suffix(".json")
    if not manifest.is_file():
        return None
    raw = _manifest(manifest)
    sums = raw.get("crc32")
    whole = raw.get("key") == key and isinstance(sums, list) and len(sums) == shape[0]
    if whole and target.is_file() and target.stat().st_size == int(np.prod(shape)):
        array = _mapped(target, shape)
        if checksums(array, workers).tolist() == sums:
            return array
        del array
    progress.note(f"The image cache {target.name} is damaged and is built anew.")
    manifest.unlink(missing_ok=True)
    target.unlink(missing_ok=True)
    return None


def checksums(array: np.ndarray, workers: int | None = None) -> np.ndarray:
    """crc32 of every row, uint32 (n,)."""
    rows = array.reshape(len(array), -1)
    blocks = np.array_split(np.arange(len(rows)), (workers or os.cpu_count() or 1) * 4)
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        parts = pool.map(lambda block: [zlib.crc32(rows[i]) for i in block], blocks)
        return np.array([crc for part in parts for crc in part], dtype=np.uint32)


def _build(
    target: Path,
    key: str,
    shape: tuple[int, ...],
    paths: Sequence[Path],
    digests: Sequence[str],
    resize: Resize,
    workers: int | None,
    progress: Progress,
) -> None:
    part, journal = target.with_suffix(".part"), target.with_suffix(".journal")
    sums = _resume(part, journal, shape, workers)
    todo = np.flatnonzero(sums == 0).tolist()
    if len(todo) < shape[0]:
        progress.note(f"{shape[0] - len(todo)} of {shape[0]} photographs were decoded before.")

    def build_row(i: int) -> str:
        """Decode and write one row; returns why not."""
        try:
            row = _pixels(paths[i], digests[i], shape[1], resize).tobytes()
        except DataError as error:
            return error.message
        # Plain writes, not the memory map: a full disk is then an error, not a crash.
        os.pwrite(data.fileno(), row, i * len(row))
        sums[i] = zlib.crc32(row)
        return ""

    with part.open("r+b") as data:
        reasons = in_threads(
            build_row, todo, "decoding photographs", "img", workers=workers, progress=progress
        )
        problems: list[dict[str, object]] = [
            {"file": str(paths[i]), "problem": reason}
            for i, reason in zip(todo, reasons, strict=True)
            if reason
        ]
    if problems:
        raise DataError(
            f"{len(problems)} of {shape[0]} photographs could not be decoded; the first: "
            f"{problems[0]['problem']}",
            "Replace those files; `fusionbench data verify` checks all of them.",
            problems,
        )
    manifest = {"key": key, "size": shape[1], "resize": resize, "crc32": sums.tolist()}
    part.replace(target)
    write_atomically(target.with_suffix(".json"), json.dumps(manifest))
    journal.unlink(missing_ok=True)


def _resume(part: Path, journal: Path, shape: tuple[int, ...], workers: int | None) -> np.ndarray:
    """The journal, mapped: uint32 (n,), crc32 of every finished row, else 0. What an interrupted
    build left counts as far as its rows still have their checksum. Both files exist afterwards."""
    sums = np.zeros(shape[0], dtype=np.uint32)
    total = int(np.prod(shape))
    if part.is_file() and journal.is_file():
        logged = np.fromfile(journal, dtype=np.uint32)
        if logged.shape == sums.shape and part.stat().st_size == total:
            sums = np.where(logged == checksums(_mapped(part, shape), workers), logged, sums)
    with part.open("ab") as file:
        file.truncate(total)
    journal.write_bytes(sums.tobytes())
    return np.memmap(journal, dtype=np.uint32, mode="r+")


def _pixels(path: Path, digest: str, size: int, resize: Resize) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror or error}.") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise DataError(f"{path.name} changed while it was read.")
    return decode(data, size, resize=resize, name=path.name)


def _manifest(path: Path) -> dict[str, object]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    return np.memmap(path, dtype=np.uint8, mode="r", shape=shape)
