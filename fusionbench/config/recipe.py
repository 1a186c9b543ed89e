"""Recipes: named, complete training settings (`--recipe NAME`), one toml file each beside this one.

    find_recipe(name) -> Recipe
    changes(config) -> dict                  settings in which a run departs from its recipe

RunConfig.of(recipe=NAME, ...) applies one. A recipe says of each setting how it is known; it says
nothing of method, dataset and protocol. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from fusionbench.config.problems import bad_file, problems_of, read_toml
from fusionbench.config.run_config import SETTINGS, Param, RunConfig
from fusionbench.errors import UsageError
from fusionbench.plugin.registry import key_of, unknown_name

# Owners of parameters that are settings too: another one drops the recipe's parameters of it.
OWNERS = ("optimizer", "schedule")

RECIPES = Path(__file__).parent / "recipes"

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class _RecipePart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Stated(_RecipePart):
    """A value, and how it is known: read in the source, guessed, or ours."""

    value: bool | int | float | str
    status: Literal["known", "guess", "ours"]
    note: str = ""


class RecipeSource(_RecipePart):
    """Where the settings come from."""

    citation: Text
    urls: tuple[Text, ...] = Field((), strict=False)


class Recipe(_RecipePart):
    """Training settings with their source; `name` is the file's stem. A setting that the recipe
    does not state keeps its default."""

    name: str
    title: Text
    source: RecipeSource
    differences: tuple[Text, ...] = Field((), strict=False)  # known ones, from the source
    stated_settings: dict[str, Stated] = Field(alias="settings")
    stated_params: dict[str, Stated] = Field({}, alias="params")

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """Values by the setting's name."""
        return {name: stated.value for name, stated in self.stated_settings.items()}

    @cached_property
    def params(self) -> Mapping[str, str]:
        """Values by `--set` key."""
        return {key: str(stated.value) for key, stated in self.stated_params.items()}

    @property
    def stated(self) -> Mapping[str, Stated]:
        """Both, with status and note."""
        return self.stated_settings | self.stated_params

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        in_recipe = {name for name, setting in SETTINGS.items() if setting.in_recipe}
        if strangers := sorted({*self.stated_settings} - in_recipe):
            raise ValueError(f"not a setting of a recipe: {', '.join(strangers)}")
        for key, stated in self.stated_params.items():
            if not isinstance(stated.value, str):
                raise ValueError(f"{key}: the value of a parameter is text, as after --set")
        RunConfig().changed(**self.settings)
        return self

    def under(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The recipe's settings, and over them `settings`, by name. Another optimizer or schedule
        drops the recipe's parameters of that one."""
        values = {**self.settings, **settings}
        own = {}
        for key, value in self.params.items():
            owner = key.partition(".")[0]
            if owner not in OWNERS or values[owner] == self.settings.get(owner, values[owner]):
                own[key] = value
        return {**values, "params": {**own, **settings.get("params", {})}, "recipe": self.name}


def recipe_names() -> list[str]:
    """All names, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def find_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises UsageError with the nearest names."""
    key, known = key_of(str(name)), recipe_names()
    if key not in known:
        raise UsageError(*unknown_name("recipe", name, known))
    return read_recipe(RECIPES / f"{key}.toml")


@cache
def read_recipe(path: Path) -> Recipe:
    """Raises DataError that lists every entry that does not fit."""
    try:
        return Recipe(**read_toml(path) | {"name": path.stem})
    except ValidationError as error:
        raise bad_file(path, problems_of(error)) from None


def own_params(config: RunConfig, losses: Iterable[str]) -> dict[str, Param]:
    """The run's params without what the recipe sets for a loss that this run does not have."""
    stated, losses = find_recipe(config.training.recipe).params.items(), tuple(losses)
    return {
        key: value
        for key, value in config.method.params.items()
        if (key, value) not in stated or not key.startswith("loss.") or key.split(".")[1] in losses
    }


def changes(config: RunConfig) -> dict[str, Any]:
    """Settings and parameters in which `config` departs from its recipe: name -> its own value,
    None for a parameter of the recipe that it has not."""
    recipe = find_recipe(config.training.recipe)
    values = config.flat()
    params = values["params"]
    stated = {**recipe.settings, **recipe.params}
    own = values | params
    more = [key for key in params if key not in stated and key.partition(".")[0] in OWNERS]
    return {k: own.get(k) for k in (*stated, *more) if k in more or own.get(k) != stated[k]}
