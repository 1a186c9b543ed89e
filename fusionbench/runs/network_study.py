"""A network's run before its first training step.

setup() resolves a RunConfig. The study that it returns gives the identity of a fold, so that
finished folds are skipped, and the data that a fold trains on.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from fusionbench.config.identity import MethodIdentity, TrainingIdentity, plain_json
from fusionbench.config.plugin_settings import literal_params, plugin_schema, split_params
from fusionbench.config.recipe import own_params
from fusionbench.config.run_config import LEARNED, Execution, Param, RunConfig
from fusionbench.contract.checks import remembered
from fusionbench.contract.quick import quick_checks
from fusionbench.data.encoder import MetadataEncoder
from fusionbench.data.image_cache import open_or_build
from fusionbench.errors import UsageError
from fusionbench.models import weights
from fusionbench.models.backbones import Backbone, build_backbone
from fusionbench.models.fusion_model import FusionModel
from fusionbench.models.metadata import metadata_layer
from fusionbench.plugin import registry
from fusionbench.plugin.fusion import Fusion, Spec
from fusionbench.plugin.loss import CombinedLoss, Loss
from fusionbench.progress import SILENT, Progress
from fusionbench.protocols import Fold
from fusionbench.runs.study import (
    FoldRows,
    LoadedPlugin,
    Opened,
    Study,
    Trainer,
    loaded_plugin,
    open_study,
)
from fusionbench.training.feed import Arrays


@dataclass(frozen=True)
class LoadedMethod:
    """The plugins of a run, and the arguments of timm's factories."""

    fusion: LoadedPlugin[Fusion]
    losses: dict[str, LoadedPlugin[Loss]]  # by name
    optimizer_args: dict[str, Any]
    schedule_args: dict[str, Any]


@dataclass(frozen=True)
class NetworkStudy(Study):
    """A resolved run of a fusion. Pixels are decoded only when `images` is called."""

    method: LoadedMethod
    weights: str  # identity of the starting weights
    # Decoded photographs, where they came from another machine: uint8 (n, S, S, 3).
    pixels: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def foreign(self) -> bool:
        losses = self.method.losses.values()
        return self.method.fusion.foreign or any(loss.foreign for loss in losses)

    @property
    def method_identity(self) -> MethodIdentity:
        method, settings = self.method, self.config.method
        return MethodIdentity(
            fusion=method.fusion.identity,
            uses_images=method.fusion.cls.uses_images,
            uses_metadata=method.fusion.cls.uses_metadata,
            backbone=settings.backbone,
            weights=self.weights,
            reducer=settings.reducer,
            losses=tuple(loss.identity for loss in method.losses.values()),
        )

    @property
    def takes_recorded(self) -> bool:
        return self.method.fusion.cls.takes_recorded or self.config.data.encoding == "tokens"

    @property
    def training_identity(self) -> TrainingIdentity:
        return TrainingIdentity(
            **self.config.training.model_dump(),
            optimizer_args=plain_json(self.method.optimizer_args),
            schedule_args=plain_json(self.method.schedule_args),
        )

    def images(self, workers: int | None, progress: Progress) -> torch.Tensor:
        """uint8 (n, S, S, 3), memory-mapped from the cache, which is built on first use."""
        array = self.pixels
        if array is None:
            array = open_or_build(
                self.table.images[self.view],
                self.table.digests[self.view],
                self.config.training.image_size,
                resize=self.config.training.resize,
                name=f"{self.table.card.name}-{self.view}",
                lines=self.table.lines.tolist(),
                workers=workers,
                progress=progress,
            )
        with warnings.catch_warnings():  # torch warns of read-only memory; nobody writes to it
            warnings.simplefilter("ignore", UserWarning)
            return torch.from_numpy(array)

    def trainer(self, execution: Execution, progress: Progress = SILENT) -> Trainer:
        """Raises UsageError for a device that is not there."""
        from fusionbench.runs.network_trainer import NetworkTrainer

        return NetworkTrainer(self, execution, progress)

    def backbone(self, progress: Progress = SILENT, *, loaded: bool = True) -> Backbone:
        """The backbone with its starting weights, or with random ones from torch's seed."""
        method, training = self.config.method, self.config.training
        backbone = build_backbone(
            method.backbone, training.image_size, drop_path_rate=training.drop_path
        )
        if loaded:
            weights.load_weights(
                backbone.net, method.backbone, method.weights, training.image_size, progress
            )
            weights.check_unchanged(self.weights, method.backbone, method.weights)
        backbone.freeze(training.freeze)
        return backbone

    def model(
        self,
        backbone: Backbone,
        encoder: MetadataEncoder,
        train: np.ndarray,
        metadata: torch.Tensor | None = None,
    ) -> tuple[FusionModel, CombinedLoss]:
        """Model and loss on this backbone; `train` are positions of the rows to train on, whose
        classes the loss may count; `metadata` (n, M) of the table is what the fusion is fitted on,
        in these rows; None for a model whose saved weights come. Raises UsageError / FusionRefused
        with the reason."""
        spec = self.spec(backbone, encoder, train)
        layer, of_fusion = metadata_layer(self.config.data.encoding, replace(spec, counts=()))
        fusion = self.method.fusion.build(of_fusion)
        if metadata is not None and type(fusion).fit is not Fusion.fit:
            fusion.fit(metadata[torch.from_numpy(train)].cpu())
        model = FusionModel(backbone, fusion, self.config.method.reducer, layer)
        spec = replace(model.spec, counts=spec.counts)
        losses = {name: loss.build(spec) for name, loss in self.method.losses.items()}
        return model, CombinedLoss(losses)

    def spec(self, backbone: Backbone, encoder: MetadataEncoder, train: np.ndarray) -> Spec:
        """What the plugins are built for, without `embedding`. A fusion does not get `counts`."""
        classes = len(self.table.card.classes)
        counts = np.bincount(self.table.labels[train], minlength=classes)
        return Spec(
            backbone.stages,
            backbone.width,
            encoder.n_features,
            classes,
            columns=encoder.described,
            counts=tuple(counts.tolist()),
        )

    def contract(self, spec: Spec, progress: Progress) -> str:
        """What the quick part of the contract says of the plugins, built for `spec`."""
        fusion, losses = self.method.fusion, self.method.losses
        _, spec = metadata_layer(self.config.data.encoding, spec)
        shape = replace(spec, counts=())  # every fold has other counts
        return remembered(
            self.method_identity.plugins,
            plain_json(asdict(shape)),
            lambda: quick_checks(
                fusion.copy(), {name: loss.copy() for name, loss in losses.items()}, spec
            ),
            progress,
        )

    def fold_data(
        self, fold: Fold, rows: FoldRows, images: torch.Tensor, device: torch.device
    ) -> tuple[pd.DataFrame, MetadataEncoder, Arrays]:
        """All rows of the table as the fold sees them: metadata, the encoder that is fitted on the
        training rows, and tensors."""
        metadata = self.metadata(fold, rows)
        encoder = self.encoder(metadata, rows.train)
        arrays = Arrays(
            images,
            torch.from_numpy(encoder.transform(metadata)).to(device),
            torch.from_numpy(self.table.labels).to(device),
        )
        return metadata, encoder, arrays


def setup(config: RunConfig, opened: Opened) -> NetworkStudy:
    """Resolve and check a run of a fusion. Raises UsageError, DataError or PluginError."""
    method = load_method(config, opened.execution.plugins)
    encoding, cls = config.data.encoding, method.fusion.cls
    fits = encoding in LEARNED and cls.fit is not Fusion.fit
    if fits or (encoding == "tokens" and cls.takes_recorded):
        reason = "is fitted on encoded metadata" if fits else "makes tokens of the columns itself"
        raise UsageError(
            f"--encoding {encoding}: the fusion {method.fusion.identity.name} {reason}.",
            "Use --encoding onehot or ple.",
        )
    starting = weights.weights_identity(config.method.backbone, config.method.weights)
    own = config.changed(
        fusion=registry.key_of(config.method.fusion),
        loss="+".join(method.losses),
        recipe=registry.key_of(config.training.recipe),
        params=own_params(config, method.losses),
    )
    return NetworkStudy(**open_study(own, opened).resolved, method=method, weights=starting)


def load_method(config: RunConfig, plugins: tuple[Path, ...] = ()) -> LoadedMethod:
    """Load the fusion and the losses of a config and resolve their parameters."""
    entry = registry.find("fusions", config.method.fusion, plugins)
    fusion = registry.load(entry, Fusion)
    names = [registry.key_of(n) for n in (config.method.loss or fusion.default_loss).split("+")]
    if len(set(names)) != len(names):
        raise UsageError(f"--loss {config.method.loss} names a loss twice.")
    entries = {name: registry.find("losses", name, plugins) for name in names}
    settings = split_params(own_params(config, names), names)
    losses = {name: registry.load(entries[name], Loss) for name in names}
    of_losses = _loss_params(losses, settings)
    return LoadedMethod(
        loaded_plugin(entry, fusion, settings["fusion"]),
        {n: loaded_plugin(entries[n], losses[n], of_losses[n]) for n in names},
        literal_params(settings["optimizer"], "optimizer"),
        literal_params(settings["schedule"], "schedule"),
    )


def _loss_params(
    losses: Mapping[str, type[Loss]], raw: Mapping[str, Mapping[str, Param]]
) -> dict[str, dict[str, Param]]:
    """`loss.NAME=VALUE` goes to the one loss that has NAME; `loss.<loss>.NAME` says which."""
    given = {name: dict(raw[f"loss.{name}"]) for name in losses}
    for key, value in raw["loss"].items():
        owners = [name for name, cls in losses.items() if key in plugin_schema(cls)]
        if len(owners) != 1:
            have = " and ".join(owners) or "none of " + ", ".join(losses)
            raise UsageError(
                f"--set loss.{key}={value}: {have} have a setting {key!r}.",
                f"Say which: {' or '.join(f'loss.{n}.{key}' for n in owners or losses)}.",
            )
        given[owners[0]][key] = value
    return given
