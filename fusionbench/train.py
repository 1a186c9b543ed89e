"""Training and prediction: plain functions, read from top to bottom.

fit() trains one model on one fold; predict() gives its probabilities. Data stays uint8 until a
batch is made of it. On the CPU everything is deterministic from the seed.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from fusionbench.augment import AUGMENTATIONS
from fusionbench.checkpoints import Parts, State
from fusionbench.config import RunConfig
from fusionbench.errors import RunFailedError
from fusionbench.losses import CombinedLoss, total
from fusionbench.model import FusionModel
from fusionbench.optimizers import Plateau, higher_is_better, make_optimizer, make_scheduler
from fusionbench.placement import Placement
from fusionbench.progress import Task
from fusionbench.sampling import epoch_rows
from fusionbench.withhold import Withholding

# Photographs of a batch in evaluation. A model's bits may depend on it.
EVALUATED = 64


@dataclass(frozen=True)
class Arrays:
    """A dataset as tensors: images uint8 (n, S, S, 3), metadata float32 (n, M), labels (n,)."""

    images: Tensor
    metadata: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Fitted:
    """What training leaves behind. The model holds the selected weights."""

    history: list[dict[str, float | None]]
    best_epoch: int  # counted from 1
    train_seconds: float
    images_seen: int


def fit(
    model: FusionModel,
    loss: CombinedLoss,
    arrays: Arrays,
    rows: np.ndarray,
    config: RunConfig,
    placement: Placement,
    *,
    seed: int,
    optimizer_args: dict[str, Any] | None = None,
    schedule_args: dict[str, Any] | None = None,
    withholding: Withholding | None = None,
    watch: Callable[[FusionModel], float] | None = None,
    task: Task | None = None,
    resume: State | None = None,
    keep: Callable[[State], None] | None = None,
) -> Fitted:
    """Train `model` in place on `rows` of `arrays`.

    withholding   which metadata a training step does not get to see; None: it sees all
    watch         called after each epoch: the value of the metric `config.watch`. The epoch where
                  it is best is kept (the first of equals). None: the last epoch is kept.
    keep          called after each epoch with where training stands, in the model's own tensors
    resume        such a state, of this very run: training goes on after its epoch

    With `config.early_stop` training ends after that many epochs in which the watched score, or
    without one the training loss, has not improved.
    Raises RunFailedError for a non-finite loss (naming epoch and step) and for exhausted memory
    (naming a batch size that fits); CheckpointError where `resume` is of another run, with model,
    loss and random state untouched.
    """
    task = task or Task()
    device = placement.device
    model.to(device).to(memory_format=torch.channels_last)
    loss.to(device)
    trained = nn.ModuleDict({"model": model, "loss": loss})
    optimizer = make_optimizer(trained, config, optimizer_args or {})
    labels = arrays.labels.cpu().numpy()[rows]
    steps = len(list(_batches(rows, config.batch_size)))
    if not steps:
        raise RunFailedError(
            f"There are only {len(rows)} training rows for a batch of {config.batch_size}.",
            "Use a smaller --batch-size or another protocol.",
        )
    scheduler = make_scheduler(
        optimizer, config, steps, schedule_args or {}, watched=watch is not None
    )
    ema = ModelEmaV3(model, decay=config.ema, use_warmup=True) if config.ema else None
    parts = Parts(trained, optimizer, scheduler, ema, device)
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
            trained.train()
            loss.begin_epoch(epoch, config.epochs)
            mean_loss = _train_epoch(
                model, loss, arrays, rows, labels, config, placement, optimizer, scheduler, ema,
                withholding, seed=seed, epoch=epoch, steps=steps, task=task,
            )  # fmt: skip
            at.train_seconds += time.perf_counter() - started
            at.images_seen += min(steps * config.batch_size, len(rows))
            entry: dict[str, float | None] = {
                "epoch": epoch,
                "lr": optimizer.param_groups[0]["lr"],
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
            task.advance(0, epoch=epoch, loss=mean_loss["loss"])
            if keep is not None:
                keep(parts.capture(at))
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        optimizer.zero_grad(set_to_none=True)
        fits = _fitting_batch(model, loss, arrays, rows, config, placement)
        raise RunFailedError(
            f"Out of memory on {device.type} with --batch-size {config.batch_size} at "
            f"{config.image_size} px.",
            f"--batch-size {fits} fits."
            if fits
            else "Not even two images fit: use a smaller --image-size or backbone.",
        ) from error

    if at.best is not None:
        model.load_state_dict(at.best)
    elif ema is not None:
        model.load_state_dict(ema.module.state_dict())
    return Fitted(
        history=at.history,
        best_epoch=at.best_epoch if at.best is not None else at.epoch,
        train_seconds=at.train_seconds,
        images_seen=at.images_seen,
    )


@torch.no_grad()
def predict(
    model: FusionModel,
    arrays: Arrays,
    rows: np.ndarray,
    placement: Placement,
    batch_size: int = EVALUATED,
) -> np.ndarray:
    """Class probabilities of `rows`, float64 (len(rows), K). Leaves the model in eval mode."""
    model.to(placement.device).to(memory_format=torch.channels_last)
    model.eval()
    out = np.empty((len(rows), model.spec.classes))
    for start in range(0, len(rows), batch_size):
        picked = rows[start : start + batch_size]
        image, meta = inputs(model, arrays, picked, placement.device)
        with placement.autocast():
            logits = model(image, meta).logits
        probabilities = torch.softmax(logits.double(), dim=1)
        out[start : start + len(picked)] = probabilities.cpu().numpy()
    return out


def inputs(
    model: FusionModel, arrays: Arrays, rows: np.ndarray, device: torch.device
) -> tuple[Tensor, Tensor]:
    """What the model takes in evaluation: images (B, 3, S, S) and metadata (B, M) of `rows`."""
    image, meta, _ = _to_device(arrays, rows, device)
    return _normalise(_as_float(image), model), meta


def _train_epoch(
    model: FusionModel,
    loss: CombinedLoss,
    arrays: Arrays,
    rows: np.ndarray,
    labels: np.ndarray,
    config: RunConfig,
    placement: Placement,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    ema: ModelEmaV3 | None,
    withholding: Withholding | None,
    *,
    seed: int,
    epoch: int,
    steps: int,
    task: Task,
) -> dict[str, float]:
    """One pass over `rows`, whose labels are `labels`; the mean of every loss term over steps."""
    augment = AUGMENTATIONS[config.augment]
    order = np.random.default_rng([seed, epoch])
    generator = torch.Generator().manual_seed(int(order.integers(2**62)))
    sums: dict[str, Tensor] = {}
    # Looked at once per epoch, so that a GPU is never made to wait for Python.
    first_bad = torch.full((), -1, device=placement.device)
    drawn = epoch_rows(rows, labels, config.sampler, order)
    hidden = withholding.draw(len(drawn), seed, epoch) if withholding is not None else None
    for step, picked in enumerate(_batches(drawn, config.batch_size)):
        image, meta, target = _to_device(arrays, picked, placement.device)
        image = _normalise(augment(_as_float(image), generator), model)
        if hidden is not None:
            meta = hidden.apply(meta, step * config.batch_size)
        with placement.autocast():
            terms = loss(model(image, meta), target)
            value = total(terms)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        if config.clip_grad:
            nn.utils.clip_grad_norm_(
                [p for group in optimizer.param_groups for p in group["params"]], config.clip_grad
            )
        optimizer.step()
        update = (epoch - 1) * steps + step + 1
        if scheduler is not None and not isinstance(scheduler, Plateau):
            scheduler.step_update(update)
        if ema is not None:
            ema.update(model, step=update)
        detached = value.detach()
        first_bad = torch.where(
            (first_bad < 0) & ~torch.isfinite(detached), torch.full_like(first_bad, step), first_bad
        )
        for name, term in {"loss": detached, **terms}.items():
            sums[name] = sums.get(name, 0) + term.detach().double()
        task.advance(len(picked))
    bad = int(first_bad)
    if bad >= 0:
        raise RunFailedError(
            f"The loss is not finite in epoch {epoch}, step {bad + 1} of {steps}.",
            "Lower --lr, set --clip-grad 1, or use --precision fp32.",
        )
    return {name: float(value) / steps for name, value in sums.items()}


def _batches(rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """In the order of `rows`. A single left-over row is left out: BatchNorm has no variance of
    one."""
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        if len(batch) > 1:
            yield batch


def _to_device(
    arrays: Arrays, rows: np.ndarray, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Images (B, 3, S, S) uint8 in channels-last memory, metadata, labels."""
    index = torch.from_numpy(np.ascontiguousarray(rows)).to(arrays.images.device)
    image = arrays.images[index].to(device, non_blocking=True).permute(0, 3, 1, 2)
    index = index.to(arrays.labels.device)
    return image, arrays.metadata[index].to(device), arrays.labels[index].to(device)


def _as_float(image: Tensor) -> Tensor:
    """uint8 -> float32 in 0..1."""
    return image.float().div_(255)


def _normalise(image: Tensor, model: FusionModel) -> Tensor:
    """0..1 -> what the backbone's weights expect."""
    mean = torch.tensor(model.backbone.mean, device=image.device).view(1, 3, 1, 1)
    std = torch.tensor(model.backbone.std, device=image.device).view(1, 3, 1, 1)
    return (image - mean) / std


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _fitting_batch(
    model: FusionModel,
    loss: CombinedLoss,
    arrays: Arrays,
    rows: np.ndarray,
    config: RunConfig,
    placement: Placement,
) -> int:
    """The largest half, quarter, … of the batch size at which a copy's step fits, or 0."""
    size = config.batch_size
    while size > 2:
        size //= 2
        if placement.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            trial, trial_loss = copy.deepcopy(model), copy.deepcopy(loss)
            image, meta, target = _to_device(arrays, rows[:size], placement.device)
            with placement.autocast():
                value = total(trial_loss(trial(_normalise(_as_float(image), trial), meta), target))
            value.backward()
            return size
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
    return 0
