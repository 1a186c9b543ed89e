"""fusionbench compare"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusionbench.cli.options import json_option, store_option

if TYPE_CHECKING:
    from fusionbench.analysis.pair import Comparison


@click.command("compare", context_settings={"max_content_width": 100})
@click.argument("a")
@click.argument("b")
@store_option
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    default=("bacc",),
    show_default=True,
    help="Exact metric name; may be given several times (p-values are then Holm-corrected).",
)
@click.option("--dataset", default="", help="Only rows on this dataset.")
@click.option("--protocol", default="", help="Only rows under this protocol.")
@click.option(
    "--resamples",
    type=click.IntRange(200, 100_000),
    default=2000,
    show_default=True,
    help="Bootstrap samples of the patients.",
)
@json_option
def compare_command(
    a: str,
    b: str,
    store: Path,
    metrics: tuple[str, ...],
    dataset: str,
    protocol: str,
    resamples: int,
    as_json: bool,
) -> int:
    """Compare two rows of the leaderboard: is A better than B by more than chance?

    A and B are a method (sgmc), a method on a backbone (sgmc@resnet50), a row's 12-digit key, or
    part of a run id. Both must be complete, on the same photographs under the same split.

    Prints a paragraph to paste into a paper: both values, the corrected resampled t-test over folds
    (Nadeau & Bengio), and the difference's confidence interval by resampling patients. The t-test
    decides. It is conservative; a mixed model over folds and seeds, which keeps close to its level
    in simulations, stands beside it (docs/tests.md).
    """
    from fusionbench.analysis.pair import choose, compare
    from fusionbench.analysis.paragraph import paragraph
    from fusionbench.cli import terminal
    from fusionbench.cli.reading import Reading
    from fusionbench.leaderboard.table_model import chosen
    from fusionbench.records import Store

    chosen(metrics)  # refuses an unknown name before anything is read
    reading = Reading(store, dataset, protocol)
    block, row_a, row_b = choose(reading.blocks(), a, b)
    compared = compare(Store(store), block, row_a, row_b, metrics, n_resamples=resamples)
    if as_json:
        terminal.print_json({"paragraph": paragraph(compared)} | vars(compared))
    else:
        _print(compared)
    return 1 if reading.problems else 0


def _print(compared: Comparison) -> None:
    from rich.text import Text

    from fusionbench.analysis.paragraph import interval_text, p_text, paragraph, value_text
    from fusionbench.cli import terminal
    from fusionbench.config.wording import plain
    from fusionbench.metrics.names import describe

    console = terminal.out()
    # Wrapped for reading on a terminal, one line for what takes it from a pipe.
    console.print(Text(paragraph(compared)), soft_wrap=not console.is_terminal)
    sides = (("A", compared.a), ("B", compared.b))
    rows, notes = [], [f"{letter} = {side.name}, row {side.key}" for letter, side in sides]
    for one in compared.metrics:
        metric = describe(one.metric)
        cells = (
            metric.title,
            value_text(one.metric, one.a),
            value_text(one.metric, one.b),
            metric.text(one.test.difference, "+"),
            metric.text(one.bootstrap.difference, "+"),
            interval_text(one.metric, one.bootstrap.low, one.bootstrap.high),
            *(re.sub("p (= )?", "", p_text(p)) for p in (one.p_test, one.p_mixed, one.p_bootstrap)),
        )
        style = "bold" if one.significant else ""
        rows.append([Text(plain(cell), style=style) for cell in cells])
        for (letter, _), parts in zip(sides, (one.spread_a, one.spread_b), strict=True):
            if parts.fold is not None and parts.rerun is not None:
                fold, rerun = (metric.difference(v).lstrip("+") for v in (parts.fold, parts.rerun))
                notes.append(
                    f"{letter}, {one.metric}: standard deviation {fold} between folds, {rerun} "
                    "between seeds within a fold" + (f" ({parts.note})" if parts.note else "")
                )
    # p over folds is the corrected t-test's, p over patients the bootstrap's.
    differences = ("A - B,\nfolds", "A - B,\npooled", "95 % CI")
    headings = ("", "A", "B", *differences, "p,\nfolds", "p,\nmixed", "p,\npatients")
    table = terminal.grid(headings, rows, right=headings[1:], fixed=headings[1:])
    table.padding = (0, 1, 0, 0)
    console.print(table)
    for note in notes:
        console.print(Text(plain(note), style="dim"))
