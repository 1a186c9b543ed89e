"""fusionbench subgroups"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from fusionbench.cli.options import (
    card_option,
    data_option,
    executed_with,
    json_option,
    plugins_option,
    store_option,
)
from fusionbench.config.wording import listed, plural

if TYPE_CHECKING:
    from rich.table import Table

    from fusionbench.analysis.subgroups import Attribute, Pair, RecallGap, Share, SubgroupReport
    from fusionbench.config.run_config import Execution

NOTE = (
    "Cells show the recall of a class in percent over all folds, and below it the number of "
    "photographs of the class; both are dim where the number is too small to compare. Photographs "
    "without a recorded value are left out. BACC is the mean recall over the classes that the "
    "group has. Groups differ in their classes, so do not compare their ACC or BACC. Intervals "
    "[low, high] are 95 % intervals that count patients; they are wider where one pair was picked "
    "among several."
)


@click.command("subgroups")
@click.argument("row")
@executed_with(store_option, data_option, plugins_option)
@click.option(
    "--min-n",
    default=20,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Photographs of a class that a group needs to be compared on it.",
)
@card_option
@json_option
def subgroups_command(
    row: str, execution: Execution, min_n: int, dataset: str, as_json: bool
) -> int:
    """Compare a finished run between groups of patients: skin type, sex, age, body region.

    ROW is a row of the leaderboard: a method (concat), a method on a backbone (concat@resnet18),
    its key of 12 digits, or part of a run id. The dataset's card says which groups there are.
    """
    from fusionbench.analysis.reopen import reopen
    from fusionbench.analysis.subgroups import report
    from fusionbench.cli import terminal
    from fusionbench.cli.reading import Reading
    from fusionbench.leaderboard.select import select_row
    from fusionbench.records import Store

    reading, store = Reading(execution.store), Store(execution.store)
    block, chosen = select_row(reading.blocks(), row)
    study = reopen(store.read(chosen.run_ids[0]), execution, dataset, terminal.progress())
    result = report(store, block, chosen, study.table, min_n)
    if as_json:
        terminal.print_json(result)
    else:
        _print(result)
    return 1 if reading.problems else 0


def _print(report: SubgroupReport) -> None:
    from rich.text import Text

    from fusionbench.analysis.row_facts import place
    from fusionbench.cli import terminal

    console = terminal.out()
    console.print(Text(f"{report.name}  {place(report)}", style="bold"))
    facts = {
        "row": report.key,
        "on": f"{report.n:,} photographs of {report.patients:,} patients",
        "runs": f"{report.runs_done} of {report.runs_expected}",
        "remarks": "; ".join(report.flags),
    }
    console.print(terminal.facts(facts))
    for attribute in report.attributes:
        recorded = f"recorded for {attribute.n_recorded:,} of {attribute.n_rows:,} photographs"
        console.print(
            Text(f"\n{attribute.name}", style="bold"), Text(f"({attribute.column}), {recorded}")
        )
        if attribute.groups:
            console.print(_groups(attribute, report))
            for line in _findings(attribute, report.min_n):
                console.print(Text(line))
    console.print(Text(f"\n{NOTE}", style="dim"))


def _groups(attribute: Attribute, report: SubgroupReport) -> Table:
    from rich.text import Text

    from fusionbench.cli import terminal

    def cell(share: Share | None) -> Text:
        if share is None:
            return Text("-\n0", style="dim")
        few = "dim" if share.n < report.min_n else ""
        return Text(f"{_points(share.value)}\n", style=few).append(f"{share.n:,}", style="dim")

    rows = []
    for group in attribute.groups:
        counts = f"{group.n:,}\n{group.patients:,}"
        recalls = (cell(group.recalls.get(c)) for c in report.classes)
        rows.append((group.value, counts, _points(group.acc), _points(group.bacc), *recalls))
    headings = ("", "photos\npatients", "ACC", "BACC", *report.classes)
    table = terminal.grid(headings, rows, right=headings[1:], fixed=headings[1:])
    table.padding = (0, 1, 0, 0)
    return table


def _findings(attribute: Attribute, min_n: int) -> Iterator[str]:
    """What the numbers say, in sentences."""
    common, mean = listed(attribute.common), attribute.mean
    if mean is None:
        yield f"No two groups have {min_n} photographs of the same class, so none are compared."
    else:
        title = "Mean recall" if len(attribute.common) > 1 else "Recall"
        yield f"{title} of {common}: {_sentence(mean)}"
        left = [f"{g.value} (n {g.n:,})" for g in attribute.groups if g.mean is None]
        if left:
            yield f"These groups have too few photographs of {common}: {', '.join(left)}."
    rest = []
    for name, gap in attribute.by_class.items():
        if gap.findings:
            yield f"Recall of {name}: {_sentence(gap)}"
        else:
            rest.append(name)
    if rest:
        pairs = plural(attribute.by_class[rest[0]].pairs, "pair")
        yield f"Class by class ({pairs}), no groups differ significantly in {listed(rest)}."


def _sentence(gap: RecallGap) -> str:
    def group(name: str, share: Share) -> str:
        patients = plural(share.patients, "patient")
        return f"{name} {_points(share.value)} (n {share.n:,}, {patients})"

    def points(pair: Pair) -> str:
        return f"{_points(pair.gap)} points [{_points(pair.low)}, {_points(pair.high)}]"

    widest = gap.widest
    text = (
        f"lowest {group(widest.lower, gap.lowest)}, highest {group(widest.higher, gap.highest)}: "
        f"gap {points(widest)}"
    )
    if gap.pairs > 1:
        text += f", corrected for {gap.pairs:,} pairs"
    if not gap.findings:
        return f"{text}, not significant."
    if gap.findings == (widest,):
        return f"{text}."
    others = "; ".join(f"{p.lower} below {p.higher} by {points(p)}" for p in gap.findings)
    return f"{text}. Groups that differ significantly: {others}."


def _points(share: float) -> str:
    return f"{100 * share:.1f}"
