"""Settings of plugins: `--set` values are checked against a plugin's own signature, so a plugin's
keyword arguments are its schema. Nothing here imports torch."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from fusionbench.config.problems import problems_of
from fusionbench.config.run_config import Param
from fusionbench.errors import UsageError
from fusionbench.plugin.registry import unknown_name


def parse_assignments(items: Iterable[str]) -> dict[str, Param]:
    """`KEY=VALUE` items -> dict. Raises UsageError for one that is not of that form."""
    parsed: dict[str, Param] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise UsageError(
                f"--set {item!r} is not of the form KEY=VALUE.", "As in fusion.fr=off."
            )
        parsed[key.strip()] = value.strip()
    return parsed


def plugin_params(cls: type, raw: Mapping[str, Param], where: str) -> dict[str, Any]:
    """All keyword arguments of a plugin: its defaults, overridden by `raw`, checked by type.

    `where` names the plugin in messages ("fusion sgmc"). Raises UsageError.
    """
    schema = plugin_schema(cls)
    unknown = [key for key in raw if key not in schema]
    if unknown:
        raise UsageError(*unknown_name(f"setting of {where}", unknown[0], schema or ["(none)"]))
    values = {key: default for key, (_, default) in schema.items()}
    for key, value in raw.items():
        annotation = schema[key][0]
        try:
            values[key] = TypeAdapter(_from_text(annotation)).validate_python(value)
        except ValidationError as error:
            reason = problems_of(error)[0][1]
            raise UsageError(f"--set {key}={value} does not fit {where}: {reason}.") from None
    return values


def plugin_schema(cls: type) -> dict[str, tuple[Any, Any]]:
    """Keyword argument -> (annotation, default) of a plugin's `__init__`."""
    init = cls.__init__  # type: ignore[misc]
    if init is object.__init__:
        return {}
    hints = get_type_hints(init)
    return {
        p.name: (hints.get(p.name, type(p.default)), p.default)
        for p in inspect.signature(init).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }


def split_params(
    raw: Mapping[str, Param], loss_names: Iterable[str]
) -> dict[str, dict[str, Param]]:
    """Raw `--set` keys by owner: "fusion", "optimizer", "schedule", "loss" and "loss.<name>"."""
    names = ["fusion", "optimizer", "schedule", "loss", *(f"loss.{name}" for name in loss_names)]
    owners: dict[str, dict[str, Param]] = {name: {} for name in names}
    for key, value in raw.items():
        owner, _, name = key.rpartition(".")
        if owner not in owners or not name:
            raise UsageError(
                f"--set {key}={value}: nothing here is called {owner or key!r}.",
                f"Keys start with one of: {', '.join(f'{o}.' for o in owners)}",
            )
        owners[owner][name] = value
    return owners


def literal_params(raw: Mapping[str, Param], where: str) -> dict[str, Any]:
    """Values for a library's factory (optimiser, schedule): numbers, booleans, lists, text."""
    values: dict[str, Any] = dict(raw)
    for key, value in raw.items():
        if isinstance(value, str):
            try:
                values[key] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                values[key] = {"true": True, "false": False}.get(value.lower(), value)
        if isinstance(values[key], dict | bytes | complex | set):
            raise UsageError(f"--set {where}.{key}={value} is no number, text, boolean or list.")
    return values


def _from_text(annotation: Any) -> Any:
    """The annotation, taking comma-separated text for a tuple: stages=1,2,4."""
    if get_origin(annotation) is tuple and get_args(annotation):
        split = BeforeValidator(
            lambda v: [part for part in v.split(",") if part] if isinstance(v, str) else v
        )
        return Annotated[annotation, split]
    return annotation
