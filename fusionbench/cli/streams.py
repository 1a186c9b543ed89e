"""Standard output and standard error that take any text."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from fusionbench.config.wording import printable, spelled_out
from fusionbench.errors import FusionbenchError


class Guarded:
    """A standard stream on which no text of a file can move the cursor, clear the screen or stop
    the command: control characters, and what its encoding lacks, are spelled out as `\\u001b`.

    What rich draws passes as it is (`rich_proxied_file`): cli.terminal spells out the text in it.
    Where standard output fails, that is an error; where standard error does, it is silent.
    """

    buffer = None  # click would write to it where the encoding is ASCII

    def __init__(self, stream: Any, *, is_error: bool, drawn: bool = False) -> None:
        self._stream, self._is_error, self._drawn = stream, is_error, drawn
        if not drawn:
            self.rich_proxied_file = Guarded(stream, is_error=is_error, drawn=True)

    def write(self, text: str) -> int:
        if not self._drawn:  # on standard error "\r" may be the progress bar of another library
            parts = text.split("\r") if self._is_error else [text]
            text = "\r".join(map(printable, parts))
        with self._failing():
            if text:  # click tries "" to see what kind of stream it is, and ignores that it fails
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._failing():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with suppress(OSError):  # or the interpreter fails at its end, when it writes the rest
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if isinstance(error, BrokenPipeError) and not self._is_error:
                raise
            if not self._is_error:
                reason = error.strerror or error
                raise FusionbenchError(f"Standard output cannot be written: {reason}.") from error


_results: list[Any] = []  # standard output of a command with --json


def write_result(text: str) -> None:
    """The JSON of a command with --json."""
    stream = _results[-1] if _results else sys.stdout
    stream.write(text)
    stream.flush()


@contextmanager
def guarded(*, json: bool = False) -> Iterator[None]:
    """Both streams are guarded in the block. One that was closed leads nowhere. `json`: standard
    output is for write_result alone, and what else is printed, by plugins and below Python, goes to
    standard error."""
    codecs.register_error("spelled-out", _spell)
    before = sys.stdout, sys.stderr
    streams: list[Any] = [s or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w") for s in before]
    for stream in streams:
        with suppress(AttributeError):  # a stream that a caller made
            stream.reconfigure(errors="spelled-out")
    if json and streams[0] is sys.__stdout__:
        with suppress(OSError):
            encoding = streams[0].encoding if streams[0] else "utf-8"
            streams[0] = os.fdopen(os.dup(1), "w", encoding=encoding, errors="spelled-out")
            os.dup2(2, 1)
    sys.stdout, sys.stderr = (Guarded(streams[i], is_error=bool(i)) for i in range(2))
    if json:
        _results.append(sys.stdout)
        sys.stdout = sys.stderr
    try:
        yield
    finally:
        if json:
            sys.stdout = _results.pop()
        with suppress(BrokenPipeError, FusionbenchError):
            sys.stdout.flush()
        sys.stdout, sys.stderr = before


def _spell(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return spelled_out(error.object[error.start : error.end]), error.end
