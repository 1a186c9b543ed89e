"""RunConfig -> Records: every fold of one method, trained, evaluated and written down."""

from __future__ import annotations

import copy
import time
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import safetensors.torch
import torch

from fusionbench.config import Execution, RunConfig
from fusionbench.environment import describe_environment, peak_memory
from fusionbench.errors import FusionbenchError, RunFailedError, UsageError
from fusionbench.experiment import Experiment, FoldRows, setup
from fusionbench.metrics import balanced_nll, compute, confusion
from fusionbench.model import FusionModel
from fusionbench.placement import Placement, choose_device, choose_placement
from fusionbench.progress import SILENT, Progress
from fusionbench.protocols import Fold
from fusionbench.records import (
    Failure,
    Measured,
    PartResult,
    Predictions,
    Record,
    Result,
    Store,
)
from fusionbench.train import Arrays, Fitted, fit, predict

# Of a GPU's free memory, the share that images may take; the rest is the model's.
IMAGES_SHARE = 0.4


@dataclass(frozen=True)
class Outcome:
    """What a run command left in the store."""

    config: RunConfig
    records: tuple[Record, ...]  # one per requested fold that is there, finished earlier or now
    failures: tuple[Record, ...]


def run(config: RunConfig, execution: Execution, progress: Progress = SILENT) -> Outcome:
    """Run the requested folds of one configuration and write a record for each.

    A fold that is in the store already is not computed again (unless `existing` says so). A fold
    whose training fails is recorded as failed and the next one is tried.
    Raises UsageError, DataError, PluginError or FusionbenchError before anything is trained.
    """
    device = choose_device(execution.device)
    experiment = setup(config, execution, progress)
    store = Store(execution.store)
    folds = _requested(experiment, execution)
    todo = [f for f in folds if execution.existing == "redo" or not store.has(experiment.run_id(f))]
    if execution.existing == "fail" and len(todo) < len(folds):
        done = next(f for f in folds if f not in todo)
        raise UsageError(
            f"Fold {done.index} is in {execution.store} already ({experiment.run_id(done)}).",
            "Use --existing skip or redo, or another --store.",
        )
    for fold in folds:
        if fold not in todo:
            progress.note(f"fold {fold.index} is in the store already; not computed again")

    failures: list[Record] = []
    if todo:
        if device.type == "cpu":
            torch.use_deterministic_algorithms(True, warn_only=True)
        progress.note(f"building {config.backbone}, weights: {config.weights}")
        backbone = experiment.backbone()  # probed and, with pretrained weights, loaded once
        images = _place(experiment.images(execution.workers, progress), device)
        placement = choose_placement(device, config.precision, backbone)
        with progress.task("folds", total=len(todo), unit="fold") as task:
            for fold in todo:
                with store.lock(experiment.run_id(fold)):
                    record = _run_fold(
                        experiment, fold, images, backbone, placement, store, execution, progress
                    )
                if record.status == "failed":
                    failures.append(record)
                task.advance()
    records = [store.read(experiment.run_id(f)) for f in folds if store.has(experiment.run_id(f))]
    return Outcome(experiment.config, tuple(records), tuple(failures))


def _run_fold(
    experiment: Experiment,
    fold: Fold,
    images: torch.Tensor,
    backbone: Any,
    placement: Placement,
    store: Store,
    execution: Execution,
    progress: Progress,
) -> Record:
    """Train and evaluate one fold; the record is in the store when this returns."""
    identity = experiment.identity(fold)
    name = experiment.run_id(fold)
    environment = describe_environment(placement)
    started, clock = datetime.now(UTC), time.perf_counter()
    try:
        rows = experiment.rows(fold)
        model, fitted, probabilities = _train_and_predict(
            experiment, fold, rows, images, backbone, placement, progress
        )
    except Exception as error:
        if isinstance(error, FusionbenchError) and not isinstance(error, RunFailedError):
            raise  # nothing was trained: a refused setting, not a failed run
        progress.note(f"fold {fold.index} failed: {error}")
        failure = Failure(
            type=type(error).__name__,
            message=str(error),
            traceback="".join(traceback.format_exception(error)),
        )
        record = Record(
            run_id=name, status="failed", identity=identity, error=failure, environment=environment
        )
        return store.write_failure(record)

    predictions = _predictions(experiment, fold, rows, probabilities)
    seconds = time.perf_counter() - clock
    record = Record(
        run_id=name,
        status="ok",
        identity=identity,
        result=_result(experiment, rows, model, fitted, probabilities),
        environment=environment,
        measured=Measured(
            durations={"train": fitted.train_seconds, "total": seconds},
            images_per_s=fitted.images_seen / max(fitted.train_seconds, 1e-9),
            started=started.isoformat(timespec="seconds"),
            peak_memory_bytes=peak_memory(placement),
        ),
    )
    if execution.save_weights:
        state = {k: v.cpu().contiguous() for k, v in model.state_dict().items()}
        store.write_weights(name, safetensors.torch.save(state))
    return store.write(record, predictions)


def _train_and_predict(
    experiment: Experiment,
    fold: Fold,
    rows: FoldRows,
    images: torch.Tensor,
    backbone: Any,
    placement: Placement,
    progress: Progress,
) -> tuple[FusionModel, Fitted, dict[str, np.ndarray]]:
    config, table = experiment.config, experiment.table
    seed = int(np.random.SeedSequence([config.seed, fold.index]).generate_state(1)[0])
    torch.manual_seed(seed)
    if config.weights == "none":
        backbone = experiment.backbone()  # other random weights in every fold
    encoder = experiment.encoder(rows.train)
    counts = np.bincount(table.labels[rows.train], minlength=len(table.card.classes))
    model, loss = experiment.model(copy.deepcopy(backbone), encoder, tuple(int(c) for c in counts))
    arrays = Arrays(
        images,
        torch.from_numpy(encoder.transform(table.metadata)).to(placement.device),
        torch.from_numpy(table.labels).to(placement.device),
    )
    watched = rows.watch

    def score(candidate: FusionModel) -> float:
        assert watched is not None
        found = predict(candidate, arrays, watched, placement)
        if config.watch == "balanced-nll":
            return balanced_nll(table.labels[watched], found)
        return compute(table.labels[watched], found, table.card.classes)[config.watch]

    with progress.task(
        f"fold {fold.index}", total=config.epochs * len(rows.train), unit="img"
    ) as task:
        fitted = fit(
            model,
            loss,
            arrays,
            rows.train,
            config,
            placement,
            seed=seed,
            optimizer_args=experiment.method.optimizer_args,
            schedule_args=experiment.method.schedule_args,
            watch=score if watched is not None else None,
            task=task,
        )
    probabilities = {k: predict(model, arrays, part, placement) for k, part in rows.parts.items()}
    if not all(np.isfinite(p).all() for p in probabilities.values()):
        raise RunFailedError(
            f"The trained model's probabilities are not finite (fold {fold.index}, after epoch "
            f"{len(fitted.history)}).",
            "Lower --lr, or use --precision fp32.",
        )
    return model, fitted, probabilities


def _requested(experiment: Experiment, execution: Execution) -> list[Fold]:
    folds = {fold.index: fold for fold in experiment.protocol.folds}
    wanted = execution.folds if execution.folds is not None else tuple(folds)
    for k in wanted:
        if k not in folds:
            raise UsageError(
                f"{experiment.protocol.spec.name} has no fold {k}.",
                f"It has folds {min(folds)} to {max(folds)}; --fold all runs them all.",
            )
    return [folds[k] for k in wanted]


def _place(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On a GPU with room for them, all images at once; else where they are."""
    if device.type != "cuda":
        return images
    free, _ = torch.cuda.mem_get_info()
    return images.to(device) if images.nbytes < IMAGES_SHARE * free else images


def _predictions(
    experiment: Experiment, fold: Fold, rows: FoldRows, probabilities: dict[str, np.ndarray]
) -> Predictions:
    table, order = experiment.table, np.concatenate(list(rows.parts.values()))
    return Predictions(
        ids=tuple(table.ids[order].tolist()),
        parts=tuple(name for name, part in rows.parts.items() for _ in part),
        fold=fold.index,
        labels=tuple(table.card.classes[k] for k in table.labels[order]),
        probabilities=np.concatenate([probabilities[name] for name in rows.parts]),
        classes=table.card.classes,
    )


def _result(
    experiment: Experiment,
    rows: FoldRows,
    model: FusionModel,
    fitted: Fitted,
    probabilities: dict[str, np.ndarray],
) -> Result:
    table, classes = experiment.table, experiment.table.card.classes
    parts = {
        name: PartResult(
            n=len(part),
            metrics=dict(compute(table.labels[part], probabilities[name], classes)),
            confusion=tuple(
                tuple(int(n) for n in row)
                for row in confusion(table.labels[part], probabilities[name], len(classes))
            ),
        )
        for name, part in rows.parts.items()
    }
    sizes = {
        "backbone": _size(model.backbone),
        "fusion": _size(model.fusion) + _size(model.reduce) + _size(model.head),
        "total": _size(model),
    }
    return Result(
        classes=classes,
        parts=parts,
        n_train=len(rows.train),
        n_test=len(rows.parts["test"]),
        best_epoch=fitted.best_epoch,
        epochs_run=len(fitted.history),
        folds_expected=len(experiment.protocol.folds),
        cohort=experiment.cohort(rows),
        complete_data=table.complete,
        n_rows_dataset=table.card.expect.rows or len(table) + len(table.missing_images),
        n_rows_used=int(experiment.keep.sum()),
        flags=experiment.flags(),
        parameters=sizes,
        history=tuple(fitted.history),
    )


def _size(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
