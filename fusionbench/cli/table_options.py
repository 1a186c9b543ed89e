"""Options that change a declared table, the same for `sweep` and `leaderboard`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from fusionbench.cli.options import list_option
from fusionbench.cli.setting_options import (
    OF_TABLES,
    parse_setting,
    setting_options,
    settings_option,
)

if TYPE_CHECKING:
    from fusionbench.tables import Overrides

F = TypeVar("F", bound=Callable[..., Any])


def table_options(command: F) -> F:
    """--small, --backbone and settings for every row; --dataset, --protocol are the command's."""
    for option in reversed(
        (
            click.option(
                "--small",
                is_flag=True,
                help="The table's small version: drawn lesions, micro-backbones, minutes on a CPU.",
            ),
            click.option(
                "--backbone",
                "backbones",
                multiple=True,
                metavar="[OLD=]NEW",
                help="For every row, or for the rows that have OLD; may be given several times.",
            ),
            list_option(
                "--seed", item=int, metavar="N,M,…", help="Seeds. Default: the table's, or 0."
            ),
            list_option(
                "--fold",
                item=int,
                or_all=True,
                metavar="K,L,…",
                help="Folds, or all. Default: the table's, or all.",
            ),
            setting_options(OF_TABLES, defaults=False),
            settings_option,
        )
    ):
        command = option(command)
    return command


def overrides_of(options: Mapping[str, Any]) -> Overrides:
    """What the options of a command change. Raises UsageError for a --backbone without a name."""
    from fusionbench.tables import Overrides

    backbones: dict[str, str] = {}
    for item in options["backbones"]:
        old, _, new = item.rpartition("=")
        if not new.strip():
            raise click.UsageError(f"--backbone {item}: give NEW or OLD=NEW.")
        backbones[old.strip()] = new.strip()
    # `all` is None, too.
    stated = click.get_current_context().get_parameter_source("fold") is ParameterSource.COMMANDLINE
    return Overrides(
        small=options["small"],
        dataset=options["dataset"],
        protocol=options["protocol"],
        seeds=options["seed"] or (),
        folds=options["fold"] or (None if stated else ()),
        backbones=backbones,
        settings=table_settings(options),
    )


def table_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the options of a command state for every row."""
    return {name: options[name] for name in OF_TABLES if options[name] is not None} | dict(
        parse_setting(text) for text in options["more"]
    )
