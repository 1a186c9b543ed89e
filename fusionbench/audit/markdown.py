"""An audit as Markdown."""

from __future__ import annotations

import re

from fusionbench.audit.findings import Audit
from fusionbench.audit.sections import Grid, alpha_note, facts, sections


def to_markdown(audit: Audit, *, command: str = "") -> str:
    """The report; `command` says how it was made."""
    data, split = audit.dataset, audit.protocol
    lines = [f"# Audit of {data.name} / {split.name}", "", f"**{_text(audit.verdict)}**", ""]
    made = f"Made by `{command}`; " if command else ""
    libraries = ", ".join(f"{name} {version}" for name, version in data.libraries.items())
    lines += [
        f"{made}generated, not to be edited. Audit version {data.audit_version}; {libraries}."
    ]
    lines += ["", *(f"* {name}: {_text(value)}" for name, value in facts(audit).items())]
    lines += [f"* {alpha_note()}"]
    for section in sections(audit):
        lines += ["", f"## {section.title}", "", _text(section.sentence)]
        for grid in section.grids:
            lines += ["", *_table(grid)]
            for note in grid.notes:
                lines += ["", _text(note)]
    return "\n".join(lines) + "\n"


def _table(grid: Grid) -> list[str]:
    rows = [[_text(cell) for cell in row] for row in (grid.header, *grid.rows)]
    widths = [max(3, *(len(row[j]) for row in rows)) for j in range(len(grid.header))]
    rule = ["-" * w if j == 0 else "-" * (w - 1) + ":" for j, w in enumerate(widths)]
    lines = [_line([_pad(c, widths[j], j) for j, c in enumerate(row)]) for row in rows]
    return [lines[0], _line(rule), *lines[1:]]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _pad(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column == 0 else cell.rjust(width)


def _text(text: str) -> str:
    """Literal, in a table cell too. `_` inside a word is literal already."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~#$!])", r"\\\1", text)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
