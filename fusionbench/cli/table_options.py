"""Options that change a declared table, the same for `sweep` and `leaderboard`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from fusionbench.tables import Overrides

F = TypeVar("F", bound=Callable[..., Any])

# RunConfig fields that an option sets for every row of a table.
FIELDS = ("epochs", "image_size", "batch_size", "lr", "weights")


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
            click.option("--epochs", type=click.IntRange(1), metavar="N", help="For every row."),
            click.option(
                "--image-size", type=click.IntRange(16, 2048), metavar="PIXELS", help="As --epochs."
            ),
            click.option("--batch-size", type=click.IntRange(2), metavar="N", help="As --epochs."),
            click.option("--lr", type=float, metavar="X", help="As --epochs."),
            click.option(
                "--weights", metavar="FROM", help="imagenet, none, or a file; for every row."
            ),
            click.option(
                "--allow-missing-images",
                is_flag=True,
                help="Use the photographs that are there. Such rows are never ranked beside whole "
                "ones.",
            ),
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
    settings = {name: options[name] for name in FIELDS if options[name] is not None}
    if options["allow_missing_images"]:
        settings["allow_missing_images"] = True
    return Overrides(
        small=options["small"],
        dataset=options["dataset"],
        protocol=options["protocol"],
        backbones=backbones,
        settings=settings,
    )


def spelled(table: str, options: Mapping[str, Any]) -> str:
    """The options as a command line says them, for the first line of a generated file.

    Without folders: they say nothing elsewhere.
    """
    words = [Path(table).name if Path(table).suffix else table]
    words += ["--small"] if options["small"] else []
    words += [f"--{name} {options[name]}" for name in ("dataset", "protocol") if options[name]]
    words += [f"--backbone {item}" for item in options["backbones"]]
    for name in FIELDS:
        if (value := options[name]) is not None:
            words.append(f"--{name.replace('_', '-')} {Path(str(value)).name}")
    words += ["--allow-missing-images"] if options["allow_missing_images"] else []
    return " ".join(words)
