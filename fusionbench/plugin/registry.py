"""Name -> plugin. Finds plugin files and dataset cards without importing them.

One method, one file: the file's stem is the registry key (`_` reads as `-`). Listing reads source
text only, so it is quick and imports no torch; a plugin's code runs only when it is asked for by
name, path or installed package.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

from fusionbench.errors import PluginError, UsageError, plain
from fusionbench.plugin.containment import contained
from fusionbench.plugin.imports import (
    KINDS as KINDS,
)
from fusionbench.plugin.imports import (
    builtin_root as builtin_root,
)
from fusionbench.plugin.imports import declared_in, described, imported_files, roots_of
from fusionbench.plugin.source import read_source

T = TypeVar("T")

# What `--fusion NAME` may name: a fusion, or a control that never sees the photograph.
METHODS = ("fusions", "controls")
# Plugins that do not come with fusionbench and whose code has run in this process. What they have
# done to it cannot be undone for sure: from then on it computes no run itself.
ran_here: set[str] = set()


@dataclass(frozen=True)
class Entry:
    """A plugin that was found; nothing of it has been run yet."""

    name: str
    kind: str
    origin: str  # "built-in", the path given by the user, or the installed package
    path: Path | None = None
    summary: str = ""
    parameters: tuple[tuple[str, str], ...] = ()  # (name, default as source text)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of a setting
    broken: str = ""  # why it cannot be used; "" where nothing is known against it
    entry_point: EntryPoint | None = None

    @property
    def foreign(self) -> bool:
        """Whether it does not come with fusionbench."""
        return self.origin != "built-in"

    @property
    def place(self) -> str:
        """The file, or the installed package."""
        return str(self.path or self.origin)

    @property
    def uses_images(self) -> bool:
        """Whether it is built into a network that sees the photograph, as its base class says."""
        return self.kind != "controls"

    @property
    def defaults(self) -> dict[str, Any]:
        """The defaults of its settings, as far as they are literals."""
        values = {}
        for key, source in self.parameters:
            with suppress(ValueError, SyntaxError):
                values[key] = ast.literal_eval(source)
        return values


def key_of(stem: str) -> str:
    """The registry key of a file stem or of what a user typed."""
    return stem.strip().lower().replace("_", "-")


def plugin_paths(extra: Sequence[str | Path] = ()) -> list[Path]:
    """`--plugins` paths and `$FUSIONBENCH_PLUGINS`, in that order. Raises UsageError where one is
    absent, or is a folder that cannot be read, which `glob` finds empty."""
    named = [Path(p) for p in extra]
    named += [Path(p) for p in os.environ.get("FUSIONBENCH_PLUGINS", "").split(os.pathsep) if p]
    for path in named:
        if not path.exists():
            raise UsageError(
                f"There is no plugin file or folder at {path}.",
                "Check --plugins / $FUSIONBENCH_PLUGINS.",
            )
        try:
            for folder in (path, *(path / name for name in (*KINDS, "datasets"))):
                if folder.is_dir():
                    os.scandir(folder).close()
        except OSError as error:
            raise UsageError(
                f"The plugin folder {error.filename} cannot be read: {error.strerror}.",
                "Check its permissions, or leave it out of --plugins / $FUSIONBENCH_PLUGINS.",
            ) from error
    return list(dict.fromkeys(p.resolve() for p in named))


def discover(kind: str, extra: Sequence[str | Path] = ()) -> dict[str, Entry]:
    """All plugins of a kind by name, sorted. Broken ones are listed, with `broken` set.

    Raises PluginError where two sources claim one name.
    """
    entries: dict[str, Entry] = {}
    for entry in _candidates(kind, plugin_paths(extra)):
        other = entries.setdefault(entry.name, entry)
        if other is not entry and not (other.path and other.path == _file_of(entry)):
            raise PluginError(
                f"Two {kind} are called {entry.name!r}: {other.place} and {entry.place}.",
                "Rename one of the files.",
            )
    return dict(sorted(entries.items()))


def find(kind: str, name: str, extra: Sequence[str | Path] = ()) -> Entry:
    """The plugin of that name. Raises UsageError with the nearest names."""
    entries = discover(kind, extra)
    key = key_of(name)
    if key not in entries:
        _explain_passed_over(key, extra)
        raise UsageError(*unknown_name(KINDS[kind].lower(), name, entries))
    return entries[key]


def find_method(name: str, extra: Sequence[str | Path] = ()) -> Entry:
    """The fusion or control of that name; `kind` says which it is.

    Raises UsageError with the nearest names, PluginError where both kinds claim the name.
    """
    methods = [entry for kind in METHODS for entry in discover(kind, extra).values()]
    claims = [entry for entry in methods if entry.name == key_of(name)]
    if not claims:
        _explain_passed_over(key_of(name), extra)
        raise UsageError(*unknown_name("fusion", name, [entry.name for entry in methods]))
    if len(claims) > 1:
        places = " and ".join(entry.place for entry in claims)
        raise PluginError(
            f"A fusion and a control are called {claims[0].name!r}: {places}.", "Rename one."
        )
    return claims[0]


def _explain_passed_over(key: str, extra: Sequence[str | Path]) -> None:
    """Raises PluginError where a file of that name is no plugin, as far as its text tells."""
    for root in plugin_paths(extra):
        for path in (root, *root.glob("*.py")):
            if path.suffix == ".py" and key_of(path.stem) == key and path.is_file():
                raise PluginError(f"{path} is not such a plugin: {_no_plugin(path)}.")


def _no_plugin(path: Path) -> str:
    """Why a file that can be read is no plugin."""
    have = described(path)
    return (
        "no class derived from Fusion, Loss or Control is found in its text"
        + (f", which has {have}" if have else "")
        + "; write `class NAME(BASE)` at the top of the file, where BASE comes from fusionbench, "
        "from a built-in plugin (fusionbench.plugins.fusions.sgmc) or from a file beside this one"
    )


def unknown_name(what: str, name: str, known: Iterable[str]) -> tuple[str, str]:
    """(message, remedy) for a name that is not known: did you mean …?"""
    known = list(known)
    near = difflib.get_close_matches(key_of(name), known, n=3, cutoff=0.5)
    remedy = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known)}."
    return f"There is no {what} called {name!r}.", remedy


def load(entry: Entry, base: type[T]) -> type[T]:
    """Import a plugin and return its one class derived from `base`.

    Raises PluginError with the plugin's own traceback where the import fails.
    """
    point = entry.entry_point
    if entry.broken:
        raise PluginError(f"{entry.place} is not a plugin: {entry.broken}")
    try:
        with contained(entry.name) if entry.foreign else nullcontext():
            if entry.foreign:
                ran_here.add(entry.name)
            loaded = _import_file(entry) if point is None else point.load()
    except Exception as error:
        trace = plain("".join(traceback.format_exception(error)[-3:]).strip())
        raise PluginError(
            f"The plugin {entry.name!r} ({entry.place}) fails to import:\n{trace}\n",
            _remedy(entry, error),
        ) from error
    if point is not None:
        if isinstance(loaded, type) and issubclass(loaded, base):
            return loaded
        raise PluginError(
            f"The entry point {entry.name!r} of {entry.origin} is not a {base.__name__} class."
        )
    classes = {
        value: None
        for value in vars(loaded).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == loaded.__name__
        and not value.__name__.startswith("_")
    }
    if len(classes) != 1:
        raise PluginError(f"{entry.path}: {_not_one(base.__name__, [c.__name__ for c in classes])}")
    return next(iter(classes))


def _remedy(entry: Entry, error: Exception) -> str:
    """What to do about an import that fails."""
    if isinstance(error, ModuleNotFoundError) and error.name and entry.path:
        top = error.name.partition(".")[0]
        for dots, folder in zip((".", ".."), roots_of(entry.path), strict=False):
            if (folder / top).is_dir() or (folder / f"{top}.py").is_file():
                return f"{top} lies beside the plugin: write `from {dots}{top} import …`."
    return "Mend the file, or leave it out of --plugins."


def _not_one(base: str, names: Sequence[str]) -> str:
    return (
        f"a plugin has exactly one public class derived from fusionbench's {base}; it has "
        f"{', '.join(names) or 'none'}. Put one method in one file; give helper classes another "
        "base or a leading underscore."
    )


def class_copy(entry: Entry, cls: type[T]) -> type[T]:
    """The class from another copy of the plugin's file, so that nothing is shared with `cls`; `cls`
    where the file cannot be imported twice, and of an installed package."""
    try:
        with contained(entry.name):
            copy = cls if entry.path is None else getattr(_import_file(entry, "copy"), cls.__name__)
    except Exception:
        return cls
    return cast(type[T], copy)


def source_hash(entry: Entry) -> str:
    """16 hex digits of the sha256 of the plugin's source file (of the module's for an entry point)
    and of every file that it imports: from below its folder, or from its installed package."""
    path = _file_of(entry)
    if path is None or entry.broken:
        return "unknown"
    package = ""
    if entry.entry_point is not None:
        package = entry.entry_point.module.split(".")[0]
        inside = next((p for p in path.parents if p.name == package), path)
        roots = [inside.parent]
    else:
        roots = roots_of(path)
    digest = hashlib.sha256(_normalised(path))
    for file in imported_files(path, roots, package):
        root = next((r for r in roots if file.is_relative_to(r)), file.parent)
        digest.update(b"\0%s\0" % os.fsencode(file.relative_to(root).as_posix()))
        digest.update(_normalised(file))
    return digest.hexdigest()[:16]


def _normalised(path: Path) -> bytes:
    return path.read_bytes().replace(b"\r\n", b"\n")


def dataset_cards(extra: Sequence[str | Path] = ()) -> dict[str, Path]:
    """Dataset name -> its dataset.toml: built-in, under `--plugins` folders, installed."""
    cards: dict[str, Path] = {}
    for root in (builtin_root(), *plugin_paths(extra)):
        for card in sorted(root.glob("datasets/*/dataset.toml")):
            name = card.parent.name
            if name in cards:
                raise PluginError(
                    f"Two datasets are called {name!r}: {cards[name]} and {card}.",
                    "Rename one of the folders.",
                )
            cards[name] = card
    for point in _installed("fusionbench.datasets"):
        if (module := _module_file(point)) is not None:
            cards.setdefault(point.name, module.parent / "dataset.toml")
    return cards


def _file_of(entry: Entry) -> Path | None:
    """The file of the plugin's class; None where a package does not tell."""
    path = _module_file(entry.entry_point) if entry.entry_point else entry.path
    return path and Path(os.path.realpath(path))


def _module_file(point: EntryPoint) -> Path | None:
    spec = importlib.util.find_spec(point.module)
    return Path(spec.origin) if spec and spec.origin else None


@cache
def _installed(group: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def _candidates(kind: str, extra: list[Path]) -> Iterator[Entry]:
    """Built-in plugins, those in files and folders of the user's, and installed ones. `fusions/`
    and `losses/` inside a folder tell the kind, elsewhere the base class in the source does."""
    roots = [(builtin_root() / "plugins", "built-in"), *((root, str(root)) for root in extra)]
    for root, origin in roots:
        files = [*sorted(root.glob("*.py")), *sorted((root / kind).glob("*.py"))]
        for path in files if root.is_dir() else [root]:
            if path.name.startswith(("_", "test_")) or path.suffix != ".py":
                continue
            real = path.resolve() if path.exists() else path.absolute()
            source, declared = read_source(real), declared_in(real, roots_of(real))
            mine = [one for one in declared if one.kind == kind]
            entry = Entry(key_of(path.stem), kind, origin, real, source.summary)
            # Of no kind: it is named explicitly, or lies in a folder for plugins of the kind.
            alone = path == root and kind == "fusions" and not declared
            if len(mine) == 1:
                parameters, choices = mine[0].parameters, mine[0].choices
                yield replace(entry, parameters=parameters, choices=choices)
            elif mine:
                yield replace(entry, broken=_not_one(KINDS[kind], [one.name for one in mine]))
            elif source.broken and (path.parent.name == kind or kind == "fusions"):
                yield replace(entry, broken=source.broken)
            elif path.parent.name == kind or alone:
                yield replace(entry, broken=_no_plugin(real))
    for point in _installed(f"fusionbench.{kind}"):
        dist = point.dist.name if point.dist else "installed package"
        yield Entry(key_of(point.name), kind, dist, summary=point.value, entry_point=point)


def _import_file(entry: Entry, copy: str = "") -> ModuleType:
    """Import a plugin file, in a package of its own: `from .beside import x` finds the file beside
    it, and no other plugin's. The same source, with all that it imports, is imported once per
    `copy`."""
    path = entry.path
    assert path is not None
    digest = hashlib.sha256(os.fsencode(f"{path} {source_hash(entry)}")).hexdigest()[:12]
    package = f"fusionbench_plugins.{entry.kind}_{digest}{copy}"
    folders = {package: roots_of(path)[-1]}
    name = re.sub(r"\W", "_", path.stem)
    if path.parent != folders[package]:  # plugins/fusions/mine.py
        package += f".{path.parent.name}"
        folders[package] = path.parent
    name = f"{package}.{name}"
    if name in sys.modules:
        return sys.modules[name]
    before, quiet = set(sys.modules), sys.dont_write_bytecode
    importlib.invalidate_caches()
    sys.dont_write_bytecode = True  # an edited neighbour must not be read from an older copy
    try:
        relative = any(level for level, _ in read_source(path).modules)
        _module("fusionbench_plugins", None, [])
        for inner, folder in folders.items():
            init = folder / "__init__.py"
            _module(inner, init if relative and init.is_file() else None, [str(folder)])
        return _module(name, path)
    except BaseException:
        for added in set(sys.modules) - before:
            if added.startswith(min(folders)):
                del sys.modules[added]
        raise
    finally:
        sys.dont_write_bytecode = quiet


def _module(name: str, file: Path | None, folders: list[str] | None = None) -> ModuleType:
    """The module of that name, made of the file where it is not there yet; a package where it has
    `folders`, in which its modules lie."""
    if name not in sys.modules:
        spec = ModuleSpec(name, None, is_package=True)
        if file is not None:
            spec = importlib.util.spec_from_file_location(name, file)  # type: ignore[assignment]
        if folders is not None:
            spec.submodule_search_locations = folders
        sys.modules[name] = importlib.util.module_from_spec(spec)
        if spec.loader is not None:
            spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
