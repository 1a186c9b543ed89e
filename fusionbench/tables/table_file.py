"""The file of a declared table -> a checked DeclaredTable -> the runs that its rows stand for.

Content is checked field by field; plugins are read as source text for that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fusionbench.config.plugin_settings import split_params
from fusionbench.config.problems import bad_file, problems_of, read_toml
from fusionbench.config.recipe import own_params
from fusionbench.config.run_config import SETTINGS, RunConfig, without_effect
from fusionbench.config.run_config import problems as setting_problems
from fusionbench.data.locate import open_card
from fusionbench.data.paths import given_path, is_file
from fusionbench.errors import FusionbenchError, UsageError
from fusionbench.plugin.registry import (
    KINDS,
    builtin_root,
    discover,
    find,
    find_method,
    key_of,
    unknown_name,
)
from fusionbench.tables.schema import Declared, DeclaredTable, Overrides
from fusionbench.tables.variants import apply, config_of, is_control

Problems = Iterator[tuple[str, str]]  # (field, problem)

# A table states these once, elsewhere than in its settings.
ELSEWHERE = {"dataset": "dataset", "protocol": "protocol", "seed": "seeds"}
# The row of a fusion must state these, itself or by the table's settings: a table leaves no method
# to a default.
STATED = ("fusion", "backbone", "loss")


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
        problems += _check(table, plugins)
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
    for where, text in _check_variant(changed, plugins):
        message = f"{table.name}, {where}: {text.rstrip('.')}."
        raise UsageError(message, "Check the options of the command.")
    controls = discover("controls", plugins)
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


def _check(table: DeclaredTable, plugins: Sequence[str | Path]) -> Problems:
    """The problems of the table and of its small version."""
    yield from _repeated("columns", table.columns)
    yield from _repeated("seeds", table.seeds)
    yield from _repeated("folds", table.folds)
    yield from _repeated("rows", [row.label for row in table.rows], ".label")
    whole = [*_check_variant(table, plugins)]
    yield from whole
    if table.small is not None:
        used = [r.settings.get("backbone", table.settings.get("backbone")) for r in table.rows]
        for name in table.small.backbones:
            if name not in used:
                yield f"small.backbones.{name}", "no row has this backbone"
        yield from _misplaced("small.settings", table.small.settings)
        if not whole:
            for where, text in _check_variant(apply(table, Overrides(small=True)), plugins):
                yield f"small: {where}", text


def _check_variant(table: DeclaredTable, plugins: Sequence[str | Path]) -> Problems:
    """The problems of the table as it stands, without its small version."""
    try:
        spec = open_card(table.dataset, plugins=plugins).protocol(table.protocol)
        for k in table.folds:
            if k >= spec.fold_count:
                yield "folds", f"{spec.name} has no fold {k}, only 0 to {spec.fold_count - 1}"
    except FusionbenchError as error:
        yield "dataset, protocol", str(error)
    if misplaced := [*_misplaced("settings", table.settings)]:
        yield from misplaced
        return  # every row would say it again
    controls = discover("controls", plugins)
    first: dict[str, str] = {}
    for i, row in enumerate(table.rows):
        where = f"rows[{i}] ({row.label})"
        problems = [*_misplaced(where, row.settings)]
        if is_control(table, row, controls):
            for name in without_effect(row.settings):
                field = name if name in SETTINGS else f"params.{name}"
                problems.append((f"{where}.{field}", "has no effect on a control"))
        else:
            own = table.settings | row.settings
            missing = [name for name in STATED if not own.get(name)]
            problems += [(f"{where}.{n}", "must be stated, here or in [settings]") for n in missing]
        yield from problems
        if problems:
            continue
        try:
            config = config_of(table, row, table.seeds[0], controls)
            _check_names(config, plugins)
        except ValidationError as error:
            yield from ((f"{where}.{name}", text) for name, text in setting_problems(error))
        except (FusionbenchError, TypeError, ValueError) as error:
            yield where, str(error)
        else:
            same = config.model_dump_json()
            if same in first:
                yield where, f"is the same run as {first[same]}"
            first.setdefault(same, row.label)


def _check_names(config: RunConfig, plugins: Sequence[str | Path]) -> None:
    """Method, losses and the names of their settings, from source text alone."""
    method = find_method(config.method.fusion, plugins)
    entries, names, params = {"fusion": method}, list[str](), config.method.params
    if method.uses_images:
        names = [key_of(name) for name in config.method.loss.split("+")]
        entries |= {f"loss.{name}": find("losses", name, plugins) for name in names}
        params = own_params(config, names)
    owned = split_params(params, names)
    for owner, entry in entries.items():
        settings = [name for name, _ in entry.parameters]
        for name in owned[owner]:
            if name not in settings and entry.entry_point is None:
                what = f"setting of {KINDS[entry.kind].lower()} {entry.name}"
                raise UsageError(*unknown_name(what, name, settings or ["(none)"]))


def _misplaced(where: str, settings: Mapping[str, Any]) -> Problems:
    for name in settings:
        if name in ELSEWHERE:
            yield f"{where}.{name}", f"belongs to the whole table: {ELSEWHERE[name]} = ..."
        elif name not in SETTINGS:
            yield f"{where}.{name}", " ".join(unknown_name("setting", name, SETTINGS))


def _repeated(where: str, items: Iterable[object], tail: str = "") -> Problems:
    seen = set()
    for i, item in enumerate(items):
        if item in seen:
            yield f"{where}[{i}]{tail}", f"{item!r} is there twice"
        seen.add(item)
