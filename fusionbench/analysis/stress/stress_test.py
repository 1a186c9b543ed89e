"""A row's trained networks again, under every scenario."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from fusionbench.analysis.reopen import reopen
from fusionbench.analysis.row_facts import values_of
from fusionbench.analysis.stress.scenarios import Cells, Scenario, scenarios
from fusionbench.analysis.stress.stress_report import Run, StressedRun, StressReport, summarise
from fusionbench.config.environment import describe_environment
from fusionbench.config.run_config import Execution
from fusionbench.data.blocks import recorded_together
from fusionbench.data.encoder import MetadataEncoder
from fusionbench.errors import FusionbenchError, RecordError, UsageError
from fusionbench.leaderboard import Block, Row
from fusionbench.metrics.calibration import scaled
from fusionbench.metrics.compute import compute
from fusionbench.metrics.names import METRICS, SCALED
from fusionbench.models.fusion_model import FusionModel
from fusionbench.plugin import registry
from fusionbench.plugin.fusion import Fusion
from fusionbench.progress import SILENT, Progress, Task
from fusionbench.protocols import Fold
from fusionbench.records import Record, Store
from fusionbench.runs.network_study import NetworkStudy, load_method
from fusionbench.runs.study import FoldRows
from fusionbench.training.feed import Arrays, batches
from fusionbench.training.loop import EVALUATED, evaluated
from fusionbench.training.placement import Placement, choose_device, choose_placement, prepare

REDO = "Repeat the command that made it, with --save-weights --existing redo."
# Largest difference to a recorded probability at which weights and data still are the record's:
# other hardware rounds otherwise.
ROUNDING = {"fp32": 1e-3, "bf16": 0.05}


def stress(
    store: Store,
    block: Block,
    row: Row,
    execution: Execution,
    *,
    runs: Sequence[str] = (),
    metric: str = "bacc",
    mask_seeds: int = 3,
    dataset: str = "",
    progress: Progress = SILENT,
) -> StressReport:
    """Evaluate finished runs of `store` again, with metadata withheld and inverted.

    runs         of `row`, a row of `block`; by default every fold and seed of it
    mask_seeds   how often random cells are drawn
    dataset      path of the card, where its name is not known here

    Raises RecordError where weights are not there or do not give the record's predictions, and
    UsageError where the run cannot be evaluated again or has no metadata, and for a metric that is
    not defined.
    """
    values_of(row, metric)  # refuses a metric that no run has
    records = [store.read(run) for run in runs or row.run_ids]
    if not records[0].identity.method.uses_images:
        raise UsageError(
            f"{row.name} is a control: it has no network and no weights.", "Name a fusion's row."
        )
    if lost := [r.run_id for r in records if not store.path("weights", r.run_id).is_file()]:
        raise RecordError(f"{store.folder} has no saved weights of {', '.join(lost)}.", REDO)
    experiment = reopen_network(records[0], execution, dataset, progress)
    names = [c.name for c in experiment.columns]
    if not names:
        raise UsageError(f"{row.fusion} has no metadata columns: there is nothing to withhold.")
    studies = [
        replace(experiment, config=experiment.config.changed(seed=record.identity.seed))
        for record in records
    ]
    folds = [fold_of(*pair) for pair in zip(studies, records, strict=True)]
    where = choose_device(execution.device)
    prepare(where)
    # Of all rows, so that every fold withholds the same; no label is looked at.
    together = recorded_together(experiment.table.metadata.loc[experiment.keep, names])
    images = experiment.images(execution.workers, progress)
    stressed = [
        _stressed(*run, images, store, where, together, mask_seeds, metric, progress)
        for run in zip(studies, folds, records, strict=True)
    ]
    return summarise(block, row, stressed, experiment, metric, mask_seeds)


def _stressed(
    experiment: NetworkStudy,
    fold: Fold,
    record: Record,
    images: Tensor,
    store: Store,
    device: torch.device,
    blocks: tuple[tuple[str, ...], ...],
    mask_seeds: int,
    metric: str,
    progress: Progress,
) -> StressedRun:
    table, rows = experiment.table, experiment.rows(fold)
    metadata, encoder, arrays = experiment.fold_data(fold, rows, images, device)
    test = rows.parts["test"]
    model, placement = trained_model(experiment, rows, encoder, record, store, device)
    frame = metadata.iloc[test][[c.name for c in experiment.columns]].reset_index(drop=True)
    todo = scenarios(frame, experiment.columns, blocks, mask_seeds, [fold.index])
    with progress.task(f"fold {fold.index}", total=len(test), unit="img") as task:
        cells = Cells.of(frame, encoder)
        found = probabilities(model, arrays, test, cells, todo, placement, task)
    if not np.isfinite(found).all():
        raise FusionbenchError(
            f"{record.run_id} gives probabilities that are not finite when metadata are withheld."
        )
    predictions = store.predictions(record.run_id)
    places = [i for i, part in enumerate(predictions.parts) if part == "test"]
    if [predictions.ids[i] for i in places] != table.ids[test].tolist():
        raise RecordError(f"The predictions of {record.run_id} are of other photographs.", REDO)
    difference = float(np.abs(predictions.probabilities[places] - found[0]).max())
    if not difference <= _rounding(record, placement):
        raise RecordError(
            f"The saved weights of {record.run_id} do not give its predictions: a probability "
            f"differs by {difference:.3g}.",
            REDO,
        )
    labels = table.labels[test]
    temperature = record.result.temperature if record.result is not None else None
    wanted = dict.fromkeys((*METRICS, *(SCALED if temperature is not None else ()), metric))
    metrics: list[dict[str, float | None]] = []
    for scenario, p in zip(todo, found, strict=True):
        if scenario.kind == "flip":
            continue  # (they come last) whether the diagnosis would be the same is not known
        values = dict(compute(labels, p, table.card.classes))
        if temperature is not None:
            values |= scaled(labels, p, temperature)
        numbers = {name: float(values.get(name, np.nan)) for name in wanted}
        metrics.append({name: v if np.isfinite(v) else None for name, v in numbers.items()})
    return StressedRun(
        Run(record.run_id, fold.index, experiment.config.seed, len(test), difference),
        todo,
        metrics,
        found.argmax(axis=2),
        frame,
    )


def _rounding(record: Record, placement: Placement) -> float:
    """How far probabilities may lie from those recorded: hardly on the CPU that gave them."""
    here = describe_environment(
        device_type=placement.device.type,
        threads=torch.get_num_threads(),
        precision=placement.precision,
    )
    names = ("fusionbench", "libraries", "device", "device_type", "threads", "precision")
    alike = all(record.environment.get(name) == here[name] for name in names)
    return 1e-6 if alike and placement.device.type == "cpu" else ROUNDING[placement.precision]


def reopen_network(
    record: Record, execution: Execution, dataset: str = "", progress: Progress = SILENT
) -> NetworkStudy:
    """The study of a fusion's run: its identity gives the same run_id. Its starting weights are
    not loaded.

    Raises UsageError where a plugin has changed since, and as `reopen`.
    """
    method = record.identity.method
    stale = [
        plugin.name
        for plugin in method.plugins
        if registry.source_hash(registry.find(plugin.kind, plugin.name, execution.plugins))
        != plugin.source
    ]
    if stale:
        raise UsageError(
            f"{record.run_id} is stale: {', '.join(stale)} has changed since.",
            "Its weights belong to the earlier code. Run it again with --save-weights.",
        )
    study = reopen(record, execution, dataset, progress)
    loaded = load_method(study.config, execution.plugins)
    assert method.weights is not None
    return NetworkStudy(**study.resolved, method=loaded, weights=method.weights)


def fold_of(experiment: NetworkStudy, record: Record) -> Fold:
    """The record's fold. Raises UsageError where the experiment is not the one that it was."""
    index, changed = record.identity.fold, "the protocol has no such fold any more"
    for fold in (f for f in experiment.protocol.folds if f.index == index):
        here = experiment.identity(fold)
        if here.run_id == record.run_id:
            return fold
        changes = here.changes(record.identity)
        changed = "; ".join(f"{name} is {now!r}, not {was!r}" for name, now, was in changes)
    raise UsageError(
        f"{record.run_id} cannot be evaluated again: {changed}.",
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

    Raises RecordError for weights that do not fit.
    """
    path = store.path("weights", record.run_id)
    backbone = experiment.backbone(loaded=False)
    model, _ = experiment.model(backbone, encoder, rows.train)
    try:
        with safe_open(path, "pt") as file:
            unsaved = (file.metadata() or {}).get("unsaved")
        model.load_state_dict(load_file(path))
    except (SafetensorError, OSError, RuntimeError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RecordError(f"{path} does not hold the weights of its run: {first}", REDO) from None
    if unsaved:
        raise RecordError(
            f"The saved weights of {record.run_id} do not reproduce it: its method also depends on "
            f"{unsaved}, which changed in training and is not saved.",
            "Keep such state in buffers (register_buffer), and run the plugin again.",
        )
    used = str(record.environment.get("precision", ""))
    placement = (
        Placement(device, used)
        if used in ROUNDING
        else choose_placement(device, experiment.config.training.precision, backbone)
    )
    model.to(device).to(memory_format=torch.channels_last)
    return model.eval(), placement


@torch.no_grad()
def probabilities(
    model: FusionModel,
    arrays: Arrays,
    rows: NDArray[np.int64],
    cells: Cells,
    todo: Sequence[Scenario],
    placement: Placement,
    task: Task,
) -> NDArray[np.float64]:
    """(scenarios, n, K) of the n `rows` of `arrays`, whose metadata are `cells`.

    Each photograph is read once; where the method fuses late, the backbone sees it once, too.
    `model` is in evaluation mode on the device of `placement`.
    """
    out = np.empty((len(todo), len(rows), model.spec.classes))
    # The batches of the record's own evaluation.
    for batch in batches(arrays, rows, EVALUATED, placement.device, keep_single=True):
        start, stop = batch.start, batch.start + len(batch.image)
        image = evaluated(batch.image, model)
        told = (torch.from_numpy(s.encoded(cells, start, stop)).to(placement.device) for s in todo)
        for i, logits in enumerate(_logits(model, image, told, placement)):
            exact = logits.to(placement.of_doubles).double()
            out[i, start:stop] = torch.softmax(exact, dim=1).cpu().numpy()
        task.advance(stop - start)
    return out


def _logits(
    model: FusionModel, image: Tensor, metadata: Iterable[Tensor], placement: Placement
) -> list[Tensor]:
    """The model's logits (B, K) for each of `metadata` (B, M) beside the same images."""
    fusion = model.fusion
    with placement.autocast():
        if type(fusion).stage is not Fusion.stage:  # the backbone's own features depend on them
            return [model(image, meta).logits for meta in metadata]
        features = model.backbone(image, lambda k, tokens: tokens)
        return [model.late(features, model.encode(meta)).logits for meta in metadata]
