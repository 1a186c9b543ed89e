"""What a leaderboard is made of: numbers, rows, and blocks of rows that may be compared."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Literal

from fusionbench.config.identity import RowIdentity
from fusionbench.config.wording import method_name
from fusionbench.metrics.names import describe

if TYPE_CHECKING:
    from fusionbench.stats.variance import VarianceParts

LevelName = Literal["image", "lesion"]
ALPHA = 0.05  # of the test of `Block.alike`


@dataclass(frozen=True)
class Stat:
    """Mean and sample standard deviation (ddof=1) over `n` runs; runs without a value left out."""

    mean: float
    std: float | None  # None for a single run
    n: int


class RunMetrics(Mapping[str, float | None]):
    """The metrics of one run over `n` photographs or lesions, null where undefined. Runs with the
    same metrics share their names: a hundred thousand of them must fit in memory."""

    __slots__ = ("_places", "_values", "n")

    def __init__(self, n: int, metrics: Mapping[str, float | None]) -> None:
        self.n = n
        self._places = _places(tuple(metrics))
        self._values = array("d", [math.nan if v is None else v for v in metrics.values()])

    def __getitem__(self, name: str) -> float | None:
        value = self._values[self._places[name]]
        return None if value != value else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@lru_cache(maxsize=256)
def _places(names: tuple[str, ...]) -> dict[str, int]:
    return {name: i for i, name in enumerate(names)}


class Stats(Mapping[str, Stat]):
    """Metric -> Stat over runs. Of the metrics that a record holds a table shows few: each is
    averaged when it is asked for. A metric that no run has a value of is not there."""

    def __init__(self, part: PartStats) -> None:
        self._part = part
        self._stats: dict[str, Stat | None] = {}

    def __getitem__(self, name: str) -> Stat:
        if name not in self._stats:
            values = [*self._part.values(name).values()]
            self._stats[name] = stat(values) if values else None
        if (result := self._stats[name]) is None:
            raise KeyError(name)
        return result

    def __iter__(self) -> Iterator[str]:
        names = dict.fromkeys(name for run in self._part.runs.values() for name in run)
        return filter(self.__contains__, names)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def stat(values: Sequence[float]) -> Stat:
    """Of at least one value, in whatever order."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Stat(mean, None, 1)
    squares = math.fsum((v - mean) ** 2 for v in values)
    return Stat(mean, math.sqrt(squares / (len(values) - 1)), len(values))


@dataclass(frozen=True)
class PartStats:
    """One evaluated part of a row: "test", or what a protocol keeps besides."""

    n: int = 0  # photographs or lesions, over the folds of one seed
    # (seed, fold) -> the metrics of that run; null where undefined.
    runs: Mapping[tuple[int, int], Mapping[str, float | None]] = field(default_factory=dict)

    @cached_property
    def metrics(self) -> Mapping[str, Stat]:
        """Mean and spread over the runs."""
        return Stats(self)

    def values(self, metric: str) -> dict[tuple[int, int], float]:
        """(seed, fold) -> value; runs without one are left out."""
        return {
            key: value
            for key, metrics in self.runs.items()
            if (value := metrics.get(metric)) is not None
        }

    def spread(self, metric: str) -> VarianceParts | None:
        """How much of the metric's spread is the folds' and the seeds'; None for a single seed, or
        where they cannot be told apart."""
        if len({seed for seed, _ in self.runs}) < 2:
            return None
        from fusionbench.stats.variance import spread

        found = spread(self.values(metric))
        return None if found.fold is None else found


@dataclass(frozen=True)
class Gain:
    """What a row has more than another one, per fold: positive is better, in the metric's unit."""

    against: str  # key of the other row
    mean: float  # over folds, each the mean of its seeds
    std: float | None  # over folds
    low: float | None  # 95 % interval of the mean, corrected resampled t-test; None: no spread
    high: float | None
    p: float | None
    n: int  # folds


@dataclass(frozen=True)
class Gains:
    """What a row's metadata bring it, in one metric of the test part."""

    metric: str
    image: Gain | None = None  # over the same network without metadata
    shuffled: Gain | None = None  # over itself, trained with other patients' metadata

    @property
    def share(self) -> float | None:
        """The part of the gain over image only that remains over the shuffled twin.

        None unless the whole interval of the gain lies above 0: a part of what may be nothing says
        nothing.
        """
        if self.image is None or self.shuffled is None or not (self.image.low or 0) > 0:
            return None
        return self.shuffled.mean / self.image.mean


@dataclass(frozen=True, kw_only=True)
class Row:
    """One configuration: what ran, over which folds and seeds, and what came out."""

    key: str  # 12 hex digits of the configuration
    identity: RowIdentity | None = None  # None: nothing of it has run
    fusion: str
    backbone: str | None  # None, like the loss: the method has no network
    loss: str | None
    differences: dict[str, str] = field(default_factory=dict)  # what tells it from others
    seeds: tuple[int, ...] = ()
    runs_expected: int  # folds of the protocol times seeds
    parts: dict[str, PartStats] = field(default_factory=lambda: {"test": PartStats()})
    parameters: int | None = None  # of the model at inference
    images_per_s: float | None = None  # mean over runs, in training, on whatever they ran on
    flags: tuple[str, ...] = ()
    run_ids: tuple[str, ...] = ()
    label: str = ""  # what a declared table calls the row
    verdict: str = ""  # of the audit; "": not audited
    contract: str = ""  # "passed", "failed: batch mates", "not checked"; "": nothing has run
    shuffled: bool = False  # trained with other patients' metadata
    ratio: float | None = None  # n_test / n_train, mean over runs
    gains: Gains | None = None

    @property
    def runs_done(self) -> int:
        """Runs that have a result."""
        return len(self.run_ids)

    @property
    def name(self) -> str:
        """`fusion@backbone`, the method alone where it has no network; `…/shuffled` for a twin."""
        return method_name(self.fusion, self.backbone, shuffled=self.shuffled)

    @property
    def ranked(self) -> bool:
        """Every fold of every seed is there."""
        return self.runs_done == self.runs_expected

    @property
    def optimistic(self) -> bool:
        """The epoch or a setting was chosen on the test rows."""
        return any(flag.startswith("optimistic") for flag in self.flags)

    @property
    def stale(self) -> bool:
        """A plugin's source has changed since it ran."""
        return any(flag.startswith("stale") for flag in self.flags)

    @property
    def control(self) -> bool:
        """There to be compared with: it sees no photograph, or other patients' metadata."""
        return self.backbone is None or self.shuffled

    @property
    def remarks(self) -> tuple[str, ...]:
        """The flags, without what the verdict says more exactly."""
        said = {part.partition(":")[0] for part in self.verdict.split("; ") if ":" in part}
        return tuple(flag for flag in self.flags if flag.partition(":")[0] not in said)


@dataclass(frozen=True)
class Block:
    """Rows that were evaluated on the same photographs under the same split. Best first."""

    dataset: str
    protocol: str
    _: KW_ONLY
    data_fingerprint: str = "-"
    split_hash: str = "-"
    complete_data: bool = True
    n_rows_dataset: int
    n_rows_used: int
    rows: tuple[Row, ...] = ()
    title: str = ""  # of the declared table that the block is
    note: str = ""  # what a reader of that table must know first
    level: LevelName = "image"  # what is counted: photographs, or lesions over theirs
    view: str = ""  # of the photographs, where other blocks of the dataset have another view

    @property
    def place(self) -> str:
        """`derm7pt / fixed, dermoscopic`: what tells it from other blocks."""
        return f"{self.dataset} / {self.protocol}{f', {self.view}' if self.view else ''}"

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """Every evaluated part, "test" first."""
        names = {part for row in self.rows for part in row.parts}
        return tuple(sorted(names, key=lambda p: (p != "test", p)))

    @cached_property
    def verdict(self) -> str | None:
        """The audit's verdict on every row that has run; None where rows differ or none has."""
        found = {row.verdict for row in self.rows if row.runs_done}
        return found.pop() if len(found) == 1 else None

    @cached_property
    def contract(self) -> str:
        """What checking the plugins of every row that has run said; "" where rows differ, or one
        failed and says so itself."""
        answers = {row.contract for row in self.rows if row.runs_done}
        answer = answers.pop() if len(answers) == 1 else ""
        return "" if answer.startswith("failed") else answer

    def rivals(self, metric: str, part: str = "test") -> list[Row]:
        """The rows that compete for the best value: ranked ones, and on the test rows, where its
        epoch was chosen, one that is marked optimistic only with its like."""
        found = [r for r in self.rows if r.ranked and part in r.parts]
        found = [r for r in found if metric in r.parts[part].metrics]
        return [r for r in found if part != "test" or not r.optimistic] or found

    def best(self, metric: str, part: str = "test") -> frozenset[str]:
        """Keys of the rivals with the best mean, ties included."""
        means = {r.key: r.parts[part].metrics[metric].mean for r in self.rivals(metric, part)}
        if not means:
            return frozenset()
        top = (max if describe(metric).better == "high" else min)(means.values())
        return frozenset(
            key for key, mean in means.items() if math.isclose(mean, top, rel_tol=1e-12, abs_tol=0)
        )

    def alike(self, metric: str) -> frozenset[str]:
        """Keys of the rows whose test values do not differ significantly from the best mean's.

        Only rivals are tested (corrected resampled t-test, Holm over the rows, ALPHA); one without
        two folds in common with the best row cannot be, and is not among them. Nor are the best.
        """
        best, rivals = self.best(metric), self.rivals(metric)
        if len(rivals) <= len(best):
            return frozenset()
        from fusionbench.stats.resampled import holm, resampled_t

        top = next(row for row in rivals if row.key in best)
        values = top.parts["test"].values(metric)
        p_values = {
            row.key: resampled_t(
                values, row.parts["test"].values(metric), max(top.ratio, row.ratio)
            ).p
            if top.ratio and row.ratio
            else math.nan
            for row in rivals
            if row.key not in best
        }
        return frozenset(key for key, p in holm(p_values).items() if p >= ALPHA)
