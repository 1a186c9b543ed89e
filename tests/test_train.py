"""When training ends, and how the learning rate follows what is measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fusionbench.config.run_config import Execution, RunConfig, TrainingSettings
from fusionbench.errors import UsageError
from fusionbench.runs.run import run
from fusionbench.training.optimizers import Plateau, make_optimizer, make_scheduler


def optimizer(lr: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def rates(scores: list[float], mode: Any = "min", warmup: int = 0, **settings: Any) -> list[float]:
    """The learning rate of each epoch."""
    own = optimizer()
    plateau = Plateau(own, mode, warmup, **settings)
    seen = []
    for epoch, score in enumerate(scores, 1):
        seen.append(round(own.param_groups[0]["lr"], 12))
        plateau.step(epoch, score)
    return seen


def test_the_rate_falls_after_more_than_patience_epochs_without_improvement() -> None:
    """By hand, patience 2: epoch 2 is the best; 3, 4, 5 are not better, so epoch 6 is slower."""
    losses = [1.0, 0.5, 0.6, 0.5, 0.7, 0.8, 0.4, 0.5]
    assert rates(losses, factor=0.1, patience=2) == [1, 1, 1, 1, 1, 0.1, 0.1, 0.1]
    accuracies = [0.1, 0.5, 0.4, 0.5, 0.3, 0.2, 0.6, 0.5]
    assert rates(accuracies, "max", factor=0.5, patience=2) == [1, 1, 1, 1, 1, 0.5, 0.5, 0.5]


def test_the_defaults_are_a_tenth_after_ten_epochs_and_there_is_a_floor() -> None:
    assert rates([1.0] * 14)[10:] == [1, 1, 0.1, 0.1]
    assert rates([1.0] * 9, patience=0, factor=0.1, min_lr=0.01)[-1] == 0.01


def test_a_warm_up_rises_in_equal_steps_and_its_scores_do_not_count() -> None:
    assert rates([0.0, 0.0, 9.0, 8.0, 7.0], warmup=3, patience=0) == [0.25, 0.5, 0.75, 1, 1]


@pytest.mark.parametrize(
    ("watch", "watched", "mode"),
    [("bacc", True, "max"), ("bacc", False, "min"), ("nll", True, "min")],
)
def test_it_follows_the_watched_score_or_the_training_loss(
    watch: Any, watched: bool, mode: str
) -> None:
    config = RunConfig.of(schedule="plateau", watch=watch, warmup_epochs=0)
    plateau = make_scheduler(optimizer(), config.training, 5, {}, watched=watched)
    assert plateau.reduce.mode == mode


def test_a_setting_that_it_does_not_take_is_refused() -> None:
    config = RunConfig.of(schedule="plateau")
    for wrong in ({"patience_epochs": 3}, {"factor": 2.0}):
        with pytest.raises(UsageError, match=r"plateau does not take.*patience"):
            make_scheduler(optimizer(), config.training, 5, wrong)


def test_a_run_slows_down_as_its_history_says(
    quick: RunConfig, here: Execution, recwarn: pytest.WarningsRecorder
) -> None:
    """The learning rates of the record are those that its training losses call for."""
    changed = {
        "epochs": 8, "schedule": "plateau", "warmup_epochs": 0, "lr": 2.0, "optimizer": "momentum",
        "clip_grad": 0.1, "params": {"schedule.patience": "0", "schedule.factor": "0.5"},
    }  # fmt: skip
    result = run(quick.changed(**changed), here).records[0].result
    assert result is not None
    losses = [float(h["loss"] or 0) for h in result.history]
    lr, best, expected = 2.0, float("inf"), []
    for loss in losses:
        expected.append(lr)
        if loss < best * (1 - 1e-4):
            best = loss
        else:
            lr *= 0.5
    assert [h["lr"] for h in result.history] == expected
    assert expected[-1] < 2.0
    assert not [w for w in recwarn if issubclass(w.category, FutureWarning)]


# ---- early stop


class Scripted:
    """Stands for the metrics of a run: the watched score of each epoch, as written."""

    def __init__(self, scores: list[float]) -> None:
        self.scores = iter(scores)


@pytest.mark.parametrize(
    ("watch", "scores", "stop", "epochs", "best"),
    [
        ("bacc", [0.2, 0.5, 0.5, 0.4, 0.9], 2, 4, 2),  # 3 and 4 are no better than 2
        ("bacc", [0.2, 0.5, 0.4, 0.6, 0.5], 2, 5, 4),
        ("bacc", [0.2, 0.1, 0.1, 0.1, 0.3], 0, 5, 5),
        ("nll", [1.0, 0.5, 0.6, 0.5, 0.1], 2, 4, 2),
        ("nll", [1.0, 1.1, 0.9, 0.8, 0.7], 1, 2, 1),
    ],
)
def test_training_ends_after_so_many_epochs_without_a_better_score(
    quick: RunConfig,
    here: Execution,
    monkeypatch: pytest.MonkeyPatch,
    watch: str,
    scores: list[float],
    stop: int,
    epochs: int,
    best: int,
) -> None:
    from fusionbench.runs import network_trainer as network

    script = Scripted(scores)
    fit = network.fit

    def scripted_fit(*arguments: Any, **named: Any) -> Any:
        return fit(*arguments, **{**named, "watch": lambda model: next(script.scores)})

    monkeypatch.setattr(network, "fit", scripted_fit)
    changed = {"epochs": 5, "early_stop": stop, "watch": watch, "select": "inner-val"}
    result = run(quick.changed(**changed), here).records[0].result
    assert result is not None
    assert (result.epochs_run, result.best_epoch) == (epochs, best)
    assert [h["watched"] for h in result.history] == scores[:epochs]


def test_without_a_watched_part_the_training_loss_decides_and_the_last_epoch_is_kept(
    quick: RunConfig, here: Execution
) -> None:
    changed = {"epochs": 12, "early_stop": 1, "lr": 1.0, "optimizer": "momentum", "clip_grad": 1.0}
    config = quick.changed(**changed, schedule="none")
    result = run(config, here).records[0].result
    whole = run(config.changed(early_stop=0), here).records[0].result
    assert result is not None and whole is not None
    losses = [float(h["loss"] or 0) for h in whole.history]
    first_rise = next(i for i in range(1, 12) if losses[i] >= min(losses[:i])) + 1
    assert first_rise < 12
    assert result.epochs_run == result.best_epoch == first_rise
    assert result.history == whole.history[:first_rise]


@pytest.mark.parametrize("watch", ["bacc", "nll", "balanced-nll"])
def test_the_watched_score_is_the_metric_of_that_name(
    quick: RunConfig, here: Execution, watch: str
) -> None:
    """With test-best and one epoch the test part's own metrics are what was watched."""
    from fusionbench.metrics.compute import balanced_nll
    from fusionbench.records import Store

    config = quick.changed(epochs=1, select="test-best", watch=watch)
    (record,) = run(config, replace(here)).records
    assert record.result is not None
    watched = float(record.result.history[0]["watched"] or 0)
    if watch == "balanced-nll":
        found = Store(here.store).predictions(record.run_id)
        y = [found.classes.index(label) for label in found.labels]
        assert watched == pytest.approx(balanced_nll(y, found.probabilities), abs=1e-6)
    else:
        assert watched == pytest.approx(record.result.metrics[watch], abs=1e-9)


def test_adamw_is_fused_and_the_same_unless_the_user_wants_it_otherwise() -> None:
    settings = TrainingSettings(optimizer="adamw", lr=0.01, weight_decay=0.1)
    results = []
    choices: list[dict[str, Any]] = [{}, {"fused": False}, {"foreach": True}]
    for extra in choices:
        torch.manual_seed(0)
        layer = torch.nn.Linear(7, 5)
        optimizer = make_optimizer(layer, settings, extra)
        assert bool(optimizer.defaults["fused"]) == (not extra)
        for i in range(4):
            optimizer.zero_grad()
            layer(torch.full((3, 7), i + 1.0)).square().sum().backward()
            optimizer.step()
        results.append(layer.weight.detach())
    assert torch.allclose(results[0], results[1], atol=1e-6)
    assert torch.allclose(results[0], results[2], atol=1e-6)
