"""fusionbench list"""

from __future__ import annotations

import re
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from fusionbench.cli.options import json_option, plugins_option
from fusionbench.config.wording import plural
from fusionbench.plugin import registry

TOPICS = (
    *("fusions", "losses", "controls", "backbones", "datasets", "protocols", "recipes"),
    *("tables", "metrics", "settings"),
)
# Topics that are listed only when they are asked for.
LONG = ("backbones", "settings")
Rows = list[dict[str, Any]]


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
        names = ("name", "summary", "origin", "broken")
        return [
            {name: getattr(entry, name) for name in names}
            | {"parameters": dict(entry.parameters), "choices": dict(entry.choices)}
            for entry in registry.discover(topic, plugins).values()
        ]
    if topic == "backbones":
        return [{"name": name} for name in backbone_names()]
    if topic == "metrics":
        from fusionbench.metrics.names import listed

        return [asdict(metric) for metric in listed()]
    if topic == "settings":
        from fusionbench.cli.setting_options import rows_of_settings

        return rows_of_settings()
    if topic == "recipes":
        from fusionbench.config.recipe import find_recipe, recipe_names

        recipes = map(find_recipe, recipe_names())
        return [recipe.model_dump(mode="json", by_alias=True) for recipe in recipes]
    from fusionbench.errors import DataError
    from fusionbench.tables import builtin_tables

    rows: Rows = []
    files = builtin_tables() if topic == "tables" else registry.dataset_cards(plugins)
    for name, path in files.items():
        try:
            rows += [{"name": name, "broken": ""} | row for row in _of_file(topic, path, plugins)]
        except DataError as error:
            rows.append({"name": name, "broken": str(error)})
    return rows


def _of_file(topic: str, path: Path, plugins: tuple[Path, ...]) -> Rows:
    """What the file of a table or a dataset says. Raises DataError where it is broken."""
    if topic == "tables":
        from fusionbench.tables import read_table

        table = read_table(path, plugins=plugins)
        return [{"title": table.title, "rows": [row.label for row in table.rows]}]
    from fusionbench.data.card import read_card

    card = read_card(path)
    if topic == "datasets":
        classes, licence = list(card.classes), card.source.licence
        return [
            {"title": card.title, "rows": card.expect.rows, "classes": classes, "licence": licence}
        ]
    default = card.protocol("").name
    return [
        {
            "name": spec.name,
            "dataset": card.name,
            "default": spec.name == default,
            "folds": spec.fold_count,
            "leaks": list(spec.leaks),
            "note": spec.note,
        }
        for spec in card.protocols
    ]


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
            else _describe(topic, row, alone=len(rows) == 1)
            for row in rows
        )
        names = [row["name"] for row in rows]
        console.print(f"\n[bold]{topic}[/]")
        console.print(terminal.grid(("", ""), zip(names, described, strict=True), style="cyan"))


def _describe(topic: str, row: dict[str, Any], *, alone: bool) -> str:
    if topic in registry.KINDS:
        origin = "" if row["origin"] == "built-in" else f" [{row['origin']}]"
        parameters = {
            name: f"{default} (or {', '.join(others)})"
            if (others := [c for c in row["choices"].get(name, ()) if c != default.strip("'\"")])
            else default
            for name, default in row["parameters"].items()
        }
        settings = f"\nsettings: {_pairs(parameters)}" if parameters else ""
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
        lines = [row["title"], row["source"]["citation"]]
        for status in ("known", "guess", "ours"):
            stated = {**row["settings"], **row["params"]}.items()
            if values := {k: v["value"] for k, v in stated if v["status"] == status}:
                lines.append(f"{status}: {_pairs(values)}")
        differences = row["differences"]
        if alone:
            lines += [f"differs: {text}" for text in differences]
        elif differences:
            count = plural(len(differences), "difference")
            lines.append(f"{count} from its source: fusionbench list recipes {row['name']}")
        return "\n".join(lines)
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
