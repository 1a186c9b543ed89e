"""Recipes: named, complete training settings (`--recipe NAME`), one toml file each beside this one.

    find_recipe(name) -> Recipe
    configure(name, given) -> RunConfig      the recipe's settings, and over them what is `given`
    changes(config) -> dict                  settings in which a run departs from its recipe

A recipe states every setting of training and says of each how it is known. It says nothing of
method, dataset and protocol. Nothing here imports torch.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from fusionbench.config.run_config import RunConfig
from fusionbench.errors import UsageError
from fusionbench.plugin.registry import key_of, unknown_name

# Fields of RunConfig that say what is trained on what; a recipe is the rest.
NOT_TRAINING = (
    *("fusion", "backbone", "loss", "params", "seed", "recipe"),
    *("dataset", "protocol", "view", "columns", "allow_missing_images"),
    *("allow_forbidden", "shuffle_metadata", "calibrate"),
)
TRAINING = tuple(name for name in RunConfig.model_fields if name not in NOT_TRAINING)
# The field whose change takes a recipe's parameters of that owner away.
OWNERS = {"optimizer": "optimizer", "schedule": "schedule"}

RECIPES = Path(__file__).parent / "recipes"

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Setting(_Strict):
    """A value, and how it is known: read in the source, guessed, or ours."""

    value: bool | int | float | str
    status: Literal["known", "guess", "ours"]
    note: str = ""


class Source(_Strict):
    """Where the settings come from."""

    citation: Text
    urls: tuple[Text, ...] = Field((), strict=False)


class _File(_Strict):
    """The content of a recipe file."""

    title: Text
    source: Source
    differences: tuple[Text, ...] = Field((), strict=False)
    settings: dict[str, Setting]
    params: dict[str, Setting] = {}

    @model_validator(mode="after")
    def _fits(self) -> _File:
        if strangers := sorted(set(self.settings) - set(TRAINING)):
            raise ValueError(f"no setting of training: {', '.join(strangers)}")
        for key, setting in self.params.items():
            if not isinstance(setting.value, str):
                raise ValueError(f"{key}: the value of a parameter is text, as after --set")
        RunConfig.model_validate({name: s.value for name, s in self.settings.items()})
        return self


@dataclass(frozen=True)
class Recipe:
    """Training settings with their source; `name` is the file's stem."""

    name: str
    title: str
    source: Source
    differences: tuple[str, ...]  # known ones, from the source
    settings: Mapping[str, Any]  # by RunConfig field
    params: Mapping[str, str]  # by --set key
    stated: Mapping[str, Setting]  # both, with status and note


def recipe_names() -> list[str]:
    """All names, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def find_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises UsageError with the nearest names, or for a bad file."""
    key, known = key_of(name), recipe_names()
    if key not in known:
        raise UsageError(*unknown_name("recipe", name, known))
    return read_recipe(RECIPES / f"{key}.toml")


@cache
def read_recipe(path: Path) -> Recipe:
    """Raises UsageError naming the file and every entry that does not fit."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # no UTF-8, no TOML, nested without end
        raise UsageError(f"{path} is no toml file: {error}.") from None
    try:
        file = _File(**raw)
    except (ValidationError, TypeError) as error:
        reasons = (
            [f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors()]
            if isinstance(error, ValidationError)
            else [str(error)]
        )
        raise UsageError(f"{path} is no recipe: {'; '.join(reasons)}.") from None
    return Recipe(
        path.stem,
        file.title,
        file.source,
        file.differences,
        MappingProxyType({name: setting.value for name, setting in file.settings.items()}),
        MappingProxyType({key: str(setting.value) for key, setting in file.params.items()}),
        MappingProxyType({**file.settings, **file.params}),
    )


def configure(name: str, given: Mapping[str, Any]) -> RunConfig:
    """The RunConfig of a recipe. `given` are RunConfig fields, `params` among them, that go before
    the recipe's own; another optimizer or schedule also drops the recipe's parameters of that one.

    Raises UsageError for an unknown recipe, pydantic's ValidationError for a value that cannot be.
    """
    recipe = find_recipe(name)
    fields = {**recipe.settings, **given}
    own = {k: v for k, v in recipe.params.items() if _keeps_owner(k, recipe, fields)}
    fields["params"] = {**own, **given.get("params", {})}
    fields["recipe"] = recipe.name
    return RunConfig(**fields)


def own_params(config: RunConfig, losses: Iterable[str]) -> dict[str, str]:
    """`config.params` without what the recipe sets for a loss that this run does not have."""
    recipe, losses = find_recipe(config.recipe), tuple(losses)
    strange = {
        key
        for key, value in recipe.params.items()
        if key.startswith("loss.")
        and key.split(".")[1] not in losses
        and config.params.get(key) == value
    }
    return {key: value for key, value in config.params.items() if key not in strange}


def changes(config: RunConfig) -> dict[str, Any]:
    """Settings and parameters in which `config` departs from its recipe: name -> its own value,
    None for a parameter of the recipe that it has not."""
    recipe = find_recipe(config.recipe)
    found = {k: getattr(config, k) for k, v in recipe.settings.items() if getattr(config, k) != v}
    for key, text in recipe.params.items():
        if config.params.get(key) != text:
            found[key] = config.params.get(key)
    training = ("optimizer.", "schedule.")
    for key, value in config.params.items():
        if key not in recipe.params and key.startswith(training):
            found[key] = value
    return found


def _keeps_owner(key: str, recipe: Recipe, fields: Mapping[str, Any]) -> bool:
    field = OWNERS.get(key.split(".")[0])
    return field is None or fields[field] == recipe.settings.get(field, fields[field])
