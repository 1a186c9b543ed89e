"""Recipes: complete, strict, applied under what the user gives, and kept in the record."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.metrics import log_loss

from fusionbench.cli import run as run_module
from fusionbench.config.recipe import (
    changes,
    find_recipe,
    own_params,
    read_recipe,
    recipe_names,
)
from fusionbench.config.run_config import SETTINGS, Execution, RunConfig
from fusionbench.errors import DataError, UsageError
from fusionbench.metrics.compute import balanced_nll
from fusionbench.models.backbones import build_backbone
from fusionbench.models.fusion_model import FusionModel
from fusionbench.plugin import registry
from fusionbench.plugin.fusion import Fusion, Spec
from fusionbench.plugin.loss import Loss, Output
from fusionbench.runs.network_study import load_method, setup
from fusionbench.runs.run import run
from fusionbench.runs.study import Opened

# Small enough to train in a test.
TINY = {
    "backbone": "test_resnet",
    "weights": "none",
    "image_size": 32,
    "epochs": 2,
    "batch_size": 16,
    "precision": "fp32",
}


# ---- the files


def test_the_three_recipes_are_there() -> None:
    assert recipe_names() == ["metablock-2021", "modern", "sgmc-2024"]


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_states_every_setting_of_training(name: str) -> None:
    recipe = find_recipe(name)
    assert set(recipe.settings) == {n for n, s in SETTINGS.items() if s.in_recipe}
    assert set(recipe.stated) == set(recipe.settings) | set(recipe.params)
    assert recipe.title and recipe.source.citation


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("fusion", ["none", "concat", "metanet", "metablock", "sgmc"])
def test_its_parameters_are_taken_by_every_method(name: str, fusion: str) -> None:
    method = load_method(RunConfig.of(recipe=name, fusion=fusion))
    if name == "metablock-2021":
        assert method.optimizer_args == {"momentum": 0.9, "filter_bias_and_bn": False}
        assert method.schedule_args == {"factor": 0.1, "patience": 10, "min_lr": 1e-6}
        assert method.losses["ce"].params["class_weights"] == "balanced"
    if name == "sgmc-2024" and fusion == "sgmc":
        contrast = method.losses["self-contrastive"].params
        assert (contrast["tau"], contrast["weight"]) == (0.07, 0.1)


def test_modern_is_what_a_configuration_starts_from() -> None:
    assert RunConfig.of(recipe="modern") == RunConfig()
    assert {s.status for s in find_recipe("modern").stated.values()} == {"ours"}


def test_guesses_are_marked_and_what_the_paper_states_is_not_one() -> None:
    stated = find_recipe("sgmc-2024").stated
    known = {key for key, setting in stated.items() if setting.status == "known"}
    assert {"loss.self-contrastive.tau", "loss.self-contrastive.weight"} <= known
    assert {stated[k].status for k in ("optimizer", "lr", "epochs", "schedule")} == {"guess"}
    published = find_recipe("metablock-2021")
    assert {s.status for s in published.stated.values()} == {"known"} and published.differences


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no recipe called 'metablok'.*metablock-2021\?"):
        find_recipe("metablok")
    assert find_recipe("MetaBlock_2021").name == "metablock-2021"


GOOD = 'title = "t"\n[source]\ncitation = "c"\n[settings]\nlr = {value = 1.0, status = "ours"}\n'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD.replace('"ours"', '"sure"'), "status"),
        (GOOD.replace("1.0", "-1.0"), "greater than 0"),
        (GOOD.replace("lr =", "rate ="), "not a setting of a recipe: rate"),
        (GOOD.replace("lr =", "dataset ="), "not a setting of a recipe: dataset"),
        (GOOD + "[params]\n'optimizer.momentum' = {value = 0.9, status = 'ours'}", "is text"),
        (GOOD.replace('title = "t"\n', ""), "title"),
        ("extra = 1\n" + GOOD, "extra"),
        (GOOD.replace("{value = 1.0, ", "{value = 1.0, why = 'x', "), "why"),
        ("title =", "cannot be read as TOML"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_its_name(
    tmp_path: Path, text: str, reason: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    assert read_recipe(path).settings == {"lr": 1.0}
    read_recipe.cache_clear()
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read_recipe(path)
    assert str(path) in str(error.value) and reason in str(error.value)


# ---- what is given goes first


def test_given_settings_go_before_the_recipes() -> None:
    config = RunConfig.of(
        recipe="metablock-2021", lr=0.5, fusion="concat", params={"optimizer.momentum": "0.5"}
    )
    assert (config.training.lr, config.training.batch_size, config.training.recipe) == (
        0.5,
        30,
        "metablock-2021",
    )
    assert config.method.params["optimizer.momentum"] == "0.5"
    assert config.method.params["schedule.patience"] == "10"
    assert changes(config) == {"lr": 0.5, "optimizer.momentum": "0.5"}
    assert changes(RunConfig()) == {}


@pytest.mark.parametrize(
    ("given", "gone"),
    [
        ({"optimizer": "adamw"}, "optimizer."),
        ({"schedule": "cosine"}, "schedule."),
        ({"optimizer": "momentum"}, None),
    ],
)
def test_another_optimizer_or_schedule_drops_the_recipes_parameters_of_it(
    given: dict[str, Any], gone: str | None
) -> None:
    all_keys = set(find_recipe("metablock-2021").params)
    kept = set(RunConfig.of(recipe="metablock-2021", **given).method.params)
    assert all_keys - kept == {k for k in all_keys if gone and k.startswith(gone)}


def test_a_loss_that_is_not_in_the_run_is_not_set() -> None:
    config = RunConfig.of(recipe="metablock-2021", loss="focal")
    assert "loss.ce.class_weights" in config.method.params
    assert "loss.ce.class_weights" not in own_params(config, ["focal"])
    assert load_method(config).losses.keys() == {"focal"}
    typed = config.changed(params={"loss.ce.class_weights": "none"})
    with pytest.raises(UsageError, match=r"loss\.ce"):
        load_method(typed)  # the user's own words are never dropped


def test_the_command_line_knows_what_was_typed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """--epochs 30 is the default, and still goes before the recipe's 150 because it was typed."""
    from fusionbench.cli import cli

    seen: list[RunConfig] = []

    def listening(config: RunConfig, *_: Any) -> Any:
        seen.append(config)
        raise UsageError("far enough")

    monkeypatch.setattr("fusionbench.runs.run.run", listening)
    words = ["run", "--dataset", "synthetic", "--recipe", "metablock-2021"]
    said = [
        CliRunner().invoke(cli, [*words, *more]).stderr
        for more in ([], ["--epochs", "30", "--set", "schedule.patience=3"])
    ]
    assert "recipe metablock-2021, but" not in said[0]
    assert "recipe metablock-2021, but epochs=30, schedule.patience=3" in said[1]
    plain, typed = seen
    assert (plain.training.epochs, plain.training.optimizer, plain.training.select) == (
        150,
        "momentum",
        "test-best",
    )
    assert plain == RunConfig.of(recipe="metablock-2021", dataset="synthetic")
    assert (typed.training.epochs, typed.training.batch_size) == (30, 30)
    assert typed.method.params["schedule.patience"] == "3"
    result = CliRunner().invoke(cli, ["run", "--recipe", "modem"])
    assert result.exit_code != 0 and "modern" in str(result.exception or result.output)
    assert {p.name for p in run_module.run_command.params} >= {*SETTINGS}


# ---- in the record


def test_a_published_recipe_trains_and_its_record_keeps_it(
    tiny_card: Path, here: Execution
) -> None:
    given = {**TINY, "fusion": "concat", "dataset": str(tiny_card), "protocol": "holdout"}
    config = RunConfig.of(recipe="metablock-2021", **given)
    outcome = run(config, here)
    assert not outcome.failures, outcome.failures[0].message
    (record,) = outcome.records
    settings, training = record.identity.settings, record.identity.training
    assert training is not None and settings["recipe"] == "metablock-2021"
    for name, value in find_recipe("metablock-2021").settings.items():
        if name not in given and name != "weights":
            assert settings[name] == value, name
    assert settings["epochs"] == 2  # the change is in the record
    assert training.schedule_args["patience"] == 10
    result = record.result
    assert result is not None
    assert "optimistic: test-best" in result.flags
    assert set(result.parts) == {"test", "holdout"}
    watched = [float(h["watched"] or 0) for h in result.history]
    assert result.best_epoch == 1 + int(np.argmin(watched))  # a loss: the lowest


def test_an_unknown_recipe_is_refused_from_python_too(quick: RunConfig, here: Execution) -> None:
    with pytest.raises(UsageError, match="no recipe"):
        run(quick.changed(recipe="nobodys"), here)


# ---- formulas


def test_class_weights_are_those_of_the_authors_script() -> None:
    """Theirs are n / n_k, rounded to three decimals; a constant factor does not matter."""
    counts = (584, 676, 42, 195, 154, 188)
    logits, target = torch.randn(64, 6), torch.arange(64) % 6
    spec = Spec(stages=(), width=4, metadata=1, classes=6, counts=counts)
    cls = registry.load(registry.find("losses", "ce"), Loss)
    ours = cls(spec, class_weights="balanced")(Output(logits, logits, ()), target)["ce"]
    weights = [round(sum(counts) / n, 3) for n in counts]
    log_p = torch.log_softmax(logits.double(), 1)
    terms = [(weights[k], -float(log_p[i, k])) for i, k in enumerate(target.tolist())]
    theirs = sum(w * nll for w, nll in terms) / sum(w for w, _ in terms)
    assert float(ours) == pytest.approx(theirs, rel=1e-3)
    plain = cls(spec)(Output(logits, logits, ()), target)["ce"]
    assert abs(float(plain) - theirs) > 1e-3


def test_balanced_log_loss_is_that_of_scikit_learn_with_weights() -> None:
    rng = np.random.default_rng(0)
    y = np.array([0] * 30 + [1] * 8 + [3] * 2)  # class 2 is absent
    p = rng.dirichlet(np.ones(4), len(y))
    weights = 1 / np.bincount(y)[y]
    expected = log_loss(y, p, sample_weight=weights, labels=[0, 1, 2, 3])
    assert balanced_nll(y, p) == pytest.approx(expected)
    assert balanced_nll(y, p) != pytest.approx(log_loss(y, p, labels=[0, 1, 2, 3]))


# ---- list


def test_listing_costs_no_torch_and_shows_what_is_guessed() -> None:
    code = (
        "import sys; from fusionbench.cli import main\n"
        "try: main(['list', 'recipes', '--json'])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'timm', 'numpy'} & set(sys.modules), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr.strip() == "set()"
    rows = {row["name"]: row for row in json.loads(ran.stdout)}
    assert list(rows) == recipe_names()
    assert rows["sgmc-2024"]["settings"]["optimizer"]["status"] == "guess"
    assert rows["metablock-2021"]["params"]["optimizer.momentum"]["value"] == "0.9"
    assert rows["metablock-2021"]["differences"]


# ---- the reducer between fusion and head


def test_the_reducer_is_the_authors_layer_between_any_fusion_and_the_head() -> None:
    backbone = build_backbone("test_resnet", 32)
    spec = Spec(backbone.stages, backbone.width, metadata=5, classes=3)
    fusion = registry.load(registry.find("fusions", "concat"), Fusion)(spec, hidden=16)
    plain, reduced = FusionModel(backbone, fusion), FusionModel(backbone, fusion, 24)
    assert not [name for name in plain.state_dict() if name.startswith("reduce")]
    assert (plain.spec.embedding, reduced.spec.embedding) == (16 + 5, 24)
    image, meta = torch.rand(4, 3, 32, 32), torch.rand(4, 5)
    plain.eval(), reduced.eval()
    with torch.no_grad():
        fused = plain(image, meta).embedding
        output = reduced(image, meta)
    state = {k: v for k, v in reduced.state_dict().items() if k.startswith("reduce")}
    linear = fused @ state["reduce.0.weight"].T + state["reduce.0.bias"]
    expected = torch.relu(linear / (1 + 1e-5) ** 0.5)  # BatchNorm before any training
    assert torch.allclose(output.embedding, expected, atol=1e-5)
    assert output.logits.shape == (4, 3)
    reduced.train()
    dropped = torch.stack([reduced(image, meta).embedding == 0 for _ in range(50)])
    assert 0.65 < float(dropped.float().mean()) < 0.85  # half by ReLU, half of the rest by dropout


@pytest.mark.parametrize("fusion", ["none", "concat", "sgmc"])
def test_a_reducer_is_trained_and_counted(quick: RunConfig, here: Execution, fusion: str) -> None:
    """Linear w -> 24, BatchNorm(24) and a head of 24 instead of one of w."""
    config = quick.changed(fusion=fusion, epochs=1)
    plain = run(config, here).records[0].result
    reduced = run(config.changed(reducer=24), here).records[0].result
    assert plain is not None and reduced is not None
    experiment = setup(config, Opened(here))
    train = experiment.rows(experiment.protocol.folds[0]).train
    encoder = experiment.encoder(experiment.table.metadata, train)
    model, _ = experiment.model(experiment.backbone(), encoder, train)
    w, k = model.spec.embedding, len(plain.classes)
    more = (24 * w + 24) + 2 * 24 + (24 * k + k) - (w * k + k)
    assert reduced.parameters["fusion"] - plain.parameters["fusion"] == more
    assert reduced.parameters["total"] - plain.parameters["total"] == more
    assert reduced.parameters["backbone"] == plain.parameters["backbone"]
