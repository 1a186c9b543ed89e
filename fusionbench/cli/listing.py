"""fusionbench list"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fusionbench.cli.options import json_option, plugins_option
from fusionbench.config.wording import plural
from fusionbench.plugin import registry

if TYPE_CHECKING:
    from fusionbench.data.card import DatasetCard

TOPICS = (
    *("fusions", "losses", "controls", "backbones", "datasets", "protocols", "recipes"),
    *("tables", "metrics", "settings"),
)
# Topics that are listed only when they are asked for.
LONG = ("backbones", "settings")
Rows = list[dict[str, Any]]
T = TypeVar("T")


@click.command("list")
@click.argument("topic", type=click.Choice(TOPICS), required=False)
@click.argument("pattern", default="")
@plugins_option
@json_option
def list_command(topic: str | None, pattern: str, plugins: tuple[Path, ...], as_json: bool) -> None:
    """List what can be used; without a TOPIC everything but backbones and settings.

    PATTERN keeps the names that contain it: fusionbench list backbones resnet
    """
    from fusionbench.cli import terminal

    topics = [topic] if topic else [t for t in TOPICS if t not in LONG]
    found = {t: [r for r in rows_of(t, plugins) if pattern.lower() in r["name"]] for t in topics}
    if as_json:
        terminal.print_json(found[topic] if topic else found)
        return
    for name, rows in found.items():
        _print(name, rows)
    if topic is None:
        terminal.out().print(
            f"\n[bold]backbones[/]  {len(backbone_names())} timm models: fusionbench list backbones"
            "\n[bold]settings[/]  of a run, each an option: fusionbench list settings"
        )


def rows_of(topic: str, plugins: tuple[Path, ...] = ()) -> Rows:
    """One dict per entry of a topic; `name` is what the command line takes."""
    if topic in registry.KINDS:
        names = ("name", "summary", "parameters", "origin", "broken")
        entries = registry.discover(topic, plugins).values()
        return [_picked(e, names) | {"parameters": dict(e.parameters)} for e in entries]
    if topic == "backbones":
        return [{"name": name} for name in backbone_names()]
    if topic == "metrics":
        from fusionbench.metrics.names import listed

        return [_picked(metric, ("name", "title", "better", "definition")) for metric in listed()]
    if topic == "settings":
        from fusionbench.cli.setting_options import rows_of_settings

        return rows_of_settings()
    if topic == "recipes":
        return _recipes()
    if topic == "tables":
        from fusionbench.tables import builtin_tables, read_table

        return _read(
            builtin_tables(),
            lambda path: read_table(path, plugins=plugins),
            lambda name, table: [{"title": table.title, "rows": [row.label for row in table.rows]}],
        )
    from fusionbench.data.card import read_card

    describe = _dataset if topic == "datasets" else _protocols
    return _read(registry.dataset_cards(plugins), read_card, describe)


def _picked(item: object, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(item, name) for name in names}


def _read(
    files: Mapping[str, Path],
    read: Callable[[Path], T],
    describe: Callable[[str, T], Rows],
) -> Rows:
    """The rows that `describe` makes of each file; one that says why where it is broken."""
    from fusionbench.errors import DataError

    rows: Rows = []
    for name, path in files.items():
        try:
            entries = describe(name, read(path))
        except DataError as error:
            rows.append({"name": name, "broken": str(error)})
        else:
            rows += [{"name": name, **entry, "broken": ""} for entry in entries]
    return rows


def backbone_names() -> list[str]:
    """timm's model names, read from its source: importing timm imports torch, which takes seconds.

    A model is a function behind `@register_model`.
    """
    spec = find_spec("timm")
    if spec is None or spec.origin is None:
        return []
    pattern = re.compile(r"^@register_model\s*\n(?:@.*\n)*def (\w+)", re.MULTILINE)
    names: set[str] = set()
    for path in (Path(spec.origin).parent / "models").glob("*.py"):
        names.update(pattern.findall(path.read_text(encoding="utf-8")))
    return sorted(names)


def _recipes() -> Rows:
    from fusionbench.config.recipe import find_recipe, recipe_names

    return [
        {
            **_picked(recipe, ("name", "title", "differences", "settings", "params")),
            "source": recipe.source.model_dump(mode="json"),
            "status": {key: setting.status for key, setting in recipe.stated.items()},
            "notes": {key: s.note for key, s in recipe.stated.items() if s.note},
        }
        for recipe in map(find_recipe, recipe_names())
    ]


def _dataset(_: str, card: DatasetCard) -> Rows:
    return [
        {
            "title": card.title,
            "rows": card.expect.rows,
            "classes": list(card.classes),
            "licence": card.source.licence,
        }
    ]


def _protocols(dataset: str, card: DatasetCard) -> Rows:
    return [
        {
            "name": spec.name,
            "dataset": dataset,
            "default": spec.name == (card.default_protocol or card.protocols[0].name),
            "folds": 1 if spec.kind == "fixed" else spec.folds,
            "leaks": list(spec.leaks),
            "note": spec.note,
        }
        for spec in card.protocols
    ]


def _print(topic: str, rows: Rows) -> None:
    from rich.text import Text

    from fusionbench.cli import terminal

    console = terminal.out()
    if not rows:
        console.print(f"no {topic} match")
    elif topic == "backbones":  # over a thousand names: plain lines, for grep
        click.echo("\n".join(row["name"] for row in rows))
    else:
        described = (
            Text.assemble(("broken: ", "red"), row["broken"])
            if row.get("broken")
            else _describe(topic, row)
            for row in rows
        )
        names = [row["name"] for row in rows]
        console.print(f"\n[bold]{topic}[/]")
        console.print(terminal.grid(("", ""), zip(names, described, strict=True), style="cyan"))


def _describe(topic: str, row: dict[str, Any]) -> str:
    if topic in registry.KINDS:
        origin = "" if row["origin"] == "built-in" else f" [{row['origin']}]"
        settings = f"\nsettings: {_pairs(row['parameters'])}" if row["parameters"] else ""
        return str(row["summary"] + origin + settings)
    if topic == "datasets":
        size = f"{plural(row['rows'], 'photograph')}; " if row["rows"] else ""
        return f"{row['title']}: {size}{', '.join(row['classes'])}"
    if topic == "protocols":
        marks = [plural(row["folds"], "fold")]
        marks += ["default"] if row["default"] else []
        marks += [f"leaky: {', '.join(row['leaks'])}"] if row["leaks"] else []
        return f"{row['dataset']}: {'; '.join(marks)}"
    if topic == "recipes":  # the settings by how they are known
        values = {**row["settings"], **row["params"]}
        by_status = {
            status: {k: v for k, v in values.items() if row["status"][k] == status}
            for status in ("known", "guess", "ours")
        }
        lines = [f"{status}: {_pairs(stated)}" for status, stated in by_status.items() if stated]
        return "\n".join([row["title"], row["source"]["citation"], *lines])
    if topic == "settings":
        facts = [f"default {row['default']}"] if row["default"] else []
        facts += [f"one of {row['choices']}"] if row["choices"] else []
        return f"{row['summary']} [{'; '.join([row['option'], row['part'], *facts])}]"
    if topic == "tables":
        return f"{row['title']}: {', '.join(row['rows'])}"
    arrow = "higher is better" if row["better"] == "high" else "lower is better"
    return f"{row['definition']} ({arrow})"


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in values.items())
