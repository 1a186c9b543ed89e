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
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from fusionbench.errors import PluginError, UsageError

T = TypeVar("T")

# Plugin kind -> name of the base class that its plugins derive from.
KINDS = {"fusions": "Fusion", "losses": "Loss", "controls": "Control"}
# What `--fusion NAME` may name: a fusion, or a control that never sees the photograph.
METHODS = ("fusions", "controls")


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
    def uses_images(self) -> bool:
        """Whether it is built into a network that sees the photograph, as its base class says."""
        return self.kind != "controls"

    @property
    def defaults(self) -> dict[str, Any]:
        """The defaults of its settings, as far as they are literals."""
        values = {}
        for key, source in self.parameters:
            try:
                values[key] = ast.literal_eval(source)
            except (ValueError, SyntaxError):
                continue
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
    found: dict[str, Entry] = {}
    for entry in _candidates(kind, plugin_paths(extra)):
        other = found.get(entry.name)
        if other is not None and not (other.path and other.path == entry.path):
            raise PluginError(
                f"Two {kind} are called {entry.name!r}: {other.path or other.origin} and "
                f"{entry.path or entry.origin}.",
                "Rename one of the files.",
            )
        found.setdefault(entry.name, entry)
    return dict(sorted(found.items()))


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
    found = {kind: discover(kind, extra) for kind in METHODS}
    key = key_of(name)
    claimed = [entries[key] for entries in found.values() if key in entries]
    if not claimed:
        known = [known for entries in found.values() for known in entries]
        raise UsageError(*unknown_name("fusion", name, known))
    if len(claimed) > 1:
        places = " and ".join(str(entry.path or entry.origin) for entry in claimed)
        raise PluginError(f"A fusion and a control are called {key!r}: {places}.", "Rename one.")
    return claimed[0]


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
    if entry.entry_point is not None:
        try:
            cls = entry.entry_point.load()
        except Exception as error:
            raise _import_error(entry, error) from error
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise PluginError(
                f"The entry point {entry.name!r} of {entry.origin} is not a {base.__name__} class."
            )
        return cls
    assert entry.path is not None
    module = _import_file(entry)
    classes = [
        obj
        for obj in vars(module).values()
        if isinstance(obj, type)
        and issubclass(obj, base)
        and obj.__module__ == module.__name__
        and not obj.__name__.startswith("_")
    ]
    if len(classes) != 1:
        have = ", ".join(c.__name__ for c in classes) or "none"
        raise PluginError(
            f"{entry.path} must define exactly one public class derived from "
            f"fusionbench {base.__name__}; it has {have}.",
            "Put one method in one file; give helper classes another base or a leading underscore.",
        )
    return classes[0]


def source_hash(entry: Entry) -> str:
    """sha256 of the plugin's source file, 16 hex digits; of the module's for an entry point."""
    path = entry.path
    if path is None and entry.entry_point is not None:
        spec = importlib.util.find_spec(entry.entry_point.module)
        path = Path(spec.origin) if spec and spec.origin else None
    if path is None:
        return "unknown"
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()[:16]


def dataset_cards(extra: Sequence[str | Path] = ()) -> dict[str, Path]:
    """Dataset name -> its dataset.toml: built-in, under `--plugins` folders, installed."""
    folders = [builtin_root() / "datasets", *(p / "datasets" for p in plugin_paths(extra))]
    cards: dict[str, Path] = {}
    for folder in folders:
        for card in sorted(folder.glob("*/dataset.toml")):
            if card.parent.name in cards:
                raise PluginError(
                    f"Two datasets are called {card.parent.name!r}: {cards[card.parent.name]} "
                    f"and {card}.",
                    "Rename one of the folders.",
                )
            cards[card.parent.name] = card
    for point in _installed("fusionbench.datasets"):
        spec = importlib.util.find_spec(point.module)
        if spec and spec.origin and point.name not in cards:
            cards[point.name] = Path(spec.origin).parent / "dataset.toml"
    return cards


@cache
def _installed(group: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def _candidates(kind: str, extra: list[Path]) -> Iterator[Entry]:
    for path in sorted((builtin_root() / "plugins" / kind).glob("*.py")):
        if not path.name.startswith("_"):
            yield _read(path, kind, "built-in")
    for root in extra:
        yield from _under(root, kind)
    for point in _installed(f"fusionbench.{kind}"):
        dist = point.dist.name if point.dist else "installed package"
        yield Entry(key_of(point.name), kind, dist, summary=point.value, entry_point=point)


def _under(root: Path, kind: str) -> Iterator[Entry]:
    """Plugins in a file or folder of the user's: `fusions/` and `losses/` inside it tell the kind,
    elsewhere the base class in the source does."""
    if root.is_file():
        files = [root]
    else:
        files = [*sorted(root.glob("*.py")), *sorted((root / kind).glob("*.py"))]
    for path in files:
        if path.name.startswith(("_", "test_")) or path.suffix != ".py":
            continue
        entry = _read(path, kind, str(root))
        declared = _parsed(path, *_version(path)).kind
        if path.parent.name == kind or declared == kind:
            yield entry
        elif root.is_file() and kind == "fusions" and not declared:
            # Named explicitly, and of no kind: say why rather than pass it over.
            yield replace(
                entry, broken=entry.broken or "no class derived from Fusion, Loss or Control"
            )


def _version(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


@lru_cache(maxsize=4096)
def _parsed(path: Path, *version: int) -> Entry:
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


def _read(path: Path, kind: str, origin: str) -> Entry:
    """An Entry from source text alone."""
    entry = _parsed(path, *_version(path))
    parameters = entry.parameters if entry.kind == kind else ()
    return replace(entry, kind=kind, origin=origin, parameters=parameters)


def _keywords(node: ast.ClassDef) -> tuple[tuple[str, str], ...]:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            pairs = zip(item.args.kwonlyargs, item.args.kw_defaults, strict=True)
            return tuple((arg.arg, ast.unparse(default)) for arg, default in pairs if default)
    return ()


def _import_file(entry: Entry) -> ModuleType:
    """Import a plugin file under a name of its own; the same source is imported once."""
    assert entry.path is not None
    digest = hashlib.sha256(str(entry.path).encode() + entry.path.read_bytes()).hexdigest()[:12]
    name = f"fusionbench_plugins.{entry.kind}.{entry.name.replace('-', '_')}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, entry.path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise _import_error(entry, error) from error
    return module


def _import_error(entry: Entry, error: Exception) -> PluginError:
    trace = "".join(traceback.format_exception(error)[-3:]).strip()
    return PluginError(
        f"The plugin {entry.name!r} ({entry.path or entry.origin}) fails to import:\n{trace}\n",
        "Mend the file, or leave it out of --plugins.",
    )
