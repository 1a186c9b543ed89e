"""fusionbench run"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from click.core import ParameterSource

from fusionbench.cli.options import (
    FASTEST,
    SectionedCommand,
    at_once_option,
    data_option,
    device_options,
    json_option,
    listed,
    plugins_option,
    step_option,
    store_option,
)
from fusionbench.config.recipe import changes, configure
from fusionbench.config.run_config import (
    Augment,
    Device,
    Encoding,
    Execution,
    Existing,
    Missing,
    Precision,
    Resize,
    RunConfig,
    Sampler,
    Select,
    Step,
    Watch,
    parse_assignments,
)

if TYPE_CHECKING:
    from fusionbench.progress import Progress
    from fusionbench.runs.run import Outcome

SECTIONS = {
    "Method": ("fusion", "backbone", "loss", "set", "reducer", "weights", "drop-path"),
    "Data": (
        *("dataset", "protocol", "fold", "data", "view", "columns", "encoding", "missing"),
        *("image-size", "resize", "allow-missing-images", "allow-forbidden", "shuffle-metadata"),
    ),
    "Training": (
        *("recipe", "epochs", "batch-size", "sampler", "augment", "optimizer", "lr"),
        *("weight-decay", "schedule", "warmup-epochs", "clip-grad", "ema"),
        *("metadata-dropout", "block-dropout", "select", "watch", "early-stop", "calibrate"),
        *("precision", "seed"),
    ),
    "Where, and what is kept": (
        *("device", "step", "workers", "folds-at-once", "store", "existing"),
        *("save-weights", "checkpoint-every", "plugins", "json", "help"),
    ),
}

# Options whose text is the RunConfig field of the same name, with the field's own default.
_DEFAULTS = {name: field.default for name, field in RunConfig.model_fields.items()}


def _field(flag: str, text: str, **attributes: Any) -> Any:
    name = flag.lstrip("-").replace("-", "_")
    return click.option(
        flag, name, default=_DEFAULTS[name], show_default=_DEFAULTS[name] != "", help=text,
        **attributes,
    )  # fmt: skip


def _choice(annotation: Any) -> click.Choice:
    return click.Choice(get_args(annotation))


@click.command(
    "run",
    cls=SectionedCommand,
    sections=SECTIONS,
    context_settings={"max_content_width": 100},
)
@_field(
    "--fusion",
    "Fusion method (fusionbench list fusions), or a control that sees no photograph (list "
    "controls).",
    metavar="NAME",
)
@_field("--backbone", "A timm model (fusionbench list backbones).", metavar="NAME")
@_field(
    "--loss",
    "Loss (fusionbench list losses), or several joined by +. Default: the fusion's own.",
    metavar="NAME",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting of the method: fusion.NAME, loss.NAME, loss.<loss>.NAME, optimizer.NAME, "
    "schedule.NAME. May be given several times.",
)
@_field("--dataset", "Dataset (fusionbench list datasets), or a dataset.toml.", metavar="NAME")
@_field(
    "--protocol",
    "How rows are split (fusionbench list protocols). Default: the dataset's own.",
    metavar="NAME",
)
@data_option
@_field("--view", "Which photograph, where there are several. Default: the first.", metavar="NAME")
@click.option(
    "--columns", default="", metavar="A,B,…", help="Metadata columns. Default: the card's inputs."
)
@_field("--encoding", "How categories become numbers.", type=_choice(Encoding))
@_field("--missing", "What an empty metadata cell becomes.", type=_choice(Missing))
@_field("--resize", "The whole photograph, or its centre.", type=_choice(Resize))
@click.option(
    "--allow-missing-images",
    is_flag=True,
    help="Use the photographs that are there. Such rows are never ranked beside whole ones.",
)
@click.option(
    "--allow-forbidden",
    is_flag=True,
    default=False,
    help="Let --columns name what gives the label away. Such rows say so.",
)
@click.option(
    "--shuffle-metadata",
    is_flag=True,
    default=False,
    help="A control: every patient's metadata is another patient's. Such rows say so.",
)
@click.option(
    "--fold",
    "folds",
    default="all",
    show_default=True,
    metavar="K",
    help="Which folds: all, or e.g. 0 or 0,1.",
)
@_field("--seed", "Of initial weights, batches and augmentation.", metavar="N")
@_field(
    "--recipe",
    "Training settings by name (fusionbench list recipes). Options given beside it take "
    "precedence; defaults shown here are those of the recipe modern.",
    metavar="NAME",
)
@_field("--epochs", "Passes over the training rows.", metavar="N")
@_field("--batch-size", "Images per step.", metavar="N")
@_field(
    "--sampler",
    "shuffle: every training row once per epoch. The others draw rows with replacement, so that "
    "all classes come up alike, or in proportion to the square root of their counts. With a loss "
    "that makes up for the counts as well, rarity counts twice.",
    type=_choice(Sampler),
)
@_field("--image-size", "Side of the square input.", metavar="PIXELS")
@_field("--augment", "Training augmentation.", type=_choice(Augment))
@_field(
    "--reducer",
    "Width of a layer (linear, batch norm, ReLU, dropout) between fusion and classifier; 0: none.",
    metavar="N",
)
@_field("--weights", "To start from: imagenet, none, or a file.", metavar="FROM")
@_field("--optimizer", "Any of timm's.", metavar="NAME")
@_field("--lr", "Peak learning rate.", metavar="X")
@_field("--weight-decay", "Weight decay.", metavar="X")
@_field(
    "--schedule",
    "Of the learning rate: cosine, tanh, step, multistep, poly, plateau, constant or none.",
    metavar="NAME",
)
@_field("--warmup-epochs", "Epochs of linear warm-up.", metavar="N")
@_field("--clip-grad", "Largest gradient norm; 0: no limit.", metavar="X")
@_field("--ema", "Decay of averaged weights, which are then the result; 0: off.", metavar="X")
@_field("--drop-path", "Stochastic depth of the backbone.", metavar="X")
@_field(
    "--metadata-dropout",
    "In training, the share of metadata cells that are withheld, drawn anew for every batch.",
    metavar="X",
)
@_field(
    "--block-dropout",
    "In training, the share of photographs that lose every column of a block of columns that go "
    "unrecorded together.",
    metavar="X",
)
@_field(
    "--select",
    "Whose weights are evaluated: the last epoch's, the best on an inner validation part, or the "
    "best on the test part (optimistic, and marked so).",
    type=_choice(Select),
)
@_field(
    "--watch",
    "What chooses that epoch: balanced accuracy, log loss, or its mean over classes.",
    type=_choice(Watch),
)
@_field(
    "--early-stop",
    "Epochs without a better watched score (training loss, where --select is last) before "
    "training ends; 0: never.",
    metavar="N",
)
@click.option(
    "--calibrate",
    is_flag=True,
    default=False,
    help="Hold out an inner validation part of the training rows, fit a temperature on it, and "
    "report calibration before and after. --select inner-val does so anyhow.",
)
@_field(
    "--precision",
    "auto: bf16 on hardware that has it, but for depthwise networks on a CPU. fastest: by a short "
    "measurement, remembered for this machine; it counts as the fp32 or bf16 that it chose.",
    type=click.Choice((*get_args(Precision), FASTEST)),
)
@device_options
@step_option
@at_once_option
@store_option
@click.option(
    "--existing",
    type=_choice(Existing),
    default="skip",
    show_default=True,
    help="What to do with folds that are in the store already.",
)
@click.option("--save-weights", is_flag=True, help="Keep the trained weights (safetensors).")
@click.option(
    "--checkpoint-every",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Least time between two checkpoints, from which a stopped run goes on; 0: one after every "
    "epoch, inf: none. Default: after every epoch, where that takes at most 2 % of the time.",
)
@plugins_option
@json_option
def run_command(
    assignments: tuple[str, ...],
    data: Path | None,
    columns: str,
    folds: str,
    device: Device,
    step: Step,
    store: Path,
    existing: Existing,
    save_weights: bool,
    checkpoint_every: float | None,
    workers: int | None,
    folds_at_once: int,
    plugins: tuple[Path, ...],
    as_json: bool,
    **fields: Any,
) -> int:
    """Train and evaluate one method over the folds of a protocol.

    Every fold becomes one record in the store. A fold that is there already is not computed again.
    Without options: SGMC on ResNet-50, PAD-UFES-20, five folds grouped by patient.
    """
    from pydantic import ValidationError

    from fusionbench.cli import terminal

    source = click.get_current_context().get_parameter_source
    # Of the options that a recipe states, those that were typed go before it.
    given = {k: v for k, v in fields.items() if source(k) is not ParameterSource.DEFAULT}
    given["columns"] = tuple(listed(columns))
    given["params"] = parse_assignments(assignments)
    recipe = given.pop("recipe", _DEFAULTS["recipe"])
    measured = given.get("precision") == FASTEST
    try:
        config = configure(
            recipe, {k: v for k, v in given.items() if not (measured and k == "precision")}
        )
    except ValidationError as error:
        first = error.errors()[0]
        flag = "--" + str(first["loc"][0]).replace("_", "-")
        raise click.UsageError(f"{flag} {first['input']}: {first['msg']}.") from None
    execution = Execution(
        data=data,
        store=store,
        plugins=plugins,
        folds=_folds(folds),
        device=device,
        step=step,
        existing=existing,
        save_weights=save_weights,
        workers=workers,
        checkpoint_every=checkpoint_every,
        folds_at_once=folds_at_once,
    )
    kind = _check_names(config, plugins)
    progress = terminal.progress()
    if config.recipe != _DEFAULTS["recipe"] and (changed := changes(config)):
        shown = ", ".join(f"{k}={'unset' if v is None else v}" for k, v in changed.items())
        progress.note(f"recipe {config.recipe}, but {shown}")
    if kind == "controls":
        _note_unused(config.fusion, given, progress)
    else:
        progress.note("loading PyTorch and timm")
        if measured:
            from fusionbench.bench.fastest_precision import fastest

            precision = fastest([config], device, progress=progress)
            config = config.model_copy(update={"precision": precision})
    from fusionbench.runs.run import run

    outcome = run(config, execution, progress)
    if as_json:
        terminal.print_json(summary(outcome))
    else:
        _print_table(outcome, execution)
    for failure in outcome.failures:
        assert failure.error is not None
        terminal.print_error(
            f"Fold {failure.identity['fold']} failed: {failure.error.message} "
            f"(fusionbench show {failure.run_id} --store {store})"
        )
    for lost in outcome.lost:
        terminal.print_error(f"Fold {lost.fold} is lost: {lost.message}")
    return 1 if outcome.failures or outcome.lost else 0


def _check_names(config: RunConfig, plugins: tuple[Path, ...]) -> str:
    """The kind of plugin that the method is. Says at once what is misspelt: loading PyTorch takes
    seconds."""
    from fusionbench.data.locate import open_card
    from fusionbench.plugin import registry

    kind = registry.find_method(config.fusion, plugins).kind
    for name in config.loss.split("+") if config.loss else ():
        registry.find("losses", name, plugins)
    open_card(config.dataset, plugins=plugins)
    return kind


def _note_unused(name: str, given: dict[str, Any], progress: Progress) -> None:
    """Say which options are idle: a control neither sees photographs nor trains by epochs."""
    from fusionbench.runs.control_study import SETTINGS

    used = {*SETTINGS, "fusion", "dataset", "protocol", "view", "seed", "allow_missing_images"}
    idle = [f"--{k.replace('_', '-')}" for k in given if k not in {*used, "params"}]
    idle += [f"--set {key}" for key in given["params"] if not key.startswith("fusion.")]
    if idle:
        progress.note(f"{name} sees no photograph and is no network: {', '.join(idle)} unused")


def summary(outcome: Outcome) -> dict[str, Any]:
    """What --json prints: config, folds, mean and std (ddof=1; null for one fold) by metric."""
    from statistics import fmean, stdev

    results = [(r, r.result) for r in outcome.records if r.result is not None]
    names = list(dict.fromkeys(m for _, result in results for m in result.metrics))
    values = {
        name: [v for _, r in results if (v := r.metrics.get(name)) is not None] for name in names
    }
    return {
        "config": outcome.config.model_dump(mode="json"),
        "folds": [
            {"fold": r.identity["fold"], "metrics": result.metrics, "run_id": r.run_id}
            for r, result in results
        ],
        "mean": {k: fmean(v) if v else None for k, v in values.items()},
        "std": {k: stdev(v) if len(v) > 1 else None for k, v in values.items()},
        "failed": [{"fold": f.identity["fold"], "run_id": f.run_id} for f in outcome.failures],
        "lost": [{"fold": lost.fold, "run_id": lost.run_id} for lost in outcome.lost],
    }


def _folds(text: str) -> tuple[int, ...] | None:
    if text == "all":
        return None
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise click.UsageError(
            f"--fold {text}: give all, a number, or numbers as in 0,1."
        ) from None


def _print_table(outcome: Outcome, execution: Execution) -> None:
    """The block of the leaderboard that these records belong to."""
    from fusionbench.cli.leaderboard import print_blocks
    from fusionbench.records import Store

    mine = {(r.identity["data_fingerprint"], r.identity["split_hash"]) for r in outcome.records}
    records, _ = Store(execution.store).scan()
    beside = [
        r for r in records if (r.identity["data_fingerprint"], r.identity["split_hash"]) in mine
    ]
    if beside:
        print_blocks(beside, plugins=execution.plugins)
