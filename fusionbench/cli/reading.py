"""Reading a store for a table: what counts, what does not, and why."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fusionbench.leaderboard.block import Block, LevelName
    from fusionbench.records import Problem, Record, Store


def existing(store: Path) -> Store:
    """The store there, to read from. Raises UsageError where there is none."""
    from fusionbench.errors import UsageError
    from fusionbench.records import Store

    if not store.is_dir():
        raise UsageError(
            f"There is no store at {store}.",
            "fusionbench run makes one; --store names another folder.",
        )
    return Store(store)


class Reading:
    """Reads a store record by record, so that no more of it is held than a table needs. Names: one,
    several, or none for all."""

    def __init__(
        self,
        store: Path,
        dataset: str | Collection[str] = "",
        protocol: str | Collection[str] = "",
        level: LevelName = "image",
    ) -> None:
        from fusionbench.records import Store

        self.store, self.level = Store(store), level
        self.wanted = {
            key: {names} if isinstance(names, str) else {*names}
            for key, names in (("dataset", dataset), ("protocol", protocol))
            if names
        }
        self.problems: list[Problem] = []
        self.others = self.fitting = 0  # other datasets or protocols; fitting ones
        self.without: dict[str, int] = {}  # dataset -> fitting ones without lesions

    def records(self) -> Iterator[Record]:
        import gc

        from fusionbench.leaderboard import has_level

        # What is read is kept until the table is drawn: a search for garbage finds none, and takes
        # half the time of a hundred thousand records.
        gc.set_threshold(100_000, 50, 100)

        for record in existing(self.store.folder).records(self.problems):
            if not self._wants(record):
                self.others += 1
                continue
            self.fitting += 1
            if has_level(record, self.level):
                yield record
            else:
                name = record.identity.data.dataset
                self.without[name] = self.without.get(name, 0) + 1

    def _wants(self, record: Record) -> bool:
        data = record.identity.data
        return all(getattr(data, key) in names for key, names in self.wanted.items())

    def report_failures(self) -> None:
        """Say how many runs failed, of those that were asked for."""
        from fusionbench.config.wording import plural
        from fusionbench.errors import RecordError

        count = 0
        for run in self.store.failures():
            with suppress(RecordError):  # `store verify` says what is wrong with it
                count += self._wants(self.store.read(run))
        if count:
            them = "it" if count == 1 else "them"
            click.echo(f"{plural(count, 'failed run')}: fusionbench show lists {them}.", err=True)

    def blocks(self, *, some: bool = False) -> list[Block]:
        """Blocks of comparable rows, after a report of what could not be counted."""
        from fusionbench.leaderboard import blocks

        rows = blocks(self.records())
        self.report(some=some)
        return rows

    def report(self, *, some: bool) -> None:
        """Say what could not be counted. Raises FusionbenchError where `some` run is needed and
        there is none."""
        from fusionbench.cli import terminal
        from fusionbench.errors import FusionbenchError

        for problem in self.problems[: terminal.SHOWN_ALIKE]:
            terminal.print_error(f"Not counted: {problem.message}", problem.remedy)
        if (more := len(self.problems) - terminal.SHOWN_ALIKE) > 0:
            terminal.print_error(f"Not counted: {more:,} more (fusionbench store verify).")
        if some and not self.fitting:
            raise FusionbenchError(
                f"There is no finished run in {self.store.folder}"
                + (f" ({self.others} of other datasets or protocols)." if self.others else "."),
                "fusionbench run makes one; --store names another folder.",
            )
        if self.without:
            names = ", ".join(f"{count} of {name}" for name, count in self.without.items())
            said = f"runs without lesions ({names})"
            why = "their dataset's card names none, or they are of an earlier fusionbench"
            if sum(self.without.values()) == self.fitting:
                raise FusionbenchError(f"There are only {said}: {why}.", "Leave out --level.")
            click.echo(f"Not shown: {said}; {why}.", err=True)
