"""Problems of files and options that people write, field by field."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusionbench.config.wording import plural
from fusionbench.errors import DataError

if TYPE_CHECKING:
    from pydantic import ValidationError

# pydantic's kinds of problems that need other words.
WORDS = {"missing": "is missing", "extra_forbidden": "is not a known field"}


def problems_of(error: ValidationError) -> list[tuple[str, str]]:
    """(field, problem) of every error, as in ("rows[0].label", "is missing"); field "": the whole
    file."""
    problems = []
    for item in error.errors():
        where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in item["loc"])
        text = item["msg"].removeprefix("Value error, ")
        text = WORDS.get(item["type"], re.sub(r"^\w+ should ", "must ", text))
        problems.append((where.removeprefix("."), text))
    return problems


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a file. Raises DataError where it cannot be read or is not TOML in UTF-8."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # no UTF-8, no TOML, nested without end
        raise DataError(f"{path} cannot be read as TOML: {error}.") from None


def bad_file(path: Path, problems: Sequence[tuple[str, str]], remedy: str = "") -> DataError:
    """The error that lists all problems, (field, problem), of a file."""
    problems = list(dict.fromkeys(problems))
    where, text = problems[0]
    first = f"{where}: {text}" if where else text
    more = "; …" if len(problems) > 1 else "."
    return DataError(
        f"{path} has {plural(len(problems), 'problem')}: {first}{more}",
        remedy,
        [
            {"file": path.name, "field": where or "the file", "problem": text}
            for where, text in problems
        ],
    )
