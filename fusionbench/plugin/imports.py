"""Which files beside a plugin it imports: a change of them changes its numbers as well."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

# Never a plugin's own, although it may lie below a plugin's folder.
_OURS = "fusionbench"


def imported_files(path: Path, roots: Sequence[Path], package: str = "") -> list[Path]:
    """Python files below `roots` that the file at `path` imports, also through one another, sorted.

    Read from the source text, wherever in it an import stands; nothing is run. `package`: where
    the roots hold more than the plugin's own files, the one package that counts. Modules that a
    plugin finds in other ways (importlib, a changed sys.path) are not seen.
    """
    seen: dict[Path, None] = {path: None}
    todo = [path]
    while todo:
        file = todo.pop()
        for level, parts in _imports(file, file_version(file)):
            if level == 0 and (parts[0] == _OURS or (package and parts[0] != package)):
                continue
            bases = [file.parents[level - 1]] if 0 < level <= len(file.parents) else roots
            for found in (f for base in bases for f in _files(base, parts) if f not in seen):
                seen[found] = None
                todo.append(found)
    return sorted(list(seen)[1:])


def file_version(path: Path) -> tuple[int, int, int]:
    """Changes when the file does: what is read from its source is remembered by this."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


@lru_cache(maxsize=4096)
def _imports(path: Path, version: tuple[int, ...]) -> list[tuple[int, tuple[str, ...]]]:
    """(dots in front, parts of the name) of every module that may be imported."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
        return []
    modules: list[tuple[int, tuple[str, ...]]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [(0, tuple(alias.name.split("."))) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = tuple((node.module or "").split(".")) if node.module else ()
            # What follows `import` may be a module, too.
            modules += [(node.level, (*parts, alias.name)) for alias in node.names]
    return list(dict.fromkeys(modules))


def _files(base: Path, parts: Sequence[str]) -> Iterator[Path]:
    """What Python runs to import `parts` from `base`: modules, and packages on the way."""
    for part in parts:
        base /= part
        for file in (base / "__init__.py", base.with_name(f"{base.name}.py")):
            if file.is_file():
                yield file.resolve()
                break
        else:
            if not base.is_dir():
                return
