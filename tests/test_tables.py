"""Declared tables: the built-in ones, what a row becomes, and what a bad file is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fusionbench.config.plugin_settings import plugin_params
from fusionbench.config.run_config import RunConfig
from fusionbench.errors import DataError, UsageError
from fusionbench.plugin import registry
from fusionbench.tables import Overrides, builtin_tables, expand, read_table


def is_network(config: RunConfig) -> bool:
    return registry.find_method(config.method.fusion).uses_images


TABLES = sorted(builtin_tables())

PLAIN = """
title = "Two rows"
dataset = "synthetic"
seeds = [3, 1]

[settings]
backbone = "resnet18"
loss = "ce"
epochs = 7
params = { "loss.label_smoothing" = "0.1" }

[[rows]]
label = "first"
fusion = "none"

[[rows]]
label = "second"
fusion = "concat"
lr = 1
epochs = 9
params = { "fusion.hidden" = "8" }

[small]
note = "Small."
backbones = { resnet18 = "test_resnet" }
settings = { epochs = 1, weights = "none" }
"""


def written(folder: Path, text: str = PLAIN) -> Path:
    path = folder / "two.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_five_tables_are_there() -> None:
    expected = {"pad-ufes-20", "derm7pt", "backbones", "ablation", "losses"}
    assert {f"sgmc-{name}" for name in expected} <= set(TABLES)


@pytest.mark.parametrize("small", [False, True], ids=["whole", "small"])
@pytest.mark.parametrize("name", TABLES)
def test_a_built_in_table_expands(name: str, small: bool) -> None:
    table = read_table(name)
    found = expand(table, Overrides(small=small))
    seeds = 1 if small else len(table.seeds)
    assert len(found) == len(table.rows) * seeds
    assert [d.label for d in found[::seeds]] == [row.label for row in table.rows]
    assert len({d.config.model_dump_json() for d in found}) == len(found)
    if small:
        assert {d.config.data.dataset for d in found} == {"synthetic"}
        networks = [d.config for d in found if is_network(d.config)]
        assert all(config.method.backbone.startswith("test_") for config in networks)
        assert {config.method.weights for config in networks} == {"none"}


@pytest.mark.parametrize("name", TABLES)
def test_the_plugins_of_a_built_in_table_take_its_settings(name: str) -> None:
    """Values too, which reading the table does not check."""
    from fusionbench.plugin.control import Control
    from fusionbench.runs.network_study import load_method

    for one in expand(read_table(name)):
        entry = registry.find_method(one.config.method.fusion)
        if entry.kind == "controls":
            params = {k.removeprefix("fusion."): v for k, v in one.config.method.params.items()}
            plugin_params(registry.load(entry, Control), params, entry.name)
        else:
            load_method(one.config)


@pytest.mark.parametrize("name", TABLES)
def test_a_built_in_table_has_its_control_rows(name: str) -> None:
    """The issue's list: three on metadata, missingness, image only, the main fusion's twin."""
    found = [d.config for d in expand(read_table(name)) if d.config.seed == 0]
    methods = {config.method.fusion for config in found}
    assert methods >= {"metadata-logistic", "metadata-forest", "metadata-boosting", "missingness"}
    alone = {config.method.backbone for config in found if config.method.fusion == "none"}
    assert alone == {config.method.backbone for config in found if is_network(config)}
    twins = [config for config in found if config.data.shuffle_metadata]
    assert "sgmc" in {config.method.fusion for config in twins}
    for twin in twins:
        assert twin.changed(shuffle_metadata=False) in found


def test_the_ablation_takes_away_one_thing_a_row() -> None:
    every = [d.config for d in expand(read_table("sgmc-ablation"))]
    found = [c for c in every if c.method.fusion == "sgmc" and not c.data.shuffle_metadata]
    whole = found[-1]
    assert (whole.method.loss, whole.method.params) == ("ce+self-contrastive", {})
    said = [(c.method.loss.removeprefix("ce"), c.method.params) for c in found[:-1]]
    guided = "+self-contrastive"
    assert said == [
        (guided, {"fusion.cf": "off"}),
        (guided, {"fusion.sf": "off"}),
        (guided, {"fusion.fr": "off"}),
        (guided, {"fusion.stages": "4"}),
        ("", {}),
        ("+deep-supervision", {}),
    ]


def test_a_row_is_recipe_then_settings_then_its_own(tmp_path: Path) -> None:
    found = expand(read_table(written(tmp_path)))
    assert [(d.row, d.label, d.config.seed) for d in found] == [
        (0, "first", 3), (0, "first", 1), (1, "second", 3), (1, "second", 1),
    ]  # fmt: skip
    common = {"dataset": "synthetic", "backbone": "resnet18", "loss": "ce"}
    smooth = {"loss.label_smoothing": "0.1"}
    assert found[0].config == RunConfig.of(**common, fusion="none", seed=3, epochs=7, params=smooth)
    assert found[3].config == RunConfig.of(
        **common, fusion="concat", seed=1, epochs=9, lr=1.0, params=smooth | {"fusion.hidden": "8"}
    )
    # A recipe stands below both; what it says and they do not is taken.
    recipe = written(tmp_path, PLAIN.replace("epochs = 7", 'epochs = 7\nrecipe = "sgmc-2024"'))
    config = expand(read_table(recipe))[0].config
    assert (config.training.recipe, config.training.optimizer, config.training.epochs) == (
        "sgmc-2024",
        "adam",
        7,
    )


def test_overrides_win_over_rows(tmp_path: Path) -> None:
    table = read_table(written(tmp_path))
    small = expand(table, Overrides(small=True))
    assert [
        (d.config.method.backbone, d.config.training.epochs, d.config.method.weights) for d in small
    ] == [("test_resnet", 1, "none")] * 2
    assert {d.config.seed for d in small} == {0}
    found = expand(
        table,
        Overrides(
            small=True, dataset="pad-ufes-20", protocol="image-5fold",
            backbones={"test_resnet": "test_vit"}, settings={"epochs": 4, "lr": 0.5},
        ),
    )  # fmt: skip
    for one in found:
        c = one.config
        assert (c.data.dataset, c.data.protocol, c.method.backbone) == (
            "pad-ufes-20",
            "image-5fold",
            "test_vit",
        )
        assert (c.training.epochs, c.training.lr, c.method.weights) == (4, 0.5, "none")


def test_another_dataset_takes_its_own_protocol_and_columns(tmp_path: Path) -> None:
    text = PLAIN.replace('dataset = "synthetic"', 'dataset = "derm7pt"\nprotocol = "official"')
    text = text.replace("epochs = 7", 'epochs = 7\nview = "clinical"\ncolumns = ["sex"]')
    table = read_table(written(tmp_path, text))
    assert {(d.config.data.view, d.config.data.columns) for d in expand(table)} == {
        ("clinical", ("sex",))
    }
    for one in expand(table, Overrides(dataset="pad-ufes-20")):
        assert (one.config.data.protocol, one.config.data.view, one.config.data.columns) == (
            "",
            "",
            (),
        )


def test_one_backbone_for_all_must_leave_different_rows() -> None:
    table = read_table("sgmc-backbones")
    with pytest.raises(UsageError, match=r"SGMC50.*is the same run as SGMC18"):
        expand(table, Overrides(backbones={"": "resnet34"}))
    found = expand(table, Overrides(backbones={"resnet152": "resnet34"}))
    assert [d.config.method.backbone for d in found][:3] == ["resnet18", "resnet50", "resnet34"]
    assert "resnet152" not in {d.config.method.backbone for d in found}


CONTROLS = PLAIN.replace(
    "[small]",
    """[[rows]]
label = "forest"
fusion = "metadata_forest"
params = { "fusion.trees" = "50" }

[[rows]]
label = "twin"
fusion = "concat"
shuffle_metadata = true

[small]""",
).replace("epochs = 7", 'epochs = 7\nencoding = "ordinal"')


def test_a_control_takes_of_the_settings_what_reaches_it(tmp_path: Path) -> None:
    found = {d.label: d.config for d in expand(read_table(written(tmp_path, CONTROLS)))}
    forest = found["forest"]
    assert not is_network(forest) and forest.data.encoding == "ordinal"
    # Neither the table's epochs nor its parameters, which are of losses.
    assert forest.training == RunConfig().training
    assert forest.method.params == {"fusion.trees": "50"}
    assert found["twin"].data.shuffle_metadata and not found["second"].data.shuffle_metadata
    assert found["twin"].training.epochs == 7 and found["twin"].method.backbone == "resnet18"
    # The small version, and another backbone for every row, leave a control as it is.
    small = Overrides(small=True, backbones={"": "test_vit"})
    changed = {d.label: d.config for d in expand(read_table(tmp_path / "two.toml"), small)}
    assert changed["forest"].method == forest.method
    assert changed["twin"].method.backbone == "test_vit"


@pytest.mark.parametrize(
    ("more", "field", "problem"),
    [
        ('backbone = "resnet18"', "backbone", "no effect on a control"),
        ('loss = "ce"', "loss", "no effect on a control"),
        ("epochs = 3", "epochs", "no effect on a control"),
        ("epoch = 3", "epoch", "Did you mean epochs"),
    ],
)
def test_a_control_is_refused_what_does_not_reach_it(
    tmp_path: Path, more: str, field: str, problem: str
) -> None:
    text = CONTROLS.replace('fusion = "metadata_forest"', f'fusion = "metadata_forest"\n{more}')
    with pytest.raises(DataError) as caught:
        read_table(written(tmp_path, text))
    found = {str(p["field"]): str(p["problem"]) for p in caught.value.problems}
    assert problem in found[f"rows[2] (forest).{field}"]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"fusion.trees"', '"fusion.tree"', "Did you mean trees?"),
        ('"fusion.trees"', '"loss.weight"', "no effect on a control"),
        ('"metadata_forest"', '"metadata_frest"', "Did you mean metadata-forest"),
    ],
)
def test_names_of_controls_are_checked_too(
    tmp_path: Path, old: str, new: str, problem: str
) -> None:
    with pytest.raises(DataError) as caught:
        read_table(written(tmp_path, CONTROLS.replace(old, new)))
    assert problem in " ".join(str(p["problem"]) for p in caught.value.problems)


def test_a_table_without_a_small_version_says_so(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, PLAIN[: PLAIN.index("[small]")]))
    with pytest.raises(UsageError, match=r"no \[small\] section"):
        expand(table, Overrides(small=True))


@pytest.mark.parametrize(
    ("old", "new", "field", "problem"),
    [
        ("epochs = 7", 'epochs = "7"', "rows[0] (first).epochs", "valid integer"),
        ("epochs = 7", "epoch = 7", "settings.epoch", "Did you mean epochs"),
        ("epochs = 9", "seed = 9", "rows[1] (second).seed", "seeds = ..."),
        ('fusion = "none"', 'fusion = "nonne"', "rows[0] (first)", "Did you mean none?"),
        ('loss = "ce"', 'loss = "ce+focl"', "rows[0] (first)", "no loss called 'focl'"),
        ('loss = "ce"', "", "rows[0] (first).loss", "must be stated"),
        ('"fusion.hidden"', '"fusion.hiden"', "rows[1] (second)", "Did you mean hidden?"),
        ('label = "second"', 'label = "first"', "rows[1].label", "there twice"),
        ('label = "second"\n', "", "rows[1].label", "is missing"),
        ("seeds = [3, 1]", "seeds = []", "seeds", "at least 1"),
        ("seeds = [3, 1]", "seeds = [1.5]", "seeds[0]", "valid integer"),
        ("seeds = [3, 1]", "folds = [5]", "folds", "no fold 5"),
        ("seeds = [3, 1]", 'columns = ["auc"]', "columns[0]", "no metric called 'auc'"),
        ("seeds = [3, 1]", 'path = "/etc"', "path", "not a known field"),
        ('dataset = "synthetic"', 'dataset = "synth"', "dataset, protocol", "Did you mean"),
        ("seeds = [3, 1]", 'protocol = "5fold"', "dataset, protocol", "no protocol of synthetic"),
        ("{ resnet18 =", "{ resnet19 =", "small.backbones.resnet19", "no row"),
        ("epochs = 9", 'recipe = "mdern"', "rows[1] (second)", "no recipe called 'mdern'"),
        ("lr = 1\n", "lr = inf\n", "rows[1] (second).lr", ""),
    ],
)  # fmt: skip
def test_a_problem_is_named_by_file_and_field(
    tmp_path: Path, old: str, new: str, field: str, problem: str
) -> None:
    assert old in PLAIN
    with pytest.raises(DataError) as caught:
        read_table(written(tmp_path, PLAIN.replace(old, new, 1)))
    found = {str(p["field"]): str(p["problem"]) for p in caught.value.problems}
    assert field in found and problem in found[field]
    assert "two.toml" in caught.value.message
    assert {p["file"] for p in caught.value.problems} == {"two.toml"}


def test_all_problems_are_listed(tmp_path: Path) -> None:
    text = PLAIN.replace("epochs = 7", "epochs = 0").replace('fusion = "none"', 'fusion = "no"')
    text = text.replace("seeds = [3, 1]", "seeds = [1, 1]")
    with pytest.raises(DataError) as caught:
        read_table(written(tmp_path, text))
    fields = {p["field"] for p in caught.value.problems}
    assert {"seeds[1]", "rows[0] (first).epochs"} <= fields


def test_files_that_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Did you mean sgmc-losses"):
        read_table("sgmc-loses")
    with pytest.raises(UsageError, match="no table file at"):
        read_table(tmp_path / "absent.toml")
    for content in (b"title = ", b"\xff\xfe", b"", b"rows = 3"):
        (tmp_path / "bad.toml").write_bytes(content)
        with pytest.raises(DataError, match=r"bad\.toml"):
            read_table(tmp_path / "bad.toml")


def test_reading_and_rendering_a_table_needs_no_torch() -> None:
    code = (
        "import sys; from fusionbench.tables import expand, read_table\n"
        "import fusionbench.leaderboard\n"
        "expand(read_table('sgmc-losses')); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
