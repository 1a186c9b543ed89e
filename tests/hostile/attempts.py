"""Feeding bad files: every attempt ends well or in a FusionbenchError that names the file.

Never another exception, never longer than the limit, never with a change outside the folder that
was given. Mutations are drawn from seeded generators: the same cases in every run.
"""

from __future__ import annotations

import hashlib
import random
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from thorough import times

from fusionbench.errors import DataError, FusionbenchError

LIMIT_S = 20.0  # for one case; all take milliseconds, bombs a second or two


class Hang(BaseException):
    """The limit passed. No Exception: nobody shall swallow it."""


class Attempts:
    """Counts cases, and watches a folder outside of everything that they may write to."""

    def __init__(self, outside: Path) -> None:
        self.outside = outside
        self.cases = 0
        self.refused = 0
        for name in ("victim.txt", "deep/er/victim.csv", "dataset.toml"):
            (outside / name).parent.mkdir(parents=True, exist_ok=True)
            (outside / name).write_text("untouched")
        self.before = snapshot(outside)

    def __call__(self, action: Callable[[], Any], *named: str) -> bool:
        """Whether it succeeded. `named`: one of these must stand in the error's message."""
        self.cases += 1

        def stop(number: int, frame: FrameType | None) -> None:
            raise Hang(f"longer than {LIMIT_S} s")

        previous = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
        try:
            action()
        except FusionbenchError as error:
            self.refused += 1
            text = str(error)
            if isinstance(error, DataError):
                text += " ".join(str(v) for p in error.problems for v in p.values())
            assert error.message.strip(), "an empty message"
            assert any(name in text for name in named), f"{named} is not named: {text[:300]}"
            return False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        return True

    def finish(self, least: int, refused: int = 1) -> None:
        """So many cases were tried, at least so many of them refused, and nothing leaked. The
        numbers are those of a thorough run."""
        least, refused = times(least, least // 8), times(refused, refused // 16)
        assert self.cases >= least, f"only {self.cases} cases"
        assert self.refused >= refused, f"only {self.refused} of {self.cases} were refused"
        assert snapshot(self.outside) == self.before, "something outside was changed"


def snapshot(folder: Path) -> dict[str, str]:
    """Everything below a folder, links as links, by content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "folder"
    return found


# What parsers trip over.
WORDS = [
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc3\x28", "\u202e\u2028".encode(),
    b"\r", b"\n", b"\r\n", b"\x1b[31m", b'"', b'""', b"'", b"'''", b'"""', b",", b";", b"=", b"#",
    b"[", b"]", b"{", b"}", b"[" * 3000, b"{" * 3000, b'{"a":' * 2000, b"-", b"NaN", b"Infinity",
    b"-Infinity", b"1e999", b"9" * 5000, b"-0", b"0x10", b"1_000", b"null", b"true", b"inf",
    b"../" * 3, b"/etc/passwd", b"C:\\x", b"~", b"%s%n", b"{0}", b"=cmd|' /C calc'!A0", b"@SUM(1)",
    b"A" * 200_000, b"\\u0000", b"\\ud800", b"a" * 300, b"99999999999999999999",
]  # fmt: skip


def mutated(draw: random.Random, data: bytes) -> bytes:
    """One to four small injuries."""
    out = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(out) + 1)
        end = min(len(out), at + draw.choice((1, 2, 8, 64)))
        match draw.randrange(8):
            case 0:
                del out[at:]
            case 1:
                del out[at:end]
            case 2:
                out[at:at] = draw.choice(WORDS)
            case 3:
                out[at:end] = draw.choice(WORDS)
            case 4 if out:
                out[at % len(out)] ^= 1 << draw.randrange(8)
            case 5:
                out[at:at] = out[at:end] * draw.choice((1, 3, 50))
            case 6 if out:
                out[at % len(out)] = draw.randrange(256)
            case _:
                out += draw.choice(WORDS)
    return bytes(out)


# Values for a place in a structure where another value belongs.
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**200, -(2**70), 0.5, -0.0, 1e308, float("nan"),
    float("inf"), "", " ", "a", "A" * 5000, "../../outside/victim.txt", "/etc/passwd", "..", ".",
    "a/../../b", "C:\\windows", "nul\x00byte", "line\nbreak",
    "\u202egnp.exe", "**/*", "[", "*" * 50,
    "~root", "$HOME", "{0.__class__}", "%(x)s", "1", "true", [], [[]], [None], ["a", 1], [""] * 50,
    {}, {"a": {}}, {"": ""}, {"a": [1, {"b": None}]}, ["a"] * 2000, "é" * 100, "🦠",
]  # fmt: skip


def changed(draw: random.Random, value: Any) -> Any:
    """A copy of plain data with one to three places changed, removed, doubled or added."""
    import copy

    whole = {"top": copy.deepcopy(value)}
    for _ in range(draw.randint(1, 3)):
        places: list[tuple[Any, Any]] = []
        collect(whole, places)
        where, key = draw.choice([p for p in places if p[0] is not whole] or places)
        match draw.randrange(5):
            case 0:
                del where[key]
            case 1 if isinstance(where, dict):
                where[draw.choice(["extra", "", "path", "__class__", "a.b"])] = draw.choice(ODD)
            case 2 if isinstance(where, list):
                where.append(copy.deepcopy(where[key]))
            case _:
                where[key] = copy.deepcopy(draw.choice(ODD))
    return whole.get("top")


def collect(value: Any, places: list[tuple[Any, Any]]) -> None:
    """Every (container, key) below."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        places.append((value, key))
        if isinstance(inner, dict | list):
            collect(inner, places)


def toml(value: Any) -> str:
    """Plain data as TOML, as far as TOML can say it: None becomes text."""
    import json

    if isinstance(value, dict):
        pairs = (f"{json.dumps(str(k))} = {toml(v)}" for k, v in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = repr(value)
        return text if text.lstrip("-")[0].isdigit() else text.replace("inf", "inf")
    if isinstance(value, int):
        return str(value)
    return json.dumps("none" if value is None else str(value)).replace("\x7f", "\\u007f")


def toml_file(value: Any) -> str:
    """As `toml`, with each key of the top on a line."""
    import json

    if not isinstance(value, dict):
        return toml(value)
    return "".join(f"{json.dumps(str(k))} = {toml(v)}\n" for k, v in value.items())
