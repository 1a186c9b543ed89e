"""What is in a file, remembered: sha256 of contents, so that reopening a dataset is quick."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from fusionbench.data.threads import in_threads
from fusionbench.errors import DataError
from fusionbench.files import Memory, cache_folder
from fusionbench.progress import SILENT, Progress

# A file that changed so shortly before it was read may change again within the same time stamp.
_SETTLED_NS = 2_000_000_000

_Mark = tuple[int, int, int]


def file_digests(
    paths: Sequence[Path],
    *,
    root: Path,
    cache_dir: Path | None = None,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> list[str]:
    """sha256 (64 hex digits) of every file, in order.

    Digests are remembered below the cache folder, by path, size, modification and change time, one
    index per data root; a file that changed is read again. Raises DataError for unreadable files.
    """
    name = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    memory = Memory(cache_folder(cache_dir) / "digests" / f"{name}.json", tuple[_Mark, str])
    known = memory.read()
    marks = [_mark(path) for path in paths]
    keys = [str(path) for path in paths]
    todo = [
        i
        for i, (key, mark) in enumerate(zip(keys, marks, strict=True))
        if known.get(key, (None,))[0] != mark
    ]
    if todo:
        now = time.time_ns()
        contents = in_threads(
            _sha256, [paths[i] for i in todo], "reading files", "file",
            workers=workers, progress=progress,
        )  # fmt: skip
        fresh = {keys[i]: (marks[i], digest) for i, digest in zip(todo, contents, strict=True)}
        known = {**known, **fresh}
        settled = {k: v for k, v in fresh.items() if now - max(v[0][1:]) > _SETTLED_NS}
        if settled:
            memory.add(settled, progress)
    return [known[key][1] for key in keys]


def _mark(path: Path) -> _Mark:
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
