"""fusionbench rank"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusionbench.cli.options import json_option, store_option

if TYPE_CHECKING:
    from fusionbench.analysis.ranking import Ranking


@click.command("rank", context_settings={"max_content_width": 100})
@store_option
@click.option("--metric", default="bacc", show_default=True, help="Exact metric name.")
@click.option("--dataset", "datasets", multiple=True, help="Only this dataset; several times.")
@click.option("--protocol", "protocols", multiple=True, help="Only this protocol; several times.")
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Level of the critical difference.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the critical-difference diagram: .svg or .png.",
)
@json_option
def rank_command(
    store: Path,
    metric: str,
    datasets: tuple[str, ...],
    protocols: tuple[str, ...],
    alpha: float,
    output: Path | None,
    as_json: bool,
) -> int:
    """Rank methods across datasets: Friedman's test and Nemenyi's critical difference.

    A method is a fusion with its backbone and loss; it takes part where every dataset has all its
    folds. One protocol stands for each dataset, a complete and clean one before others.
    """
    from fusionbench.analysis.ranking import candidates, rank
    from fusionbench.cli import terminal
    from fusionbench.cli.reading import Reading
    from fusionbench.errors import UsageError
    from fusionbench.leaderboard.table_model import chosen
    from fusionbench.stats.ranks import FORMATS, diagram

    chosen([metric])  # refuses an unknown name before anything is read
    if output is not None and output.suffix.lower() not in FORMATS:
        raise UsageError(f"--output {output}: end it in {' or '.join(FORMATS)}.")
    reading = Reading(store, datasets, protocols)
    picked, left_out = candidates(reading.blocks(some=True))
    found = rank(picked, metric, alpha=alpha)
    if output is not None:
        diagram(found.test, output, f"Average rank by {metric}, {len(found.blocks)} datasets")
    if as_json:
        pairs = [{"a": a, "b": b, "p": p} for (a, b), p in found.test.p_pairs.items()]
        test = {**vars(found.test), "p_pairs": pairs}
        terminal.print_json({**vars(found), "test": test, "left_out": left_out})
    else:
        _print(found, left_out)
        if output is not None:
            terminal.err().print(f"Diagram: {output}", markup=False)
    return 1 if reading.problems else 0


def _print(found: Ranking, left_out: Sequence[str]) -> None:
    from rich.text import Text

    from fusionbench.analysis.paragraph import p_text
    from fusionbench.cli import terminal
    from fusionbench.leaderboard.table_model import plain
    from fusionbench.metrics.names import describe

    console, test = terminal.out(), found.test
    metric, numbers = describe(found.metric), [f"[{i + 1}]" for i in range(len(found.blocks))]
    rows = [
        (plain(method), f"{average:.2f}", *(metric.text(values[i]) for values in found.values))
        for i, (method, average) in enumerate(test.ranks.items())
    ]
    headings = ("method", "average rank", *numbers)
    console.print(terminal.grid(headings, rows, right=headings[1:], fixed=headings[1:]))
    for number, name in zip(numbers, found.blocks, strict=True):
        console.print(Text(f"{number} {plain(name)}, {found.metric}", style="dim"))
    f = "infinite" if test.f == float("inf") else f"{test.f:.2f}"
    console.print(
        f"Friedman over {test.n_datasets} datasets: chi² = {test.chi2:.2f}, {p_text(test.p_chi2)}; "
        f"F({test.df[0]}, {test.df[1]}) = {f}, {p_text(test.p)}. Nemenyi's critical difference at "
        f"{test.alpha:g}: {test.critical_difference:.2f}."
    )
    if not test.groups:
        console.print("Every pair of ranks differs by more than that.")
    for group in test.groups:
        console.print(Text(f"Not told apart: {', '.join(map(plain, group))}"))
    for note in (*found.notes, *(f"left out: {name}" for name in left_out)):
        console.print(Text(plain(note), style="dim"))
