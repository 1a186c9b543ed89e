"""What is wrong with a table's content, field by field. Plugins are read as source text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fusionbench.config.plugin_settings import split_params
from fusionbench.config.recipe import own_params
from fusionbench.config.run_config import SETTINGS, RunConfig
from fusionbench.config.run_config import problems as setting_problems
from fusionbench.data.locate import open_card
from fusionbench.errors import FusionbenchError, UsageError
from fusionbench.metrics.names import METRICS, describe
from fusionbench.plugin.registry import KINDS, METHODS, Entry, discover, key_of, unknown_name
from fusionbench.tables.schema import DeclaredTable, Overrides
from fusionbench.tables.variants import apply, config_of, fold_count, is_control, protocol_of

# Said once for the whole table, elsewhere than in its settings.
ELSEWHERE = {"dataset": "dataset", "protocol": "protocol", "seed": "seeds"}
# What the row of a fusion must say, itself or by the table's settings: a table leaves no method to
# a default.
STATED = ("fusion", "backbone", "loss")


def check(table: DeclaredTable, plugins: Sequence[str | Path]) -> Iterator[tuple[str, str]]:
    """(field, problem) of the table and of its small version."""
    for i, name in enumerate(table.columns):
        try:
            describe(name)
        except KeyError:
            message, remedy = unknown_name("metric", name, METRICS)
            yield f"columns[{i}]", f"{message} {remedy}"
    yield from _repeated("columns", table.columns)
    yield from _repeated("seeds", table.seeds)
    yield from _repeated("folds", table.folds)
    yield from _repeated("rows", [row.label for row in table.rows], ".label")
    whole = [*check_variant(table, plugins)]
    yield from whole
    if table.small is not None:
        used = [r.settings.get("backbone", table.settings.get("backbone")) for r in table.rows]
        for name in table.small.backbones:
            if name not in used:
                yield f"small.backbones.{name}", "no row has this backbone"
        yield from _misplaced("small.settings", table.small.settings)
        small = apply(table, Overrides(small=True))
        for where, text in [] if whole else check_variant(small, plugins):
            yield f"small: {where}", text


def check_variant(table: DeclaredTable, plugins: Sequence[str | Path]) -> Iterator[tuple[str, str]]:
    try:
        spec = protocol_of(table, open_card(table.dataset, plugins=plugins))
        for k in table.folds:
            if k >= fold_count(spec):
                yield "folds", f"{spec.name} has no fold {k}, only 0 to {fold_count(spec) - 1}"
    except FusionbenchError as error:
        yield "dataset, protocol", str(error)
    if misplaced := [*_misplaced("settings", table.settings)]:
        yield from misplaced
        return  # every row would say it again
    entries = {kind: discover(kind, plugins) for kind in KINDS}
    first: dict[str, str] = {}
    for i, row in enumerate(table.rows):
        where = f"rows[{i}] ({row.label})"
        problems = [*_misplaced(where, row.settings)]
        if is_control(table, row, entries["controls"]):
            problems += _without_effect(where, row.settings)
        else:
            own = table.settings | row.settings
            for name in (name for name in STATED if not own.get(name)):
                problems.append((f"{where}.{name}", "must be stated, here or in [settings]"))
        yield from problems
        if problems:
            continue
        try:
            config = config_of(table, row, table.seeds[0], entries["controls"])
            _check_names(config, entries)
        except ValidationError as error:
            yield from ((f"{where}.{name}", text) for name, text in setting_problems(error))
        except (FusionbenchError, TypeError, ValueError) as error:
            yield where, str(error)
        else:
            same = config.model_dump_json()
            if same in first:
                yield where, f"is the same run as {first[same]}"
            first.setdefault(same, row.label)


def _check_names(config: RunConfig, known: Mapping[str, dict[str, Entry]]) -> None:
    """Method, losses and the names of their settings, from source text alone."""
    methods = {name: entry for kind in METHODS for name, entry in known[kind].items()}
    entry = _find("fusion", config.method.fusion, methods)
    if not entry.uses_images:
        own = split_params(config.method.params, ())["fusion"]
        _check_params(f"control {entry.name}", entry, own)
        return
    names = [key_of(name) for name in config.method.loss.split("+")]
    losses = {name: _find("loss", name, known["losses"]) for name in names}
    owned = split_params(own_params(config, names), names)
    _check_params(f"fusion {entry.name}", entry, owned["fusion"])
    for name, loss in losses.items():
        _check_params(f"loss {name}", loss, owned[f"loss.{name}"])


def _find(kind: str, name: str, entries: Mapping[str, Entry]) -> Entry:
    if key_of(name) not in entries:
        raise UsageError(*unknown_name(kind, name, entries))
    return entries[key_of(name)]


def _check_params(what: str, entry: Entry, given: Iterable[str]) -> None:
    known = [name for name, _ in entry.parameters]
    for name in given:
        if name not in known and entry.entry_point is None:
            raise UsageError(*unknown_name(f"setting of {what}", name, known or ["(none)"]))


def _without_effect(where: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings that a control's own row states although they do not reach it."""
    for name in settings:
        if name in SETTINGS and not SETTINGS[name].reaches_controls:
            yield f"{where}.{name}", "has no effect on a control: it sees no photograph"
    for key in settings.get("params", ()):
        if not str(key).startswith("fusion."):
            yield f"{where}.params", f"{key} has no effect on a control"


def _misplaced(where: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in settings:
        if name in ELSEWHERE:
            yield f"{where}.{name}", f"belongs to the whole table: {ELSEWHERE[name]} = ..."
        elif name not in SETTINGS:
            message, remedy = unknown_name("setting", name, SETTINGS)
            yield f"{where}.{name}", f"{message} {remedy}"


def _repeated(where: str, items: Iterable[object], tail: str = "") -> Iterator[tuple[str, str]]:
    seen = set()
    for i, item in enumerate(items):
        if item in seen:
            yield f"{where}[{i}]{tail}", f"{item!r} is there twice"
        seen.add(item)


def problems_of(error: ValidationError) -> list[tuple[str, str]]:
    """(field, problem) as TOML names it: rows[0].label."""
    found = []
    for item in error.errors():
        where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in item["loc"])
        found.append((where.removeprefix(".") or "the file", item["msg"]))
    return found
