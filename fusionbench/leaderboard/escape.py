"""Text of other people in LaTeX and csv: literal, never markup. Markdown: config.wording."""

from __future__ import annotations

from fusionbench.leaderboard.table_model import plain


def csv_cell(text: str) -> str:
    """A spreadsheet must not take a name for a formula."""
    text = plain(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "°": r"$^{\circ}$",
    # Braces, so that a cell that starts with one is no argument of \\ or \midrule before it.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    **{c: f"\\{c}" for c in "{}$&#%_"},
}


def latex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in text)
