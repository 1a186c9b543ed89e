"""From a record back to what it was made of: data, split, encoder, network and trained weights."""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from fusionbench.config.run_config import Execution
from fusionbench.data.encoder import MetadataEncoder
from fusionbench.data.locate import open_card
from fusionbench.errors import RecordError, UsageError
from fusionbench.models.fusion_model import FusionModel
from fusionbench.plugin import registry
from fusionbench.progress import SILENT, Progress
from fusionbench.protocols import Fold
from fusionbench.records import Record, Store
from fusionbench.runs.network_study import NetworkStudy, load_method
from fusionbench.runs.study import FoldRows, open_study
from fusionbench.training.placement import Placement, choose_placement

REDO = "Repeat the command that made it, with --save-weights --existing redo."
# Largest difference to a recorded probability at which weights and data still are the record's:
# other hardware rounds otherwise.
ROUNDING = {"fp32": 1e-3, "bf16": 0.05}
# What a part of an identity that is not the same any more says to a person.
_CHANGED = {
    "data.fingerprint": "the data here are not those that it was made on",
    "data.split_hash": "the split file is another one",
}


def reopen(
    record: Record, execution: Execution, dataset: str = "", progress: Progress = SILENT
) -> NetworkStudy:
    """The experiment of a finished network's run: its identity gives the same run_id.

    `dataset` is the path of the card, where the record's dataset is not known by name.
    Raises UsageError for a control (which is no network) and for what differs now from what ran:
    plugins, data, split, settings.
    """
    if record.result is None:
        raise UsageError(f"{record.run_id} has failed: there is nothing to evaluate.", REDO)
    identity = record.identity
    if not identity.method.uses_images:
        raise UsageError(
            f"{record.run_id} is a control's: no network, so no weights were kept.",
            "Name the run of a fusion.",
        )
    _check_card(dataset, record, execution)
    _check_sources(record, execution)
    try:
        config = identity.config(
            dataset=dataset or identity.data.dataset,
            allow_missing_images=not record.result.complete_data,
        )
        method = load_method(config, execution.plugins)
    except ValidationError as error:
        where = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
        raise RecordError(
            f"The settings of {record.run_id} are none of this fusionbench: {where}.",
            "Use the version that made it.",
        ) from None
    study = open_study(config, execution, progress)
    assert identity.method.weights is not None
    # The starting weights are not loaded: the trained ones take their place.
    experiment = NetworkStudy(**study.resolved, method=method, weights=identity.method.weights)
    fold_of(experiment, record)
    return experiment


def of_seed(experiment: NetworkStudy, seed: int) -> NetworkStudy:
    """The same with another seed."""
    return replace(experiment, config=experiment.config.changed(seed=seed))


def fold_of(experiment: NetworkStudy, record: Record) -> Fold:
    """The record's fold. Raises UsageError where the experiment is not the one that it was."""
    index = record.identity.fold
    fold = next((f for f in experiment.protocol.folds if f.index == index), None)
    if fold is None:
        raise UsageError(
            f"{record.run_id} cannot be evaluated again: the protocol has no such fold any more."
        )
    if experiment.run_id(fold) == record.run_id:
        return fold
    changed = dict.fromkeys(
        _CHANGED.get(name, f"{name} is {here!r}, not {there!r}")
        for name, here, there in experiment.identity(fold).changes(record.identity)
    )
    raise UsageError(
        f"{record.run_id} cannot be evaluated again: {'; '.join(changed)}.",
        "--data names another folder of photographs, --dataset another card.",
    )


def trained_model(
    experiment: NetworkStudy,
    rows: FoldRows,
    encoder: MetadataEncoder,
    record: Record,
    store: Store,
    device: torch.device,
) -> tuple[FusionModel, Placement]:
    """The run's model in evaluation mode, and where it runs: in the precision that the run had.

    Raises RecordError where there are no weights of it, or not such as fit.
    """
    path = store.path("weights", record.run_id)
    if not path.is_file():
        raise no_weights([record.run_id], store)
    training = experiment.config.training
    backbone = experiment.backbone(loaded=False)
    model, _ = experiment.model(backbone, encoder, rows.train)
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, OSError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RecordError(f"{path} does not hold the weights of its run: {first}", REDO) from None
    used = str(record.environment.get("precision", ""))
    placement = (
        Placement(device, used)
        if used in ROUNDING
        else choose_placement(device, training.precision, backbone)
    )
    model.to(device).to(memory_format=torch.channels_last)
    return model.eval(), placement


def require_weights(records: list[Record], store: Store) -> None:
    """Raises RecordError, naming them, where runs of a network have no saved weights."""
    lacking = [
        r.run_id
        for r in records
        if r.identity.method.uses_images and not store.path("weights", r.run_id).is_file()
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
    name = record.identity.data.dataset
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


def _check_sources(record: Record, execution: Execution) -> None:
    """Raises UsageError where a plugin of the run has changed since."""
    stale = [
        plugin.name
        for plugin in record.identity.method.plugins
        if registry.source_hash(registry.find(plugin.kind, plugin.name, execution.plugins))
        != plugin.source
    ]
    if stale:
        raise UsageError(
            f"{record.run_id} is stale: {', '.join(stale)} has changed since.",
            "Its weights belong to the earlier code. Run it again with --save-weights.",
        )
