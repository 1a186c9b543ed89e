"""Whatever a path leads to, a command ends soon, and never with a traceback or "Internal error"."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fusionbench import Fusion
from fusionbench.data.digests import file_digests
from fusionbench.plugin import registry

CONTENTS = {
    "empty": b"",
    "binary": bytes(range(256)) * 20,
    "zeros": b"\0" * 50,
    "deep JSON": b"[" * 100_000,
    "deep TOML": b"a = " + b"[" * 100_000,
    "deep keys": b"[" + b"a." * 3000 + b"a]\n",
    "deep Python": b"x = " + b"-" * 20_000 + b"1\n",
    "long number": b"a = " + b"9" * 5000,
    "latin-1": "# é\nname = 'é'\n".encode("latin-1"),
}
NAMES = ["/dev/full", "/dev/null", "", "~nobody-here/x", "a\0b", "\ud800", "a\udcff", "x" * 300,
         "x/" * 3000]  # fmt: skip
MADE: dict[str, Callable[[Path], Any]] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "circle": lambda path: path.symlink_to(path),
    "file in place of a folder": lambda path: path.parent.rmdir() or path.parent.touch(),
    **{kind: partial(Path.write_bytes, data=text) for kind, text in CONTENTS.items()},
}
COMMANDS = """
list losses --plugins @.py
check @.py
new fusion mine --folder @
data status @.toml
data verify pad-ufes-20 --data @
data prepare pad-ufes-20 @.zip
data prepare pad-ufes-20 . --to @
audit @.toml
run --fusion concat --backbone test_resnet --dataset @.toml
run --fusion @.py --backbone test_resnet
run --fusion concat --backbone test_resnet --recipe @.toml
run --fusion concat --backbone nosuch --plugins @ --store @
sweep @.toml --dry-run
sweep sgmc-pad-ufes-20 --dry-run --data @ --store @
sweep sgmc-pad-ufes-20 --dry-run --dataset @.toml
leaderboard @.toml
leaderboard --store @
leaderboard sgmc-losses --store . --output @.md
show --store @
show @ --store .
compare a b --store @
rank --store @
subgroups concat --store @
stress concat --store @
bench --fusion nosuch --plugins @
bench --fusion concat --backbone @
store list --store @
store verify --store @
store merge @ --store .
store merge . --store @
store prune --leftovers --store @
""".strip().splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_no_path_leads_to_an_internal_error(cli, command: str, tmp_path: Path, monkeypatch) -> None:
    def too_long(*_: object) -> None:
        raise AssertionError("hangs")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "records").mkdir()
    before = signal.signal(signal.SIGALRM, too_long)
    ending = next((word for word in command.split() if word.startswith("@")), "@")[1:]
    try:
        for case in [*NAMES, "missing", *MADE]:
            path = case + (ending if case[:1] not in "/" else "")
            if case == "missing" or case in MADE:
                folder = tmp_path / f"a {case}"
                folder.mkdir()
                path = str(folder / f"bad{ending}")
                MADE.get(case, lambda path: None)(Path(path))
            words = [path if word.startswith("@") else word for word in command.split()]
            signal.alarm(20)
            answer = cli(*words)
            text = answer.out + answer.err
            assert "Internal error" not in text and "Traceback" not in text, (case, text)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("inner", ["", "fusions", "datasets"])
def test_a_plugin_folder_that_cannot_be_read_is_named(
    cli, inner: str, tmp_path: Path, monkeypatch
) -> None:
    closed, scandir = tmp_path / inner, os.scandir
    closed.mkdir(exist_ok=True)

    def denied(path: Any = ".") -> Any:
        if str(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    answer = cli("list", "fusions", "--plugins", tmp_path)
    assert answer.code == 2
    assert f"{closed} cannot be read: Permission denied" in " ".join(answer.err.split())


def test_folders_with_names_in_another_encoding(cli, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "a\udcff"
    folder.mkdir()
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(folder))
    (folder / "a file").write_text("x")
    assert len(file_digests([folder / "a file"], root=folder)) == 1
    source = (registry.builtin_root() / "plugins/fusions/concat.py").read_text("utf-8")
    (folder / "mine.py").write_text(source, "utf-8")
    assert registry.load(registry.find("fusions", "mine", [folder]), Fusion).__name__ == "Concat"
    answer = cli("run", "--fusion", "concat", "--backbone", "x", "--dataset", folder)
    assert answer.code == 2 and "is not valid UTF-8" in answer.err
