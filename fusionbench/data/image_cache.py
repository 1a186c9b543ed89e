"""Decoded photographs on disk: decode once, map into memory ever after.

One file of uint8 rows per (files, size, resize policy), named after a hash of the files' contents
and of everything that decides their pixels. Beside it lies the crc32 of every finished row. Every
row is checked on opening (in threads: about as fast as reading the file, which training does next
anyway), and rows that are missing or damaged are decoded: a build that was interrupted goes on
where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from filelock import AcquireReturnProxy, FileLock, Timeout

from fusionbench.config.environment import usable_cores
from fusionbench.config.run_config import Resize
from fusionbench.data.images import DECODER, decode
from fusionbench.data.paths import plain_name
from fusionbench.data.threads import in_threads, unusable
from fusionbench.errors import DataError
from fusionbench.files import cache_folder, reading
from fusionbench.progress import SILENT, Progress

FORMAT = 1


def open_or_build(
    paths: Sequence[Path],
    digests: Sequence[str],
    size: int,
    *,
    resize: Resize = "squash",
    name: str = "images",
    lines: Sequence[int] = (),
    workers: int | None = None,
    progress: Progress = SILENT,
) -> np.memmap:
    """The decoded photographs of one view, in order: uint8 (n, size, size, 3), RGB, read-only.

    `paths` with the sha256 of each (Table.images and Table.digests), `size` in pixels. `name` only
    makes the file recognisable; `lines` of the csv (Table.lines) are named in errors.

    A second process that wants the same cache waits for the first. Raises DataError listing every
    photograph that does not decode or that changed since its digest was taken; OSError problems
    (disk full) as DataError too.
    """
    key = cache_key(digests, size, resize)
    data = cache_folder() / "images" / f"{plain_name(name)}-{size}-{key}.u8"
    shape = (len(paths), size, size, 3)

    def build_row(i: int) -> None:
        """Decode and write one row."""
        with reading(paths[i].name):
            contents = paths[i].read_bytes()
        if hashlib.sha256(contents).hexdigest() != digests[i]:
            raise DataError(f"{paths[i].name} changed while it was read.")
        row = decode(contents, size, resize=resize, name=paths[i].name).tobytes()
        # Plain writes, not the memory map: a full disk is then an error, not a crash.
        os.pwrite(file.fileno(), row, i * len(row))
        sums[i] = _checksum(row)

    try:
        data.parent.mkdir(parents=True, exist_ok=True)
        with _locked(data.with_suffix(".lock"), progress):
            sums = _finished(data, shape, workers, progress)
            if todo := np.flatnonzero(sums == 0).tolist():
                label = "decoding photographs"
                with data.open("r+b") as file:
                    faults = in_threads(
                        build_row, todo, label, "img", workers=workers, progress=progress
                    )[1]
                if faults:
                    line_of = dict(enumerate(lines))
                    raise unusable({paths[i]: (line_of.get(i), why) for i, why in faults.items()})
                if (checksums(_mapped(data, shape), workers) != sums).any():
                    raise DataError(f"{data} does not keep what is written.", "Check the disk.")
            return _mapped(data, shape)
    except OSError as error:
        raise DataError(
            f"The image cache in {data.parent} cannot be used: {error.strerror or error}.",
            "Free space there, or set $FUSIONBENCH_CACHE to another folder.",
        ) from error


def cache_key(digests: Sequence[str], size: int, resize: Resize = "squash") -> str:
    """16 hex digits of everything that decides the pixels, the version of Pillow included."""
    text = json.dumps([FORMAT, DECODER, PIL.__version__, size, resize, list(digests)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _locked(path: Path, progress: Progress) -> AcquireReturnProxy[FileLock]:
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0.1)
    except Timeout:
        progress.note(f"Waiting for another process that builds {path.stem}.")
        return lock.acquire(timeout=-1)


def _finished(
    data: Path, shape: tuple[int, ...], workers: int | None, progress: Progress
) -> np.ndarray:
    """uint32 (n,), mapped to the file beside `data`: the checksum of every row that has it, else 0.
    Both files exist afterwards."""
    beside = data.with_suffix(".crc32")
    logged = np.fromfile(beside, np.uint32) if beside.is_file() else np.zeros(0, np.uint32)
    with data.open("ab") as file:
        file.truncate(int(np.prod(shape)))
    sums = np.zeros(shape[0], dtype=np.uint32)
    if len(logged) == len(sums) and logged.any():
        sums = np.where(logged == checksums(_mapped(data, shape), workers), logged, 0)
        if damaged := int((sums != logged).sum()):
            progress.note(f"{damaged} rows of {data.name} are damaged and are decoded again.")
        elif not sums.all():
            n = np.count_nonzero(sums)
            progress.note(f"{n} of {shape[0]} photographs were decoded before.")
    if not np.array_equal(sums, logged):
        beside.write_bytes(sums.tobytes())
    return np.memmap(beside, dtype=np.uint32, mode="r+")


def checksums(array: np.ndarray, workers: int | None = None) -> np.ndarray:
    """crc32 of every row, uint32 (n,)."""
    rows = array.reshape(len(array), -1)
    blocks = np.array_split(np.arange(len(rows)), (workers or usable_cores()) * 4)
    with ThreadPoolExecutor(workers or usable_cores()) as pool:
        parts = pool.map(lambda block: [_checksum(rows[i]) for i in block], blocks)
        return np.array([crc for part in parts for crc in part], dtype=np.uint32)


def _checksum(row: Any) -> int:
    return zlib.crc32(row) or 1  # 0 stands for a row that is not there


def _mapped(path: Path, shape: tuple[int, ...]) -> np.memmap:
    return np.memmap(path, dtype=np.uint8, mode="r", shape=shape)
