"""Files that are complete or absent, and what is remembered in the cache folder."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from made_up_data import Notes

from fusionbench.errors import FusionbenchError, UsageError
from fusionbench.files import (
    Memory,
    cache_folder,
    lasting_folder,
    new_folder,
    write_atomically,
    write_output,
)
from fusionbench.progress import SILENT, Progress
from fusionbench.records.reading import unfit


@dataclass(frozen=True)
class Fact:
    width: int
    note: str


def test_text_bytes_and_chunks_are_written_in_new_folders(tmp_path: Path) -> None:
    for contents in ("é\r\n", "é\r\n".encode(), [b"\xc3", memoryview(b"\xa9\r\n")]):
        path = tmp_path / "a" / "b.txt"
        write_atomically(path, contents)
        assert path.read_bytes() == b"\xc3\xa9\r\n"
        assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_a_writer_that_fails_leaves_the_file_before(tmp_path: Path) -> None:
    def cut_off():
        yield b"half"
        raise RuntimeError

    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(RuntimeError):
        write_atomically(path, cut_off())
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_a_fixed_temporary_name_is_used_again(tmp_path: Path) -> None:
    temporary = tmp_path / ".a.tmp"
    temporary.write_text("of a killed process")
    write_atomically(tmp_path / "a.txt", "new", temporary)
    assert (tmp_path / "a.txt").read_text() == "new" and not temporary.exists()


def test_a_link_is_replaced_by_a_store_and_followed_by_an_output(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("before")
    link.symlink_to(target)
    write_output(link, "after")
    assert link.is_symlink() and target.read_text() == "after"
    write_atomically(link, "mine")
    assert not link.is_symlink() and target.read_text() == "after"


def test_an_output_may_be_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    seen: list[str] = []
    reader = threading.Thread(target=lambda: seen.append(pipe.read_text()))
    reader.start()
    write_output(pipe, "through")
    reader.join(10)
    assert seen == ["through"] and pipe.is_fifo()


def test_an_output_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    long = tmp_path / ("x" * 300)
    for path in (tmp_path / "file" / "x.json", tmp_path, tmp_path / "a", long, Path("/dev/full")):
        with pytest.raises(FusionbenchError, match="cannot be written"):
            write_output(path, "x")


def test_a_full_disk_leaves_the_older_output(tmp_path: Path) -> None:
    """A real limit on the size of a file."""
    path, code = tmp_path / "table.md", (
        "import resource, sys; from pathlib import Path\n"
        "from fusionbench.errors import FusionbenchError\n"
        "from fusionbench.files import write_output\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "try:\n    write_output(Path(sys.argv[1]), 'x' * 11)\n"
        "except FusionbenchError as error:\n    print(error)\n"
    )  # fmt: skip
    path.write_text("older")
    ran = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert ran.stdout == f"{path} cannot be written: File too large. Name another file.\n"
    assert path.read_text() == "older" and [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("damage", ["", '{"a": ', "[1]", '{"a": {"width": "wide"}}', "[" * 9999])
def test_a_memory_keeps_what_it_is_given_and_a_damaged_one_is_empty(
    tmp_path: Path, damage: str
) -> None:
    memory = Memory(tmp_path / "cache" / "facts.json", Fact)
    assert memory.read() == {}
    memory.add({"a": Fact(1, "é")}, SILENT)
    memory.add({"b": Fact(2, "")}, SILENT)
    assert memory.read() == {"a": Fact(1, "é"), "b": Fact(2, "")}
    memory.path.write_text(damage)
    assert memory.read() == {}
    memory.add({"b": Fact(2, "")}, SILENT)
    assert memory.read() == {"b": Fact(2, "")}


def test_a_memory_that_cannot_be_written_is_a_note(tmp_path: Path) -> None:
    class Notes(Progress):
        def note(self, message: str) -> None:
            notes.append(message)

    notes: list[str] = []
    (tmp_path / "file").write_text("")
    Memory(tmp_path / "file" / "facts.json", Fact).add({"a": Fact(1, "")}, Notes())
    assert len(notes) == 1 and "cannot be written" in notes[0]


FILLING = """
import os, signal, sys, time
from pathlib import Path
from fusionbench.files import new_folder
with new_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("x")
    print("filling", flush=True)
    sys.stdin.read()
"""


def filling(path: Path) -> subprocess.Popen[str]:
    """A process that has begun to fill the folder, and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", FILLING, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "filling\n"
    return process


def test_what_a_killed_process_left_is_named_and_removed_and_a_living_ones_is_not(
    tmp_path: Path,
) -> None:
    killed, living = filling(tmp_path / "data"), filling(tmp_path / "data")
    killed.kill()
    killed.communicate()
    assert len([*tmp_path.iterdir()]) == 2
    notes = Notes()
    with new_folder(tmp_path / "data", notes) as folder:
        (folder / "whole").write_text("x")
        assert len([*tmp_path.iterdir()]) == 2  # that of the living process, and this one
    assert len(notes.lines) == 1 and str(tmp_path / ".data-") in notes.lines[0]
    living.communicate("")
    assert living.returncode != 0  # the folder is there already
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["whole"]


def test_the_cache_is_where_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for named, folder in {
        str(tmp_path / "a"): tmp_path / "a",
        "b/c": tmp_path / "b" / "c",
        "~/d": tmp_path / "home" / "d",
    }.items():
        monkeypatch.setenv("FUSIONBENCH_CACHE", named)
        assert cache_folder() == lasting_folder() == folder
    monkeypatch.setenv("FUSIONBENCH_CACHE", " ")
    assert cache_folder().is_relative_to(tmp_path / "home")


@pytest.mark.parametrize("named", ["~no-such-user/x", ""])
def test_a_home_that_is_not_known_is_refused_with_the_variable_to_set(
    named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSIONBENCH_CACHE", named)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", str)  # as where the user has no entry
    with pytest.raises(UsageError, match="Set FUSIONBENCH_CACHE"):
        cache_folder()


def test_a_cache_that_cannot_be_written_is_noted_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "file"))
    notes = Notes()
    for name in ("a", "b"):
        Memory(cache_folder() / name / "x.json", int).add({"one": 1}, notes)
    (note,) = notes.lines
    assert "file cannot be written to (Not a directory)" in note and "FUSIONBENCH_CACHE" in note


def test_the_header_of_a_weight_file_is_bounded_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((9 << 20).to_bytes(8, "little"))
    assert "header" in unfit(path) and "above" in unfit(path)
