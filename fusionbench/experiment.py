"""Everything a run needs before its first training step: data, split, plugins, and who it is.

setup() resolves a RunConfig against the world; the Experiment it returns can then be asked for the
identity of a fold (so that finished ones are skipped) and for what a fold trains on.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fusionbench import registry, weights
from fusionbench.backbones import Backbone, build_backbone
from fusionbench.config import (
    ADDED_LATER,
    Execution,
    RunConfig,
    literal_params,
    plugin_params,
    plugin_schema,
    split_params,
)
from fusionbench.data.cache import open_or_build
from fusionbench.data.card import Column
from fusionbench.data.encoder import MetadataEncoder, input_columns
from fusionbench.data.locate import find_data, open_card
from fusionbench.data.table import Table, load_table
from fusionbench.errors import DataError, FusionbenchError, PluginError, UsageError
from fusionbench.fusion import Fusion
from fusionbench.losses import CombinedLoss, Loss
from fusionbench.model import FusionModel, build_spec
from fusionbench.progress import SILENT, Progress
from fusionbench.protocols import Fold, Protocol, inner_split, load_protocol
from fusionbench.recipes import own_params
from fusionbench.records import cohort, run_id


@dataclass(frozen=True)
class Method:
    """The plugins of a run, loaded, with every parameter resolved."""

    fusion: type[Fusion]
    fusion_params: dict[str, Any]
    fusion_source: str
    losses: dict[str, type[Loss]]
    loss_params: dict[str, dict[str, Any]]
    loss_sources: dict[str, str]
    optimizer_args: dict[str, Any]
    schedule_args: dict[str, Any]


@dataclass(frozen=True)
class FoldRows:
    """Positions into the table, after the missing-value policy. `parts` are evaluated."""

    train: np.ndarray
    parts: dict[str, np.ndarray]  # "test" first
    watch: np.ndarray | None  # scored after each epoch, to choose one


@dataclass(frozen=True)
class Experiment:
    """A resolved run. Pixels are decoded only when `images` is called."""

    config: RunConfig
    method: Method
    table: Table
    columns: tuple[Column, ...]
    protocol: Protocol
    keep: np.ndarray  # bool, rows that the missing-value policy keeps
    weights: str  # identity of the starting weights

    @property
    def view(self) -> str:
        return self.table.views[0]

    def identity(self, fold: Fold) -> dict[str, Any]:
        """What run_id hashes: all that changes the numbers, and nothing else."""
        config, method = self.config, self.method
        settings = config.model_dump(
            mode="json",
            exclude={"fusion", "backbone", "loss", "params", "dataset", "protocol", "seed",
                     "weights", "allow_missing_images"},
        )  # fmt: skip
        for name in ADDED_LATER:
            if getattr(config, name) == RunConfig.model_fields[name].default:
                del settings[name]
        settings["view"] = self.view
        settings["columns"] = [c.name for c in self.columns]
        settings["optimizer_args"] = method.optimizer_args
        settings["schedule_args"] = method.schedule_args
        return {
            "dataset": self.table.card.name,
            "data_fingerprint": self.table.fingerprint,
            "protocol": self.protocol.spec.name,
            "split_hash": self.protocol.split_hash,
            "fold": fold.index,
            "seed": config.seed,
            "fusion": config.fusion,
            "fusion_params": method.fusion_params,
            "fusion_source": method.fusion_source,
            "backbone": config.backbone,
            "weights": self.weights,
            "loss": "+".join(method.losses),
            "loss_params": method.loss_params,
            "loss_sources": method.loss_sources,
            "settings": settings,
        }

    def run_id(self, fold: Fold) -> str:
        return run_id(self.identity(fold))

    def rows(self, fold: Fold) -> FoldRows:
        """Which rows train, are watched and are evaluated. Raises DataError for an empty part."""
        config, table = self.config, self.table
        train = self._kept(fold.train)
        parts = {"test": self._kept(fold.test), **{k: self._kept(v) for k, v in fold.extra.items()}}
        watch = None
        if config.select == "test-best":
            watch = parts["test"]
        elif config.select == "inner-val" and fold.valid is not None:
            watch = self._kept(fold.valid)
        elif config.select == "inner-val":
            groups = table.groups if table.card.group else None
            train, watch = inner_split(train, table.labels, groups, config.seed)
        for name, rows in {"training": train, **parts}.items():
            if not len(rows):
                raise DataError(
                    f"Fold {fold.index} of {self.protocol.spec.name} has no {name} rows left.",
                    "Check the missing images and the --missing policy.",
                )
        return FoldRows(train, parts, watch)

    def cohort(self, rows: FoldRows) -> str:
        ids = {name: self.table.ids[part].tolist() for name, part in rows.parts.items()}
        return cohort(self.table.fingerprint, self.protocol.split_hash, ids)

    def flags(self) -> tuple[str, ...]:
        """What a reader must know about the row."""
        flags = []
        if self.protocol.leaks:
            flags.append(f"leaky: {', '.join(self.protocol.leaks)}")
        if self.config.select == "test-best":
            flags.append("optimistic: test-best")
        if not self.table.complete:
            flags.append("images missing")
        if proxies := [c.name for c in self.columns if c.role == "proxy"]:
            flags.append(f"label proxies: {', '.join(proxies)}")
        if dropped := int((~self.keep).sum()):
            flags.append(f"rows dropped: {dropped}")
        return tuple(flags)

    def encoder(self, train: np.ndarray) -> MetadataEncoder:
        """Fitted on the training rows, and on nothing else."""
        encoder = MetadataEncoder(
            self.columns,
            encoding=self.config.encoding,
            missing=self.config.missing,
            unknown=self.table.card.unknown,
        )
        return encoder.fit(self.table.metadata.iloc[train])

    def images(self, workers: int | None, progress: Progress) -> torch.Tensor:
        """uint8 (n, S, S, 3), memory-mapped from the cache, which is built on first use."""
        cache = open_or_build(
            self.table.images[self.view],
            self.table.digests[self.view],
            self.config.image_size,
            resize=self.config.resize,
            name=f"{self.table.card.name}-{self.view}",
            workers=workers,
            progress=progress,
        )
        with warnings.catch_warnings():  # torch warns of read-only memory; nobody writes to it
            warnings.simplefilter("ignore", UserWarning)
            return torch.from_numpy(cache.array)

    def backbone(self) -> Backbone:
        """The backbone with its starting weights; random ones from torch's seed."""
        config = self.config
        backbone = build_backbone(
            config.backbone, config.image_size, drop_path_rate=config.drop_path
        )
        weights.load_weights(backbone.net, config.backbone, config.weights, config.image_size)
        return backbone

    def model(
        self, backbone: Backbone, encoder: MetadataEncoder, counts: tuple[int, ...]
    ) -> tuple[FusionModel, CombinedLoss]:
        """Model and loss on this backbone. Raises UsageError / FusionRefused with the reason."""
        spec = build_spec(
            backbone,
            metadata=encoder.n_features,
            classes=len(self.table.card.classes),
            groups=encoder.groups,
            counts=counts,
        )
        method = self.method
        fusion = _construct(
            f"fusion {self.config.fusion}", method.fusion, spec, method.fusion_params
        )
        model = FusionModel(backbone, fusion, self.config.reducer)
        losses = {
            name: _construct(f"loss {name}", cls, model.spec, method.loss_params[name])
            for name, cls in method.losses.items()
        }
        return model, CombinedLoss(losses)

    def _kept(self, rows: np.ndarray) -> np.ndarray:
        return rows[self.keep[rows]]


def setup(config: RunConfig, execution: Execution, progress: Progress = SILENT) -> Experiment:
    """Resolve and check everything that can be checked before training.

    Raises UsageError, DataError or PluginError.
    """
    method = load_method(config, execution.plugins)
    starting = weights.weights_identity(config.backbone, config.weights)
    card = open_card(config.dataset, plugins=execution.plugins)
    columns = input_columns(card, config.columns or None)
    root = find_data(card, execution.data)
    table = load_table(
        card,
        root,
        view=config.view or None,
        allow_missing_images=config.allow_missing_images,
        progress=progress,
    )
    protocol = load_protocol(
        card,
        table.ids.tolist(),
        table.labels,
        table.groups if card.group else None,
        config.protocol or None,
        root=root,
        complete=table.complete,
        progress=progress,
    )
    encoder = MetadataEncoder(
        columns, encoding=config.encoding, missing=config.missing, unknown=card.unknown
    )
    return Experiment(
        config.model_copy(
            update={
                "fusion": registry.key_of(config.fusion),
                "loss": "+".join(method.losses),
                "recipe": registry.key_of(config.recipe),
                "params": own_params(config, method.losses),
            }
        ),
        method,
        table,
        columns,
        protocol,
        encoder.keeps(table.metadata),
        starting,
    )


def load_method(config: RunConfig, plugins: tuple[Path, ...] = ()) -> Method:
    """Load the fusion and the losses of a config and resolve their parameters."""
    entry = registry.find("fusions", config.fusion, plugins)
    fusion = registry.load(entry, Fusion)
    names = [registry.key_of(n) for n in (config.loss or fusion.default_loss).split("+")]
    if len(set(names)) != len(names):
        raise UsageError(f"--loss {config.loss} names a loss twice.")
    entries = {name: registry.find("losses", name, plugins) for name in names}
    losses = {name: registry.load(e, Loss) for name, e in entries.items()}
    raw = split_params(own_params(config, names), names)
    return Method(
        fusion,
        plugin_params(fusion, raw["fusion"], f"fusion {entry.name}"),
        registry.source_hash(entry),
        losses,
        _loss_params(losses, raw),
        {name: registry.source_hash(e) for name, e in entries.items()},
        literal_params(raw["optimizer"], "optimizer"),
        literal_params(raw["schedule"], "schedule"),
    )


def _loss_params(
    losses: Mapping[str, type[Loss]], raw: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, Any]]:
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
    return {name: plugin_params(cls, given[name], f"loss {name}") for name, cls in losses.items()}


def _construct(what: str, cls: Any, spec: Any, params: Mapping[str, Any]) -> Any:
    try:
        return cls(spec, **params)
    except FusionbenchError:
        raise
    except ValueError as error:  # how a plugin says that a setting does not fit
        raise UsageError(f"The {what} refuses its settings: {error}.") from error
    except Exception as error:
        raise PluginError(
            f"The {what} cannot be built: {type(error).__name__}: {error}."
        ) from error
