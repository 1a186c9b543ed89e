"""Two rows of a leaderboard, compared: the numbers behind `fusionbench compare`. No torch.

The verdict is the corrected resampled t-test's over folds (fusionbench.stats says why); with one
fold only, the paired bootstrap's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from fusionbench.analysis.row_facts import RowFacts, place, pooled, row_facts, values_of
from fusionbench.errors import FusionbenchError, UsageError
from fusionbench.leaderboard.block import Block, Row, Stat
from fusionbench.leaderboard.select import select_row
from fusionbench.leaderboard.table_model import means_over_fewer
from fusionbench.metrics.names import SCALED, describe
from fusionbench.records import Store
from fusionbench.stats.bootstrap import RESAMPLES, Paired, paired
from fusionbench.stats.resampled import MixedT, ResampledT, holm, mixed_t, resampled_t
from fusionbench.stats.variance import VarianceParts, spread

ALPHA = 0.05


@dataclass(frozen=True)
class Contrast:
    """One metric, a minus b."""

    metric: str
    a: Stat  # over runs, as tables show it
    b: Stat
    test: ResampledT  # over folds
    p_test: float  # adjusted over the metrics
    mixed: MixedT  # over folds and seeds, less conservative
    p_mixed: float  # adjusted over the metrics
    bootstrap: Paired  # of patients, on the pooled predictions
    p_bootstrap: float  # adjusted over the metrics
    spread_a: VarianceParts  # fold and seed parts
    spread_b: VarianceParts

    @property
    def p(self) -> float:
        """What the verdict rests on."""
        return self.p_bootstrap if math.isnan(self.p_test) else self.p_test

    @property
    def significant(self) -> bool:
        return self.p < ALPHA


@dataclass(frozen=True)
class Comparison:
    """Two rows on the same photographs under the same split, by names that tell them apart."""

    a: RowFacts
    b: RowFacts
    n_folds: int
    metrics: tuple[Contrast, ...]
    over_fewer: str = ""  # which means leave classes or folds out


def choose(blocks: Sequence[Block], a: str, b: str) -> tuple[Block, Row, Row]:
    """The two rows that are meant, each as select_row reads it, and the block that both stand in.

    A name that fits rows of several blocks is read in the block of the other one. Raises UsageError
    where a name fits none or several, where both mean the same row, and where no block holds both.
    """
    fitting = []
    for block in blocks:
        with suppress(UsageError):
            fitting.append((block, select_row([block], a)[1], select_row([block], b)[1]))
    if len(fitting) != 1:
        (block, row_a), (other, row_b) = (select_row(blocks, text) for text in (a, b))
        if other is not block:
            where = " against ".join(
                f"{place(one)}, data {one.data_fingerprint[:8]}, split {one.split_hash[:8]}"
                for one in (block, other)
            )
            raise UsageError(
                f"{a!r} and {b!r} were not evaluated on the same photographs under the same split: "
                f"{where}.",
                "Only rows of one block of the leaderboard can be compared.",
            )
        fitting = [(block, row_a, row_b)]
    ((block, row_a, row_b),) = fitting
    if row_a.key == row_b.key:
        raise UsageError(
            f"{a!r} and {b!r} are the same row ({row_a.key}).", "Name two different ones."
        )
    return block, row_a, row_b


def compare(
    store: Store,
    block: Block,
    a: Row,
    b: Row,
    metrics: Sequence[str] = ("bacc",),
    *,
    n_resamples: int = RESAMPLES,
) -> Comparison:
    """Compare two rows of `block`, whose runs `store` holds.

    Raises FusionbenchError for a row with folds missing, UsageError for a metric that the rows do
    not hold, RecordError for predictions that cannot be trusted or paired.
    """
    for row in (a, b):
        if not row.ranked:
            raise FusionbenchError(
                f"{row.name} ({row.key}) is incomplete: n={row.runs_done}/{row.runs_expected}"
                " runs.",
                "Run what is missing first; the same `fusionbench run` goes on where it stopped.",
            )
    metrics = tuple(dict.fromkeys(metrics))
    values = {name: (values_of(a, name), values_of(b, name)) for name in metrics}
    ratio = max(a.ratio or 0.0, b.ratio or 0.0)
    tests = {name: resampled_t(*pair, ratio) for name, pair in values.items()}
    mixed = {name: mixed_t(*pair) for name, pair in values.items()}
    pairs: dict[str, Paired] = {}
    for scaled in (False, True):  # metrics after temperature scaling: of the scaled probabilities
        if names := [name for name in metrics if (name in SCALED) == scaled]:
            pool_a, pool_b = (pooled(store, row, scaled=scaled) for row in (a, b))
            plain = [name.removesuffix("_scaled") for name in names]
            of_plain = paired(pool_a, pool_b, plain, n_resamples=n_resamples)
            pairs |= {n: replace(of_plain[p], metric=n) for n, p in zip(names, plain, strict=True)}
    p_tests = holm({name: test.p for name, test in tests.items()})
    p_mixed = holm({name: test.p for name, test in mixed.items()})
    p_pairs = holm({name: pair.p for name, pair in pairs.items()})
    sides = zip((a, b), _names(a, b), strict=True)
    facts_a, facts_b = (RowFacts(**row_facts(block, row) | {"name": name}) for row, name in sides)
    return Comparison(
        facts_a,
        facts_b,
        n_folds=len({fold for _, fold in a.parts["test"].runs}),
        metrics=tuple(
            Contrast(
                metric=name,
                a=a.parts["test"].metrics[name],
                b=b.parts["test"].metrics[name],
                test=tests[name],
                p_test=p_tests[name],
                mixed=mixed[name],
                p_mixed=p_mixed[name],
                bootstrap=pairs[name],
                p_bootstrap=p_pairs[name],
                spread_a=spread(values[name][0]),
                spread_b=spread(values[name][1]),
            )
            for name in metrics
        ),
        over_fewer=means_over_fewer((a, b), map(describe, metrics)),
    )


def _names(a: Row, b: Row) -> tuple[str, str]:
    """What each is called: as short as tells them apart."""
    names = [(row.label or row.name) + (f" ({row.loss})" if row.loss else "") for row in (a, b)]
    if names[0] == names[1]:
        for i, (row, other) in enumerate(((a, b), (b, a))):
            own = {k: v for k, v in row.differences.items() if other.differences.get(k) != v}
            names[i] += f" with {', '.join(f'{k}={v}' for k, v in own.items()) or row.key}"
    return names[0], names[1]
