"""fusionbench bench"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import click

from fusionbench.cli.options import FASTEST, SectionedCommand, json_option, listed, plugins_option
from fusionbench.config.run_config import Augment, Device, Execution, Precision, RunConfig, Step

if TYPE_CHECKING:
    from fusionbench.bench.results import Report
    from fusionbench.bench.session import Against

SECTIONS = {
    "What is measured": ("fusion", "backbone", "against", "profile", "folds", "folds-at-once"),
    "How a step is": (
        *("image-size", "batch-size", "augment", "precision", "optimizer", "device", "step"),
    ),
    "How long, and what comes of it": (*("steps", "rounds", "plugins", "output", "json", "help"),),
}
SUFFIXES = (".md", ".json")
_DEFAULTS = {name: field.default for name, field in RunConfig.model_fields.items()}


def _choice(annotation: Any) -> click.Choice:
    return click.Choice(get_args(annotation))


def _numbers(context: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...]:
    try:
        found = [int(part) for part in text.split(",")] if text is not None else []
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of whole numbers, as in 1,2,4.") from None
    if any(number < 1 for number in found):
        raise click.BadParameter("at least one fold at a time.")
    return tuple(dict.fromkeys(found))


@click.command(
    "bench",
    cls=SectionedCommand,
    sections=SECTIONS,
    context_settings={"max_content_width": 100},
)
@click.option(
    "--fusion",
    "fusions",
    default=_DEFAULTS["fusion"],
    show_default=True,
    metavar="A,B:LOSS,…",
    help="Methods, each with a loss of its choice after a colon; without one, its own.",
)
@click.option(
    "--backbone",
    default=_DEFAULTS["backbone"],
    show_default=True,
    metavar="NAME",
    help="A timm model (fusionbench list backbones).",
)
@click.option(
    "--against",
    multiple=True,
    type=click.Choice(("bare", "reference")),
    default=("bare",),
    show_default=True,
    help="bare: the timm model with a linear head. reference: each method as papers' code runs it "
    "(fp32, eager, contiguous memory; SGMC in its textbook form). May be given twice.",
)
@click.option(
    "--profile",
    is_flag=True,
    help="Also tell where a step's time goes, operation by operation (a GPU's kernels).",
)
@click.option(
    "--folds",
    is_flag=True,
    help="Also carry out two folds of the drawn dataset: how soon they train, and how fast a run "
    "is with evaluation, checkpoints and records.",
)
@click.option(
    "--folds-at-once",
    "at_once",
    metavar="1,2,…",
    callback=_numbers,
    help="Also carry out all folds of the drawn dataset with so many at a time, each in a process "
    "of its own.",
)
@click.option(
    "--image-size",
    type=click.IntRange(16, 2048),
    default=_DEFAULTS["image_size"],
    show_default=True,
    metavar="PIXELS",
    help="Side of the square input.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(2),
    default=_DEFAULTS["batch_size"],
    show_default=True,
    metavar="N",
    help="Images per step.",
)
@click.option(
    "--augment",
    type=_choice(Augment),
    default=_DEFAULTS["augment"],
    show_default=True,
    help="Training augmentation.",
)
@click.option(
    "--precision",
    type=click.Choice((*get_args(Precision), FASTEST)),
    default=_DEFAULTS["precision"],
    show_default=True,
    help="Of the methods and the bare backbone; references run in fp32.",
)
@click.option(
    "--optimizer",
    default=_DEFAULTS["optimizer"],
    show_default=True,
    metavar="NAME",
    help="Any of timm's.",
)
@click.option(
    "--device",
    type=_choice(Device),
    default="auto",
    show_default=True,
    help="auto: a GPU if any.",
)
@click.option(
    "--step",
    type=_choice(Step),
    default="auto",
    show_default=True,
    help="How a training step runs. auto: compiled and captured on a GPU, eager on a CPU.",
)
@click.option(
    "--steps", type=click.IntRange(1), metavar="N", help="Of a round. Default: 50 on a GPU, else 4."
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    metavar="N",
    help="In each, every subject trains once.",
)
@plugins_option
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write the result to a .md or .json file.",
)
@json_option
def bench_command(
    fusions: str,
    backbone: str,
    against: tuple[str, ...],
    profile: bool,
    folds: bool,
    at_once: tuple[int, ...],
    device: Device,
    step: Step,
    steps: int | None,
    rounds: int,
    plugins: tuple[Path, ...],
    output: Path | None,
    as_json: bool,
    **fields: Any,
) -> int:
    """Measure how fast methods train, next to the bare backbone.

    Prints images/s, the milliseconds of a step (data, forward, backward, optimizer), peak memory on
    a GPU, and ratios within this one run. Subjects take turns, so that a busy moment meets all of
    them; quote ratios, not images/s.
    """
    from fusionbench.cli import terminal

    if output is not None and output.suffix not in SUFFIXES:
        raise click.UsageError(f"--output {output}: give a name that ends in .md or .json.")
    names = listed(fusions)
    if not names:
        raise click.UsageError("--fusion: name at least one method.")
    for name in names:
        _check(name, plugins)
    measured = fields["precision"] == FASTEST
    if measured:
        del fields["precision"]
    config = RunConfig(backbone=backbone, weights="none", **fields)
    execution = Execution(plugins=plugins, device=device, step=step)
    progress = terminal.progress()
    progress.note("loading PyTorch and timm")
    from fusionbench.bench.session import bench

    if measured:
        from fusionbench.bench.fastest_precision import fastest

        precision = fastest([config], device, progress=progress)
        config = config.model_copy(update={"precision": precision})
    report = bench(
        names,
        config,
        execution,
        against=cast("tuple[Against, ...]", tuple(dict.fromkeys(against))),
        steps=steps,
        rounds=rounds,
        profile=profile,
        folds=folds,
        at_once=at_once,
        progress=progress,
    )
    from fusionbench.bench.speed_report import data
    from fusionbench.bench.speed_report import terminal as drawn

    if output is not None:
        _write(output, report)
    if as_json:
        terminal.print_json(data(report))
    else:
        terminal.out().print(drawn(report))
    return 0


def _check(name: str, plugins: tuple[Path, ...]) -> None:
    """Say at once what is misspelt: loading PyTorch takes seconds."""
    from fusionbench.errors import UsageError
    from fusionbench.plugin import registry

    fusion, _, loss = name.partition(":")
    if registry.find_method(fusion, plugins).kind == "controls":
        raise UsageError(
            f"{fusion} sees no photograph and trains no network: there is no step to measure.",
            "Name a fusion (fusionbench list fusions).",
        )
    for part in loss.split("+") if loss else ():
        registry.find("losses", part, plugins)


def _write(path: Path, report: Report) -> None:
    import json
    import shlex
    import sys

    from fusionbench.bench.speed_report import data, markdown
    from fusionbench.files import write_output

    if path.suffix == ".md":
        text = markdown(report, shlex.join(["fusionbench", *sys.argv[1:]]))
    else:
        text = json.dumps(data(report), indent=2) + "\n"
    write_output(path, text)
