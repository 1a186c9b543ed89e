"""fusionbench run"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from fusionbench.cli.options import (
    SectionedCommand,
    execution_options,
    json_option,
    list_option,
)
from fusionbench.cli.setting_options import (
    config_of,
    help_sections,
    setting_options,
    settings_given,
)
from fusionbench.cli.sweep_output import failures_of, print_failures
from fusionbench.config.recipe import changes
from fusionbench.config.run_config import (
    SETTINGS,
    Execution,
    Existing,
    default_of,
    without_effect,
)

if TYPE_CHECKING:
    from fusionbench.progress import Progress
    from fusionbench.runs import Outcome

# Of a trial; one fold of five is never ranked.
QUICK = {"dataset": "synthetic", "weights": "none", "epochs": 2, "image_size": 64}
SECTIONS = {
    **help_sections(),
    "Where, and what is kept": (
        *(
            "quick",
            "data",
            "fold",
            "device",
            "step",
            "workers",
            "folds-at-once",
            "store",
            "existing",
        ),
        *("save-weights", "checkpoint-every", "plugins", "json", "help"),
    ),
}


@click.command(
    "run",
    cls=SectionedCommand,
    sections=SECTIONS,
    context_settings={"max_content_width": 100},
)
@setting_options(SETTINGS)
@list_option("--fold", "folds", item=int, or_all=True, metavar="K,L,…", help="Folds. Default: all.")
@click.option(
    "--existing",
    type=click.Choice(get_args(Existing)),
    default="skip",
    show_default=True,
    help="What to do with folds that are in the store already.",
)
@click.option(
    "--checkpoint-every",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Least time between two checkpoints, from which a stopped run goes on; 0: one after every "
    "epoch, inf: none. Default: after every epoch, where that takes at most 2 % of the time.",
)
@click.option(
    "--quick",
    is_flag=True,
    help="A trial of about a minute on drawn lesions: fold 0, two epochs of 64 pixels, random "
    "weights. Options given beside it take precedence.",
)
@json_option
@execution_options
def run_command(execution: Execution, quick: bool, as_json: bool, **settings: Any) -> int:
    """Train and evaluate one method over the folds of a protocol.

    Every fold becomes one record in the store. A fold that is there already is not computed again.
    Without options: SGMC on ResNet-50, PAD-UFES-20, five folds grouped by patient.
    """
    from fusionbench.cli import terminal
    from fusionbench.data.locate import open_card

    # Of the settings that a recipe states, those that were typed take precedence.
    typed = settings_given(click.get_current_context(), settings)
    config = config_of(QUICK | typed if quick else typed)
    network = names_a_network(config.method.fusion, config.method.loss, execution.plugins)
    open_card(config.data.dataset, plugins=execution.plugins)
    progress = terminal.progress()
    if quick:
        execution = replace(execution, folds=execution.folds or (0,))
        progress.note("a trial: it shows that the method runs, not how good it is")
    recipe = config.training.recipe
    if recipe != default_of("recipe") and (changed := changes(config)):
        departures = ", ".join(f"{k}={'unset' if v is None else v}" for k, v in changed.items())
        progress.note(f"recipe {recipe}, but {departures}")
    if network:
        progress.note("loading PyTorch and timm")
    else:
        _note_unused(config.method.fusion, typed, progress)
    from fusionbench.runs.run import run

    outcome = run(config, execution, progress)
    if as_json:
        terminal.print_json(summary(outcome))
    else:
        _print_table(outcome, execution)
    print_failures(outcome, execution.store)
    return 1 if outcome.failures else 0


def names_a_network(fusion: str, loss: str, plugins: tuple[Path, ...]) -> bool:
    """Whether the method is a network. Says at once what is misspelt: loading PyTorch takes
    seconds."""
    from fusionbench.plugin import registry

    for name in loss.split("+") if loss else ():
        registry.find("losses", name, plugins)
    return registry.find_method(fusion, plugins).uses_images


def _note_unused(name: str, typed: dict[str, Any], progress: Progress) -> None:
    """Say which options have no effect: a control sees no photographs and trains no network."""
    idle = [
        SETTINGS[name].flag if name in SETTINGS else f"--set {name}"
        for name in without_effect(typed)
    ]
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
        "config": outcome.plan.jobs[0].study.config.flat(),
        "folds": [
            {"fold": r.identity.fold, "metrics": result.metrics, "run_id": r.run_id}
            for r, result in results
        ],
        "mean": {k: fmean(v) if v else None for k, v in values.items()},
        "std": {k: stdev(v) if len(v) > 1 else None for k, v in values.items()},
        "failures": failures_of(outcome),
    }


def _print_table(outcome: Outcome, execution: Execution) -> None:
    """The block of the leaderboard that these records belong to."""
    from fusionbench.cli.leaderboard import print_blocks
    from fusionbench.records import Store

    mine = {(r.identity.data.fingerprint, r.identity.data.split_hash) for r in outcome.records}
    beside = (
        r
        for r in Store(execution.store).records([])
        if (r.identity.data.fingerprint, r.identity.data.split_hash) in mine
    )
    if mine:
        print_blocks(beside, plugins=execution.plugins)
