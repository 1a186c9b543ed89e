"""What the text of a Python file says: its imports, its classes, their settings. Nothing is run."""

from __future__ import annotations

import ast
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

MOST = 1_000_000  # bytes of a plugin's source; no method needs as many


@dataclass(frozen=True)
class ClassText:
    """A class at the top of a file."""

    name: str
    bases: tuple[str, ...]  # as `Source.names` spells them
    # Keyword arguments of its own __init__ with their defaults as text; None: it has no __init__.
    parameters: tuple[tuple[str, str], ...] | None = None
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of Literal and Enum


@dataclass(frozen=True)
class Source:
    """What was read from one version of a file."""

    broken: str = ""  # why it cannot be read; then the rest is empty
    summary: str = ""
    # Name -> what it stands for: `Fusion as F` of fusionbench is F -> "fusionbench.Fusion", one of
    # a neighbour begins with its dots.
    names: Mapping[str, str] = field(default_factory=dict)
    stars: tuple[str, ...] = ()  # modules of which all names are imported
    classes: tuple[ClassText, ...] = ()
    # (dots in front, parts of the name) of every module that may be imported, wherever.
    modules: tuple[tuple[int, tuple[str, ...]], ...] = ()


def read_source(path: Path) -> Source:
    """Each version of a file is read once. Never raises: a pipe, a folder or a link that leads
    nowhere, a file too large or nested too deep, and what Python cannot read, is broken."""
    try:
        return _read(path, file_version(path))
    except OSError as error:
        return Source(f"it cannot be read: {error.strerror or error}")


def file_version(path: Path) -> tuple[int, int, int]:
    """Changes when the file does."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


@lru_cache(maxsize=4096)
def _read(path: Path, version: tuple[int, ...]) -> Source:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        return Source("it is not a file")
    if status.st_size > MOST:
        return Source(f"it has {status.st_size:,} bytes; a plugin has at most {MOST:,}")
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
        return _Reader().read(tree)
    except SyntaxError as error:
        where = f"{path}, line {error.lineno}" if error.lineno else str(path)
        return Source(f"{where}: {type(error).__name__}: {error.msg}")
    except ValueError as error:
        return Source(f"{path}: {error}")
    except (RecursionError, MemoryError):
        return Source("it is nested too deep to be read")


class _Reader:
    """Goes through a file from top to bottom, as Python does."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.stars: list[str] = []
        self.classes: dict[str, ClassText] = {}
        self.literals: dict[str, tuple[str, ...]] = {}  # names of Literal types and enums

    def read(self, tree: ast.Module) -> Source:
        for node in _statements(tree.body):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._import(node)
            elif isinstance(node, ast.ClassDef):
                self._class(node)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                self.names[name] = self._spelled(node.value)
                self.literals[name] = self._choices(node.value)
        summary = (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ")
        classes, stars = tuple(self.classes.values()), tuple(self.stars)
        return Source("", summary, self.names, stars, classes, tuple(_modules(tree)))

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                self.names[alias.asname or name] = name
            return
        module = "." * node.level + (node.module or "")
        for alias in node.names:
            if alias.name == "*":
                self.stars.append(module)
            else:
                dot = "." if node.module else ""
                self.names[alias.asname or alias.name] = f"{module}{dot}{alias.name}"

    def _class(self, node: ast.ClassDef) -> None:
        bases = tuple(self._spelled(base) for base in node.bases)
        parameters, choices = None, {}
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                pairs = [
                    (argument, default)
                    for argument, default in zip(
                        item.args.kwonlyargs, item.args.kw_defaults, strict=True
                    )
                    if default
                ]
                parameters = tuple((a.arg, ast.unparse(default)) for a, default in pairs)
                choices = {a.arg: self._choices(a.annotation) for a, _ in pairs if a.annotation}
        if any(base.rpartition(".")[2].endswith("Enum") for base in bases):
            self.literals[node.name] = tuple(
                str(item.value.value)
                for item in node.body
                if isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant)
            )
        choices = {name: values for name, values in choices.items() if values}
        self.names.pop(node.name, None)
        self.classes[node.name] = ClassText(node.name, bases, parameters, choices)

    def _spelled(self, node: ast.expr) -> str:
        """`F`, `fb.Fusion`, `Base[int]` with what their first name stands for; "" for the rest."""
        if isinstance(node, ast.Subscript):
            return self._spelled(node.value)
        if isinstance(node, ast.Attribute):
            before = self._spelled(node.value)
            return before and f"{before}.{node.attr}"
        return self.names.get(node.id, node.id) if isinstance(node, ast.Name) else ""

    def _choices(self, node: ast.expr) -> tuple[str, ...]:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Subscript) and ast.unparse(inner.value).endswith("Literal"):
                values = inner.slice.elts if isinstance(inner.slice, ast.Tuple) else [inner.slice]
                return tuple(str(v.value) for v in values if isinstance(v, ast.Constant))
            if isinstance(inner, ast.Name) and self.literals.get(inner.id):
                return self.literals[inner.id]
        return ()


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Those that run when the file is imported: also under `if`, `try` and `with`. What follows
    `except` and `else` comes first, so that the rest counts."""
    for node in body:
        yield node
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for handler in getattr(node, "handlers", []):
                yield from _statements(handler.body)
            for name in ("orelse", "body", "finalbody"):
                yield from _statements(getattr(node, name, []))


def _modules(tree: ast.Module) -> dict[tuple[int, tuple[str, ...]], None]:
    modules: dict[tuple[int, tuple[str, ...]], None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {(0, tuple(alias.name.split("."))): None for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = tuple(node.module.split(".")) if node.module else ()
            # What follows `import` may be a module, too.
            modules |= {(node.level, (*parts, alias.name)): None for alias in node.names}
    return modules
