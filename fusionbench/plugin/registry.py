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
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

from fusionbench.errors import PluginError, UsageError, plain
from fusionbench.plugin.containment import contained
from fusionbench.plugin.imports import file_version, imported_files

T = TypeVar("T")

# Plugin kind -> name of the base class that its plugins derive from.
KINDS = {"fusions": "Fusion", "losses": "Loss", "controls": "Control"}
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


def builtin_root() -> Path:
    """The folder that holds `plugins/` and `datasets/`: in a wheel inside the package, else the
    checkout."""
    package = Path(__file__).parent.parent
    inside = package / "builtin"
    return inside if inside.is_dir() else package.parent


def key_of(stem: str) -> str:
    """The registry key of a file stem or of what a user typed."""
    return stem.strip().lower().replace("_", "-")


def plugin_paths(extra: Sequence[str | Path] = ()) -> list[Path]:
    """`--plugins` paths and `$FUSIONBENCH_PLUGINS`, in that order. Raises UsageError if absent."""
    named = [Path(p) for p in extra]
    named += [Path(p) for p in os.environ.get("FUSIONBENCH_PLUGINS", "").split(os.pathsep) if p]
    for path in named:
        if not path.exists():
            raise UsageError(
                f"There is no plugin file or folder at {path}.",
                "Check --plugins / $FUSIONBENCH_PLUGINS.",
            )
    return list(dict.fromkeys(p.resolve() for p in named))


def discover(kind: str, extra: Sequence[str | Path] = ()) -> dict[str, Entry]:
    """All plugins of a kind by name, sorted. Broken ones are listed, with `broken` set.

    Raises PluginError where two sources claim one name.
    """
    entries: dict[str, Entry] = {}
    for entry in _candidates(kind, plugin_paths(extra)):
        other = entries.setdefault(entry.name, entry)
        if other is not entry and not (other.path and other.path == entry.path):
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
        raise UsageError(*unknown_name(KINDS[kind].lower(), name, entries))
    return entries[key]


def find_method(name: str, extra: Sequence[str | Path] = ()) -> Entry:
    """The fusion or control of that name; `kind` says which it is.

    Raises UsageError with the nearest names, PluginError where both kinds claim the name.
    """
    methods = [entry for kind in METHODS for entry in discover(kind, extra).values()]
    claims = [entry for entry in methods if entry.name == key_of(name)]
    if not claims:
        raise UsageError(*unknown_name("fusion", name, [entry.name for entry in methods]))
    if len(claims) > 1:
        places = " and ".join(entry.place for entry in claims)
        raise PluginError(
            f"A fusion and a control are called {claims[0].name!r}: {places}.", "Rename one."
        )
    return claims[0]


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
    try:
        with contained(entry.name) if entry.foreign else nullcontext():
            if entry.foreign:
                ran_here.add(entry.name)
            loaded = _import_file(entry) if point is None else point.load()
    except Exception as error:
        trace = plain("".join(traceback.format_exception(error)[-3:]).strip())
        raise PluginError(
            f"The plugin {entry.name!r} ({entry.place}) fails to import:\n{trace}\n",
            "Mend the file, or leave it out of --plugins.",
        ) from error
    if point is not None:
        if isinstance(loaded, type) and issubclass(loaded, base):
            return loaded
        raise PluginError(
            f"The entry point {entry.name!r} of {entry.origin} is not a {base.__name__} class."
        )
    classes = [
        value
        for value in vars(loaded).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == loaded.__name__
        and not value.__name__.startswith("_")
    ]
    if len(classes) != 1:
        have = ", ".join(c.__name__ for c in classes) or "none"
        raise PluginError(
            f"{entry.path} must define exactly one public class derived from "
            f"fusionbench {base.__name__}; it has {have}.",
            "Put one method in one file; give helper classes another base or a leading underscore.",
        )
    return classes[0]


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
    path = _module_file(entry.entry_point) if entry.entry_point else entry.path
    if path is None:
        return "unknown"
    path, package = path.resolve(), ""
    if entry.entry_point is not None:
        package = entry.entry_point.module.split(".")[0]
        inside = next((p for p in path.parents if p.name == package), path)
        roots = [inside.parent]
    else:
        roots = [path.parent, *([path.parent.parent] if path.parent.name in KINDS else [])]
    digest = hashlib.sha256(_normalised(path))
    for file in imported_files(path, roots, package):
        root = next((r for r in roots if file.is_relative_to(r)), file.parent)
        digest.update(b"\0%s\0" % file.relative_to(root).as_posix().encode())
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
        for path in [root] if root.is_file() else files:
            if path.name.startswith(("_", "test_")) or path.suffix != ".py":
                continue
            entry = _parsed(path, file_version(path))
            parameters = entry.parameters if entry.kind == kind else ()
            broken = entry.broken
            if path.parent.name != kind and entry.kind != kind:
                if path != root or kind != "fusions" or entry.kind:
                    continue
                # Named explicitly, and of no kind: say why rather than pass it over.
                broken = broken or "no class derived from Fusion, Loss or Control"
            yield replace(entry, kind=kind, origin=origin, parameters=parameters, broken=broken)
    for point in _installed(f"fusionbench.{kind}"):
        dist = point.dist.name if point.dist else "installed package"
        yield Entry(key_of(point.name), kind, dist, summary=point.value, entry_point=point)


@lru_cache(maxsize=4096)
def _parsed(path: Path, version: tuple[int, ...]) -> Entry:
    """What a plugin file says without being run; `kind` is that of its base class, or "". Each
    version of a file is parsed once."""
    entry = Entry(key_of(path.stem), "", "", path.resolve())
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return replace(entry, broken=traceback.format_exc(limit=0).strip())
    summary = (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ")
    kinds = {base: kind for kind, base in KINDS.items()}
    declared = ""
    parameters: tuple[tuple[str, str], ...] = ()
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = [getattr(b, "attr", getattr(b, "id", "")) for b in node.bases]
            kind = next((kinds[base] for base in bases if base in kinds), "")
            declared = declared or kind
            if kind and not node.name.startswith("_"):
                parameters = _keywords(node)
    return replace(entry, kind=declared, summary=summary, parameters=parameters)


def _keywords(node: ast.ClassDef) -> tuple[tuple[str, str], ...]:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            pairs = zip(item.args.kwonlyargs, item.args.kw_defaults, strict=True)
            return tuple((arg.arg, ast.unparse(default)) for arg, default in pairs if default)
    return ()


def _import_file(entry: Entry, copy: str = "") -> ModuleType:
    """Import a plugin file under a name of its own; the same source is imported once per `copy`."""
    assert entry.path is not None
    digest = hashlib.sha256(str(entry.path).encode() + entry.path.read_bytes()).hexdigest()[:12]
    name = f"fusionbench_plugins.{entry.kind}.{entry.name.replace('-', '_')}_{digest}{copy}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, entry.path)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
