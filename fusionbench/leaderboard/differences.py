"""What tells a row from others of its block: the settings in which they differ, and no others."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from fusionbench.config.recipe import OWNERS, configure, find_recipe
from fusionbench.config.run_config import ADDED_LATER, RunConfig, literal_params
from fusionbench.errors import UsageError
from fusionbench.leaderboard.block import ABSENT, Row
from fusionbench.tables import OF_CONTROLS

TRAINING = ""  # the owner of settings that no plugin owns
# As records.canonical_json spells it, of what is plain JSON already.
spelled = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def with_differences(rows: Sequence[Row]) -> list[Row]:
    """Give each row the settings that its like in the block do not share.

    A fusion's settings are compared among rows of that fusion, a loss's among rows of that loss,
    the weights among rows of that backbone, and training and data settings among all rows that
    have such a setting: what a control lacks is no difference. Where rows follow several recipes,
    each names its own and, of what a recipe states, only its departures.
    """
    settings = [(row, _settings(row)) for row in rows]
    recipes = {row.key: recipe_of(row) for row in rows if row.backbone != ABSENT}
    stated = {}
    if len(set(recipes.values())) > 1:
        stated = {row.key: _stated(row, own) for row, own in settings if row.key in recipes}
    # Every setting that one of the rows of that owner has; apart for methods without a network.
    keys: dict[tuple[str, bool], set[str]] = defaultdict(set)
    for row, own in settings:
        for owner, values in own.items():
            keys[owner, row.backbone == ABSENT] |= values.keys()
    peers: dict[tuple[str, str], set[str | None]] = defaultdict(set)
    # Rows that follow their recipe in a setting, and the values of those that do not.
    following: set[tuple[str, str, str]] = set()
    on_their_own: dict[tuple[str, str], set[str | None]] = defaultdict(set)
    for row, own in settings:
        recipe = stated.get(row.key, {})
        for owner, values in own.items():
            for key in keys[owner, row.backbone == ABSENT]:
                peers[owner, key].add(values.get(key))
                if key in recipe:
                    follows = values.get(key) == recipe[key]
                else:  # a parameter of another recipe's optimizer or schedule
                    follows = bool(stated) and owner == TRAINING and key not in values
                if follows:
                    following.add((row.key, owner, key))
                else:
                    on_their_own[owner, key].add(values.get(key))

    def tells(row: Row, owner: str, key: str) -> bool:
        if len(peers[owner, key]) < 2 or (row.key, owner, key) in following:
            return False
        return key in stated.get(row.key, {}) or len(on_their_own[owner, key]) > 1

    return [
        replace(
            row,
            differences={
                key: values.get(key, "-")
                for owner, values in own.items()
                for key in sorted(keys[owner, row.backbone == ABSENT])
                if tells(row, owner, key)
            },
        )
        for row, own in settings
    ]


def recipe_of(row: Row) -> str:
    """The name of the recipe that the row's settings came from."""
    default = RunConfig.model_fields["recipe"].default
    return str(dict(row.config["settings"]).get("recipe", default))


def full_settings(row: Row) -> dict[str, Any]:
    """The row's settings, those included that a record leaves out while they are at default."""
    control = row.backbone == ABSENT
    later = {
        name: RunConfig.model_fields[name].default
        for name in ADDED_LATER
        if not control or (name in OF_CONTROLS and name != "recipe")
    }
    return later | dict(row.config["settings"])


def _settings(row: Row) -> dict[str, dict[str, str]]:
    """Owner -> its settings, flat, as text. Owners that two rows share are compared."""
    config = row.config
    sources = {f"{name}.source": str(v)[:8] for name, v in dict(config["loss_sources"]).items()}
    fusion = _flat(config["fusion_params"], "fusion")
    training = _flat(full_settings(row), "")
    # The row's remarks say it.
    training.pop("shuffle_metadata", None)
    return {
        f"fusion {row.fusion}": fusion | {"fusion.source": str(config["fusion_source"])[:8]},
        f"loss {row.loss}": _flat(config["loss_params"], "loss") | sources,
        f"backbone {row.backbone}": _flat(config["weights"], "weights"),
        TRAINING: training,
    }


def _stated(row: Row, own: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    """What the row's recipe states, by the same flat names as the row's settings."""
    found = dict(_recipe(recipe_of(row)))
    for owner, field in OWNERS.items():
        # Another optimizer or schedule does without the recipe's parameters of that one.
        if own[TRAINING].get(field) != found.get(field):
            found = {k: v for k, v in found.items() if not k.startswith(f"{owner}_args.")}
    return found


@cache
def _recipe(name: str) -> Mapping[str, str]:
    """Nothing for a recipe that is not there any more: then every setting is told."""
    try:
        params = find_recipe(name).params
        config = configure(name, {}).model_dump(mode="json")
    except UsageError:
        return {}
    found = _flat({key: config[key] for key in find_recipe(name).settings}, "")
    for key, text in params.items():
        owner, _, parameter = key.rpartition(".")
        value = literal_params({parameter: text}, owner)
        name_of = f"{owner}_args.{parameter}" if owner in OWNERS else key
        found |= _flat(value[parameter], name_of)
    return found


def _flat(value: object, path: str) -> dict[str, str]:
    if isinstance(value, dict):
        found: dict[str, str] = {}
        for key, inner in value.items():
            found |= _flat(inner, f"{path}.{key}" if path else str(key))
        return found
    if isinstance(value, str):
        return {path: value}
    return {path: spelled(value)}
