"""fusionbench rank"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusionbench.cli.options import ending_of, json_option, store_option

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
    help="Draw the critical-difference diagram: .svg, .pdf or .png.",
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
    from fusionbench.analysis.ranking import rank
    from fusionbench.cli import terminal
    from fusionbench.cli.reading import Reading
    from fusionbench.leaderboard.table_model import check_held, chosen
    from fusionbench.stats.ranks import FORMATS, diagram

    chosen([metric])  # refuses an unknown name before anything is read
    if output is not None:
        ending_of(output, FORMATS)
    reading = Reading(store, datasets, protocols)
    rows = reading.blocks(some=True)
    check_held([metric], rows)
    ranking = rank(rows, metric, alpha=alpha)
    if output is not None:
        diagram(
            ranking.test, output, f"Average rank by {metric}, {ranking.test.n_datasets} datasets"
        )
    if as_json:
        pairs = [{"a": a, "b": b, "p": p} for (a, b), p in ranking.test.p_pairs.items()]
        terminal.print_json(vars(ranking) | {"test": vars(ranking.test) | {"p_pairs": pairs}})
    else:
        _print(ranking)
        if output is not None:
            terminal.err().print(f"Diagram: {output}", markup=False)
    return 1 if reading.problems else 0


def _print(ranking: Ranking) -> None:
    from rich.text import Text

    from fusionbench.analysis.paragraph import p_text
    from fusionbench.cli import terminal
    from fusionbench.config.wording import plain
    from fusionbench.metrics.names import describe

    console, test, metric = terminal.out(), ranking.test, describe(ranking.metric)
    rows = [
        (plain(method), f"{test.ranks[method]:.2f}", *map(metric.text, values.values()))
        for method, values in ranking.values.items()
    ]
    numbered = {f"[{i}]": name for i, name in enumerate(next(iter(ranking.values.values())), 1)}
    headings = ("method", "average rank", *numbered)
    console.print(terminal.grid(headings, rows, right=headings[1:], fixed=headings[1:]))
    for number, name in numbered.items():
        console.print(Text(f"{number} {plain(name)}, {ranking.metric}", style="dim"))
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
    for note in ranking.notes:
        console.print(Text(plain(note), style="dim"))
