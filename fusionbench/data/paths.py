"""Names and paths that come from others: from a card, a csv, an archive, a command line."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fusionbench.errors import UsageError


def unsafe_path(name: str) -> str:
    """Why a file name from a card, a csv or an archive may not be used; "" where it may.

    Allowed are relative paths of plain parts, with forward slashes, that stay in their folder.
    """
    if any(ord(c) < 32 or ord(c) == 127 for c in name):
        return "holds control characters"
    if "\\" in name:
        return "holds a backslash; use /"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "is an absolute path"
    parts = name.split("/")
    if ".." in parts:
        return "leaves its folder"
    return "" if set(parts) - {"", "."} else "is empty"


def plain_name(text: str) -> str:
    """`text` as one part of a file's name: whatever else than letters, digits, `.`, `_` and `-` is
    in it becomes `-`, and it is at most 80 characters long."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:80].lstrip(".") or "x"


def given_path(text: str | Path) -> Path:
    """A path as a user gives it, `~` resolved. Raises UsageError where that user has no home."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UsageError(f"{str(text)!r} names the home of a user who is not known here.") from None


# Unlike Path's methods False, too, for a name that no file or folder can have.
is_file = os.path.isfile
is_folder = os.path.isdir
