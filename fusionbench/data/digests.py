"""What is in a file, remembered: sha256 of contents, so that reopening a dataset is quick."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from fusionbench.data.threads import remembered
from fusionbench.files import Memory, cache_folder, reading, sha256_of
from fusionbench.progress import SILENT, Progress

# A file that changed so shortly before it was read may change again within the same time stamp.
_SETTLED_NS = 2_000_000_000


def file_digests(
    paths: Sequence[Path], *, root: Path, progress: Progress = SILENT
) -> dict[Path, str]:
    """sha256 (64 hex digits) of every file.

    Digests are remembered below the cache folder, by path, size, modification and change time, one
    index per data root; a file that changed is read again. Raises DataError for unreadable files.
    """
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    memory = Memory(cache_folder() / "digests" / f"{name}.json", str)
    files, fleeting, now = {}, set(), time.time_ns()
    for path in paths:
        with reading(path):
            stat = path.stat()
        times = (stat.st_mtime_ns, stat.st_ctime_ns)
        key = f"{path} {stat.st_size} {times}"
        files[key] = path
        if now - max(times) <= _SETTLED_NS:
            fleeting.add(key)
    digests = remembered(
        memory, _sha256, files, "reading files", "file", fleeting=fleeting, progress=progress
    )
    return {path: digests[key] for key, path in files.items()}


def _sha256(path: Path) -> str:
    with reading(path):
        return sha256_of(path)
