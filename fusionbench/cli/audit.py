"""fusionbench audit"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusionbench.cli.options import data_option, json_option, plugins_option
from fusionbench.config.wording import listed

if TYPE_CHECKING:
    from fusionbench.audit.findings import Audit


@click.command("audit")
@click.argument("dataset")
@click.option("--protocol", metavar="NAME", help="Default: the card's own.")
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
    protocol: str | None,
    data: Path | None,
    outputs: tuple[Path, ...],
    plugins: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Look for leaks, shortcuts and confounds in a dataset and its split.

    DATASET is a name or a dataset.toml. Photographs that are missing are left out of what is said
    of photographs; everything else needs the metadata file only. A minute or two for 2,298 rows.
    """
    from fusionbench.audit.markdown import to_markdown
    from fusionbench.cli import terminal
    from fusionbench.errors import UsageError
    from fusionbench.files import write_output

    for output in outputs:
        if output.suffix not in (".md", ".json"):
            raise UsageError(f"--output {output} must end in .md or .json.")
    found = _audit(dataset, protocol, data, plugins)
    command = f"fusionbench audit {found.dataset.name} --protocol {found.protocol.name}"
    for output in outputs:
        text = to_markdown(found, command=command)
        if output.suffix == ".json":
            text = found.model_dump_json(indent=1) + "\n"
        write_output(output, text)
    if as_json:
        terminal.print_json(found.model_dump())
    elif not outputs:
        _print(found)
    else:
        names = listed(outputs)
        terminal.out().print(f"{found.verdict}; written to {names}", soft_wrap=True, markup=False)


def _audit(
    dataset: str, protocol: str | None, data: Path | None, plugins: tuple[Path, ...]
) -> Audit:
    from fusionbench.audit.examine import audit
    from fusionbench.cli import terminal
    from fusionbench.data.locate import find_data, open_card
    from fusionbench.data.table import load_table
    from fusionbench.protocols import split_of

    card = open_card(dataset, plugins=plugins)
    card.protocol(protocol or "")  # a wrong name, before anything is read
    root, progress = find_data(card, data), terminal.progress()
    table = load_table(
        card,
        root,
        view=[view.name for view in card.views],
        photographs="optional",
        progress=progress,
    )
    split = split_of(table, protocol, root=root, progress=progress)
    return audit(table, split, progress=progress)


def _print(found: Audit) -> None:
    from rich.text import Text

    from fusionbench.audit.sections import ALPHA_NOTE, facts, sections
    from fusionbench.cli import terminal

    console = terminal.out()
    title = f"{found.dataset.name} / {found.protocol.name}: {found.verdict}"
    console.print(Text(title, style="bold"))
    console.print(terminal.facts(facts(found)))
    for section in sections(found):
        console.print(Text(f"\n{section.title}", style="bold cyan"))
        console.print(Text(section.sentence))
        for grid in section.grids:
            console.print()
            console.print(terminal.grid(grid.header, grid.rows, right=grid.header[1:]))
            for note in grid.notes:
                console.print(Text(note, style="dim"))
    console.print(Text(f"\n{ALPHA_NOTE}", style="dim"))
