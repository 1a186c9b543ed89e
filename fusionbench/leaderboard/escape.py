"""Text of other people's in Markdown, LaTeX and csv: literal, never markup."""

from __future__ import annotations

import re

from fusionbench.leaderboard.table_model import plain


def markdown(text: str) -> str:
    """Literal in GitHub's Markdown, in a table cell too. `_` inside a word is literal already."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~#$!])", r"\\\1", text)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)


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
