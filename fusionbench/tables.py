"""Declared tables: leaderboards/<name>.toml says which rows a table has and how each is run.

    table = read_table("sgmc-pad-ufes-20")      a built-in name, or the path of a file
    expand(table, Overrides(small=True))        -> what has to be run, row by row
    builtin_tables()                            -> name -> file

A row is a label and the settings in which it differs from the others; `[settings]` holds what all
of them share, `[small]` what turns the table into one that is made in minutes, on drawn lesions.
leaderboards/README.md describes the format.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fusionbench.config import RunConfig, split_params
from fusionbench.data.card import DatasetCard, ProtocolSpec
from fusionbench.data.locate import open_card
from fusionbench.errors import DataError, FusionbenchError, UsageError
from fusionbench.metric_names import METRICS, describe
from fusionbench.recipes import configure, own_params
from fusionbench.registry import KINDS, Entry, builtin_root, discover, key_of, unknown_name

Text = Annotated[str, Field(min_length=1)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1)]
Folds = tuple[Annotated[int, Field(ge=0)], ...]

# Said once for the whole table, elsewhere than in its settings.
ELSEWHERE = {"dataset": "dataset", "protocol": "protocol", "seed": "seeds"}
# What a row must say, itself or by the table's settings: a table leaves no method to a default.
STATED = ("fusion", "backbone", "loss")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class TableRow(_Part):
    """A label, and RunConfig fields in which the row differs from the table's settings."""

    model_config = ConfigDict(extra="allow")

    label: Text

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class PublishedFilter(_Part):
    """Which published rows stand below ours: those that meet every condition that is given."""

    method: tuple[Text, ...] = ()
    backbone: tuple[Text, ...] = ()
    source: tuple[Text, ...] = ()  # a part of the source's text is enough

    def wants(self, method: str, backbone: str, source: str) -> bool:
        methods = {key_of(name) for name in self.method}
        return (
            (not self.method or key_of(method) in methods)
            and (not self.backbone or backbone in self.backbone)
            and (not self.source or any(text in source for text in self.source))
        )


class Small(_Part):
    """The version that anyone makes in minutes."""

    note: Text  # what a reader must know; printed with the table
    dataset: Text = "synthetic"
    protocol: str = ""
    seeds: Seeds = (0,)
    folds: Folds = ()
    backbones: dict[str, Text] = {}  # of the table -> of its small version
    settings: dict[str, Any] = {}  # over those of the table and of its rows


class Table(_Part):
    """One file. Every row is run for every seed on every fold."""

    title: Text
    dataset: Text
    protocol: str = ""  # "": the card's default
    seeds: Seeds = (0,)
    folds: Folds = ()  # (): all of the protocol's
    columns: tuple[Text, ...] = ()  # exact metric names; (): those of the papers' tables
    settings: dict[str, Any] = {}
    rows: tuple[TableRow, ...] = Field(min_length=1)
    published: PublishedFilter | None = None  # None: none
    small: Small | None = None
    path: Path = Field(default=Path(), exclude=True)

    @property
    def name(self) -> str:
        return self.path.stem


@dataclass(frozen=True)
class Overrides:
    """What a command changes in a table. All of it wins over what the file says."""

    small: bool = False
    dataset: str = ""
    protocol: str = ""
    backbones: Mapping[str, str] = field(default_factory=dict)  # old -> new; "": every one -> new
    settings: Mapping[str, Any] = field(default_factory=dict)  # RunConfig fields


@dataclass(frozen=True)
class Declared:
    """One row under one seed."""

    row: int  # position in the table
    label: str
    config: RunConfig


def builtin_tables() -> dict[str, Path]:
    """Name -> file of the tables that come with fusionbench."""
    return {p.stem: p for p in sorted((builtin_root() / "leaderboards").glob("*.toml"))}


def read_table(name: str | Path, *, plugins: Sequence[str | Path] = ()) -> Table:
    """The table of that name or path, checked with its small version.

    Raises UsageError where there is none, DataError that lists every problem by field.
    """
    path = _find(name)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(
            f"{path} cannot be read: {error}.", "It must be a UTF-8 TOML file."
        ) from None
    found: list[tuple[str, str]] = []
    table = None
    if "path" in raw:
        found.append(("path", "Extra inputs are not permitted"))
    try:
        # As JSON: strict about types, and a list is fine for a tuple.
        checked = Table.model_validate_json(json.dumps(raw, default=str))
        table = checked.model_copy(update={"path": path})
    except ValidationError as error:
        found += _problems_of(error)
    if table is not None:
        found += _check(table, plugins)
    if found or table is None:
        found = list(dict.fromkeys(found))
        raise DataError(
            f"{path} has {len(found)} problem{'s' * (len(found) > 1)}: "
            f"{found[0][0]}: {found[0][1]}" + ("; …" if len(found) > 1 else "."),
            "leaderboards/README.md describes the format.",
            [{"file": path.name, "field": where, "problem": text} for where, text in found],
        )
    return table


def expand(
    table: Table, overrides: Overrides | None = None, *, plugins: Sequence[str | Path] = ()
) -> tuple[Declared, ...]:
    """Every row under every seed, row by row, in the table's order.

    Raises UsageError where the overrides do not fit the table.
    """
    changed = apply(table, overrides or Overrides())
    found = [*_check_variant(changed, plugins)]
    if found:
        where, text = found[0]
        raise UsageError(f"{table.name}, {where}: {text}.", "Check the options of the command.")
    return tuple(
        Declared(i, row.label, _config(changed, row, seed))
        for i, row in enumerate(changed.rows)
        for seed in changed.seeds
    )


def apply(table: Table, overrides: Overrides) -> Table:
    """The table with the overrides written into it: its small version, another dataset, ...

    Raises UsageError for a small version that is not declared.
    """
    if overrides.small:
        if table.small is None:
            raise UsageError(f"{table.path} has no [small] section.", "Leave out --small.")
        small = table.small
        table = _rewritten(table, small.dataset, small.backbones, small.settings).model_copy(
            update={
                "title": f"{table.title} (small version)",
                "protocol": small.protocol,
                "seeds": small.seeds,
                "folds": small.folds,
            }
        )
    table = _rewritten(table, overrides.dataset, overrides.backbones, overrides.settings)
    return table.model_copy(update={"protocol": overrides.protocol or table.protocol})


def note_of(table: Table, overrides: Overrides) -> str:
    """What a reader must know first: that it is the small version, what a command has changed."""
    changed = {name: getattr(overrides, name) for name in ("dataset", "protocol")}
    changed |= {f"backbone {old}".strip(): new for old, new in overrides.backbones.items()}
    changed |= dict(overrides.settings)
    notes = [table.small.note] if overrides.small and table.small else []
    if said := ", ".join(f"{k} {v}" for k, v in changed.items() if v not in ("", None)):
        notes.append(f"Changed from what is declared: {said}.")
    return " ".join(notes)


def protocol_of(table: Table, card: DatasetCard) -> ProtocolSpec:
    """The protocol that the table runs under. Raises UsageError with the card's protocols."""
    name = table.protocol or card.default_protocol
    for spec in card.protocols:
        if spec.name == name:
            return spec
    raise UsageError(
        *unknown_name(f"protocol of {card.name}", name, [p.name for p in card.protocols])
    )


def fold_count(spec: ProtocolSpec) -> int:
    """How many folds a protocol has."""
    return 1 if spec.kind == "fixed" else spec.folds


def _find(name: str | Path) -> Path:
    tables = builtin_tables()
    key = key_of(str(name))
    if key in tables:
        return tables[key]
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.suffix == ".toml" or len(path.parts) > 1:
        raise UsageError(f"There is no table file at {path}.", f"Built in: {', '.join(tables)}.")
    raise UsageError(*unknown_name("table", str(name), tables))


def _rewritten(
    table: Table, dataset: str, backbones: Mapping[str, str], settings: Mapping[str, Any]
) -> Table:
    """The table on another dataset, other backbones, and with settings that win over its rows'."""
    dropped = {*settings} - {"params"}
    if dataset and dataset != table.dataset:
        # Names of the other dataset's.
        table = table.model_copy(update={"protocol": "", "dataset": dataset})
        dropped |= {"view", "columns"}

    def changed(own: Mapping[str, Any]) -> dict[str, Any]:
        kept = {k: v for k, v in own.items() if k not in dropped}
        if "backbone" in kept:
            kept["backbone"] = backbones.get("") or backbones.get(
                kept["backbone"], kept["backbone"]
            )
        return kept

    rows = tuple(TableRow(label=r.label, **changed(r.settings)) for r in table.rows)
    common = changed(table.settings) | {k: v for k, v in settings.items() if k != "params"}
    if params := settings.get("params"):
        rows = tuple(
            TableRow(
                label=r.label, **(r.settings | {"params": r.settings.get("params", {}) | params})
            )
            for r in rows
        )
    return table.model_copy(update={"rows": rows, "settings": common})


def _config(table: Table, row: TableRow, seed: int) -> RunConfig:
    """Recipe, then the table's settings, then the row's. Raises ValidationError, UsageError."""
    given = table.settings | row.settings
    params = {**table.settings.get("params", {}), **row.settings.get("params", {})}
    given |= {"dataset": table.dataset, "protocol": table.protocol, "seed": seed, "params": params}
    # As JSON: strict about types, and a list is fine for a tuple.
    checked = RunConfig.model_validate_json(json.dumps(given, default=str), strict=True)
    return configure(checked.recipe, {name: getattr(checked, name) for name in given})


def _check(table: Table, plugins: Sequence[str | Path]) -> Iterator[tuple[str, str]]:
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
    whole = [*_check_variant(table, plugins)]
    yield from whole
    if table.small is not None:
        used = {r.settings.get("backbone", table.settings.get("backbone")) for r in table.rows}
        for name in table.small.backbones:
            if name not in used:
                yield f"small.backbones.{name}", "no row has this backbone"
        yield from _misplaced("small.settings", table.small.settings)
        small = apply(table, Overrides(small=True))
        for where, text in [] if whole else _check_variant(small, plugins):
            yield f"small: {where}", text


def _check_variant(table: Table, plugins: Sequence[str | Path]) -> Iterator[tuple[str, str]]:
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
        misplaced = [*_misplaced(where, row.settings)]
        yield from misplaced
        own = table.settings | row.settings
        absent = [name for name in STATED if not own.get(name)]
        for name in absent:
            yield f"{where}.{name}", "must be stated, here or in [settings]"
        if misplaced or absent:
            continue
        try:
            config = _config(table, row, table.seeds[0])
            _check_names(config, entries)
        except ValidationError as error:
            yield from ((f"{where}.{name}", text) for name, text in _problems_of(error))
        except (FusionbenchError, TypeError, ValueError) as error:
            yield where, str(error)
        else:
            same = config.model_dump_json()
            if same in first:
                yield where, f"is the same run as {first[same]}"
            first.setdefault(same, row.label)


def _check_names(config: RunConfig, known_plugins: Mapping[str, dict[str, Entry]]) -> None:
    """Method, losses and the names of their settings, from source text alone."""

    def find(kind: str, name: str) -> Entry:
        entries = known_plugins[kind]
        if key_of(name) not in entries:
            raise UsageError(*unknown_name(KINDS[kind].lower(), name, entries))
        return entries[key_of(name)]

    entry = find("fusions", config.fusion)
    names = [key_of(name) for name in config.loss.split("+")]
    losses = {name: find("losses", name) for name in names}
    owned = split_params(own_params(config, names), names)
    every = [(f"loss {n}", e, {**owned[f"loss.{n}"]}) for n, e in losses.items()]
    for what, found, given in [(f"fusion {entry.name}", entry, owned["fusion"]), *every]:
        known = [name for name, _ in found.parameters]
        for name in given:
            if name not in known and found.entry_point is None:
                raise UsageError(*unknown_name(f"setting of {what}", name, known or ["(none)"]))


def _misplaced(where: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in settings:
        if name in ELSEWHERE:
            yield f"{where}.{name}", f"belongs to the whole table: {ELSEWHERE[name]} = ..."
        elif name not in RunConfig.model_fields:
            message, remedy = unknown_name("setting", name, RunConfig.model_fields)
            yield f"{where}.{name}", f"{message} {remedy}"


def _repeated(where: str, items: Iterable[object], tail: str = "") -> Iterator[tuple[str, str]]:
    seen = set()
    for i, item in enumerate(items):
        if item in seen:
            yield f"{where}[{i}]{tail}", f"{item!r} is there twice"
        seen.add(item)


def _problems_of(error: ValidationError) -> list[tuple[str, str]]:
    """(field, problem) as TOML names it: rows[0].label."""
    found = []
    for item in error.errors():
        where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in item["loc"])
        found.append((where.removeprefix(".") or "the file", item["msg"]))
    return found
