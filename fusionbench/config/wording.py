"""How numbers and names are spelled, for every message, table and report. Cheap to import."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

# What a terminal obeys or hides: control characters but for tab and line break, marks that turn the
# direction of text, line separators, invisible and tag characters.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e0fff]"
)


def printable(text: str) -> str:
    """The text with control characters spelled out, which leaves JSON the same JSON."""
    return _CONTROL.sub(lambda found: spelled_out(found[0]), text)


def spelled_out(text: str) -> str:
    """Characters that are not plain ASCII as JSON spells them: `\\u001b`."""
    return json.dumps(text)[1:-1]


def plain(text: object) -> str:
    """A name as one line without control characters, whatever was in it."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def shortened(text: str) -> str:
    """A name for a picture: plain, and without its middle where it is very long."""
    return plain(text if len(text) <= 120 else f"{text[:59]} … {text[-58:]}")


def plural(count: int, noun: str, many: str = "") -> str:
    """`1 fold`, `1,200 folds`; `many` is the plural where it is not `noun` with an s."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def listed(names: Iterable[object], word: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`; "" of nothing."""
    *first, last = [str(name) for name in names] or [""]
    return f"{', '.join(first)} {word} {last}" if first else last


def percent(share: float, digits: int | None = None) -> str:
    """A fraction of one with so many decimals; `54 %`, `0.3 %`, `<0.1 %` or `0 %` without."""
    if digits is None:
        if 0 < share < 0.0005:
            return "<0.1 %"
        digits = 1 if 0 < share < 0.01 else 0
    return f"{100 * share:.{digits}f} %"


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def method_name(
    fusion: str, backbone: str | None, loss: str | None = None, *, shuffled: bool = False
) -> str:
    """`sgmc@resnet50`, the method alone where it has no network; `/shuffled` behind the twin that
    reads other patients' metadata, and ` (ce)` where a loss is given."""
    name = f"{fusion}@{backbone}" if backbone else fusion
    return f"{name}{'/shuffled' * shuffled}{f' ({loss})' if loss else ''}"


def subset(used: int, whole: int, dataset: str) -> str:
    """The warning of every number that rests on a part of a dataset's photographs."""
    return f"subset: {used:,} of {whole:,} photographs (not {dataset})"


def markdown(text: str) -> str:
    """Literal in GitHub's Markdown, in a table cell too. `_` inside a word is literal already."""
    text = printable(" ".join(text.split("\n")))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~#$!])", r"\\\1", text)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
