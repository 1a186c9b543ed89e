"""A table as a command changes it, and the runs that its rows stand for."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from fusionbench.config.run_config import SETTINGS, RunConfig
from fusionbench.config.wording import listed
from fusionbench.errors import UsageError
from fusionbench.plugin.registry import key_of
from fusionbench.tables.schema import DeclaredTable, Overrides, TableRow

# What a command states once for the whole table.
STATED = ("protocol", "seeds", "folds")


def apply(table: DeclaredTable, overrides: Overrides) -> DeclaredTable:
    """The table with the overrides written into it: its small version, another dataset, ...

    Raises UsageError for a small version that is not declared.
    """
    if overrides.small:
        if table.small is None:
            raise UsageError(f"{table.path} has no [small] section.", "Leave out --small.")
        small = table.small
        own = {"protocol": small.protocol, "seeds": small.seeds, "folds": small.folds}
        own |= {"title": f"{table.title} (small version)"}
        table = _rewritten(table, small.dataset, small.backbones, small.settings)
        table = table.model_copy(update=own)
    table = _rewritten(table, overrides.dataset, overrides.backbones, overrides.settings)
    own = {name: value for name in STATED if (value := getattr(overrides, name)) not in ("", ())}
    return table.model_copy(update=own | ({"folds": ()} if overrides.folds is None else {}))


def note_of(table: DeclaredTable, overrides: Overrides) -> str:
    """What a reader must know first: that it is the small version, what a command has changed."""
    changed = {name: getattr(overrides, name) for name in ("dataset", "protocol")}
    folds = ("all",) if overrides.folds is None else overrides.folds
    changed |= {"seeds": listed(map(str, overrides.seeds)), "folds": listed(map(str, folds))}
    changed |= {f"backbone {old}".strip(): new for old, new in overrides.backbones.items()}
    changed |= dict(overrides.settings)
    notes = [table.small.note] if overrides.small and table.small else []
    if said := ", ".join(f"{k} {v}" for k, v in changed.items() if v not in ("", None)):
        notes.append(f"Changed from what is declared: {said}.")
    return " ".join(notes)


def _rewritten(
    table: DeclaredTable, dataset: str, backbones: Mapping[str, str], settings: Mapping[str, Any]
) -> DeclaredTable:
    """The table on another dataset, other backbones, and with settings that win over its rows'."""
    dropped = {*settings} - {"params"}
    if dataset and dataset != table.dataset:
        # Names of the other dataset's.
        table = table.model_copy(update={"protocol": "", "dataset": dataset})
        dropped |= {"view", "columns"}
    stated = {**settings}
    params = stated.pop("params", {})

    def changed(own: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
        values = {name: value for name, value in own.items() if name not in dropped}
        if isinstance(name := values.get("backbone"), str):
            values["backbone"] = backbones.get("") or backbones.get(name, name)
        return values | ({"params": {**own.get("params", {}), **params}} if params else {})

    rows = tuple(TableRow(label=r.label, **changed(r.settings, params)) for r in table.rows)
    common = changed(table.settings, {}) | stated
    return table.model_copy(update={"rows": rows, "settings": common})


def config_of(
    table: DeclaredTable, row: TableRow, seed: int, controls: Container[str]
) -> RunConfig:
    """Recipe, then the table's settings, then the row's. Raises ValidationError, UsageError.

    Of the table's settings a control, one of the names in `controls`, takes those that reach it.
    """
    common = dict(table.settings)
    params = common.pop("params", {})
    if is_control(table, row, controls):
        common = {k: v for k, v in common.items() if SETTINGS[k].reaches_controls}
        params = {}
    settings = common | row.settings
    settings["params"] = {**params, **row.settings.get("params", {})}
    on = {"dataset": table.dataset, "protocol": table.protocol, "seed": seed}
    return RunConfig.of(strict=True, **settings | on)


def is_control(table: DeclaredTable, row: TableRow, controls: Container[str]) -> bool:
    """Whether the row's method is one of `controls`."""
    return key_of(str((table.settings | row.settings).get("fusion", ""))) in controls
