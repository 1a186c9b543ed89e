"""Carrying out a network's experiment: one fold after the other, trained and evaluated."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import safetensors.torch
import torch
from torch import nn

from fusionbench.config.environment import describe_environment, peak_memory
from fusionbench.config.run_config import Execution, StepPath
from fusionbench.errors import DataError, FusionbenchError
from fusionbench.metrics.compute import balanced_nll, compute
from fusionbench.models.fusion_model import FusionModel
from fusionbench.plugin.loss import CombinedLoss
from fusionbench.progress import SILENT, Progress
from fusionbench.protocols import Fold
from fusionbench.records import Store
from fusionbench.runs.network_study import NetworkStudy
from fusionbench.runs.study import FoldRows, Trained
from fusionbench.training.augment import AUGMENTATIONS
from fusionbench.training.checkpoints import CheckpointError, Keeper, place_of
from fusionbench.training.feed import place
from fusionbench.training.loop import fit, predict
from fusionbench.training.metadata_dropout import MetadataDropout
from fusionbench.training.optimizers import make_optimizer, make_scheduler
from fusionbench.training.placement import choose_device, choose_path, choose_placement, prepare
from fusionbench.training.step import TrainingStep


class NetworkTrainer:
    """Holds what the folds share: the probed backbone, the decoded images, and the training step
    with all that was compiled and recorded for it."""

    def __init__(
        self, experiment: NetworkStudy, execution: Execution, progress: Progress = SILENT
    ) -> None:
        """Raises UsageError for a device that is not there, and for settings that a plugin, the
        optimizer or the schedule refuses: before photographs are decoded."""
        device = choose_device(execution.device)
        path = choose_path(execution.step, device)
        method = experiment.config.method
        prepare(device)
        progress.note(f"building {method.backbone}, weights: {method.weights}")
        self.experiment = experiment
        self.execution = execution
        # Probed and, with pretrained weights, loaded once.
        self.backbone = experiment.backbone(progress)
        self.placement = choose_placement(
            device, experiment.config.training.precision, self.backbone
        )
        self._try_out()
        self.images = place(experiment.images(execution.workers, progress), device)
        self.path: StepPath = path  # that steps take, as far as is known
        self._step: TrainingStep | None = None

    def _try_out(self) -> None:
        """Build once what each fold builds. Any failure but a refusal is that of a fold."""
        experiment, config = self.experiment, self.experiment.config.training
        fold, method = experiment.protocol.folds[0], experiment.method
        try:
            rows = experiment.rows(fold)
        except DataError:
            return
        try:
            encoder = experiment.encoder(experiment.metadata(fold, rows), rows.train)
            built = experiment.model(copy.deepcopy(self.backbone), encoder, rows.train)
            optimizer = make_optimizer(nn.ModuleList(built), config, method.optimizer_args)
            make_scheduler(optimizer, config, 1, method.schedule_args)
        except FusionbenchError:
            raise
        except Exception:
            pass

    @property
    def environment(self) -> dict[str, Any]:
        placement = self.placement
        more: dict[str, Any] = {
            "device_type": placement.device.type,
            "threads": torch.get_num_threads(),
            "precision": placement.precision,
            "path": self.path,
        }
        if placement.device.type == "cuda":
            more["device"] = torch.cuda.get_device_name()
        return describe_environment(**more)

    def train(self, fold: Fold, rows: FoldRows, progress: Progress) -> Trained:
        """Train one fold and evaluate its parts. Raises RunFailedError, or what a plugin raises.

        It resumes from a checkpoint in the store, and leaves one there after each epoch.
        """
        experiment, placement = self.experiment, self.placement
        config, table = experiment.config.training, experiment.table
        seed = experiment.fold_seed(fold)
        metadata, encoder, arrays = experiment.fold_data(fold, rows, self.images, placement.device)
        spec = experiment.spec(self.backbone, encoder, rows.train)
        contract = experiment.contract(spec, progress)  # before this fold's random numbers
        torch.manual_seed(seed)
        if placement.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        # Every fold draws its random starting weights.
        random = experiment.config.method.weights == "none"
        backbone = experiment.backbone() if random else copy.deepcopy(self.backbone)
        built = experiment.model(backbone, encoder, rows.train, arrays.metadata)
        step = self._step_for(*built, progress)
        model = step.model
        watched = rows.watch

        def score(candidate: FusionModel) -> float:
            assert watched is not None
            found = predict(candidate, arrays, watched, placement)
            if config.watch == "balanced-nll":
                return balanced_nll(table.labels[watched], found)
            return compute(table.labels[watched], found, table.card.classes)[config.watch]

        dropout = None
        if config.metadata_dropout or config.block_dropout:
            shares = config.metadata_dropout, config.block_dropout
            known = metadata.iloc[rows.train]
            dropout = MetadataDropout.fitted(encoder, known, *shares, placement.device)
        run = experiment.run_id(fold)
        keeper = Keeper(
            Store(self.execution.store),
            run,
            place_of(self.environment, run),
            every=self.execution.checkpoint_every,
            label=f"fold {fold.index}",
            progress=progress,
        )
        images = config.epochs * len(rows.train)
        with progress.task(f"fold {fold.index}", total=images, unit="img") as task:
            train = partial(
                fit,
                step,
                arrays,
                rows.train,
                config,
                seed=seed,
                optimizer_args=experiment.method.optimizer_args,
                schedule_args=experiment.method.schedule_args,
                dropout=dropout,
                watch=score if watched is not None else None,
                task=task,
                keep=keeper.keep,
            )
            # --existing redo uses no part of an earlier result.
            at = keeper.find() if self.execution.existing != "redo" else None
            try:
                if at is not None:
                    progress.note(
                        f"fold {fold.index} goes on after epoch {at.epoch} of {config.epochs}"
                    )
                fitted = train(resume=at)
            except CheckpointError as error:
                keeper.reject(error)
                fitted = train()
            finally:
                self.path = step.path
        self._step = step
        found = {name: predict(model, arrays, part, placement) for name, part in rows.parts.items()}
        on_gpu = placement.device.type == "cuda"
        return Trained(
            probabilities=found,
            inner=None if rows.inner is None else predict(model, arrays, rows.inner, placement),
            parameters={
                "backbone": _size(model.backbone),
                "fusion": sum(map(_size, (model.metadata, model.fusion, model.reduce, model.head))),
                "total": _size(model),
            },
            history=tuple(fitted.history),
            best_epoch=fitted.best_epoch,
            train_seconds=fitted.train_seconds,
            seconds_before=keeper.seconds_before,
            images_seen=fitted.images_seen,
            contract=contract,
            peak_memory=int(torch.cuda.max_memory_allocated()) if on_gpu else peak_memory(),
            weights=partial(_serialised, model, fitted.unsaved),
        )

    def _step_for(self, model: FusionModel, loss: CombinedLoss, progress: Progress) -> TrainingStep:
        """The last fold's step with these values, or a new one where they do not fit it."""
        step, self._step = self._step, None  # a fold that fails leaves none behind
        if step is None or not step.reinitialise(model, loss):
            del step
            if self.path.startswith("compiled"):
                torch.compiler.reset()  # what was compiled for earlier steps counts against a limit
            augment = AUGMENTATIONS[self.experiment.config.training.augment]
            step = TrainingStep(model, loss, augment, self.placement, self.path, progress)
        return step


def _serialised(model: FusionModel, unsaved: tuple[str, ...]) -> bytes:
    """Of a safetensors file; it names what the method kept beside the weights."""
    tensors = {k: v.cpu().contiguous() for k, v in model.state_dict().items()}
    return safetensors.torch.save(tensors, {"unsaved": ", ".join(unsaved)} if unsaved else None)


def _size(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
