"""fusionbench audit"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusionbench.cli.options import data_option, ending_of, json_option, plugins_option
from fusionbench.config.wording import listed

if TYPE_CHECKING:
    from fusionbench.audit.findings import Audit


@click.command("audit")
@click.argument("dataset")
@click.option("--protocol", default="", metavar="NAME", help="Default: the card's own.")
@data_option
@click.option(
    "--output",
    "outputs",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write it there instead: .md or .json. May be given several times.",
)
@plugins_option
@json_option
def audit_command(
    dataset: str,
    protocol: str,
    data: Path | None,
    outputs: tuple[Path, ...],
    plugins: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Look for leaks, shortcuts and confounds in a dataset and its split.

    DATASET is a name or a dataset.toml. Photographs that are missing are left out of what is said
    of photographs; everything else needs the metadata file only. A minute or two for 2,298 rows.
    """
    from fusionbench.audit.examine import audit
    from fusionbench.audit.sections import to_markdown
    from fusionbench.cli import terminal
    from fusionbench.data.locate import find_data, open_card
    from fusionbench.data.table import load_table
    from fusionbench.files import write_output
    from fusionbench.protocols import split_of

    for output in outputs:
        ending_of(output, (".md", ".json"))
    card = open_card(dataset, plugins=plugins)
    card.protocol(protocol)  # a wrong name, before anything is read
    root, progress = find_data(card, data), terminal.progress()
    views = [view.name for view in card.views]
    table = load_table(card, root, view=views, photographs="optional", progress=progress)
    split = split_of(table, protocol, root=root, progress=progress)
    report = audit(table, split, progress=progress)
    command = f"fusionbench audit {card.name} --protocol {report.protocol.name}"
    for output in outputs:
        as_text = output.suffix.lower() == ".md"
        json = report.model_dump_json(indent=1) + "\n"
        write_output(output, to_markdown(report, command=command) if as_text else json)
    if as_json:
        terminal.print_json(report.model_dump())
    elif not outputs:
        _print(report)
    else:
        names = listed(outputs)
        terminal.out().print(f"{report.verdict}; written to {names}", soft_wrap=True, markup=False)


def _print(report: Audit) -> None:
    from rich.text import Text

    from fusionbench.audit.sections import facts, sections
    from fusionbench.cli import terminal

    console = terminal.out()
    title = f"{report.dataset.name} / {report.protocol.name}: {report.verdict}"
    console.print(Text(title, style="bold"))
    console.print(terminal.facts(facts(report)))
    for section in sections(report):
        console.print(Text(f"\n{section.title}", style="bold cyan"))
        console.print(Text(section.sentence))
        for grid in section.grids:
            console.print()
            console.print(terminal.grid(grid.header, grid.rows, right=grid.header[1:]))
            for note in grid.notes:
                console.print(Text(note, style="dim"))
