"""Optimisers and learning-rate schedules, from timm's factories."""

from __future__ import annotations

from typing import Any

import timm.optim
import timm.scheduler
import torch
from torch import nn

from fusionbench.config import RunConfig
from fusionbench.errors import UsageError
from fusionbench.registry import unknown_name

SCHEDULES = ("cosine", "tanh", "step", "multistep", "poly", "plateau", "constant", "none")


def make_optimizer(
    trained: nn.Module, config: RunConfig, extra: dict[str, Any]
) -> torch.optim.Optimizer:
    if config.optimizer not in timm.optim.list_optimizers():
        raise UsageError(*unknown_name("optimizer", config.optimizer, timm.optim.list_optimizers()))
    try:
        return timm.optim.create_optimizer_v2(
            trained,
            opt=config.optimizer,
            lr=config.lr,
            weight_decay=config.weight_decay,
            **extra,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"The optimizer {config.optimizer} does not take these settings: {error}."
        ) from error


def make_scheduler(
    optimizer: torch.optim.Optimizer, config: RunConfig, steps: int, extra: dict[str, Any]
) -> Any:
    if config.schedule not in SCHEDULES:
        raise UsageError(
            f"There is no schedule called {config.schedule!r}.", f"Known: {', '.join(SCHEDULES)}."
        )
    on_epochs = config.schedule == "plateau"
    arguments: dict[str, Any] = {
        "warmup_epochs": min(config.warmup_epochs, max(config.epochs - 1, 0)),
        "warmup_lr": config.lr * 0.01,
        "plateau_mode": "min",
        **extra,
    }
    try:
        scheduler, _ = timm.scheduler.create_scheduler_v2(
            optimizer,
            sched=config.schedule,
            num_epochs=config.epochs,
            step_on_epochs=on_epochs,
            updates_per_epoch=0 if on_epochs else steps,
            **arguments,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"The schedule {config.schedule} does not take these settings: {error}."
        ) from error
    return scheduler
