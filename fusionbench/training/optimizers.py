"""Optimisers and learning-rate schedules, from timm's factories; `plateau` from PyTorch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import timm.optim
import timm.scheduler
import torch
from torch import nn

from fusionbench.config.run_config import TrainingSettings
from fusionbench.errors import UsageError
from fusionbench.models.backbones import Backbone
from fusionbench.plugin.fusion import Fusion
from fusionbench.plugin.registry import unknown_name

SCHEDULES = ("cosine", "tanh", "step", "multistep", "poly", "plateau", "constant", "none")


def parameter_groups(trained: nn.Module, config: TrainingSettings) -> list[dict[str, Any]]:
    """All trainable parameters, by factor of the learning rate and by weight decay.

    A backbone's have timm's layer-wise decay and its own list of what is not decayed; a fusion
    may group its parameters (`Fusion.parameter_groups`). Vectors and biases are not decayed.
    """
    scaled: dict[int, tuple[float, float]] = {}  # id of a parameter -> factor, weight decay
    for part in trained.modules():
        if isinstance(part, Backbone):
            factor = config.backbone_lr / config.lr if config.backbone_lr else 1.0
            exempt: set[str] = getattr(part.net, "no_weight_decay", set)()
            for group in timm.optim.param_groups_layer_decay(
                part.net, config.weight_decay, exempt, layer_decay=config.layer_decay
            ):
                values = factor * group["lr_scale"], group["weight_decay"]
                scaled |= {id(p): values for p in group["params"]}
        elif isinstance(part, Fusion):
            for group in part.parameter_groups():
                for p in group["params"]:
                    decay = group.get("weight_decay", config.weight_decay if p.ndim > 1 else 0.0)
                    scaled[id(p)] = group.get("lr_scale", 1.0), decay
    merged: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in trained.named_parameters():
        if p.requires_grad:
            vector = p.ndim <= 1 or name.endswith(".bias")
            values = scaled.get(id(p), (1.0, 0.0 if vector else config.weight_decay))
            merged.setdefault(values, []).append(p)
    return [
        {"params": params, "lr": config.lr * scale, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), params in merged.items()
    ]


def make_optimizer(
    trained: nn.Module, config: TrainingSettings, extra: dict[str, Any]
) -> torch.optim.Optimizer:
    if config.optimizer not in timm.optim.list_optimizers():
        raise UsageError(*unknown_name("optimizer", config.optimizer, timm.optim.list_optimizers()))
    made_by = timm.optim.get_optimizer_class(config.optimizer, bind_defaults=False)
    if "foreach" not in extra and "fused" in inspect.signature(made_by).parameters:
        # One kernel: on a CPU it halves the time of AdamW, on a GPU it also makes fewer launches.
        extra = {"fused": True, **extra}
    with _settings_of(f"optimizer {config.optimizer}"):
        return timm.optim.create_optimizer_v2(
            trained,
            opt=config.optimizer,
            lr=config.lr,
            weight_decay=config.weight_decay,
            param_group_fn=partial(parameter_groups, config=config),
            **extra,
        )


def make_scheduler(
    optimizer: torch.optim.Optimizer,
    config: TrainingSettings,
    steps: int,
    extra: dict[str, Any],
    *,
    watched: bool = False,
) -> Any:
    """A timm scheduler of updates (`steps` per epoch), None, or a Plateau of epochs, which follows
    the watched score, or the training loss where nothing is `watched`. Raises UsageError."""
    if config.schedule not in SCHEDULES:
        raise UsageError(
            f"There is no schedule called {config.schedule!r}.", f"Known: {', '.join(SCHEDULES)}."
        )
    warmup = min(config.warmup_epochs, max(config.epochs - 1, 0))
    if config.schedule == "plateau":
        mode: Literal["min", "max"] = "max" if watched and higher_is_better(config) else "min"
        with _settings_of(
            "schedule plateau",
            "It takes those of torch.optim.lr_scheduler.ReduceLROnPlateau: factor, patience, "
            "min_lr, threshold, threshold_mode, cooldown, eps.",
        ):
            return Plateau(optimizer, mode, warmup, **extra)
    for group in optimizer.param_groups if config.schedule != "none" else ():
        group["lr"] = config.lr  # timm's schedules apply `lr_scale`
    arguments: dict[str, Any] = {"warmup_epochs": warmup, "warmup_lr": config.lr * 0.01, **extra}
    with _settings_of(f"schedule {config.schedule}"):
        return timm.scheduler.create_scheduler_v2(
            optimizer,
            sched=config.schedule,
            num_epochs=config.epochs,
            step_on_epochs=False,
            updates_per_epoch=steps,
            **arguments,
        )[0]


@contextmanager
def _settings_of(what: str, remedy: str = "") -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as error:
        raise UsageError(f"The {what} does not take these settings: {error}.", remedy) from error


def higher_is_better(config: TrainingSettings) -> bool:
    """Of the score that is watched: accuracies rise, losses fall."""
    return config.watch == "bacc"


class Plateau:
    """ReduceLROnPlateau, once per epoch, after a linear warm-up over whole epochs.

    Epoch e of a warm-up of W trains at e / (W + 1) of the learning rate; what is measured during
    the warm-up does not count. `settings` are those of torch.optim.lr_scheduler.ReduceLROnPlateau,
    with its defaults: factor 0.1 after more than `patience` = 10 epochs without improvement.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        mode: Literal["min", "max"],
        warmup_epochs: int,
        **settings: Any,
    ) -> None:
        self.optimizer = optimizer
        self.warmup_epochs = warmup_epochs
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        # Made first: it checks its settings.
        self.reduce = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode=mode, **settings)
        self._warm(1)

    def step(self, epoch: int, score: float) -> None:
        """After epoch `epoch`, counted from 1, in which `score` was measured."""
        if epoch > self.warmup_epochs:
            self.reduce.step(score)
        else:
            self._warm(epoch + 1)

    def _warm(self, epoch: int) -> None:
        share = min(epoch / (self.warmup_epochs + 1), 1.0)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * share
