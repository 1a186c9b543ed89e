"""fusionbench compare"""

from __future__ import annotations

from dataclasses import asdict
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
    (Nadeau & Bengio), and the difference's confidence interval by resampling patients.
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
    kept = Store(store)
    records = {run: kept.read(run) for run in (*row_a.run_ids, *row_b.run_ids)}
    found = compare(block, row_a, row_b, records, kept.predictions, metrics, n_resamples=resamples)
    if as_json:
        terminal.print_json({"paragraph": paragraph(found)} | asdict(found))
    else:
        _print(found)
    return 1 if reading.problems else 0


def _print(found: Comparison) -> None:
    from rich.text import Text

    from fusionbench.analysis.paragraph import interval_text, p_text, paragraph, value_text
    from fusionbench.cli import terminal
    from fusionbench.leaderboard.table_model import plain
    from fusionbench.metrics.names import describe

    console = terminal.out()
    # Wrapped for reading on a terminal, one line for what takes it from a pipe.
    console.print(Text(paragraph(found)), soft_wrap=not console.is_terminal)
    rows, notes = [], [f"{x} = {s.name}, row {s.key}" for x, s in (("A", found.a), ("B", found.b))]
    for one in found.metrics:
        metric = describe(one.metric)
        cells = [
            metric.title,
            value_text(one.metric, one.a),
            value_text(one.metric, one.b),
            metric.text(one.test.difference, "+"),
            metric.text(one.bootstrap.difference, "+"),
            interval_text(one.metric, one.bootstrap.low, one.bootstrap.high),
            *(
                p_text(p).removeprefix("p ").removeprefix("= ")
                for p in (one.p_test, one.p_bootstrap)
            ),
        ]
        style = "bold" if one.significant else ""
        rows.append([Text(plain(cell), style=style) for cell in cells])
        for name, spread in (("A", one.spread_a), ("B", one.spread_b)):
            if spread.fold is not None and spread.rerun is not None:
                fold, rerun = (
                    metric.difference(v).lstrip("+") for v in (spread.fold, spread.rerun)
                )
                text = f"{name}, {one.metric}: standard deviation {fold} between folds, "
                text += f"{rerun} between seeds within a fold"
                notes.append(text + (f" ({spread.note})" if spread.note else ""))
    # p over folds is the t-test's, p over patients the bootstrap's.
    differences = ("A - B,\nfolds", "A - B,\npooled", "95 % CI")
    headings = ("", "A", "B", *differences, "p,\nfolds", "p,\npatients")
    console.print(terminal.grid(headings, rows, right=headings[1:], fixed=headings))
    for note in notes:
        console.print(Text(plain(note), style="dim"))
