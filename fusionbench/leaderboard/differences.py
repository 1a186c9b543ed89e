"""What tells a row from others of its block: the settings in which they differ, and no others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

from fusionbench.config.identity import flat_text
from fusionbench.config.plugin_settings import literal_params
from fusionbench.config.recipe import OWNERS, find_recipe
from fusionbench.config.run_config import RunConfig
from fusionbench.errors import UsageError
from fusionbench.leaderboard.block import Row

Owner = tuple[int, str]  # in the order in which settings are told, and a name
TRAINING = (3, "")  # the owner of settings that no plugin owns


def with_differences(rows: Sequence[Row]) -> list[Row]:
    """Give each row the settings that its like in the block do not share.

    A fusion's settings are compared among rows of that fusion, a loss's among rows of that loss,
    the weights among rows of that backbone, and training and data settings among all rows that
    have such a setting: what a control lacks is no difference. Where rows follow several recipes,
    each names its own and, of what a recipe states, only its departures.
    """
    settings = [(row, _settings(row)) for row in rows]
    recipes = {row.key: name for row in rows if (name := _recipe_of(row)) is not None}
    stated = {}
    if len(set(recipes.values())) > 1:
        stated = {r.key: _stated(recipes[r.key], own) for r, own in settings if r.key in recipes}
    # Every setting that one of the rows of that owner has; apart for methods without a network.
    names: dict[tuple[Owner, bool], set[str]] = defaultdict(set)
    for row, own in settings:
        for owner, values in own.items():
            names[owner, row.backbone is None] |= values.keys()
    # Of each row its value, and whether it follows its recipe in it.
    held: dict[tuple[Owner, str], dict[str, tuple[str | None, bool]]] = defaultdict(dict)
    for row, own in settings:
        recipe = stated.get(row.key, {})
        for owner, values in own.items():
            for name in names[owner, row.backbone is None]:
                if name in recipe:
                    follows = values.get(name) == recipe[name]
                else:  # a parameter of another recipe's optimizer or schedule
                    follows = bool(stated) and owner == TRAINING and name not in values
                held[owner, name][row.key] = values.get(name), follows
    differences: dict[str, dict[str, str]] = {row.key: {} for row in rows}
    for (_, name), of_rows in sorted(held.items()):
        if len({value for value, _ in of_rows.values()}) < 2:
            continue
        several = len({value for value, follows in of_rows.values() if not follows}) > 1
        for key, (value, follows) in of_rows.items():
            if not follows and (several or name in stated.get(key, {})):
                differences[key][name] = "-" if value is None else value
    return [replace(row, differences=differences[row.key]) for row in rows]


def _settings(row: Row) -> dict[Owner, dict[str, str]]:
    """Owner -> its settings, flat, as text. Owners that two rows share are compared."""
    identity = row.identity
    assert identity is not None
    method = identity.method
    training = {**identity.settings}
    training.pop("shuffle_metadata")  # the row's remarks say it
    losses: dict[str, str] = {}
    for loss in method.losses:
        losses |= flat_text(loss.params, f"loss.{loss.name}")
        losses[f"{loss.name}.source"] = loss.source[:8]
    return {
        (0, row.fusion): flat_text(method.fusion.params, "fusion")
        | {"fusion.source": method.fusion.source[:8]},
        (1, str(row.loss)): losses,
        (2, str(row.backbone)): {} if method.weights is None else {"weights": method.weights},
        TRAINING: flat_text(training),
    }


def _recipe_of(row: Row) -> str | None:
    """The name of the recipe that the row's settings came from."""
    training = row.identity.training if row.identity is not None else None
    return None if training is None else training.recipe


def _stated(name: str, own: Mapping[Owner, Mapping[str, str]]) -> Mapping[str, str]:
    """What the recipe of that name states, by the same flat names as a row's settings."""
    stated = dict(_recipe(name))
    for owner in OWNERS:
        # Another optimizer or schedule does without the recipe's parameters of that one.
        if own[TRAINING].get(owner) != stated.get(owner):
            stated = {k: v for k, v in stated.items() if not k.startswith(f"{owner}_args.")}
    return stated


@cache
def _recipe(name: str) -> Mapping[str, str]:
    """Nothing for a recipe that is not there any more: then every setting is told."""
    try:
        recipe, values = find_recipe(name), RunConfig.of(recipe=name).flat()
    except UsageError:
        return {}
    stated = flat_text({key: values[key] for key in recipe.settings})
    for key, text in recipe.params.items():
        owner, _, parameter = key.rpartition(".")
        value = literal_params({parameter: text}, owner)[parameter]
        stated |= flat_text(value, f"{owner}_args.{parameter}" if owner in OWNERS else key)
    return stated
