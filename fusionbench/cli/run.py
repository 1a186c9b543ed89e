"""fusionbench run"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from fusionbench.cli.options import data_option, json_option, plugins_option, store_option
from fusionbench.config import (
    Augment,
    Device,
    Encoding,
    Execution,
    Existing,
    Missing,
    Precision,
    Resize,
    RunConfig,
    Select,
    parse_assignments,
)

if TYPE_CHECKING:
    from fusionbench.run import Outcome

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


@click.command("run", context_settings={"max_content_width": 100})
@_field("--fusion", "Fusion method (fusionbench list fusions).")
@_field("--backbone", "Any timm model that can be tapped (fusionbench list backbones).")
@_field("--loss", "Loss, or several joined by +. Default: the fusion's own.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting of the method: fusion.NAME, loss.NAME, loss.<loss>.NAME, optimizer.NAME, "
    "schedule.NAME. May be given several times.",
)
@_field("--dataset", "Dataset, or the path of a dataset.toml (fusionbench list datasets).")
@_field("--protocol", "Protocol (fusionbench list protocols). Default: the dataset's own.")
@data_option
@_field("--view", "Which photograph, where a dataset has several. Default: the first.")
@click.option(
    "--columns", default="", metavar="A,B,…", help="Metadata columns. Default: the card's inputs."
)
@_field("--encoding", "How categories become numbers.", type=_choice(Encoding))
@_field("--missing", "What an empty metadata cell becomes.", type=_choice(Missing))
@_field("--resize", "Whole photograph squashed to a square, or its centre.", type=_choice(Resize))
@click.option(
    "--allow-missing-images",
    is_flag=True,
    help="Use the photographs that are there. Such rows are never ranked beside whole ones.",
)
@click.option("--fold", "folds", default="all", show_default=True, help="all, or e.g. 0 or 0,1.")
@_field("--seed", "Seed of initial weights, batches and augmentation.")
@_field("--epochs", "Passes over the training rows.")
@_field("--batch-size", "Images per step.")
@_field("--image-size", "Side of the square input, pixels.")
@_field("--augment", "Training augmentation.", type=_choice(Augment))
@_field("--weights", "Starting weights: imagenet, none, or a file.")
@_field("--optimizer", "A timm optimizer.")
@_field("--lr", "Peak learning rate.")
@_field("--weight-decay", "Weight decay.")
@_field("--schedule", "A timm schedule: cosine, step, poly, plateau, constant, none, …")
@_field("--warmup-epochs", "Epochs of linear warm-up.")
@_field("--clip-grad", "Largest gradient norm; 0: no limit.")
@_field("--ema", "Decay of averaged weights, which are then the result; 0: off.")
@_field("--drop-path", "Stochastic depth of the backbone.")
@_field(
    "--select",
    "Whose weights are evaluated: the last epoch's, the best on an inner validation part, or the "
    "best on the test part (optimistic, and marked so).",
    type=_choice(Select),
)
@_field("--precision", "auto: bf16 where the hardware has it.", type=_choice(Precision))
@click.option("--device", type=_choice(Device), default="auto", show_default=True)
@store_option
@click.option(
    "--existing",
    type=_choice(Existing),
    default="skip",
    show_default=True,
    help="What to do with folds that are in the store already.",
)
@click.option("--save-weights", is_flag=True, help="Keep the trained weights (safetensors).")
@click.option("--workers", type=click.IntRange(1), help="Decoding threads. Default: one per core.")
@plugins_option
@json_option
def run_command(
    assignments: tuple[str, ...],
    data: Path | None,
    columns: str,
    folds: str,
    device: Device,
    store: Path,
    existing: Existing,
    save_weights: bool,
    workers: int | None,
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

    try:
        config = RunConfig(
            **fields,
            columns=tuple(c.strip() for c in columns.split(",") if c.strip()),
            params=parse_assignments(assignments),
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
        existing=existing,
        save_weights=save_weights,
        workers=workers,
    )
    progress = terminal.progress()
    progress.note("loading PyTorch and timm")
    from fusionbench.run import run

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
    return 1 if outcome.failures else 0


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
