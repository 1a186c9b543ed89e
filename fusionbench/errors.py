"""What can go wrong, as a user sees it: one clear message and a remedy, no traceback."""

from __future__ import annotations

LONGEST = 1000  # characters of what a plugin says


def message_of(error: BaseException, longest: int = LONGEST) -> str:
    """The message of any exception: one that `str` fails on, too. Characters that a terminal or a
    file does not take are spelled out, and the middle of a long text is left out."""
    try:
        return plain(str(error), longest)
    except BaseException:
        return "(its message cannot be read)"


def plain(text: str, longest: int = LONGEST) -> str:
    """`text` as `message_of` gives it."""
    if len(text) > longest:
        text = f"{text[: longest // 2]} … {text[-longest // 2 :]}"
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )


class FusionbenchError(Exception):
    """Base of every expected error. `message` says what is wrong, `remedy` what to do about it."""

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message if not remedy else f"{message} {remedy}")
        self.message = message
        self.remedy = remedy


class UsageError(FusionbenchError):
    """Wrong use: an unknown name, an option that does not fit. Exit code 2."""

    exit_code = 2


class DataError(FusionbenchError):
    """A dataset that is absent or does not fit its card.

    `problems` holds one dict per finding (for example file, row, column, value, problem, fix);
    the command line prints them as one table.
    """

    def __init__(
        self, message: str, remedy: str = "", problems: list[dict[str, object]] | None = None
    ) -> None:
        super().__init__(message, remedy)
        self.problems = problems or []


class PluginError(FusionbenchError):
    """A plugin that cannot be loaded, or that breaks its contract."""


class FusionRefused(FusionbenchError):
    """A fusion that cannot be built for this backbone or these settings; says which would do."""


class BackboneError(FusionbenchError):
    """A backbone that cannot be tapped or built, with the reason."""


class RunFailedError(FusionbenchError):
    """A fold that could not be trained to the end: non-finite loss, out of memory, ..."""


class RecordError(FusionbenchError):
    """A record file that cannot be trusted: cut off, of an unknown schema, or edited."""
