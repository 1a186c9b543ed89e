"""fusionbench list"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from fusionbench.cli.options import json_option, plugins_option
from fusionbench.plugin import registry

TOPICS = (
    *("fusions", "losses", "controls", "backbones", "datasets", "protocols", "recipes"),
    *("tables", "metrics"),
)
Rows = list[dict[str, Any]]


@click.command("list")
@click.argument("topic", type=click.Choice(TOPICS), required=False)
@click.argument("pattern", default="")
@click.option("--load", is_flag=True, help="Import every plugin, to find those that fail.")
@plugins_option
@json_option
def list_command(
    topic: str | None, pattern: str, load: bool, plugins: tuple[Path, ...], as_json: bool
) -> None:
    """List what can be used; without a TOPIC everything but backbones.

    PATTERN keeps the names that contain it: fusionbench list backbones resnet
    """
    from fusionbench.cli import terminal

    topics = [topic] if topic else [t for t in TOPICS if t != "backbones"]
    found = {
        t: [r for r in rows_of(t, plugins, load) if pattern.lower() in r["name"]] for t in topics
    }
    if as_json:
        terminal.print_json(found[topic] if topic else found)
        return
    for name, rows in found.items():
        _print(name, rows)
    if topic is None:
        terminal.out().print(
            f"\n[bold]backbones[/]  {len(backbone_names())} timm models: fusionbench list backbones"
        )


def rows_of(topic: str, plugins: tuple[Path, ...] = (), load: bool = False) -> Rows:
    """One dict per entry of a topic; `name` is what the command line takes."""
    if topic in registry.KINDS:
        return [_plugin_row(e, load) for e in registry.discover(topic, plugins).values()]
    if topic == "backbones":
        return [{"name": name} for name in backbone_names()]
    if topic == "metrics":
        from fusionbench.metrics.names import listed

        return [
            {"name": m.name, "title": m.title, "better": m.better, "definition": m.definition}
            for m in listed()
        ]
    if topic == "recipes":
        return _recipes()
    if topic == "tables":
        return _tables(plugins)
    return _cards(topic, plugins)


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


def _plugin_row(entry: registry.Entry, load: bool) -> dict[str, Any]:
    broken = entry.broken
    if load and not broken:
        broken = _import_failure(entry)
    return {
        "name": entry.name,
        "summary": entry.summary,
        "parameters": dict(entry.parameters),
        "origin": entry.origin,
        "broken": broken,
    }


def _import_failure(entry: registry.Entry) -> str:
    from fusionbench.errors import PluginError
    from fusionbench.plugin.control import Control
    from fusionbench.plugin.fusion import Fusion
    from fusionbench.plugin.loss import Loss

    bases: dict[str, type] = {"fusions": Fusion, "losses": Loss, "controls": Control}
    try:
        registry.load(entry, bases[entry.kind])
    except PluginError as error:
        return str(error)
    return ""


def _recipes() -> Rows:
    from fusionbench.config.recipe import find_recipe, recipe_names

    return [
        {
            "name": recipe.name,
            "title": recipe.title,
            "source": recipe.source.model_dump(mode="json"),
            "differences": list(recipe.differences),
            "settings": dict(recipe.settings),
            "params": dict(recipe.params),
            "status": {key: setting.status for key, setting in recipe.stated.items()},
            "notes": {key: s.note for key, s in recipe.stated.items() if s.note},
        }
        for recipe in map(find_recipe, recipe_names())
    ]


def _tables(plugins: tuple[Path, ...]) -> Rows:
    from fusionbench.errors import DataError
    from fusionbench.tables import builtin_tables, read_table

    rows: Rows = []
    for name, path in builtin_tables().items():
        try:
            table = read_table(path, plugins=plugins)
        except DataError as error:
            rows.append({"name": name, "broken": str(error)})
            continue
        labels = [row.label for row in table.rows]
        rows.append({"name": name, "title": table.title, "rows": labels, "broken": ""})
    return rows


def _cards(topic: str, plugins: tuple[Path, ...]) -> Rows:
    from fusionbench.data.card import read_card
    from fusionbench.errors import DataError

    rows: Rows = []
    for name, path in registry.dataset_cards(plugins).items():
        try:
            card = read_card(path)
        except DataError as error:
            rows.append({"name": name, "broken": str(error)})
            continue
        if topic == "datasets":
            rows.append(
                {
                    "name": name,
                    "title": card.title,
                    "rows": card.expect.rows,
                    "classes": list(card.classes),
                    "licence": card.source.licence,
                    "broken": "",
                }
            )
            continue
        for spec in card.protocols:
            rows.append(
                {
                    "name": spec.name,
                    "dataset": name,
                    "default": spec.name == (card.default_protocol or card.protocols[0].name),
                    "folds": 1 if spec.kind == "fixed" else spec.folds,
                    "leaks": list(spec.leaks),
                    "note": spec.note,
                }
            )
    return rows


def _print(topic: str, rows: Rows) -> None:
    from rich.markup import escape
    from rich.table import Table

    from fusionbench.cli import terminal

    console = terminal.out()
    if not rows:
        console.print(f"no {topic} match")
        return
    if topic == "backbones":  # over a thousand names: plain lines, for grep
        click.echo("\n".join(row["name"] for row in rows))
        return
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        if row.get("broken"):
            table.add_row(row["name"], f"[red]broken:[/] {escape(row['broken'])}")
        else:
            table.add_row(row["name"], escape(_describe(topic, row)))
    console.print(f"\n[bold]{topic}[/]")
    console.print(table)


def _describe(topic: str, row: dict[str, Any]) -> str:
    if topic in registry.KINDS:
        settings = ", ".join(f"{k}={v}" for k, v in row["parameters"].items())
        origin = "" if row["origin"] == "built-in" else f" [{row['origin']}]"
        return row["summary"] + origin + (f"\nsettings: {settings}" if settings else "")
    if topic == "datasets":
        size = f"{row['rows']} photographs; " if row["rows"] else ""
        return f"{row['title']}: {size}{', '.join(row['classes'])}"
    if topic == "protocols":
        marks = [f"{row['folds']} fold" + ("s" if row["folds"] > 1 else "")]
        marks += ["default"] if row["default"] else []
        marks += [f"leaky: {', '.join(row['leaks'])}"] if row["leaks"] else []
        return f"{row['dataset']}: {'; '.join(marks)}"
    if topic == "recipes":
        return _describe_recipe(row)
    if topic == "tables":
        return f"{row['title']}: {', '.join(row['rows'])}"
    arrow = "higher is better" if row["better"] == "high" else "lower is better"
    return f"{row['definition']} ({arrow})"


def _describe_recipe(row: dict[str, Any]) -> str:
    """Title, source, and the settings by how they are known."""
    values = {**row["settings"], **row["params"]}
    lines = [row["title"], row["source"]["citation"]]
    for status in ("known", "guess", "ours"):
        stated = [f"{k}={v}" for k, v in values.items() if row["status"][k] == status]
        if stated:
            lines.append(f"{status}: {', '.join(stated)}")
    return "\n".join(lines)
