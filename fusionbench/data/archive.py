"""Unpacking a downloaded archive without trusting it.

Nothing leaves the target folder, no link or device is created, sizes are counted while they are
written, and the target appears only once everything is in it.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from fusionbench.data.paths import unsafe_path
from fusionbench.errors import DataError
from fusionbench.progress import SILENT, Progress

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_CHUNK = 1 << 20
_NESTED = 2  # archives inside archives, how deep


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to, archives inside it included."""

    files: int = 200_000
    bytes: int = 64 << 30
    # Times the archive's own size; photographs hardly compress, so far more is a bomb. Archives
    # below `small` bytes unpacked are not judged by it.
    ratio: float = 50.0
    small: int = 64 << 20


@dataclass
class _Budget:
    archive: str  # the name of the outermost one
    limits: Limits
    bytes_left: int
    files_left: int

    def file(self) -> None:
        self.files_left -= 1
        if self.files_left < 0:
            raise DataError(f"{self.archive} holds more than {self.limits.files:,} files.", _BOMB)

    def take(self, count: int) -> None:
        self.bytes_left -= count
        if self.bytes_left < 0:
            raise self.exceeded()

    def exceeded(self) -> DataError:
        return DataError(f"{self.archive} unpacks to far more than its size allows.", _BOMB)


# What zipfile, tarfile and their decompressors raise for broken files; a ValueError also for names
# that are no text, an IndexError or struct.error for headers that end too early.
_DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, ValueError, KeyError, IndexError, OverflowError),
)
_BOMB = "It may be damaged or hostile; unpack it by hand if you trust it."


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ARCHIVES)


def unpack(
    archive: Path,
    dest: Path,
    *,
    accept: Callable[[Path], None] | None = None,
    limits: Limits | None = None,
    progress: Progress = SILENT,
) -> None:
    """Unpack a .zip or .tar(.gz, .bz2, .xz) into `dest`, which must not exist or be empty.

    Archives inside it (PAD-UFES-20 is published so) are unpacked beside themselves, into a folder
    of their name, and removed. `accept` sees the unpacked folder before it becomes `dest`, and may
    raise. On any error `dest` is as it was. Raises DataError: unsafe members (all of them in
    `problems`), a damaged or encrypted archive, more than `limits`.
    """
    limits = limits or Limits()
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise DataError(f"{dest} is not empty.", "Name another folder, or remove it first.")
    size = archive.stat().st_size
    allowed = min(limits.bytes, max(limits.small, int(size * limits.ratio)))
    budget = _Budget(archive.name, limits, allowed, limits.files)
    dest.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{dest.name}-", dir=dest.parent))
    try:
        inside = work / "data"
        inside.mkdir()
        _unpack_one(archive, inside, budget, progress)
        _unpack_nested(inside, budget, progress, _NESTED)
        if accept is not None:
            accept(inside)
        if dest.exists():
            dest.rmdir()
        inside.rename(dest)
    except OSError as error:
        raise DataError(
            f"{archive} cannot be unpacked to {dest}: {error.strerror or error}."
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def unpack_inner(root: Path, *, limits: Limits | None = None, progress: Progress = SILENT) -> int:
    """Unpack archives that lie in an unpacked folder, each into a folder of its name beside it;
    one whose folder exists is passed over, and the archives stay. Returns how many were unpacked.
    """
    count = 0
    for path in sorted(p for p in root.rglob("*") if is_archive(p) and p.is_file()):
        if path.is_symlink() or _folder_of(path).exists():
            continue
        unpack(path, _folder_of(path), limits=limits, progress=progress)
        count += 1
    return count


def _unpack_nested(folder: Path, budget: _Budget, progress: Progress, depth: int) -> None:
    if depth == 0:
        return
    for path in sorted(p for p in folder.rglob("*") if is_archive(p) and p.is_file()):
        target = _folder_of(path)
        target.mkdir(exist_ok=True)
        _unpack_one(path, target, budget, progress)
        path.unlink()
        _unpack_nested(target, budget, progress, depth - 1)


def _folder_of(path: Path) -> Path:
    suffix = next(
        s for s in sorted(ARCHIVES, key=len, reverse=True) if path.name.lower().endswith(s)
    )
    return path.with_name(path.name[: -len(suffix)] or "unpacked")


def _unpack_one(archive: Path, dest: Path, budget: _Budget, progress: Progress) -> None:
    try:
        with _members(archive, budget) as members:
            wanted = [m for m in members if not _is_litter(m.name)]
            problems: list[dict[str, object]] = [
                {"file": archive.name, "value": m.name[:80], "problem": m.why_not}
                for m in wanted
                if m.why_not
            ]
            if problems:
                raise DataError(
                    f"{archive.name} holds {len(problems)} member(s) that may not be unpacked; the "
                    f"first: {problems[0]['value']!r} {problems[0]['problem']}.",
                    "Nothing was unpacked.",
                    problems,
                )
            label = f"unpacking {archive.name}"
            with progress.task(label, total=len(wanted), unit="file") as task:
                for member in wanted:
                    _write(member, dest, budget)
                    task.advance()
    except _DAMAGED as error:
        raise DataError(f"{archive.name} is damaged: {error}.", "Download it again.") from None
    except (RuntimeError, NotImplementedError) as error:  # zipfile: encrypted, odd compression
        raise DataError(f"{archive.name} cannot be read: {error}.") from None


@dataclass(frozen=True)
class _Member:
    name: str
    why_not: str
    source: zipfile.ZipFile | tarfile.TarFile
    info: zipfile.ZipInfo | tarfile.TarInfo

    def open(self) -> IO[bytes]:
        if isinstance(self.source, zipfile.ZipFile):
            assert isinstance(self.info, zipfile.ZipInfo)
            return self.source.open(self.info)
        assert isinstance(self.info, tarfile.TarInfo)
        stream = self.source.extractfile(self.info)
        assert stream is not None  # only regular files get here
        return stream


@contextmanager
def _members(archive: Path, budget: _Budget) -> Iterator[list[_Member]]:
    """The files of an archive; folders come with their files."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as pack:
            yield [
                _Member(i.filename, unsafe_path(i.filename) or _zip_kind(i), pack, i)
                for i in pack.infolist()
                if not i.is_dir()
            ]
        return
    with _decompressed(archive) as stream:
        guarded = _Guarded(stream, budget)
        with _tar(archive, guarded) as tar:
            kind = "is a link or a device"
            yield [
                _Member(i.name, unsafe_path(i.name) or ("" if i.isreg() else kind), tar, i)
                for i in tar.getmembers()
                if not i.isdir()
            ]


def _tar(archive: Path, guarded: _Guarded) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=guarded, mode="r:")
    except (*_DAMAGED, OSError):
        raise DataError(
            f"{archive} is no archive that can be read ({', '.join(ARCHIVES)})."
        ) from None


def _decompressed(archive: Path) -> IO[bytes]:
    with archive.open("rb") as file:
        magic = file.read(6)
    opener: Callable[..., Any] = Path.open
    if magic.startswith(b"\x1f\x8b"):
        opener = gzip.open
    elif magic.startswith(b"BZh"):
        opener = bz2.open
    elif magic == b"\xfd7zXZ\x00":
        opener = lzma.open
    return cast(IO[bytes], opener(archive, "rb"))


class _Guarded(io.BufferedIOBase):
    """A tar as a stream that ends in an error where it grows beyond what may be unpacked, padding
    and headers included: listing the members reads all of it, and a header is read whole."""

    def __init__(self, stream: IO[bytes], budget: _Budget) -> None:
        self.stream, self.budget = stream, budget
        self.end = budget.bytes_left + 4 * tarfile.BLOCKSIZE * (budget.files_left + 100)

    def read(self, size: int | None = -1) -> bytes:
        here = self.stream.tell()
        if size is None or size < 0 or here + size > self.end:
            raise self.budget.exceeded()
        return self.stream.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset > self.end:
            raise self.budget.exceeded()
        return self.stream.seek(offset)

    def tell(self) -> int:
        return self.stream.tell()


def _zip_kind(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    return "" if kind in (0, stat.S_IFREG) else "is a link or a device"


def _is_litter(name: str) -> bool:
    parts = name.split("/")
    return "__MACOSX" in parts or parts[-1] in (".DS_Store", "Thumbs.db", "desktop.ini")


def _write(member: _Member, dest: Path, budget: _Budget) -> None:
    budget.file()
    target = dest / member.name
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # "x": a name that comes twice is an error, not the last one's victory.
        with member.open() as source, target.open("xb") as out:
            while chunk := source.read(_CHUNK):
                budget.take(len(chunk))
                out.write(chunk)
    except FileExistsError:
        raise DataError(f"{budget.archive} holds {member.name} twice.", _BOMB) from None
    target.chmod(0o644)
