"""The file of a declared table -> a checked DeclaredTable -> the runs that its rows stand for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from fusionbench.config.problems import bad_file, problems_of, read_toml
from fusionbench.data.paths import given_path, is_file
from fusionbench.errors import UsageError
from fusionbench.plugin import registry
from fusionbench.plugin.registry import builtin_root, key_of, unknown_name
from fusionbench.tables.schema import Declared, DeclaredTable, Overrides
from fusionbench.tables.validation import check, check_variant
from fusionbench.tables.variants import apply, config_of


def builtin_tables() -> dict[str, Path]:
    """Name -> file of the tables that come with fusionbench."""
    return {p.stem: p for p in sorted((builtin_root() / "leaderboards").glob("*.toml"))}


def read_table(name: str | Path, *, plugins: Sequence[str | Path] = ()) -> DeclaredTable:
    """The table of that name or path, checked with its small version.

    Raises UsageError where there is none, DataError that lists every problem by field.
    """
    path = _find(name)
    raw = read_toml(path)
    problems: list[tuple[str, str]] = []
    if "path" in raw:
        problems.append(("path", "is not a known field"))
    try:
        # As JSON: strict about types, and a list is fine for a tuple.
        table = DeclaredTable.model_validate_json(json.dumps(raw, default=str))
        problems += check(table, plugins)
    except ValidationError as error:
        problems += problems_of(error)
    except RecursionError:
        problems.append(("", "is nested too deeply"))
    if problems:
        raise bad_file(path, problems, "leaderboards/README.md describes the format.")
    return table.model_copy(update={"path": path})


def expand(
    table: DeclaredTable, overrides: Overrides | None = None, *, plugins: Sequence[str | Path] = ()
) -> tuple[Declared, ...]:
    """Every row under every seed, row by row, in the table's order.

    Raises UsageError where the overrides do not fit the table.
    """
    changed = apply(table, overrides or Overrides())
    for where, text in check_variant(changed, plugins):
        raise UsageError(f"{table.name}, {where}: {text}.", "Check the options of the command.")
    controls = registry.discover("controls", plugins)
    return tuple(
        Declared(i, row.label, config_of(changed, row, seed, controls))
        for i, row in enumerate(changed.rows)
        for seed in changed.seeds
    )


def _find(name: str | Path) -> Path:
    tables = builtin_tables()
    key = key_of(str(name))
    if key in tables:
        return tables[key]
    path = given_path(name)
    if is_file(path):
        return path
    if path.suffix == ".toml" or len(path.parts) > 1:
        raise UsageError(f"There is no table file at {path}.", f"Built in: {', '.join(tables)}.")
    raise UsageError(*unknown_name("table", str(name), tables))
