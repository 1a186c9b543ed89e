"""A control whose every fit leaves a line in a file, takes as long as told, and may fail."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from fusionbench.tables import DeclaredTable, read_table

SOURCE = '''
"""Says the commonest class, and leaves a trace."""
import ctypes, os, time
from sklearn.dummy import DummyClassifier
from fusionbench.plugin.control import Control

class Traced(Control):
    def __init__(self, *, log: str = "", number: int = 0, seconds: float = 0.0, fails: str = ""):
        self.arguments = log, number, seconds, fails

    def estimator(self, seed):
        return _Traced(self.arguments, seed)

class _Traced(DummyClassifier):
    def __init__(self, arguments, seed):
        super().__init__()
        self.arguments, self.seed = arguments, seed

    def fit(self, x, y):
        log, number, seconds, fails = self.arguments
        self.trace(log, "start", number)
        if seconds < 0:  # in native code that does not let Python's other threads run
            ctypes.PyDLL(None).sleep(int(-seconds))
        time.sleep(max(seconds, 0))
        if fails:
            raise OSError(fails)
        self.trace(log, "end", number)
        return super().fit(x, y)

    def trace(self, log, what, number):
        with open(log, "a") as file:  # one short write: whole lines, whoever else writes
            file.write(f"{what} {number}-{self.seed} {os.getpid()}\\n")
'''

TABLE = """
title = "Traced"
dataset = "{card}"
folds = [{folds}]
"""
ROW = """
[[rows]]
label = "row {number}"
fusion = "traced"
params = {{ "fusion.log" = "{log}", "fusion.number" = "{number}", "fusion.seconds" = "{seconds}", \
"fusion.fails" = "{fails}" }}
"""


class Traced:
    """The plugin, a table of it, and its log, in a folder."""

    def __init__(self, folder: Path, card: Path) -> None:
        self.folder, self.card = folder, card
        self.plugin, self.log = folder / "traced.py", folder / "log.txt"
        self.plugin.write_text(SOURCE, encoding="utf-8")
        self.log.touch()

    def table(
        self, rows: int, *, folds: str = "0, 1, 2", seconds: float = 0.0, failing: int = -1
    ) -> Path:
        """A table file of so many rows, of which one may fail."""
        text = TABLE.format(card=self.card, folds=folds)
        for number in range(rows):
            fails = "the disk is on fire" if number == failing else ""
            text += ROW.format(number=number, seconds=seconds, fails=fails, log=self.log)
        path = self.folder / "traced.toml"
        path.write_text(text, encoding="utf-8")
        return path

    def read(self, *arguments: int, **options: object) -> DeclaredTable:
        return read_table(self.table(*arguments, **options), plugins=[self.plugin])  # type: ignore[arg-type]

    def lines(self, what: str) -> list[list[str]]:
        """[run, process] of every start, or end, of a fit."""
        words = [line.split() for line in self.log.read_text("utf-8").splitlines()]
        return [found[1:] for found in words if found[0] == what]

    def count(self, what: str) -> Counter[str]:
        """How often each run has started, or ended."""
        return Counter(run for run, _ in self.lines(what))
