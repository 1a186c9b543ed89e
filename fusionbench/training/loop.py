"""Training and prediction: plain functions, read from top to bottom.

fit() trains one model on one fold; predict() gives its probabilities. What a batch goes through is
training.step's business, how it gets there training.feed's. On the CPU everything is
deterministic from the seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from fusionbench.config.run_config import Sampler, TrainingSettings
from fusionbench.errors import RunFailedError
from fusionbench.models.fusion_model import FusionModel
from fusionbench.progress import Task
from fusionbench.training.checkpoints import Parts, State
from fusionbench.training.feed import Arrays, batches, sizes
from fusionbench.training.metadata_dropout import MetadataDropout
from fusionbench.training.optimizers import (
    Plateau,
    higher_is_better,
    make_optimizer,
    make_scheduler,
)
from fusionbench.training.placement import Placement, by_rule
from fusionbench.training.step import TrainingStep, as_float
from fusionbench.training.unsaved_state import UnsavedState

# Photographs of a batch in evaluation. A model's bits may depend on it.
EVALUATED = 64
# Sampler -> the power of n_k, the training rows of its class, by which a row is less likely.
# Not here: no replacement.
POWERS: dict[Sampler, float] = {"class-balanced": 1.0, "square-root": 0.5}


def fit(
    step: TrainingStep,
    arrays: Arrays,
    rows: np.ndarray,
    config: TrainingSettings,
    *,
    seed: int,
    optimizer_args: dict[str, Any] | None = None,
    schedule_args: dict[str, Any] | None = None,
    dropout: MetadataDropout | None = None,
    watch: Callable[[FusionModel], float] | None = None,
    task: Task | None = None,
    resume: State | None = None,
    keep: Callable[[State], None] | None = None,
) -> State:
    """Train the model of `step` in place on `rows` of `arrays`, and leave it the chosen weights.
    Where training stands in the end; `best_epoch` is the chosen one.

    dropout       which metadata a training step does not get to see; None: it sees all
    watch         called after each epoch: the value of the metric `config.watch`. The epoch where
                  it is best is kept (the first of equals). None: the last epoch is kept.
    keep          called after each epoch with where training stands, in the model's own tensors
    resume        such a state, of this very run: training goes on after its epoch

    With `config.early_stop` training ends after that many epochs in which the watched score, or
    without one the training loss, has not improved.
    Raises RunFailedError for a non-finite loss (naming epoch and step) and for exhausted memory;
    CheckpointError where `resume` is of another run, with model, loss and random state untouched.
    """
    task = task or Task()
    model = step.model
    optimizer = make_optimizer(step.trained, config, optimizer_args or {})
    steps = len(sizes(len(rows), config.batch_size))
    if not steps:
        raise RunFailedError(
            f"There are only {len(rows)} training rows for a batch of {config.batch_size}.",
            "Use a smaller --batch-size or another protocol.",
        )
    scheduler = make_scheduler(
        optimizer, config, steps, schedule_args or {}, watched=watch is not None
    )
    ema = ModelEmaV3(model, decay=config.ema, use_warmup=True) if config.ema else None
    parts = Parts(step.trained, optimizer, scheduler, ema, step.placement.device)
    unsaved = UnsavedState(step)
    sign = 1 if watch is not None and higher_is_better(config) else -1
    at = resume or State()
    if resume is not None:
        parts.restore(at)
        task.resume(at.epoch * len(rows), epoch=at.epoch)

    try:
        for epoch in range(at.epoch + 1, config.epochs + 1):
            if config.early_stop and at.epoch - at.best_epoch >= config.early_stop:
                break
            started = time.perf_counter()
            mean_loss = train_epoch(
                step, arrays, rows, config, parts, dropout, seed=seed, epoch=epoch, task=task
            )  # fmt: skip
            at.train_seconds += time.perf_counter() - started
            at.images_seen += min(steps * config.batch_size, len(rows))
            entry: dict[str, float | None] = {
                "epoch": epoch,
                "lr": optimizer.param_groups[0]["lr"] / optimizer.param_groups[0]["lr_scale"],
                **mean_loss,
            }
            candidate = ema.module if ema is not None else model
            score = mean_loss["loss"]
            if watch is not None:
                score = entry["watched"] = watch(candidate)
            if sign * score > at.best_score:
                at.best_score, at.best_epoch = sign * score, epoch
                if watch is not None:
                    weights = candidate.state_dict()
                    at.best = {k: v.detach().cpu().clone() for k, v in weights.items()}
            if isinstance(scheduler, Plateau):
                scheduler.step(epoch, score)
            at.history.append(entry)
            at.epoch = epoch
            at.unsaved = at.unsaved or unsaved.changed(epoch, config.epochs)
            task.advance(0, epoch=epoch, loss=mean_loss["loss"])
            if keep is not None:
                keep(parts.capture(at))
    except (torch.OutOfMemoryError, RuntimeError) as error:
        full = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not full:
            raise
        step.release()
        raise RunFailedError(
            f"Out of memory on {step.placement.device.type} with --batch-size "
            f"{config.batch_size} at {config.image_size} px.",
            "Use a smaller --batch-size, --image-size or backbone.",
        ) from error

    if at.best is not None:
        model.load_state_dict(at.best)
    elif ema is not None:
        model.load_state_dict(ema.module.state_dict())
    return replace(at, best_epoch=at.best_epoch if at.best is not None else at.epoch)


@torch.no_grad()
def predict(
    model: FusionModel,
    arrays: Arrays,
    rows: np.ndarray,
    placement: Placement,
    batch_size: int = EVALUATED,
) -> np.ndarray:
    """Class probabilities of `rows`, float64 (len(rows), K). Leaves the model in eval mode."""
    device, exact = placement.device, placement.of_doubles
    model.to(device).to(memory_format=torch.channels_last)
    model.eval()
    out = torch.empty(len(rows), model.spec.classes, dtype=torch.float64, device=exact)
    for batch in batches(arrays, rows, batch_size, device, keep_single=True):
        image = evaluated(batch.image, model)
        with placement.autocast(), by_rule():
            logits = model(image, batch.meta).logits
        out[batch.start : batch.start + len(image)] = torch.softmax(
            logits.to(exact).double(), dim=1
        )
    return out.cpu().numpy()


def evaluated(image: Tensor, model: FusionModel) -> Tensor:
    """(B, 3, S, S) uint8 -> what the model takes where nothing is augmented."""
    return model.backbone.normalised(as_float(image))


def train_epoch(
    step: TrainingStep,
    arrays: Arrays,
    rows: np.ndarray,
    config: TrainingSettings,
    parts: Parts,
    dropout: MetadataDropout | None,
    *,
    seed: int,
    epoch: int,
    task: Task,
) -> dict[str, float]:
    """One pass over `rows`; the mean of every loss term over its steps."""
    device, steps = step.placement.device, len(sizes(len(rows), config.batch_size))
    optimizer, scheduler, ema = parts.optimizer, parts.scheduler, parts.ema
    order = np.random.default_rng([seed, epoch])
    generator = torch.Generator().manual_seed(int(order.integers(2**62)))
    labels = arrays.labels.cpu().numpy()[rows]
    drawn = epoch_rows(rows, labels, config.sampler, order)
    hidden = dropout.draw(len(drawn), seed, epoch) if dropout is not None else None
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    seen: list[Tensor] = []  # each step's terms, on the device: a GPU does not wait for Python
    step.begin_epoch(epoch, config.epochs)
    for i, batch in enumerate(batches(arrays, drawn, config.batch_size, device)):
        meta = batch.meta
        if dropout is not None and hidden is not None:
            meta = dropout.apply(meta, hidden[batch.start : batch.start + len(meta)])
        augmented_by = step.augment.draw(len(batch.target), generator)
        terms = step(batch.image, augmented_by, meta, batch.target)
        if config.clip_grad:
            nn.utils.clip_grad_norm_(trained, config.clip_grad)
        optimizer.step()
        update = (epoch - 1) * steps + i + 1
        if scheduler is not None and not isinstance(scheduler, Plateau):
            scheduler.step_update(update)
        if ema is not None:
            ema.update(step.model, step=update)
        seen.append(torch.stack([term.double() for term in terms.values()]))
        task.advance(len(batch.target))
    losses = dict(zip(terms, torch.stack(seen, dim=1).cpu(), strict=True))
    if len(bad := torch.where(~losses["loss"].isfinite())[0]):
        raise RunFailedError(
            f"The loss is not finite in epoch {epoch}, step {int(bad[0]) + 1} of {steps}.",
            "Lower --lr, set --clip-grad 1, or use --precision fp32.",
        )
    return {name: float(values.mean()) for name, values in losses.items()}


def epoch_rows(
    rows: NDArray[np.integer],
    labels: NDArray[np.integer],
    sampler: Sampler,
    generator: np.random.Generator,
) -> NDArray[np.integer]:
    """`len(rows)` of the `rows` in the order of one epoch: each once (`shuffle`), or drawn with
    replacement, with odds that depend on how many rows its class has. `labels` (len(rows),) are
    theirs."""
    if sampler == "shuffle":
        return generator.permutation(rows)
    odds = row_odds(labels, POWERS[sampler])
    return generator.choice(rows, size=len(rows), replace=True, p=odds)


def row_odds(labels: NDArray[np.integer], power: float) -> NDArray[np.float64]:
    """(n,) probability of each row, proportional to (number of rows of its class) ** -power."""
    counts = np.bincount(labels)
    odds = counts[labels].astype(np.float64) ** -power
    return odds / odds.sum()
