"""From a record back to what it was made of: data, split, encoder, network and trained weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from fusionbench.config.run_config import Execution, RunConfig, plugin_schema
from fusionbench.data.encoder import MetadataEncoder
from fusionbench.data.locate import open_card
from fusionbench.errors import RecordError, UsageError
from fusionbench.models.backbones import build_backbone
from fusionbench.models.fusion_model import FusionModel
from fusionbench.plugin import registry
from fusionbench.plugin.fusion import Fusion
from fusionbench.plugin.loss import Loss
from fusionbench.progress import SILENT, Progress
from fusionbench.protocols import Fold
from fusionbench.records import Record, Store, canonical_json
from fusionbench.runs.network_study import Experiment, Method
from fusionbench.runs.study import FoldRows, open_study
from fusionbench.training.placement import Placement, choose_placement

REDO = "Repeat the command that made it, with --save-weights --existing redo."
# Largest difference to a recorded probability at which weights and data still are the record's:
# other hardware rounds otherwise.
ROUNDING = {"fp32": 1e-3, "bf16": 0.05}
# What a part of an identity that is not the same any more says to a person.
_CHANGED = {
    "data_fingerprint": "the data here are not those that it was made on",
    "split_hash": "the split file is another one",
    "settings": "this fusionbench reads its settings otherwise",
}


def reopen(
    record: Record, execution: Execution, dataset: str = "", progress: Progress = SILENT
) -> Experiment:
    """The experiment of a finished network's run: its identity gives the same run_id.

    `dataset` is the path of the card, where the record's dataset is not known by name.
    Raises UsageError for a control (which is no network) and for what differs now from what ran:
    plugins, data, split, settings.
    """
    identity = record.identity
    if record.result is None:
        raise UsageError(f"{record.run_id} has failed: there is nothing to evaluate.", REDO)
    if identity["backbone"] == "-":
        raise UsageError(
            f"{record.run_id} is a control's: no network, so no weights were kept.",
            "Name the run of a fusion.",
        )
    _check_card(dataset, record, execution)
    method = _method(record, execution)
    try:
        config = RunConfig(
            **{k: v for k, v in identity["settings"].items() if k in RunConfig.model_fields},
            fusion=identity["fusion"],
            backbone=identity["backbone"],
            loss=identity["loss"],
            dataset=dataset or identity["dataset"],
            protocol=identity["protocol"],
            seed=identity["seed"],
            allow_missing_images=not record.result.complete_data,
        )
    except ValidationError as error:
        where = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
        raise RecordError(
            f"The settings of {record.run_id} are none of this fusionbench: {where}.",
            "Use the version that made it.",
        ) from None
    study = open_study(config, execution, progress)
    # The starting weights are not loaded: the trained ones take their place.
    experiment = Experiment(**study.resolved, method=method, weights=str(identity["weights"]))
    fold_of(experiment, record)
    return experiment


def of_seed(experiment: Experiment, seed: int) -> Experiment:
    """The same with another seed."""
    return replace(experiment, config=experiment.config.model_copy(update={"seed": seed}))


def fold_of(experiment: Experiment, record: Record) -> Fold:
    """The record's fold. Raises UsageError where the experiment is not the one that it was."""
    wanted = record.identity
    fold = next((f for f in experiment.protocol.folds if f.index == wanted["fold"]), None)
    if fold is None:
        raise UsageError(
            f"{record.run_id} cannot be evaluated again: the protocol has no such fold any more."
        )
    if experiment.run_id(fold) == record.run_id:
        return fold
    found = experiment.identity(fold)
    changed = [
        _CHANGED.get(key, f"{key} is {found.get(key)!r}, not {wanted.get(key)!r}")
        for key in {**wanted, **found}
        if canonical_json(found.get(key)) != canonical_json(wanted.get(key))
    ]
    raise UsageError(
        f"{record.run_id} cannot be evaluated again: {'; '.join(changed)}.",
        "--data names another folder of photographs, --dataset another card.",
    )


def trained_model(
    experiment: Experiment,
    rows: FoldRows,
    encoder: MetadataEncoder,
    record: Record,
    store: Store,
    device: torch.device,
) -> tuple[FusionModel, Placement]:
    """The run's model in evaluation mode, and where it runs: in the precision that the run had.

    Raises RecordError where there are no weights of it, or not such as fit.
    """
    path = store.weights_path(record.run_id)
    if not path.is_file():
        raise no_weights([record.run_id], store)
    config = experiment.config
    backbone = build_backbone(config.backbone, config.image_size, drop_path_rate=config.drop_path)
    counts = torch.bincount(
        torch.from_numpy(experiment.table.labels[rows.train]),
        minlength=len(experiment.table.card.classes),
    )
    model, _ = experiment.model(backbone, encoder, tuple(counts.tolist()))
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, OSError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RecordError(f"{path} does not hold the weights of its run: {first}", REDO) from None
    used = str(record.environment.get("precision", ""))
    placement = (
        Placement(device, used)
        if used in ROUNDING
        else choose_placement(device, config.precision, backbone)
    )
    model.to(device).to(memory_format=torch.channels_last)
    return model.eval(), placement


def require_weights(records: list[Record], store: Store) -> None:
    """Raises RecordError, naming them, where runs of a network have no saved weights."""
    lacking = [
        r.run_id
        for r in records
        if r.identity["backbone"] != "-" and not store.weights_path(r.run_id).is_file()
    ]
    if lacking:
        raise no_weights(lacking, store)


def no_weights(runs: list[str], store: Store) -> RecordError:
    which = runs[0] if len(runs) == 1 else f"{len(runs)} runs, {runs[0]} among them,"
    have = "has" if len(runs) == 1 else "have"
    return RecordError(
        f"{which} {have} no saved weights in {store.folder}.",
        "Repeat the fusionbench run that made it, with --save-weights --existing redo.",
    )


def _check_card(dataset: str, record: Record, execution: Execution) -> None:
    """Raises UsageError where the record's dataset is not known, or another one's card is named."""
    name = record.identity["dataset"]
    try:
        card = open_card(dataset or name, plugins=execution.plugins)
    except UsageError as error:
        if dataset:
            raise
        raise UsageError(
            f"{record.run_id} is on a dataset that is not known here by name. {error.message}",
            "Name its card with --dataset path/to/dataset.toml.",
        ) from None
    if card.name != name:
        raise UsageError(f"{record.run_id} is on {name}; that is the card of {card.name}.")


def _method(record: Record, execution: Execution) -> Method:
    """The plugins of the record, with its parameters. Raises UsageError where one has changed."""
    identity, plugins = record.identity, execution.plugins
    fusion_entry = registry.find("fusions", identity["fusion"], plugins)
    entries = {name: registry.find("losses", name, plugins) for name in identity["loss_sources"]}
    sources = {name: registry.source_hash(entry) for name, entry in entries.items()}
    now = {identity["fusion"]: registry.source_hash(fusion_entry), **sources}
    then = {identity["fusion"]: identity["fusion_source"], **identity["loss_sources"]}
    if stale := [name for name in now if now[name] != then[name]]:
        raise UsageError(
            f"{record.run_id} is stale: {', '.join(stale)} has changed since.",
            "Its weights belong to the earlier code. Run it again with --save-weights.",
        )
    fusion = registry.load(fusion_entry, Fusion)
    losses = {name: registry.load(entry, Loss) for name, entry in entries.items()}
    settings = identity["settings"]
    return Method(
        fusion,
        _typed(fusion, identity["fusion_params"]),
        now[identity["fusion"]],
        losses,
        {name: _typed(cls, identity["loss_params"][name]) for name, cls in losses.items()},
        sources,
        settings["optimizer_args"],
        settings["schedule_args"],
    )


def _typed(cls: type, params: Mapping[str, Any]) -> dict[str, Any]:
    """A plugin's parameters as it takes them: a file has lists where it has tuples."""
    schema = plugin_schema(cls)
    return {
        key: TypeAdapter(schema[key][0]).validate_python(value) for key, value in params.items()
    }
