"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def plugins_option(command: F) -> F:
    return click.option(
        "--plugins",
        type=click.Path(path_type=Path),
        multiple=True,
        help="Plugin file or folder; may be given several times. Its code is run.",
    )(command)


def data_option(command: F) -> F:
    return click.option(
        "--data",
        type=click.Path(path_type=Path),
        help="Folder with the dataset's files. Default: $FUSIONBENCH_DATA, then "
        "datasets/<name>/data.",
    )(command)


def store_option(command: F) -> F:
    return click.option(
        "--store",
        type=click.Path(path_type=Path),
        default="runs",
        envvar="FUSIONBENCH_STORE",
        show_default=True,
        help="Folder of records.",
    )(command)


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")(command)
