"""fusionbench subgroups"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fusionbench.cli.options import data_option, json_option, plugins_option, store_option
from fusionbench.config.wording import listed, method_name, plural

if TYPE_CHECKING:
    from rich.table import Table

    from fusionbench.analysis.subgroups import Attribute, Gap, Group, Pair, Report

NOTE = (
    "Recall in percent, of the photographs with a recorded value, over all folds; below it the "
    "number of photographs of the class, dim where it is too few to compare. Groups differ in "
    "their classes: ACC and BACC describe a group and do not compare it. Intervals [low, high] are "
    "95 %, count patients, and are widened for all the pairs of groups among which one was picked."
)


@click.command("subgroups")
@click.argument("row")
@store_option
@data_option
@click.option(
    "--min-n",
    default=20,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Photographs of a class that a group needs to be compared on it.",
)
@click.option(
    "--dataset",
    default="",
    metavar="PATH",
    help="The dataset's card, where its name is not known here.",
)
@plugins_option
@json_option
def subgroups_command(
    row: str,
    store: Path,
    data: Path | None,
    min_n: int,
    dataset: str,
    plugins: tuple[Path, ...],
    as_json: bool,
) -> int:
    """Compare a finished run between groups of patients: skin type, sex, age, body region.

    ROW is a row of the leaderboard: a method (concat), a method on a backbone (concat@resnet18),
    its key of 12 digits, or part of a run id. The dataset's card says which groups there are.
    """
    from fusionbench.analysis.subgroups import open_table, report
    from fusionbench.cli import terminal
    from fusionbench.cli.reading import Reading
    from fusionbench.leaderboard import blocks
    from fusionbench.leaderboard.select import select_row
    from fusionbench.records import Store

    reading = Reading(store)
    records = list(reading.records())
    reading.report(some=False)
    _, chosen = select_row(blocks(records), row)
    first = next(r for r in records if r.run_id == chosen.run_ids[0])
    table = open_table(
        first, dataset=dataset, data=data, plugins=plugins, progress=terminal.progress()
    )
    result = report(Store(store), chosen, records, table, min_n)
    if as_json:
        terminal.print_json(to_data(result))
    else:
        _print(result)
    return 1 if reading.problems else 0


def to_data(report: Report) -> dict[str, Any]:
    """The report as JSON values."""
    return asdict(report)


def _print(report: Report) -> None:
    from rich.text import Text

    from fusionbench.cli import terminal

    console = terminal.out()
    method = method_name(report.fusion, report.backbone)
    console.print(Text(f"{method}  {report.dataset} / {report.protocol}", style="bold"))
    facts = [f"row {report.key}", f"{report.n:,} photographs of {report.patients:,} patients"]
    if len(report.seeds) > 1:
        facts.append(f"{len(report.seeds)} seeds")
    if report.runs_done < report.runs_expected:
        facts.append(f"incomplete: n={report.runs_done}/{report.runs_expected} runs")
    facts += report.flags
    console.print(Text("; ".join(facts)))
    for attribute in report.attributes:
        title = f"\n[bold]{_plain(attribute.name)}[/]"
        console.print(
            f"{title} ({_plain(attribute.column)}), recorded for {attribute.n_recorded:,} of "
            f"{attribute.n_rows:,} photographs"
        )
        if not attribute.groups:
            continue
        console.print(_groups(attribute, report))
        for line in _findings(attribute, report.min_n):
            console.print(line)
    console.print(Text(f"\n{NOTE}", style="dim"))


def _groups(attribute: Attribute, report: Report) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("")
    for name in ("photos\npatients", "ACC", "BACC", *report.classes):
        table.add_column(Text(name), justify="right", no_wrap=True)
    for group in attribute.groups:
        table.add_row(
            Text(group.value),
            Text(f"{group.n:,}\n{group.patients:,}"),
            Text(_percent(group.acc)),
            Text(_percent(group.bacc)),
            *(_cell(group, c, report.min_n) for c in report.classes),
        )
    return table


def _cell(group: Group, name: str, min_n: int) -> Any:
    from rich.text import Text

    if name not in group.recalls:
        return Text("-\n0", style="dim")
    share = group.recalls[name]
    few = share.n < min_n
    return Text(f"{_percent(share.value)}\n", style="dim" if few else "").append(
        f"{share.n:,}", style="dim"
    )


def _findings(attribute: Attribute, min_n: int) -> list[Any]:
    """What the numbers say, in sentences."""
    from rich.text import Text

    if attribute.mean is None:
        lines = [Text(f"No two groups have {min_n} photographs of the same class: no comparison.")]
    else:
        mean = "Mean recall" if len(attribute.common) > 1 else "Recall"
        title = f"{mean} of {listed(attribute.common)}"
        lines = [Text(f"{title}: {_sentence(attribute.mean)}")]
        left = [g for g in attribute.groups if g.value not in attribute.mean.groups]
        if left:
            names = ", ".join(f"{g.value} (n {g.n:,})" for g in left)
            lines.append(Text(f"Not in it, too few of {listed(attribute.common)}: {names}."))
    told = {c: gap for c, gap in attribute.by_class.items() if gap.findings}
    for name, gap in told.items():
        lines.append(Text(f"Recall of {name}: {_sentence(gap)}"))
    if rest := [c for c in attribute.by_class if c not in told]:
        pairs = next(iter(attribute.by_class.values())).pairs
        lines.append(
            Text(
                f"Class by class ({plural(pairs, 'pair')}), no groups can be told apart in "
                f"{listed(rest)}."
            )
        )
    return lines


def _sentence(gap: Gap) -> str:
    pair = gap.widest
    text = (
        f"lowest {pair.lower} {_percent(gap.lowest.value)} (n {gap.lowest.n:,}, "
        f"{gap.lowest.patients:,} patients), highest {pair.higher} {_percent(gap.highest.value)} "
        f"(n {gap.highest.n:,}, {gap.highest.patients:,} patients): gap {_points(pair)}"
    ) + (f", corrected for {gap.pairs:,} pairs" if gap.pairs > 1 else "")
    if not gap.findings:
        return f"{text}, not distinguishable from none."
    if gap.findings == (pair,):
        return f"{text}."
    others = "; ".join(f"{p.lower} below {p.higher} by {_points(p)}" for p in gap.findings)
    return f"{text}. Told apart: {others}."


def _points(pair: Pair) -> str:
    return f"{100 * pair.gap:.1f} points [{100 * pair.low:.1f}, {100 * pair.high:.1f}]"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
