"""What every renderer draws: sheets of columns, rows and notes. Data only, no markup.

A renderer needs nothing but sheets. Printed formats draw `columns` and `cells`; csv and JSON take
the exact `facts` and `metrics` of the rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fusionbench.config.wording import listed, plain, plural
from fusionbench.errors import UsageError
from fusionbench.leaderboard.block import Block, Row, Stat
from fusionbench.metrics.names import METRICS, RECALL, Metric, describe, is_known
from fusionbench.metrics.names import listed as every_metric
from fusionbench.plugin.registry import unknown_name

# Behind a value that does not differ significantly from the best one of its column.
SIGN = "°"
# What a caption calls a best value's mark; text without bold letters has a * instead.
BOLD, STAR = "Bold", "*"
# A mean over classes leaves a class out where the class's number of this family is not defined.
OVER_CLASSES = {
    "bacc": RECALL,
    "auc_ovr_macro": RECALL,
    "auc_ovr_weighted": RECALL,
    "precision_macro": "precision/",
    "f1_macro": "f1/",
}
# The columns of the papers' tables: ACC, precision, BACC, F1, AUC.
PAPER = ("acc", "precision_weighted", "bacc", "f1_weighted", "auc_ovr_macro")

Kind = Literal["own", "control", "incomplete", "published"]
Tone = Literal["", "good", "bad", "warning", "accent", "quiet"]
# Names, or None for all -> name -> mean, std and what else is known, for those that the row has.
Numbers = Callable[[Sequence[str] | None], dict[str, dict[str, Any]]]


@dataclass(frozen=True)
class Cell:
    """One cell. `spread` is the standard deviation's text; `best` asks for bold."""

    text: str = ""
    spread: str = ""
    best: bool = False
    alike: bool = False  # not significantly different from the best
    split: str = ""  # the spread's parts, where there are several seeds
    tone: Tone = ""

    def joined(self, sign: str = " ± ", *, split: bool = False, best: str = "") -> str:
        """`best`: what marks a best value."""
        text = f"{self.text}{sign}{self.spread}" if self.spread else self.text
        text += SIGN if self.alike else best if self.best else ""
        return f"{text} ({self.split})" if split and self.split else text


@dataclass(frozen=True)
class SheetColumn:
    """A narrow renderer may draw names, gains and remarks below each other in one column."""

    key: str
    title: str
    role: Literal["name", "metric", "gain", "count", "remark"]
    # A row's facts -> the cell or its text; by default the fact of that name.
    text: Callable[[Mapping[str, Any]], Cell | str] | None = None
    tone: Tone = ""
    right: bool = False  # how it is aligned
    optional: bool = False  # left out where every cell is empty
    short: str = ""  # the title where there is little room
    spare: bool = False  # left out where there is little room

    def cell(self, facts: Mapping[str, Any]) -> Cell:
        text = self.text(facts) if self.text else facts[self.key] or "-"
        return text if isinstance(text, Cell) else Cell(plain(text), tone=self.tone)


@dataclass(frozen=True)
class SheetRow:
    kind: Kind
    cells: Mapping[str, Cell]  # by column key
    facts: Mapping[str, Any]  # exact, by name, without `metrics`; None where unknown
    metrics: Numbers  # computed when asked: of what a record holds a table shows little


@dataclass(frozen=True)
class Sheet:
    """One table: our rows on the same photographs and split, or what papers report on a dataset."""

    heading: str
    columns: tuple[SheetColumn, ...]
    rows: tuple[SheetRow, ...]
    caption: str
    brief: str = ""  # the caption where there is little room
    notes: tuple[Cell, ...] = ()  # between the heading and the rows
    sources: tuple[str, ...] = ()  # below the rows, numbered from 1
    remarks: tuple[str, ...] = ()  # below those

    @property
    def published(self) -> bool:
        return all(row.kind == "published" for row in self.rows)

    def named(self) -> tuple[list[str], dict[str, str]]:
        """What names each row, in one line, with a letter for each of its remarks; and the letters
        with the remarks that they stand for."""
        names, letters = [], dict[str, str]()
        for row in self.rows:
            cells = [(c, row.cells[c.key].text) for c in self.of_role("name", "remark")]
            cells = [(c, text) for c, text in cells if text not in ("", "-")]
            first = ", ".join(text for c, text in cells if c.role == "name" or c.key == "settings")
            for column, text in cells:
                if column.role == "remark" and column.key != "settings":
                    letters.setdefault(text, f"[{_letter(len(letters))}]")
                    first += f" {letters[text]}"
            names.append(first)
        return names, {letter: text for text, letter in letters.items()}

    def of_role(self, *roles: str) -> list[SheetColumn]:
        return [column for column in self.columns if column.role in roles]


def _letter(i: int) -> str:
    return (_letter(i // 26 - 1) if i >= 26 else "") + "abcdefghijklmnopqrstuvwxyz"[i % 26]


METHOD = SheetColumn("fusion", "Method", "name")
BACKBONE = SheetColumn("backbone", "Backbone", "name")


def metric_columns(metrics: Sequence[Metric]) -> list[SheetColumn]:
    return [SheetColumn(m.name, plain(m.title), "metric", right=True) for m in metrics]


def shown(columns: Iterable[SheetColumn], rows: Sequence[SheetRow]) -> tuple[SheetColumn, ...]:
    """Without optional columns whose cells are empty."""
    return tuple(c for c in columns if not c.optional or any(r.cells[c.key].text for r in rows))


def metric_cell(metric: Metric, stat: Stat | None, digits: int = 1, **marks: Any) -> Cell:
    """Percent with `digits` decimals for fractions, two more for the rest."""
    if stat is None:
        return Cell("-")
    spread = "" if stat.std is None else metric.text(stat.std, digits=digits)
    return Cell(metric.text(stat.mean, digits=digits), spread, **marks)


def chosen(metrics: Sequence[str] | None) -> tuple[Metric, ...]:
    """The metrics to show. Raises UsageError for a name that does not exist."""
    for name in metrics or ():
        if is_known(name):
            continue
        every = [metric.name for metric in every_metric()]
        # "auc" is incomplete: its averaging, or its class, must be named.
        exact = [known for known in METRICS if name and name.lower() in known]
        exact += [known for known in every if known.startswith(f"{name.rstrip('/').lower()}/<")]
        message, remedy = unknown_name("metric", name, exact or every)
        raise UsageError(message, f"Did you mean {' or '.join(exact)}?" if exact else remedy)
    return tuple(map(describe, PAPER if metrics is None else metrics))


def check_held(metrics: Iterable[str], blocks: Iterable[Block]) -> None:
    """Raises UsageError for a metric that no run of the blocks holds, such as another dataset's
    class."""
    parts = [part for block in blocks for row in block.rows for part in row.parts.values()]
    runs = [run for part in parts for run in part.runs.values()]
    for name in metrics if runs else ():
        if not any(name in run for run in runs):
            known = dict.fromkeys(held for run in runs for held in run)
            raise UsageError(*unknown_name("metric in these runs", name, known))


def means_over_fewer(rows: Iterable[Row], metrics: Iterable[Metric]) -> str:
    """Which means leave classes out because test parts lack them, and which leave out folds because
    the metric is not defined there, in sentences; "" where every mean is over all of them.

    Where rows differ in the classes of a fold, the fewest count.
    """
    runs = [(fold, run) for row in rows for (_, fold), run in row.parts["test"].runs.items()]
    said: dict[str, list[str]] = defaultdict(list)  # -> titles of the metrics it is said of
    for metric in metrics:
        defined: dict[int, bool] = {}
        classes: dict[int, tuple[int, int]] = {}  # fold -> left out, of all
        family = OVER_CLASSES.get(metric.name)
        for fold, run in (pair for pair in runs if metric.name in pair[1]):
            defined[fold] = defined.get(fold, True) and run[metric.name] is not None
            if family:
                lacks = [run[name] is None for name in run if name.startswith(family)]
                classes[fold] = max(classes.get(fold, (0, 0)), (sum(lacks), len(lacks)))
        folds = Counter((of - out, of) for f, (out, of) in classes.items() if out and defined[f])
        if folds:
            counts = listed(
                f"{k} of {of} classes in {plural(n, 'fold')}"
                for (k, of), n in sorted(folds.items())
            )
            said[f"mean over {counts}, whose test part lacks the others"].append(metric.title)
        if 0 < (n := sum(defined.values())) < len(defined):
            why = f"mean over {n} of {plural(len(defined), 'fold')}, not defined in the others"
            said[why].append(metric.title)
    return "".join(f" {listed(map(plain, titles))}: {why}." for why, titles in said.items())
