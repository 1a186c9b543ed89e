"""Downloads that would leave their folder, fill the disk, or are broken."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from attempts import Attempts, mutated, snapshot

from fusionbench.data.archive import unpack

FILES = {"a/metadata.csv": b"id,x\n1,2\n", "a/images/p.png": b"\x89PNG" * 40, "readme.txt": b"hi"}
SMALL = {"max_files": 50, "max_bytes": 1 << 20}


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as pack:
        for name, data in files.items():
            pack.writestr(name, data)
    return out.getvalue()


def tarred(files: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


LONG = {**FILES, "n" * 150 + "/" + "m" * 120: b"long name"}
GOOD: dict[str, bytes] = {
    "deflated.zip": zipped(FILES),
    "stored.zip": zipped(FILES, zipfile.ZIP_STORED),
    "lzma.zip": zipped(FILES, zipfile.ZIP_LZMA),
    "bz2.zip": zipped(FILES, zipfile.ZIP_BZIP2),
    "nested.zip": zipped({"inner.zip": zipped(FILES), "b.tar": tarred(FILES)}),
    "plain.tar": tarred(FILES),
    "pax.tar": tarred(LONG),
    "gnu.tar": tarred(LONG, tarfile.GNU_FORMAT),
    "a.tar.gz": gzip.compress(tarred(FILES)),
    "a.tar.bz2": bz2.compress(tarred(FILES)),
    "a.tar.xz": lzma.compress(tarred(FILES)),
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.hostile("archives")
def test_mutated_archives(attempts: Attempts, name: str) -> None:
    draw = random.Random(name)
    path = Path(name)
    path.write_bytes(GOOD[name])
    assert attempts(lambda: unpack(path, Path("good"), **SMALL), name)
    for case in range(60):
        path.write_bytes(mutated(draw, GOOD[name]))
        target = Path(f"out{case}")
        done = attempts(lambda t=target: unpack(path, t, **SMALL), name)
        assert target.exists() == done
        if done:
            assert all(p.is_file() or p.is_dir() for p in target.rglob("*"))
            assert not any(p.is_symlink() for p in target.rglob("*"))
    # Nothing half unpacked is left, under any name.
    assert not [p for p in Path().iterdir() if p.name.startswith(".")]
    # A tar has no checksum over its contents: there most injuries only change them.
    attempts.finish(61, refused=1 if name.endswith(".tar") else 10)


NAMES = [
    "../escaped", "a/../../escaped", "/tmp/escaped", "C:/escaped", "..\\escaped", "a\\b", "\x01",
    "a\x7f",
    "../" * 20 + "outside/victim.txt", "./../escaped", "a/b/../../../escaped", "..", "/",
    "\\\\host\\x",
    "x" * 300, "/".join(["d"] * 3000), "a" * 60_000,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda n: repr(n[:20]))
@pytest.mark.parametrize("pack", [zipped, tarred, lambda f: tarred(f, tarfile.GNU_FORMAT)])
@pytest.mark.hostile("archives")
def test_names_that_leave_are_refused(
    attempts: Attempts, name: str, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    path = Path("evil.archive")
    path.write_bytes(pack({"fine.txt": b"x", name: b"evil"}))
    parent = snapshot(Path(".."))
    done = attempts(lambda: unpack(path, Path("out"), **SMALL), "evil.archive")
    # zipfile itself reads some such names as harmless ones; then they stay inside.
    assert done == Path("out").exists()
    for found in Path("out").rglob("*"):
        assert found.resolve().is_relative_to(Path("out").resolve())
    after = snapshot(Path(".."))
    assert {k: v for k, v in after.items() if not k.startswith("inside/out")} == parent
    attempts.finish(1, refused=0)


@pytest.mark.parametrize(
    "name", ["CON", "nul.txt", "aux/x", "a:b", "trailing.", "sp ace ", "é", "🦠"]
)
@pytest.mark.hostile("archives")
def test_names_that_are_odd_elsewhere_stay_inside(attempts: Attempts, name: str) -> None:
    path = Path("odd.zip")
    path.write_bytes(zipped({name: b"x"}))
    if attempts(lambda: unpack(path, Path("out")), "odd.zip"):
        assert [p for p in Path("out").rglob("*") if p.is_file()]
    attempts.finish(1, refused=0)


def tar_with(kind: bytes, name: str, link: str = "", size: int = 0) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, size
        tar.addfile(info, io.BytesIO(b"x" * size) if size else None)
        after = tarfile.TarInfo(f"{name}/through")
        after.size = 4
        tar.addfile(after, io.BytesIO(b"evil"))
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        (tarfile.SYMTYPE, "../../outside"),
        (tarfile.SYMTYPE, "/etc"),
        (tarfile.SYMTYPE, "."),
        (tarfile.LNKTYPE, "../../outside/victim.txt"),
        (tarfile.LNKTYPE, "/etc/passwd"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
        (tarfile.CONTTYPE, ""),
        (b"9", ""),
    ],
)
@pytest.mark.hostile("archives")
def test_links_and_devices(attempts: Attempts, kind: bytes, link: str) -> None:
    path = Path("evil.tar")
    path.write_bytes(tar_with(kind, "door", link))
    assert not attempts(lambda: unpack(path, Path("out"), **SMALL), "evil.tar")
    assert not Path("out").exists()
    attempts.finish(1)


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
@pytest.mark.hostile("archives")
def test_links_in_a_zip(attempts: Attempts, mode: int) -> None:
    info = zipfile.ZipInfo("door")
    info.create_system, info.external_attr = 3, (mode | 0o777) << 16
    with zipfile.ZipFile("evil.zip", "w") as pack:
        pack.writestr(info, "../../outside")
    assert not attempts(lambda: unpack(Path("evil.zip"), Path("out")), "evil.zip")
    attempts.finish(1)


ZEROS = bytes(64 << 20)


def overlapping() -> bytes:
    """A zip whose thousand entries are the same data: more comes out than ever went in."""
    kernel = zipped({"a": bytes(100_000)})
    with zipfile.ZipFile(io.BytesIO(kernel)) as pack:
        start = pack.start_dir
    entry = kernel[start : kernel.rindex(b"PK\x05\x06")]
    many = entry * 1000
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 1000, 1000, len(many), start, 0)
    return kernel[:start] + many + end


def pax_bomb() -> bytes:
    """A header that would be read into memory whole."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 30
    return info.tobuf() + ZEROS


def lying_size() -> bytes:
    data = bytearray(zipped({"a": bytes(8 << 20)}))
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 10)  # says that ten bytes come out
    return bytes(data)


def sparse() -> bytes:
    """A GNU sparse file: kilobytes that become an exabyte."""
    info = tarfile.TarInfo("hole")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 0
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[386:398], head[398:410] = b"00000000000\x00", b"00000000000\x00"
    head[483:495] = b"\x80" + (1 << 60).to_bytes(11, "big")
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    return bytes(head) + bytes(1024)


BOMBS: dict[str, Callable[[], bytes]] = {
    "ratio.zip": lambda: zipped({"a": ZEROS}),
    "ratio.tar.gz": lambda: gzip.compress(tarred({"a": ZEROS}), 1),
    "ratio.tar.bz2": lambda: bz2.compress(tarred({"a": ZEROS}), 1),
    "ratio.tar.xz": lambda: lzma.compress(tarred({"a": ZEROS}), preset=0),
    "count.zip": lambda: zipped({f"f{i}": b"" for i in range(60)}),
    "count.tar": lambda: tarred({f"f{i}": b"" for i in range(60)}),
    "nested.zip": lambda: zipped({"b.zip": zipped({"c.zip": zipped({"a": bytes(8 << 20)})})}),
    "nested-count.zip": lambda: zipped(
        {f"{i}.zip": zipped({"a": b"", "b": b""}) for i in range(30)}
    ),
    "overlap.zip": overlapping,
    "pax.tar.gz": lambda: gzip.compress(pax_bomb(), 1),
    "trailing.tar.gz": lambda: gzip.compress(tarred({"a": b"x"})[:1024] + tarred({"b": ZEROS}), 1),
    "lying.zip": lying_size,
    "sparse.tar": sparse,
    "twice.zip": lambda: twice(),
    "file-and-folder.zip": lambda: zipped({"a": b"1", "a/b": b"2"}),
    "folder-and-file.tar": lambda: tarred({"a/b": b"1", "a": b"2"}),
    "nested-name.zip": lambda: zipped({"in.zip": zipped({"x": b""}), "in": b"a file in the way"}),
    "empty.zip": lambda: b"",
    "short.tar.gz": lambda: gzip.compress(tarred(FILES))[:120],
    "wrong.zip": lambda: b"Rar!\x1a\x07\x00" + bytes(100),
    "gzip-of-nothing.tar.gz": lambda: gzip.compress(b""),
}


def twice() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as pack:
        for data in (b"first", b"second"):
            info = zipfile.ZipInfo("same.txt")
            pack.writestr(info, data)
    return out.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.hostile("archives")
def test_bombs_and_contradictions(attempts: Attempts, name: str) -> None:
    path = Path(name)
    path.write_bytes(BOMBS[name]())
    assert not attempts(lambda: unpack(path, Path("out"), **SMALL), name)
    assert [p.name for p in Path().iterdir()] == [name]
    attempts.finish(1)
