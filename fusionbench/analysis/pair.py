"""Two rows of a leaderboard, compared: the numbers behind `fusionbench compare`. No torch.

The verdict is the corrected resampled t-test's over folds (fusionbench.stats says why); with one
fold only, the paired bootstrap's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from fusionbench.analysis.row_facts import BlockFacts, block_facts, place, values_of
from fusionbench.errors import FusionbenchError, UsageError
from fusionbench.leaderboard.rows import Block, Row, Stat
from fusionbench.leaderboard.select import select_row
from fusionbench.metrics.calibration import apply_temperature
from fusionbench.metrics.names import SCALED
from fusionbench.records import Predictions, Record
from fusionbench.stats.bootstrap import RESAMPLES, Paired, paired
from fusionbench.stats.pooled import Pooled, pool
from fusionbench.stats.resampled import ResampledT, holm, resampled_t
from fusionbench.stats.variance import VarianceParts, spread

ALPHA = 0.05


@dataclass(frozen=True)
class Side:
    """One of the two rows."""

    key: str
    name: str  # method@backbone (loss), and what else tells the two apart
    seeds: tuple[int, ...]
    remarks: tuple[str, ...]  # its flags and the audit's verdict, or that there is none


@dataclass(frozen=True)
class Contrast:
    """One metric, a minus b."""

    metric: str
    a: Stat  # over runs, as tables show it
    b: Stat
    test: ResampledT  # over folds
    p_test: float  # adjusted over the metrics
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
class Comparison(BlockFacts):
    """Two rows on the same photographs under the same split."""

    n_folds: int
    a: Side
    b: Side
    metrics: tuple[Contrast, ...]


def choose(blocks: Sequence[Block], a: str, b: str) -> tuple[Block, Row, Row]:
    """The two rows that are meant, each as select_row reads it, and the block that both stand in.

    A name that fits rows of several blocks is read in the block of the other one. Raises UsageError
    where a name fits none or several, where both mean the same row, and where no block holds both.
    """
    try:
        block, row_a = select_row(blocks, a)
    except UsageError:
        block, row_b = select_row(blocks, b)
        _, row_a = select_row([block], a)
    else:
        try:
            _, row_b = select_row([block], b)
        except UsageError:
            other, row_b = select_row(blocks, b)
            if other is block:
                raise
            raise UsageError(
                f"{a!r} and {b!r} were not evaluated on the same photographs under the same split: "
                f"{_identified(block)} against {_identified(other)}.",
                "Only rows of one block of the leaderboard can be compared.",
            ) from None
    if row_a.key == row_b.key:
        raise UsageError(
            f"{a!r} and {b!r} are the same row ({row_a.key}).", "Name two different ones."
        )
    return block, row_a, row_b


def compare(
    block: Block,
    a: Row,
    b: Row,
    records: Mapping[str, Record],
    predictions: Callable[[str], Predictions],
    metrics: Sequence[str] = ("bacc",),
    *,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two rows of `block`. `records`: by run id; `predictions`: of a run id.

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
    runs_a, runs_b = ([records[run] for run in row.run_ids] for row in (a, b))
    values = {name: (values_of(a, name), values_of(b, name)) for name in metrics}
    ratio = max(a.ratio or 0.0, b.ratio or 0.0)
    tests = {name: resampled_t(*pair, ratio) for name, pair in values.items()}
    pairs = _bootstrap(runs_a, runs_b, predictions, metrics, n_resamples, seed)
    p_tests = holm({name: test.p for name, test in tests.items()})
    p_pairs = holm({name: pair.p for name, pair in pairs.items()})
    name_a, name_b = _names(a, b)
    return Comparison(
        **block_facts(block),
        n_folds=len({r.identity.fold for r in runs_a}),
        a=Side(a.key, name_a, a.seeds, _remarks(a)),
        b=Side(b.key, name_b, b.seeds, _remarks(b)),
        metrics=tuple(
            Contrast(
                metric=name,
                a=a.parts["test"].metrics[name],
                b=b.parts["test"].metrics[name],
                test=tests[name],
                p_test=p_tests[name],
                bootstrap=pairs[name],
                p_bootstrap=p_pairs[name],
                spread_a=spread(values[name][0]),
                spread_b=spread(values[name][1]),
            )
            for name in metrics
        ),
    )


def _bootstrap(
    runs_a: Sequence[Record],
    runs_b: Sequence[Record],
    predictions: Callable[[str], Predictions],
    metrics: Sequence[str],
    n_resamples: int,
    seed: int,
) -> dict[str, Paired]:
    """Metrics after temperature scaling are those of the scaled probabilities."""
    read = {run.run_id: predictions(run.run_id) for run in (*runs_a, *runs_b)}
    found: dict[str, Paired] = {}
    for scaled in (False, True):
        wanted = {
            name.removesuffix("_scaled"): name for name in metrics if (name in SCALED) == scaled
        }
        if wanted:
            a, b = (_pooled(runs, read, scaled) for runs in (runs_a, runs_b))
            pairs = paired(a, b, list(wanted), n_resamples=n_resamples, seed=seed)
            found |= {name: replace(pairs[base], metric=name) for base, name in wanted.items()}
    return found


def _pooled(runs: Sequence[Record], read: Mapping[str, Predictions], scaled: bool) -> Pooled:
    by_seed: dict[int, list[Predictions]] = {}
    for run in runs:
        one = read[run.run_id]
        if scaled:
            assert run.result is not None
            if run.result.temperature is None:
                raise UsageError(
                    f"{run.run_id} fitted no temperature.", "Compare the metric without _scaled."
                )
            scaled_p = apply_temperature(one.probabilities, run.result.temperature)
            one = replace(one, probabilities=scaled_p)
        by_seed.setdefault(run.identity.seed, []).append(one)
    return pool(by_seed)


def _names(a: Row, b: Row) -> tuple[str, str]:
    """What each is called: as short as tells them apart."""
    names = [(row.label or row.name) + (f" ({row.loss})" if row.loss else "") for row in (a, b)]
    if names[0] == names[1]:
        for i, (row, other) in enumerate(((a, b), (b, a))):
            own = {k: v for k, v in row.differences.items() if other.differences.get(k) != v}
            names[i] += f" with {', '.join(f'{k}={v}' for k, v in own.items()) or row.key}"
    return names[0], names[1]


def _remarks(row: Row) -> tuple[str, ...]:
    """Its flags and the audit's verdict."""
    verdict = "" if row.verdict == "clean" else row.verdict or "not audited"
    return (*row.flags, *(part for part in verdict.split("; ") if part and part not in row.flags))


def _identified(block: Block) -> str:
    return f"{place(block)}, data {block.data_fingerprint[:8]}, split {block.split_hash[:8]}"
