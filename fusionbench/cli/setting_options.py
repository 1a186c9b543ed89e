"""Options that are settings of a run, made from the fields in config.run_config."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
from click.core import ParameterSource
from pydantic import TypeAdapter, ValidationError

from fusionbench.cli.options import list_option, listed
from fusionbench.config.plugin_settings import parse_assignments
from fusionbench.config.problems import problems_of
from fusionbench.config.run_config import SETTINGS, RunConfig, Setting, problems
from fusionbench.errors import UsageError
from fusionbench.plugin.registry import unknown_name

F = TypeVar("F", bound=Callable[..., Any])

# Settings that `sweep` and `leaderboard` have as options for every row of a table; --setting says
# the others.
OF_TABLES = ("epochs", "image_size", "batch_size", "lr", "weights", "allow_missing_images")
# How defaults read that are no text and no number.
DEFAULTS = {"True": "on", "False": "off", "()": "", "{}": ""}
# Settings that a table or a grid says itself, for whole rows.
OF_ROWS = ("fusion", "backbone", "loss", "dataset", "protocol", "seed", "params")


class _SeedOption(click.Option):
    """A run has one seed: with two, neither is dropped in silence."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        parser.add_option(obj=self, opts=self.opts, dest=self.name, action="append", nargs=1)

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> Any:
        seeds = opts.get("seed")
        if seeds and len(seeds) > 1:
            raise click.UsageError(
                f"--seed is given {len(seeds)} times; `fusionbench sweep` takes --seed 0,1.",
                ctx,
            )
        return super().consume_value(ctx, {**opts, "seed": seeds[0]} if seeds else opts)


def setting_options(names: Iterable[str], *, defaults: bool = True) -> Callable[[F], F]:
    """A decorator: an option for each setting of those names. `defaults=False`: an option that is
    not given is None, and `--help` states no default."""
    options = [_option(SETTINGS[name], defaults) for name in reversed([*names])]
    return lambda command: reduce(lambda decorated, option: option(decorated), options, command)


def help_sections() -> dict[str, list[str]]:
    """Headings of `--help` -> the options of settings under them."""
    sections: dict[str, list[str]] = {}
    for setting in SETTINGS.values():
        title = setting.part.capitalize() or "Training"
        sections.setdefault(title, []).append(setting.flag.removeprefix("--"))
    return sections


def settings_given(context: click.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """Of the options that are settings, those that were typed, or set in the environment."""
    return {
        name: value
        for name, value in options.items()
        if name in SETTINGS and context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }


def config_of(settings: Mapping[str, Any]) -> RunConfig:
    """RunConfig.of(**settings); a value that cannot be is told by its option."""
    try:
        return RunConfig.of(**settings)
    except ValidationError as error:
        name, problem = problems(error)[0]
        setting = SETTINGS[name.split(".")[0]]
        raise click.UsageError(f"{setting.flag} {settings.get(setting.name)}: {problem}.") from None


def parse_setting(text: str) -> tuple[str, Any]:
    """ "augment=flip" -> ("augment", "flip"), of the type that the setting has.

    Raises UsageError for an unknown setting, or a value that it cannot have.
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    name = name.replace("-", "_")
    known = {k: setting for k, setting in SETTINGS.items() if k not in OF_ROWS}
    if not equals or not value:
        raise UsageError(f"--setting {text}: write NAME=VALUE.", "As in augment=flip.")
    if name not in known:
        raise UsageError(*unknown_name("setting", name, known))
    annotation: Any = known[name].field.annotation
    parts = listed(value) if get_origin(annotation) is tuple else value
    try:
        return name, TypeAdapter(annotation).validate_python(parts)
    except ValidationError as error:
        raise UsageError(f"--setting {text}: {problems_of(error)[0][1]}.") from None


# For every setting that has no option there.
settings_option = click.option(
    "--setting",
    "more",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any other setting (fusionbench list settings), for every row: augment=flip, …",
)


def _option(setting: Setting, defaults: bool) -> Callable[[F], F]:
    annotation: Any = setting.field.annotation
    default = setting.field.default
    metavar = setting.metavar or {int: "N", float: "X", str: "NAME"}.get(annotation)
    attributes: dict[str, Any] = {"help": setting.field.description, "metavar": metavar}
    if setting.name == "params":
        attributes |= {"multiple": True, "callback": lambda ctx, param, v: parse_assignments(v)}
    elif get_origin(annotation) is tuple:
        return list_option(setting.flag, setting.name, **attributes)
    elif annotation is bool:
        attributes |= {"is_flag": True, "default": default if defaults else None}
    else:
        attributes["type"] = (
            click.Choice(choices) if (choices := _choices(annotation)) else annotation
        )
        if setting.name == "seed":
            attributes["cls"] = _SeedOption
        if defaults:
            attributes |= {"default": default, "show_default": default not in ("", ())}
    return click.option(setting.flag, setting.name, **attributes)


def rows_of_settings() -> list[dict[str, str]]:
    """One row a setting, for `fusionbench list settings`."""
    return [
        {
            "name": setting.name,
            "option": setting.flag,
            "part": setting.part or "run",
            "default": DEFAULTS.get(repr(setting.field.default), str(setting.field.default)),
            "choices": ", ".join(_choices(setting.field.annotation)),
            "summary": setting.field.description or "",
        }
        for setting in SETTINGS.values()
    ]


def _choices(annotation: Any) -> tuple[str, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()
