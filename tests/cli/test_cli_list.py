"""fusionbench list"""

from __future__ import annotations

import tomllib
from pathlib import Path

import timm

from fusionbench.metrics.names import METRICS
from fusionbench.plugin import registry


def test_everything_but_backbones_as_one_json_object(cli) -> None:
    answer = cli("list", "--json")
    assert answer.code == 0 and answer.err == ""
    data = answer.json
    assert list(data) == [
        "fusions", "losses", "controls", "datasets", "protocols", "recipes", "tables", "metrics",
    ]  # fmt: skip
    assert [row["name"] for row in data["fusions"]] == sorted(registry.discover("fusions"))
    assert [row["name"] for row in data["losses"]] == sorted(registry.discover("losses"))
    assert {row["name"] for row in data["datasets"]} == set(registry.dataset_cards())
    assert not any(row.get("broken") for rows in data.values() for row in rows)


def test_protocols_are_those_of_the_cards(cli) -> None:
    rows = cli("list", "protocols", "--json").json
    expected = [
        (spec["name"], name)
        for name, path in registry.dataset_cards().items()
        for spec in tomllib.loads(path.read_text("utf-8"))["protocols"]
    ]
    assert [(row["name"], row["dataset"]) for row in rows] == expected
    defaults = [row["dataset"] for row in rows if row["default"]]
    assert defaults == list(registry.dataset_cards())  # one each
    leaky = {row["name"] for row in rows if row["leaks"]}
    assert "image-5fold" in leaky and "grouped-5fold" not in leaky
    text = cli("list", "protocols").out
    assert "leaky: patients" in text and "1 fold;" in text


def test_metrics_say_which_way_is_better(cli) -> None:
    rows = {row["name"]: row["better"] for row in cli("list", "metrics", "--json").json}
    assert list(rows)[: len(METRICS)] == list(METRICS)
    assert {"sens_at_spec90/<CLASS>", "auc/<CLASS>", "recall/<CLASS>"} <= set(rows)
    low = {"nll", "brier", "ece"}
    low |= {f"{name}_scaled" for name in low}
    assert {name for name, better in rows.items() if better == "low"} == low


def test_settings_of_a_plugin_are_shown(cli) -> None:
    rows = {row["name"]: row for row in cli("list", "fusions", "--json").json}
    assert rows["concat"]["parameters"]["hidden"] == "256"
    assert "hidden=256" in cli("list", "fusions").out


def test_a_pattern_keeps_the_names_that_contain_it(cli) -> None:
    names = cli("list", "backbones", "ResNet18").out.split()
    assert names == [name for name in sorted(timm.list_models()) if "resnet18" in name] != []
    assert [row["name"] for row in cli("list", "fusions", "meta", "--json").json] == [
        "metablock",
        "metanet",
    ]
    assert cli("list", "fusions", "zzz").out == "no fusions match\n"
    assert cli("list", "backbones", "zzz", "--json").json == []


def test_backbones_without_a_pattern_are_plain_lines(cli) -> None:
    assert cli("list", "backbones").out.split("\n") == [*sorted(timm.list_models()), ""]


def test_a_broken_plugin_is_listed_so_and_hurts_nobody(tmp_path: Path, cli) -> None:
    where = tmp_path / "late.py"
    where.write_text("x = (")
    listed = cli("list", "fusions", "--plugins", where, "--json").json
    rows = {row["name"]: row["broken"] for row in listed}
    assert "never closed" in rows["late"]
    assert rows["sgmc"] == rows["none"] == ""
    assert "broken: " in cli("list", "fusions", "--plugins", where).out


def test_a_broken_card_is_listed_so(tmp_path: Path, cli) -> None:
    card = tmp_path / "datasets" / "mine" / "dataset.toml"
    card.parent.mkdir(parents=True)
    card.write_text('name = "mine"\n')
    rows = {r["name"]: r for r in cli("list", "datasets", "--plugins", tmp_path, "--json").json}
    assert "has 4 problems: title: is missing" in rows["mine"]["broken"]
    assert rows["synthetic"]["rows"] > 0


def test_names_with_brackets_are_printed_as_they_are(tmp_path: Path, cli) -> None:
    source = '"""[bold]not markup[/]"""\nfrom fusionbench.plugin.fusion import Fusion\n'
    (tmp_path / "odd.py").write_text(source + "class Odd(Fusion): pass\n")
    assert "[bold]not markup[/]" in cli("list", "fusions", "--plugins", tmp_path).out
