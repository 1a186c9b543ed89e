"""An audit as Markdown."""

from __future__ import annotations

from fusionbench.audit.findings import Audit
from fusionbench.audit.sections import ALPHA_NOTE, Grid, facts, sections
from fusionbench.config.wording import markdown


def to_markdown(audit: Audit, *, command: str = "") -> str:
    """The report; `command` says how it was made."""
    data, split = audit.dataset, audit.protocol
    made = f"Made by `{command}`; " if command else ""
    libraries = ", ".join(f"{name} {version}" for name, version in data.libraries.items())
    parts = [
        f"# Audit of {data.name} / {split.name}",
        f"**{markdown(audit.verdict)}**",
        f"{made}generated, not to be edited. Audit version {data.audit_version}; {libraries}.",
        "\n".join(f"* {name}: {markdown(value)}" for name, value in facts(audit).items())
        + f"\n* {ALPHA_NOTE}",
    ]
    for section in sections(audit):
        parts += [f"## {section.title}", markdown(section.sentence)]
        for grid in section.grids:
            parts += [_table(grid), *map(markdown, grid.notes)]
    return "\n\n".join(parts) + "\n"


def _table(grid: Grid) -> str:
    from tabulate import tabulate

    return tabulate(
        [[markdown(cell) for cell in row] for row in grid.rows],
        [markdown(name) for name in grid.header],
        tablefmt="pipe",
        colalign=["left", *["right"] * (len(grid.header) - 1)],
        disable_numparse=True,
    )
