"""What a plugin imports: which files (a change of them changes its numbers as well), and what its
classes derive from in them. Read from the source text; nothing is run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fusionbench.plugin.source import ClassText, read_source

# Plugin kind -> name of the base class that its plugins derive from.
KINDS = {"fusions": "Fusion", "losses": "Loss", "controls": "Control"}
# Never a plugin's own, although it may lie below a plugin's folder; but for the built-in plugins.
_OURS = "fusionbench"
_BUILT_IN = (_OURS, "plugins")


def builtin_root() -> Path:
    """The folder that holds `plugins/` and `datasets/`: in a wheel inside the package, else the
    checkout."""
    package = Path(__file__).parent.parent
    inside = package / "builtin"
    return inside if inside.is_dir() else package.parent


def roots_of(path: Path) -> list[Path]:
    """The folders in which a plugin file's own modules lie."""
    return [path.parent, *([path.parent.parent] if path.parent.name in KINDS else [])]


def imported_files(path: Path, roots: Sequence[Path], package: str = "") -> list[Path]:
    """Python files below `roots` that the file at `path` imports, also through one another, sorted;
    built-in plugins among them.

    `package`: where the roots hold more than the plugin's own files, the one package that counts.
    Modules that a plugin finds in other ways (importlib, a changed sys.path) are not seen.
    """
    seen: dict[Path, None] = {path: None}
    todo = [path]
    while todo:
        file = todo.pop()
        for level, parts in read_source(file).modules:
            if level == 0 and package and parts[0] not in (package, _OURS):
                continue
            for found in (f for f in _files(file, level, parts, roots) if f not in seen):
                seen[found] = None
                todo.append(found)
    return sorted(list(seen)[1:])


def _files(file: Path, level: int, parts: Sequence[str], roots: Sequence[Path]) -> Iterator[Path]:
    """What Python runs to import `parts`: modules, and packages on the way."""
    bases = list(roots)
    if 0 < level <= len(file.parents):
        bases = [file.parents[level - 1]]
        yield from (init for init in (bases[0] / "__init__.py",) if init.is_file())
    elif tuple(parts[:2]) == _BUILT_IN:
        bases, parts = [builtin_root() / "plugins"], parts[2:]
    elif parts[0] == _OURS:
        return
    for base in bases:
        for part in parts:
            base /= part
            for module in (base / "__init__.py", base.with_name(f"{base.name}.py")):
                if module.is_file():
                    yield module.resolve()
                    break
            else:
                if not base.is_dir():
                    break


@dataclass(frozen=True)
class PluginClass:
    """A plugin class, as far as texts tell."""

    name: str
    kind: str  # of KINDS
    parameters: tuple[tuple[str, str], ...] = ()  # (name, default as source text)
    choices: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of a setting


class _Place(NamedTuple):
    file: Path
    name: str


def declared_in(path: Path, roots: Sequence[Path]) -> list[PluginClass]:
    """The public classes of a file that derive from a base of KINDS: under whatever name it is
    imported, through classes of the file itself, of files beside it, and of built-in plugins."""
    found = (
        _declared(_Place(path, text.name), roots, set())
        for text in read_source(path).classes
        if not text.name.startswith("_")
    )
    return [one for one in found if one is not None]


def described(path: Path) -> str:
    """Its public classes with their bases: `Gate(torch.nn.Module)`."""
    classes = [c for c in read_source(path).classes if not c.name.startswith("_")]
    return ", ".join(f"{c.name}({', '.join(base or '…' for base in c.bases)})" for c in classes)


def _declared(place: _Place, roots: Sequence[Path], seen: set[_Place]) -> PluginClass | None:
    """What the name stands for in the file."""
    if place in seen:
        return None
    seen.add(place)
    source = read_source(place.file)
    text = next((c for c in source.classes if c.name == place.name), None)
    if text is not None:
        return _class(text, place.file, roots, seen)
    if place.name in source.names:
        return _referred(source.names[place.name], place.file, roots, seen)
    for module in source.stars:
        dot = "" if module.endswith(".") else "."
        if found := _referred(f"{module}{dot}{place.name}", place.file, roots, seen):
            return found
    return None


def _class(
    text: ClassText, file: Path, roots: Sequence[Path], seen: set[_Place]
) -> PluginClass | None:
    for base in text.bases:
        local = _Place(file, base)
        if found := _declared(local, roots, seen) or _referred(base, file, roots, seen):
            if text.parameters is None:
                return PluginClass(text.name, found.kind, found.parameters, found.choices)
            return PluginClass(text.name, found.kind, text.parameters, dict(text.choices))
    return None


def _referred(
    reference: str, file: Path, roots: Sequence[Path], seen: set[_Place]
) -> PluginClass | None:
    """What `fusionbench.Fusion` or `.beside.Base` stands for in the file."""
    level = len(reference) - len(reference.lstrip("."))
    *module, name = reference[level:].split(".")
    if level == 0 and module[:1] == [_OURS] and tuple(module[:2]) != _BUILT_IN:
        kinds = {base: kind for kind, base in KINDS.items()}
        return PluginClass(name, kinds[name]) if name in kinds else None
    if not module and not level:
        return _declared(_Place(file, name), roots, seen)
    for found in _files(file, level, module, roots):
        if not module or module[-1] in (found.stem, found.parent.name):
            return _declared(_Place(found, name), roots, seen)
    return None
