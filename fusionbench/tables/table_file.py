"""The file of a declared table -> a checked DeclaredTable -> the runs that its rows stand for."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from fusionbench.config.wording import plural
from fusionbench.data.paths import given_path, is_file
from fusionbench.errors import DataError, UsageError
from fusionbench.plugin import registry
from fusionbench.plugin.registry import builtin_root, key_of, unknown_name
from fusionbench.tables.schema import Declared, DeclaredTable, Overrides
from fusionbench.tables.validation import check, check_variant, problems_of
from fusionbench.tables.variants import apply, config_of


def builtin_tables() -> dict[str, Path]:
    """Name -> file of the tables that come with fusionbench."""
    return {p.stem: p for p in sorted((builtin_root() / "leaderboards").glob("*.toml"))}


def read_table(name: str | Path, *, plugins: Sequence[str | Path] = ()) -> DeclaredTable:
    """The table of that name or path, checked with its small version.

    Raises UsageError where there is none, DataError that lists every problem by field.
    """
    path = _find(name)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        # As JSON: strict about types, and a list is fine for a tuple.
        text = json.dumps(raw, default=str)
    except (OSError, ValueError, RecursionError) as error:  # no UTF-8, no TOML, nested without end
        raise DataError(
            f"{path} cannot be read: {error}.", "It must be a UTF-8 TOML file."
        ) from None
    found: list[tuple[str, str]] = []
    table = None
    if "path" in raw:
        found.append(("path", "Extra inputs are not permitted"))
    try:
        checked = DeclaredTable.model_validate_json(text)
        table = checked.model_copy(update={"path": path})
    except ValidationError as error:
        found += problems_of(error)
    if table is not None:
        found += check(table, plugins)
    if found or table is None:
        found = list(dict.fromkeys(found))
        raise DataError(
            f"{path} has {plural(len(found), 'problem')}: "
            f"{found[0][0]}: {found[0][1]}" + ("; …" if len(found) > 1 else "."),
            "leaderboards/README.md describes the format.",
            [{"file": path.name, "field": where, "problem": text} for where, text in found],
        )
    return table


def expand(
    table: DeclaredTable, overrides: Overrides | None = None, *, plugins: Sequence[str | Path] = ()
) -> tuple[Declared, ...]:
    """Every row under every seed, row by row, in the table's order.

    Raises UsageError where the overrides do not fit the table.
    """
    changed = apply(table, overrides or Overrides())
    found = [*check_variant(changed, plugins)]
    if found:
        where, text = found[0]
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
