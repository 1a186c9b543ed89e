"""Problems of files and options that people write, field by field."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from fusionbench.config.wording import plural
from fusionbench.errors import DataError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

# Other words for pydantic's kinds of problems.
_WORDS = {"missing": "is missing", "extra_forbidden": "is not a known field"}
# And for those in a file that is read by a model; {…} is a part of the error's context.
_OF_FILES = {
    **_WORDS,
    "string_type": "must be text in quotation marks",
    "string_too_short": "must not be empty",
    "tuple_type": "must be a list in [ ]",
    "dict_type": "must hold NAME = VALUE pairs",
    "too_short": "must have at least {min_length} entries",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("model_type", "model_attributes_type"), "must hold NAME = VALUE pairs"),
}


def problems_of(
    error: ValidationError, model: type[BaseModel] | None = None
) -> list[tuple[str, str]]:
    """(field, problem) of every error, as in ("rows[0].label", "is missing"); field "": the whole
    file. With the `model` of a whole file the words are about TOML, and for a field that is not
    known the one that may be meant is named."""
    words = _OF_FILES if model else _WORDS
    problems, faulty = [], [item["loc"] for item in error.errors()]
    for item in error.errors():
        loc, kind, value = item["loc"], item["type"], item["input"]
        if (
            model
            and kind == "too_short"
            and any(other[: len(loc)] == loc != other for other in faulty)
        ):
            continue  # counted without the entries that do not fit
        where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in loc)
        text = re.sub(r"^\w+ should ", "must ", item["msg"].removeprefix("Value error, "))
        if kind in words:
            text = words[kind].format(**item.get("ctx", {}))
        if model is None:
            pass
        elif kind == "tuple_type" and isinstance(value, dict):
            text = f"must be a list: write [[{loc[-1]}]], not [{loc[-1]}]"
        elif kind.startswith("model") and isinstance(value, list):
            text = f"must be there once: write [{loc[-1]}], not [[{loc[-1]}]]"
        elif kind == "extra_forbidden":
            text += _meant(model, loc)
        elif kind.endswith(("_type", "_parsing", "literal_error")) and isinstance(
            value, str | int | float
        ):
            text += f", not {repr(value)[:60]}"
        problems.append((where.removeprefix("."), text))
    return problems


def _meant(model: type[BaseModel], loc: tuple[int | str, ...]) -> str:
    """The field that an unknown one may stand for."""
    top, key = model, str(loc[-1])
    for part in loc[:-1]:
        if isinstance(part, str) and part in model.model_fields:
            kind = model.model_fields[part].annotation
            kinds = [k for k in (kind, *get_args(kind)) if hasattr(k, "model_fields")]
            if not kinds:
                return ""
            model = kinds[0]
    if near := get_close_matches(key, model.model_fields, n=1, cutoff=0.5):
        return f": did you mean {near[0]}?"
    if model is not top and key in top.model_fields:
        return ": it belongs at the top of the file, above the first [section]"
    return f"; known: {', '.join(model.model_fields)}"


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a file. Raises DataError where it cannot be read or is not TOML in UTF-8."""
    text = ""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} cannot be read as TOML: it is not UTF-8 (byte {error.start}).",
            "Save it as UTF-8.",
        ) from None
    except (OSError, ValueError, RecursionError) as error:  # no TOML, nested without end
        place = re.search(r"at line (\d+)", str(error))
        line = text.splitlines()[int(place[1]) - 1].strip()[:80] if place else ""
        raise DataError(
            f"{path} cannot be read as TOML: {error}{f': {line}' * bool(line)}.",
            'Text stands in quotation marks, a list in [ ]: name = "a", group = ["b", "c"].'
            if place
            else "",
        ) from None


def bad_file(path: Path, problems: Sequence[tuple[str, str]], remedy: str = "") -> DataError:
    """The error that lists all problems, (field, problem), of a file."""
    problems = list(dict.fromkeys(problems))
    where, text = problems[0]
    first = f"{where}: {text}" if where else text
    more = "; …" if len(problems) > 1 else "." * (not first.endswith("?"))
    return DataError(
        f"{path} has {plural(len(problems), 'problem')}: {first}{more}",
        remedy,
        [
            {"file": path.name, "field": where or "the file", "problem": text}
            for where, text in problems
        ],
    )
