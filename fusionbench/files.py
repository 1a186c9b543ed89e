"""Files that are complete or absent, their digests, and small facts remembered in the user's cache
folder."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Generic, TypeVar

from fusionbench.errors import DataError, FusionbenchError, UsageError
from fusionbench.progress import SILENT, Progress

MOST_HEADER = 8 << 20  # bytes, of a safetensors file: tens of thousands of tensors
Contents = str | bytes | Iterable[bytes | memoryview]
T = TypeVar("T")
_NOTED: set[str] = set()  # what this process has said of the cache folder


def write_atomically(path: Path, contents: Contents, temporary: Path | None = None) -> None:
    """Write all of a file or none of it, even if the machine stops half-way.

    Text is written as UTF-8, line breaks as they are. The data go to a temporary file in the same
    folder (`.*.tmp`) that is renamed once it is on the disk; a link at `path` is replaced, not
    followed. `temporary`: a fixed name for it; a file that a killed process left there is
    overwritten. Creates missing folders. Raises OSError.
    """
    if isinstance(contents, str):
        contents = contents.encode("utf-8")
    chunks = (contents,) if isinstance(contents, bytes) else contents
    path.parent.mkdir(parents=True, exist_ok=True)
    if temporary is None:
        temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    else:
        temporary.unlink(missing_ok=True)
    try:
        with temporary.open("xb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_output(path: Path, contents: str | bytes) -> None:
    """Write a file that the user named with --output. Links are followed, and a device or pipe
    such as /dev/stdout is written to directly. Raises FusionbenchError where that fails."""
    try:
        if path.exists() and not path.is_file():
            with open(_open_pipe(path), "wb") as file:
                file.write(contents.encode("utf-8") if isinstance(contents, str) else contents)
        else:
            write_atomically(path.resolve(), contents)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        reason = getattr(error, "strerror", None) or error
        raise FusionbenchError(
            f"{path} cannot be written: {reason}.", "Name another file."
        ) from error


def _open_pipe(path: Path, patience: float = 2) -> int:
    """Open for writing, without waiting for ever for a process that reads the pipe."""
    until = time.monotonic() + patience
    while True:
        try:
            handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            os.set_blocking(handle, True)
            return handle


@contextmanager
def new_folder(path: Path, progress: Progress = SILENT) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the block ends; an error leaves nothing behind,
    and what a killed process left is named and removed.

    Raises DataError where `path` exists already, unless it is an empty folder, and OSError.
    """
    from filelock import FileLock, Timeout

    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"{path} is not empty.", "Name another folder, or delete it first.")
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}-"
    for lock in path.parent.glob(f"{glob.escape(prefix)}*/lock"):
        # A process that still fills its folder holds the lock in it.
        with suppress(OSError, Timeout), FileLock(lock, timeout=0):
            shutil.rmtree(lock.parent)
            progress.note(f"Removed {lock.parent}, which an interrupted command had left.")
    work: str | Path
    with TemporaryDirectory(prefix=prefix, dir=path.parent) as work, FileLock(Path(work) / "lock"):
        folder = Path(work) / "new"  # unlike `work` readable for all, as far as the umask allows
        folder.mkdir()
        yield folder
        if path.exists():
            path.rmdir()
        folder.rename(path)


def cache_folder() -> Path:
    """Where derived files go: `$FUSIONBENCH_CACHE`, or the user's cache folder. Raises UsageError
    where that cannot be told."""
    from platformdirs import user_cache_dir

    return _own_folder(user_cache_dir)


def lasting_folder() -> Path:
    """Where files go that must not be lost: `$FUSIONBENCH_CACHE`, or the user's data folder. Raises
    UsageError where that cannot be told."""
    from platformdirs import user_data_dir

    return _own_folder(user_data_dir)


def _own_folder(usual: Callable[..., str]) -> Path:
    named = os.environ.get("FUSIONBENCH_CACHE", "").strip()
    try:
        folder = Path(named or usual("fusionbench", appauthor=False)).expanduser()
    except RuntimeError:
        raise UsageError(
            f"The cache cannot be in {named or '~/.cache'}: no such home folder is known here.",
            "Set FUSIONBENCH_CACHE to a folder that can be written to.",
        ) from None
    return folder.absolute()


def sha256_of(path: Path) -> str:
    """64 hex digits of what is in a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_header(path: Path) -> None:
    """Raise ValueError where the header of a safetensors file is too large to be parsed in a
    moment. Raises OSError."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > MOST_HEADER:
        raise ValueError(f"its header would have {size:,} bytes, above {MOST_HEADER:,}")


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """An OSError in the block becomes a DataError: `path` cannot be read."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None


class Memory(Generic[T]):
    """A JSON file of results that cost time to compute: text -> T.

    `kind` is what pydantic can read from JSON: a dataclass, a tuple of numbers, text. Several
    processes may use the file at the same time. A damaged file counts as an empty one.
    """

    def __init__(self, path: Path, kind: type[T]) -> None:
        from pydantic import TypeAdapter

        self.path = path
        self._entries: TypeAdapter[dict[str, T]] = TypeAdapter(dict[str, kind])  # type: ignore[valid-type]

    def read(self) -> dict[str, T]:
        """All that is remembered."""
        try:
            return self._entries.validate_json(self.path.read_bytes())
        except (OSError, ValueError):
            return {}

    def add(self, entries: Mapping[str, T], progress: Progress) -> None:
        """Remember `entries` too. Where the file cannot be written, a note says so once."""
        from filelock import FileLock, Timeout

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock"), timeout=10):
                write_atomically(
                    self.path, self._entries.dump_json({**self.read(), **entries}, indent=1)
                )
        except (OSError, Timeout) as error:
            text = (
                f"{cache_folder()} cannot be written to ({getattr(error, 'strerror', '') or error})"
                ", so what is kept there is computed in every run. FUSIONBENCH_CACHE names another "
                "folder."
            )
            if text not in _NOTED:
                _NOTED.add(text)
                progress.note(text)
