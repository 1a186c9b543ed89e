"""Unpacking a downloaded archive without trusting it.

Nothing leaves the target folder, no link or device is created, the declared sizes are added up
before anything is written (neither zipfile nor tarfile gives more than a member declares), and the
target appears only once everything is in it.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from fusionbench.data.paths import unsafe_path
from fusionbench.errors import DataError
from fusionbench.files import new_folder
from fusionbench.progress import SILENT, Progress

ARCHIVES = (".tar.gz", ".tar.bz2", ".tar.xz", ".zip", ".tar", ".tgz")
_COMPRESSED: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open
}  # fmt: skip
_NESTED = 2  # archives inside archives, how deep
# Times the archive's size; photographs hardly compress, so an archive that unpacks to more, and to
# more than _SMALL bytes, is a bomb.
_RATIO, _SMALL, _LARGEST = 50, 64 << 20, 64 << 30
_BOMB = "It may be damaged or hostile; unpack it by hand if you trust it."
_LITTER = {"__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini"}
# What zipfile, tarfile and their decompressors raise for broken files; a ValueError also for names
# that are no text, a RuntimeError for encrypted members, a MemoryError for impossible headers.
_DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError),
    *(ValueError, KeyError, IndexError, OverflowError, RuntimeError, MemoryError),
)


def unpack(
    archive: Path,
    dest: Path,
    *,
    accept: Callable[[Path], None] | None = None,
    max_files: int = 200_000,
    max_bytes: int | None = None,
    progress: Progress = SILENT,
) -> None:
    """Unpack a .zip or .tar(.gz, .bz2, .xz) into `dest`, which must not exist or be empty.

    Archives inside it (PAD-UFES-20 is published so) are unpacked beside themselves, into a folder
    of their name, and removed; they count in `max_files` and `max_bytes` (default: 50 times the
    archive's size). `accept` sees the unpacked folder before it becomes `dest`, and may raise. On
    any error `dest` is as it was. Raises DataError: unsafe members (all of them in `problems`), a
    damaged or encrypted archive, too many files or bytes.
    """
    if max_bytes is None:
        max_bytes = min(_LARGEST, max(_SMALL, _RATIO * archive.stat().st_size))
    budget = _Budget(archive.name, max_files, max_bytes)
    try:
        with new_folder(dest, progress) as folder:
            _unpack(archive, folder, budget, progress)
            for _ in range(_NESTED):
                for inner in _archives_in(folder):
                    _folder_of(inner).mkdir(exist_ok=True)
                    _unpack(inner, _folder_of(inner), budget, progress)
                    inner.unlink()
            if accept is not None:
                accept(folder)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{archive} cannot be unpacked to {dest}: {reason}.") from error


def unpack_inner(folder: Path, *, progress: Progress = SILENT) -> None:
    """Unpack archives that lie in an unpacked folder, each into a folder of its name beside it.
    One whose folder exists is skipped, and the archives stay."""
    for archive in _archives_in(folder):
        if not _folder_of(archive).exists():
            unpack(archive, _folder_of(archive), progress=progress)


class _Budget:
    """What may still be unpacked from an archive and those inside it."""

    def __init__(self, name: str, files: int, size: int) -> None:
        self.name, self.files, self.bytes = name, files, size

    def take(self, files: int, size: int) -> None:
        self.files, self.bytes = self.files - files, self.bytes - size
        if self.files < 0 or self.bytes < 0:
            what = "more files than allowed" if self.files < 0 else "far more than its size allows"
            raise DataError(f"{self.name} unpacks to {what}.", _BOMB)


def _archives_in(folder: Path) -> list[Path]:
    paths = sorted(p for p in folder.rglob("*") if p.name.lower().endswith(ARCHIVES))
    return [p for p in paths if p.is_file() and not p.is_symlink()]


def _folder_of(archive: Path) -> Path:
    suffix = next(s for s in ARCHIVES if archive.name.lower().endswith(s))
    return archive.with_name(archive.name[: -len(suffix)] or "unpacked")


def _unpack(archive: Path, dest: Path, budget: _Budget, progress: Progress) -> None:
    try:
        with ExitStack() as opened:
            members = [*_members(archive, dest, budget, opened)]
            members = [m for m in members if not _LITTER & {*m.name.split("/")}]
            problems: list[dict[str, object]] = [
                {"file": archive.name, "value": m.name[:80], "problem": reason}
                for m in members
                if (reason := unsafe_path(m.name) or ("" if m.regular else "is a link or a device"))
            ]
            if problems:
                raise DataError(
                    f"{archive.name} holds {len(problems)} member(s) that may not be unpacked; the "
                    f"first: {problems[0]['value']!r} {problems[0]['problem']}.",
                    "Nothing was unpacked.",
                    problems,
                )
            budget.take(len(members), sum(m.size for m in members))
            label = f"unpacking {archive.name}"
            with progress.task(label, total=len(members), unit="file") as task:
                for member in members:
                    target = dest / member.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    # "x": a name that comes twice is an error; the last one must not win.
                    with member.open() as source, target.open("xb") as out:
                        shutil.copyfileobj(source, out, 1 << 20)
                    task.advance()
    except FileExistsError as error:
        name = Path(error.filename).name
        raise DataError(f"{archive.name} holds {name} twice.", _BOMB) from None
    except _DAMAGED as error:
        raise DataError(
            f"{archive.name} is damaged, encrypted, or no archive that can be read "
            f"({', '.join(ARCHIVES)}): {error}.",
            "Download it again; or unpack it yourself, and name the folder with --data.",
        ) from None


class _Member(NamedTuple):
    name: str
    size: int  # bytes that `open` gives at most
    regular: bool
    open: Callable[[], Any]


def _members(archive: Path, dest: Path, budget: _Budget, opened: ExitStack) -> Iterator[_Member]:
    """The files of an archive; folders come with their files."""
    if zipfile.is_zipfile(archive):
        pack = opened.enter_context(zipfile.ZipFile(archive))
        for entry in pack.infolist():
            name = entry.filename.replace("\\", "/")  # as some programs on Windows write it
            if not name.endswith("/"):
                regular = stat.S_IFMT(entry.external_attr >> 16) in (0, stat.S_IFREG)
                yield _Member(name, entry.file_size, regular, partial(pack.open, entry))
        return
    tar = opened.enter_context(tarfile.TarFile(_decompressed(archive, dest, budget, opened)))
    for info in tar.getmembers():
        if not info.isdir():
            yield _Member(info.name, info.size, info.isreg(), partial(tar.extractfile, info))


def _decompressed(archive: Path, dest: Path, budget: _Budget, opened: ExitStack) -> Path:
    """The tar itself, or an uncompressed copy for the time of unpacking: tarfile reads headers
    whole and lists members by reading to the end, so that the size must be bounded before."""
    with archive.open("rb") as file:
        magic = file.read(6)
    opener = next((o for start, o in _COMPRESSED.items() if magic.startswith(start)), None)
    if opener is None:
        return archive
    copy = Path(opened.enter_context(TemporaryDirectory(dir=dest.parent))) / "tar"
    # A header and padding per member come on top of the contents.
    most = budget.bytes + 4 * tarfile.BLOCKSIZE * (budget.files + 100)
    with opener(archive, "rb") as source, copy.open("xb") as out:
        while chunk := source.read(1 << 20):
            out.write(chunk)
            if out.tell() > most:
                budget.take(0, most)
    return copy
