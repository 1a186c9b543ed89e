"""Plugins are found by name without being run; one broken file hurts nobody else."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from fusionbench.errors import PluginError, UsageError
from fusionbench.plugin import registry
from fusionbench.plugin.fusion import Fusion
from fusionbench.plugin.loss import Loss

CHECKOUT = Path(__file__).parents[1]
PLUGIN = '''"""{summary}

More about it.
"""
from fusionbench.plugin.fusion import Fusion
{extra}

class {cls}(Fusion):
    def __init__(self, spec, *, hidden: int = {hidden}, stages: tuple[int, ...] = (1, 2)):
        super().__init__(spec)
'''
LOSS = "from fusionbench.plugin.loss import Loss\n\nclass Mine(Loss):\n    pass\n"


def write(path: Path, text: str = PLUGIN, **words: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    words = {"summary": "A method.", "extra": "", "cls": "Mine", "hidden": 4} | words
    path.write_text(text.format(**words), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUSIONBENCH_PLUGINS", raising=False)


def test_the_built_in_plugins_are_there() -> None:
    assert set(registry.discover("fusions")) >= {"none", "concat", "metanet", "metablock", "sgmc"}
    assert set(registry.discover("losses")) >= {"ce", "deep-supervision", "self-contrastive"}
    for kind, base in (("fusions", Fusion), ("losses", Loss)):
        for entry in registry.discover(kind).values():
            assert (entry.origin, entry.broken) == ("built-in", "")
            assert entry.summary
            assert issubclass(registry.load(entry, base), base)


def test_listing_reads_summary_and_parameters_without_running_the_file(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    path = write(
        tmp_path / "my_method.py",
        summary="One line\nover two.",
        hidden="8 * 2",
        extra=f"open({str(mark)!r}, 'w')",
    )
    entry = registry.discover("fusions", [tmp_path])["my-method"]
    assert entry.summary == "One line over two."
    assert entry.parameters == (("hidden", "8 * 2"), ("stages", "(1, 2)"))
    assert entry.path == path.resolve()
    assert not mark.exists()
    assert registry.load(entry, Fusion).__name__ == "Mine"
    assert mark.exists()


@pytest.mark.parametrize("call", ["discover('fusions')", "discover('losses')", "dataset_cards()"])
def test_listing_imports_no_torch(call: str, tmp_path: Path) -> None:
    write(tmp_path / "own.py", extra="import torch")
    code = (
        f"import sys; from fusionbench.plugin import registry; assert registry.{call}\n"
        "found = {'torch', 'timm', 'torchvision'} & set(sys.modules); assert not found, found"
    )
    env = {**os.environ, "FUSIONBENCH_PLUGINS": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=CHECKOUT, env=env)


def test_two_sources_of_one_name_collide_naming_both(tmp_path: Path) -> None:
    mine = write(tmp_path / "sgmc.py")
    with pytest.raises(PluginError) as caught:
        registry.discover("fusions", [tmp_path])
    assert str(mine) in str(caught.value)
    assert str(registry.builtin_root() / "plugins/fusions/sgmc.py") in str(caught.value)


def test_the_same_stem_in_two_folders_collides_and_dash_equals_underscore(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a" / "my_gate.py"), write(tmp_path / "b" / "my-gate.py")
    with pytest.raises(PluginError) as caught:
        registry.discover("fusions", [tmp_path / "a", tmp_path / "b"])
    assert str(one) in str(caught.value) and str(two) in str(caught.value)
    # The same file, named twice, is no collision.
    both = [tmp_path / "a", one]
    assert registry.discover("fusions", both)["my-gate"].path == one.resolve()


def test_an_unknown_name_gets_the_nearest_ones() -> None:
    with pytest.raises(UsageError) as caught:
        registry.find("fusions", "metablok")
    assert "There is no fusion called 'metablok'" in caught.value.message
    assert "Did you mean metablock" in caught.value.remedy
    with pytest.raises(UsageError) as caught:
        registry.find("losses", "zzzzzz")
    assert "There is no loss called" in caught.value.message
    assert caught.value.remedy == f"Known: {', '.join(registry.discover('losses'))}."


def test_names_are_found_however_they_are_spelled() -> None:
    for spelled in ("self-contrastive", "self_contrastive", " Self-Contrastive "):
        assert registry.find("losses", spelled).name == "self-contrastive"


def test_a_file_that_cannot_be_parsed_is_listed_as_broken_and_hurts_nobody(tmp_path: Path) -> None:
    (tmp_path / "fusions").mkdir()
    (tmp_path / "fusions" / "typo.py").write_text("class A(Fusion:\n")
    (tmp_path / "fusions" / "binary.py").write_bytes(b"\xff\xfe\x00")
    write(tmp_path / "fusions" / "good.py")
    found = registry.discover("fusions", [tmp_path])
    assert "SyntaxError" in found["typo"].broken and "typo.py" in found["typo"].broken
    assert found["binary"].broken
    assert not found["good"].broken and not found["sgmc"].broken
    assert registry.load(found["good"], Fusion)


def test_an_import_that_fails_shows_the_plugins_own_traceback(tmp_path: Path) -> None:
    path = write(tmp_path / "half.py", extra="import no_such_package_here")
    entry = registry.discover("fusions", [tmp_path])["half"]
    with pytest.raises(PluginError) as caught:
        registry.load(entry, Fusion)
    assert "no_such_package_here" in str(caught.value) and str(path) in str(caught.value)
    assert not any("half" in name for name in sys.modules if name.startswith("fusionbench_plug"))
    path.write_text(PLUGIN.format(summary="", extra="", cls="Mended", hidden=1))
    assert registry.load(entry, Fusion).__name__ == "Mended"


def test_a_plugin_defines_exactly_one_public_class(tmp_path: Path) -> None:
    two = (
        "from fusionbench.plugin.fusion import Fusion\nclass A(Fusion): ...\nclass B(Fusion): ...\n"
    )
    (tmp_path / "two.py").write_text(two)
    (tmp_path / "helped.py").write_text(two.replace("class B", "class _B"))
    found = registry.discover("fusions", [tmp_path])
    with pytest.raises(PluginError, match="it has A, B"):
        registry.load(found["two"], Fusion)
    assert registry.load(found["helped"], Fusion).__name__ == "A"


def test_a_folder_with_subfolders_by_kind(tmp_path: Path) -> None:
    write(tmp_path / "fusions" / "gate.py")
    write(tmp_path / "losses" / "gate.py", LOSS)
    write(tmp_path / "losses" / "test_gate.py", "def test_x(): ...")
    write(tmp_path / "losses" / "_shared.py", LOSS)
    fusions = set(registry.discover("fusions", [tmp_path])) - set(registry.discover("fusions"))
    losses = set(registry.discover("losses", [tmp_path])) - set(registry.discover("losses"))
    assert (fusions, losses) == ({"gate"}, {"gate"})


def test_a_flat_folder_tells_kinds_by_base_class(tmp_path: Path) -> None:
    write(tmp_path / "gate.py")
    write(tmp_path / "margin.py", LOSS)
    write(tmp_path / "notes.py", "x = 1\n")
    write(
        tmp_path / "qualified.py", "import fusionbench.plugin.fusion as f\nclass A(f.Fusion): ...\n"
    )
    fusions = set(registry.discover("fusions", [tmp_path])) - set(registry.discover("fusions"))
    losses = set(registry.discover("losses", [tmp_path])) - set(registry.discover("losses"))
    assert (fusions, losses) == ({"gate", "qualified"}, {"margin"})


def test_a_single_file(tmp_path: Path) -> None:
    path = write(tmp_path / "margin.py", LOSS)
    assert registry.discover("losses", [path])["margin"].path == path.resolve()
    assert "margin" not in registry.discover("fusions", [path])
    neither = write(tmp_path / "notes.py", "x = 1\n")
    assert "no class derived from" in registry.discover("fusions", [neither])["notes"].broken


def test_paths_come_from_the_option_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a" / "one.py")
    write(tmp_path / "b" / "two.py")
    write(tmp_path / "c" / "three.py")
    environment = os.pathsep.join([str(tmp_path / "b"), str(tmp_path / "c"), ""])
    monkeypatch.setenv("FUSIONBENCH_PLUGINS", environment)
    assert set(registry.discover("fusions", [tmp_path / "a"])) >= {"one", "two", "three"}
    with pytest.raises(UsageError, match="no plugin file or folder at"):
        registry.discover("fusions", [tmp_path / "absent"])


def test_installed_packages_add_plugins_by_entry_point(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "otherlab_fusions.py").write_text(
        PLUGIN.format(summary="", extra="class NotOne: ...", cls="Theirs", hidden=1)
    )
    monkeypatch.syspath_prepend(tmp_path)

    def points(group: str) -> list[EntryPoint]:
        if group != "fusionbench.fusions":
            return []
        return [
            EntryPoint("their_gate", "otherlab_fusions:Theirs", group),
            EntryPoint("not-one", "otherlab_fusions:NotOne", group),
            EntryPoint("gone", "otherlab_fusions:Gone", group),
        ]

    monkeypatch.setattr(registry, "_installed", lambda group: points(group=group))
    found = registry.discover("fusions")
    assert "otherlab_fusions" not in sys.modules
    assert found["their-gate"].summary == "otherlab_fusions:Theirs"
    assert registry.load(found["their-gate"], Fusion).__name__ == "Theirs"
    assert registry.source_hash(found["their-gate"]) not in ("", "unknown")
    with pytest.raises(PluginError, match="is not a Fusion class"):
        registry.load(found["not-one"], Fusion)
    with pytest.raises(PluginError, match="fails to import"):
        registry.load(found["gone"], Fusion)
    assert "their-gate" not in registry.discover("losses")

    write(tmp_path / "own" / "their_gate.py")
    with pytest.raises(PluginError, match="called 'their-gate'"):
        registry.discover("fusions", [tmp_path / "own"])


def test_source_hash_follows_the_content_not_the_line_endings(tmp_path: Path) -> None:
    path = tmp_path / "gate.py"
    hashes = []
    for data in (b"a = 1\nb = 2\n", b"a = 1\r\nb = 2\r\n", b"a = 1\nb = 3\n"):
        path.write_bytes(data)
        hashes.append(registry.source_hash(registry.Entry("gate", "fusions", "", path)))
    assert hashes[0] == hashes[1] != hashes[2]
    assert len(hashes[0]) == 16


def test_the_same_source_is_one_class_and_a_changed_one_another(tmp_path: Path) -> None:
    path = write(tmp_path / "gate.py")
    entry = registry.discover("fusions", [path])["gate"]
    first = registry.load(entry, Fusion)
    assert registry.load(entry, Fusion) is first
    write(path, hidden=5)
    assert registry.load(entry, Fusion) is not first


def test_two_files_of_one_stem_in_different_folders_stay_apart(tmp_path: Path) -> None:
    one = write(tmp_path / "a" / "gate.py", cls="One")
    two = write(tmp_path / "b" / "gate.py", cls="Two")
    loaded = [
        registry.load(registry.discover("fusions", [path])["gate"], Fusion) for path in (one, two)
    ]
    assert [cls.__name__ for cls in loaded] == ["One", "Two"]


def test_dataset_cards_are_found_and_collide_like_plugins(tmp_path: Path) -> None:
    cards = registry.dataset_cards()
    assert {"pad-ufes-20", "derm7pt", "synthetic"} <= set(cards)
    own = tmp_path / "datasets" / "mine" / "dataset.toml"
    own.parent.mkdir(parents=True)
    own.write_text("")
    assert registry.dataset_cards([tmp_path])["mine"] == own
    clash = tmp_path / "datasets" / "synthetic" / "dataset.toml"
    clash.parent.mkdir(parents=True)
    clash.write_text("")
    with pytest.raises(PluginError, match="Two datasets are called 'synthetic'"):
        registry.dataset_cards([tmp_path])


# Where a plugin's helper lies, how the plugin imports it, and files on the way.
HELPERS = {
    "beside it": ("mine.py", "import blocks", "blocks.py", ()),
    "a name of it": ("mine.py", "from blocks import SCALE", "blocks.py", ()),
    "inside a function": ("mine.py", "def late():\n    import blocks", "blocks.py", ()),
    "where it may be absent": (
        "mine.py",
        "try:\n    import blocks\nexcept ImportError:\n    pass",
        "blocks.py",
        (),
    ),
    "in a package": (
        "mine.py",
        "from parts import blocks",
        "parts/blocks.py",
        ("parts/__init__.py",),
    ),
    "deep in a package": ("mine.py", "import parts.inner.blocks", "parts/inner/blocks.py", ()),
    "a package itself": ("mine.py", "import parts", "parts/__init__.py", ()),
    "relative": ("mine.py", "from .blocks import SCALE", "blocks.py", ()),
    "above the folder of its kind": ("fusions/mine.py", "import blocks", "blocks.py", ()),
    "through another one": ("mine.py", "import first", "blocks.py", ("first.py",)),
}


@pytest.mark.parametrize("case", HELPERS)
def test_the_source_hash_follows_what_a_plugin_imports(tmp_path: Path, case: str) -> None:
    plugin, statement, helper, others = HELPERS[case]
    path = write(tmp_path / plugin, extra=statement.replace("{", "{{"))
    for other in others:
        write(tmp_path / other, "import blocks\n")
    write(tmp_path / helper, "SCALE = 1.0\n")
    write(tmp_path / "unrelated.py", "import blocks\n")

    def hashed() -> str:
        return registry.source_hash(registry.Entry("mine", "fusions", "", path))

    before = hashed()
    write(tmp_path / "unrelated.py", "SCALE = 2.0\n")
    assert hashed() == before
    write(tmp_path / helper, "SCALE = 0.25\n")
    assert (changed := hashed()) != before
    write(tmp_path / helper, "SCALE = 1.0\n")
    assert hashed() == before
    (tmp_path / helper).unlink()
    assert hashed() not in (before, changed)


def test_a_plugin_without_helpers_hashes_as_its_file_and_odd_helpers_do_no_harm(
    tmp_path: Path,
) -> None:
    text = "import torch, fusionbench.plugin.fusion\nfrom . import *\nfrom ....... import far\n"
    path = write(tmp_path / "mine.py", text)
    write(tmp_path / "fusionbench" / "plugin" / "fusion.py", "raise SystemExit\n")
    entry = registry.Entry("mine", "fusions", "", path)
    assert registry.source_hash(entry) == hashlib.sha256(text.encode()).hexdigest()[:16]
    path.write_text(text + "import broken, loop\n", encoding="utf-8")
    write(tmp_path / "broken.py", "def (:\n\x00")
    write(tmp_path / "loop.py", "import mine, loop\n")
    assert len(registry.source_hash(entry)) == 16


def test_of_an_installed_plugin_its_own_package_is_hashed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    write(tmp_path / "theirs_hashed" / "__init__.py", "")
    write(
        tmp_path / "theirs_hashed" / "gate.py",
        "from theirs_hashed.blocks import A\nimport neighbour\n",
    )
    point = EntryPoint("gate", "theirs_hashed.gate", "fusionbench.fusions")
    entry = registry.Entry("gate", "fusions", "theirs", entry_point=point)
    hashes = []
    for scale, other in ((1, 1), (2, 1), (2, 2)):
        write(tmp_path / "theirs_hashed" / "blocks.py", f"A = {scale}\n")
        write(tmp_path / "neighbour.py", f"A = {other}\n")
        hashes.append(registry.source_hash(entry))
    assert hashes[0] != hashes[1] == hashes[2]
