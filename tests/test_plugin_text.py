"""What is read from a plugin's text is what Python finds; what cannot be read hurts nobody else."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from fusionbench.contract import check_file
from fusionbench.errors import FusionbenchError, PluginError
from fusionbench.plugin import registry, source
from fusionbench.plugin.fusion import Fusion

BODY = """
    def __init__(self, spec, *, mode: Literal["soft", "hard"] = "soft") -> None:
        super().__init__(spec)
"""
IMPORT = "from fusionbench import Fusion\n"
# How a class comes to derive from Fusion.
FOUND = {
    "under another name": "from fusionbench import Fusion as F\nclass Mine(F):",
    "of a module": "import fusionbench as fb\nclass Mine(fb.Fusion):",
    "of a submodule": "from fusionbench.plugin import fusion\nclass Mine(fusion.Fusion):",
    "assigned": "import fusionbench\nBase = fusionbench.Fusion\nclass Mine(Base):",
    "all names": "from fusionbench import *\nclass Mine(Fusion):",
    "tried": "try:\n  from fusionbench import Fusion\nexcept ImportError:\n  Fusion = object\n"
    "class Mine(Fusion):",
    "private base": "from fusionbench import Fusion\nclass _B(Fusion): ...\nclass Mine(_B):",
    "with another base": IMPORT + "class Mixin: ...\nclass Mine(Mixin, Fusion):",
    "beside it": "from .blocks import Base\nclass Mine(Base):",
    "module beside it": "from . import blocks\nclass Mine(blocks.Base):",
    "renamed beside it": "from .blocks import Other as B\nclass Mine(B):",
    "through two files": "from .more import Base\nclass Mine(Base):",
    "package beside it": "from .parts import Base\nclass Mine(Base):",
    "in a condition": IMPORT + "if True:\n class Mine(Fusion):\n  pass\nclass _(Fusion):",
    "built in": "from fusionbench.plugins.fusions.none import ImageOnly\nclass Mine(ImageOnly):",
    "built in, same name": "from fusionbench.plugins.fusions.none import ImageOnly as Mine\n"
    "class Mine(Mine):",
}
# What Python could find, and the text does not tell; and what neither finds.
NOT_FOUND = {
    "made by a call": IMPORT + "Mine = type('Mine', (Fusion,), {})\nclass _(int):",
    "base made by a call": IMPORT + "def f(): return Fusion\nclass Mine(f()):",
    "another Fusion": "class Fusion: ...\nclass _Mine(Fusion):",
    "in a function": IMPORT + "def f():\n class Mine(Fusion):\n  pass\nclass _(int):",
}


def written(folder: Path, text: str) -> Path:
    (folder / "parts").mkdir(parents=True)
    (folder / "blocks.py").write_text(
        "from fusionbench import Fusion as F\nclass _B(F): ...\nBase = _B\nclass Other(F): ...\n"
    )
    (folder / "more.py").write_text("from .blocks import *\nfrom .blocks import _B as Base\n")
    (folder / "parts" / "__init__.py").write_text("from ..blocks import Base\n")
    path = folder / "mine.py"
    path.write_text(f"from typing import Literal\n{text}{BODY}")
    return path


@pytest.mark.parametrize("way", FOUND)
@pytest.mark.parametrize("place", [".", "fusions"])
def test_the_text_tells_what_python_finds(tmp_path: Path, way: str, place: str) -> None:
    path = written(tmp_path / "p" / place, FOUND[way])
    for named in (path, tmp_path / "p"):
        entry = registry.discover("fusions", [named])["mine"]
        assert entry.broken == ""
        assert registry.load(entry, Fusion).__name__ == "Mine"
    if way != "in a condition":
        assert entry.parameters == (("mode", "'soft'"),)
        assert entry.choices == {"mode": ("soft", "hard")}


@pytest.mark.parametrize("way", NOT_FOUND)
def test_what_the_text_does_not_tell_is_refused_everywhere_alike(tmp_path: Path, way: str) -> None:
    path = written(tmp_path / "p", NOT_FOUND[way])
    broken = registry.discover("fusions", [path])["mine"].broken
    assert broken.startswith("no class derived from Fusion, Loss or Control is found in its text")
    (check,) = check_file(path)
    assert (check.name, check.status) == ("loads", "fail") and broken in check.detail
    for named in (path, tmp_path / "p"):
        with pytest.raises(PluginError) as caught:
            registry.load(registry.find_method("mine", [named]), Fusion)
        assert broken in str(caught.value)
    assert "mine" not in registry.discover("fusions", [tmp_path / "p"])  # a helper, for all we know


def test_a_plugin_inherits_settings_and_its_base_is_in_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (registry.builtin_root() / "plugins/fusions/concat.py").read_text("utf-8")
    root = tmp_path / "root"
    (root / "plugins" / "fusions").mkdir(parents=True)
    base = root / "plugins" / "fusions" / "concat.py"
    base.write_text(text)
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from fusionbench.plugins.fusions.concat import Concat\nclass Mine(Concat): ...\n"
    )
    entry = registry.discover("fusions", [mine])["mine"]
    assert entry.parameters == registry.find("fusions", "concat").parameters
    monkeypatch.setattr("fusionbench.plugin.imports.builtin_root", lambda: root)
    before = registry.source_hash(entry)
    base.write_text(text + "\n# changed\n")
    assert registry.source_hash(entry) != before


def test_a_neighbour_belongs_to_its_plugin_and_follows_its_changes(tmp_path: Path) -> None:
    text = IMPORT + "from .scale import SCALE\nclass Mine(Fusion):\n s = SCALE\n"
    for folder, scale in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "scale.py").write_text(f"SCALE = {scale}\n")
        (tmp_path / folder / "mine.py").write_text(text)

    def loaded(folder: str) -> int:
        entry = registry.discover("fusions", [tmp_path / folder])["mine"]
        return registry.load(entry, Fusion).s  # type: ignore[attr-defined, no-any-return]

    assert (loaded("a"), loaded("b")) == (1, 2)
    (tmp_path / "a" / "scale.py").write_text("SCALE = 3\n")  # of the same length, at once
    assert (loaded("a"), loaded("b")) == (3, 2)


def test_who_imports_a_neighbour_without_its_dot_is_told_how(tmp_path: Path) -> None:
    path = written(tmp_path / "p", "import blocks\n" + IMPORT + "class Mine(Fusion):")
    with pytest.raises(PluginError, match=r"blocks lies beside the plugin: write `from \.blocks"):
        registry.load(registry.find("fusions", "mine", [path]), Fusion)


def odd_files(folder: Path) -> dict[str, str]:
    """File stem -> part of what is said of it."""
    os.mkfifo(folder / "pipe.py")
    (folder / "directory.py").mkdir()
    (folder / "dangling.py").symlink_to("nowhere.py")
    (folder / "circle.py").symlink_to("circle.py")
    with (folder / "huge.py").open("wb") as file:
        file.truncate(100_000_000)
    for name, data in {
        "nested": b"x = " + b"(" * 5000 + b")" * 5000,
        "signs": b"x = " + b"-" * 200_000 + b"1",
        "sum": b"x = " + b"1+" * 100_000 + b"1",
        "attributes": b"x = a" + b".b" * 50_000,
        "latin": "x = 'é'".encode("latin-1"),
        "nul": b"x = 1\0",
    }.items():
        (folder / f"{name}.py").write_bytes(data)
    return {
        "pipe": "not a file",
        "directory": "not a file",
        "dangling": "No such file",
        "circle": "cannot be read",
        "huge": "100,000,000 bytes",
        "nested": "SyntaxError: too many nested",
        "signs": "nested too deep",
        "sum": "nested too deep",
        "attributes": "nested too deep",
        "latin": "SyntaxError",
        "nul": "null bytes",
    }


def test_odd_files_are_listed_as_broken_at_once_and_the_others_work(tmp_path: Path) -> None:
    path = written(tmp_path / "p", FOUND["under another name"])
    expected = odd_files(path.parent)
    began = time.monotonic()
    entries = registry.discover("fusions", [path.parent])
    assert time.monotonic() - began < 5  # a second, on a machine that does nothing else
    for name, text in expected.items():
        assert text in entries[name].broken and len(entries[name].broken) < 300, name
        assert registry.source_hash(entries[name]) == "unknown"
        with pytest.raises(FusionbenchError):
            registry.load(entries[name], Fusion)
    assert registry.load(entries["mine"], Fusion).__name__ == "Mine"


def test_each_file_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "p", FOUND["through two files"])
    parsed: list[str] = []
    parse = source.ast.parse
    monkeypatch.setattr(
        source.ast, "parse", lambda *a, **k: parsed.append(str(k.get("filename"))) or parse(*a, **k)
    )
    for _ in range(3):
        for kind in registry.KINDS:
            for entry in registry.discover(kind, [path.parent]).values():
                registry.source_hash(entry)
    mine = [file for file in parsed if str(tmp_path) in file]
    assert len(mine) == len(set(mine)) == 3


def test_a_plugin_is_checked_by_name_or_file_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "from sklearn.dummy import DummyClassifier\nfrom fusionbench import Control\n"
    text += "class Mine(Control):\n def estimator(self, seed): return DummyClassifier()\n"
    path = tmp_path / "missing_ness.py"
    path.write_text(text)
    monkeypatch.setenv("FUSIONBENCH_PLUGINS", str(tmp_path))
    for named in (path, "missing-ness", "control:missing-ness", "missingness"):
        assert {check.status for check in check_file(named)} == {"pass"}
    (tmp_path / "missingness.py").write_text(text.replace("Control", "Loss"))
    with pytest.raises(FusionbenchError, match="Say which: loss:missingness or control:missing"):
        check_file("missingness")
    assert {check.status for check in check_file("control:missingness")} == {"pass"}
    for wrong, says in (("missingnes", "Did you mean missingness"), ("x:ce", "kind of plugin")):
        with pytest.raises(FusionbenchError, match=says):
            check_file(wrong)


def test_the_file_of_an_installed_plugin_is_no_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.metadata import EntryPoint

    path = tmp_path / "theirs_here.py"
    path.write_text("from fusionbench import Fusion\nclass Theirs(Fusion): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("theirs-here", "theirs_here:Theirs", "fusionbench.fusions")
    monkeypatch.setattr(registry, "_installed", lambda group: [point] * group.endswith("fusions"))
    assert registry.discover("fusions", [path])["theirs-here"].path == path
