"""A comparison as one paragraph that a reader can paste into a paper."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fusionbench.analysis.pair import ALPHA, Comparison, Contrast
from fusionbench.analysis.row_facts import RowFacts
from fusionbench.config.wording import listed, percent, plain, plural, subset
from fusionbench.leaderboard.block import Stat
from fusionbench.metrics.names import describe

# docs/tests-measured.md, at the 5 % level.
SIMULATED = (
    "in simulations without a difference it finds one in 1 to 2 % of comparisons, the mixed model "
    "in 2 to 7 %"
)


def paragraph(compared: Comparison) -> str:
    """What was compared on what, the numbers with both tests, and what follows, in one paragraph.

    Says "no significant difference was found", never "equal": a test that finds nothing shows
    nothing.
    """
    findings = (_finding(compared, one) for one in compared.metrics)
    sentences = (_setting(compared), *findings, _method(compared) + compared.over_fewer)
    return plain(" ".join((*sentences, *_caveats(compared))))


def conclusion(compared: Comparison, one: Contrast) -> str:
    """One metric's outcome in words."""
    title, level = describe(one.metric).title, f"{100 * ALPHA:.0f} % level"
    if math.isnan(one.p):
        return f"whether they differ in {title} cannot be tested"
    if not one.significant:
        return f"no significant difference in {title} was found at the {level}"
    high = (one.test.difference if not math.isnan(one.p_test) else one.bootstrap.difference) > 0
    winner, loser = (compared.a, compared.b) if high else (compared.b, compared.a)
    word = "higher" if describe(one.metric).better == "high" else "higher (worse)"
    return f"{winner.name} had a significantly {word} {title} than {loser.name}"


def value_text(metric: str, stat: Stat) -> str:
    """Mean ± standard deviation, as tables print them."""
    text = describe(metric).text
    return text(stat.mean) + ("" if stat.std is None else f" ± {text(stat.std)}")


def interval_text(metric: str, low: float, high: float) -> str:
    """`[-0.4, +5.1]`"""
    text = describe(metric).text
    return f"[{text(low, '+')}, {text(high, '+')}]"


def p_text(p: float) -> str:
    """`p = 0.031`, `p < 0.001`, `p > 0.99`."""
    if math.isnan(p):
        return "p undefined"
    return "p < 0.001" if p < 0.001 else "p > 0.99" if p > 0.99 else f"p = {p:.2g}"


def _setting(compared: Comparison) -> str:
    a, b, boot = compared.a, compared.b, compared.metrics[0].bootstrap
    seeds = [len(a.seeds), len(b.seeds)]
    repeats = plural(seeds[0], "seed") if len({*seeds}) == 1 else f"{listed(seeds)} seeds"
    data = a.dataset
    if not a.complete_data:
        data += f", {subset(a.n_rows_used, a.n_rows_dataset, a.dataset)}"
    return (
        f"We compared {a.name} with {b.name} on {data}, under the protocol {a.protocol} "
        f"({plural(compared.n_folds, 'fold')}, {repeats}; {boot.n_rows:,} test photographs of "
        f"{boot.n_patients:,} patients)."
    )


def _finding(compared: Comparison, one: Contrast) -> str:
    metric, boot, test = describe(one.metric), one.bootstrap, one.test
    unit = " %" if metric.percent else ""
    lower = "" if metric.better == "high" else ", lower is better"
    over_folds = ""
    if not test.undefined:
        t = "infinite" if math.isinf(test.t) else f"{test.t:.2f}"
        mixed = f"{_mixed(one)}, {p_text(one.p_mixed)}"
        over_folds = (
            f"the mean difference over folds was {metric.difference(test.difference)} (corrected "
            f"resampled t-test, t({test.df}) = {t}, {p_text(one.p_test)}; {mixed}), and "
        )
    text = (
        f"{metric.title} ({metric.name}{lower}) was {value_text(one.metric, one.a)}{unit} "
        f"against {value_text(one.metric, one.b)}{unit}; {over_folds}on the pooled out-of-fold "
        f"predictions the difference was {metric.difference(boot.difference)}, "
        f"{100 * boot.confidence:.0f} % CI {interval_text(one.metric, boot.low, boot.high)} "
        f"(paired patient bootstrap, {p_text(one.p_bootstrap)}): {conclusion(compared, one)}."
    )
    if test.undefined or math.isnan(one.p_bootstrap):
        return text
    by_mixed, by_bootstrap = one.p_mixed < ALPHA, one.p_bootstrap < ALPHA
    if one.significant:
        return text + " The bootstrap over patients alone does not find it." * (not by_bootstrap)
    if by_mixed:
        text += f" The {_mixed(one)}, which is less conservative, finds a difference."
    if by_bootstrap:
        text += (
            " The bootstrap, which takes the trained models as given, finds a difference between "
            "these models" + "; over retrained folds it is not established" * (not by_mixed) + "."
        )
    return text


def _mixed(one: Contrast) -> str:
    return f"mixed model over folds{' and seeds' * (one.mixed.n_seeds > 1)}"


def _method(compared: Comparison) -> str:
    one = compared.metrics[0]
    several = max(len(compared.a.seeds), len(compared.b.seeds)) > 1
    over = "folds and seeds" if several else "folds"
    tested = not one.test.undefined
    parts = [
        f"values are mean ± sample standard deviation over {over}" * (compared.n_folds > 1),
        f"the bootstrap drew patients {one.bootstrap.n_resamples:,} times (percentile intervals)",
        "seeds were averaged within folds before the t-test" * (several and tested),
        f"the corrected t-test decides; it is conservative ({SIMULATED})" * tested,
        f"p-values are Holm-corrected over {len(compared.metrics)} metrics"
        * (len(compared.metrics) > 1),
    ]
    text = "; ".join(filter(None, parts))
    return f"{text[0].upper()}{text[1:]}."


def _caveats(compared: Comparison) -> Iterator[str]:
    """What stands on the rows, and where the numbers are weak."""
    a, b = _remarks(compared.a), _remarks(compared.b)
    for name, remarks in (
        ("both", [remark for remark in a if remark in b]),
        (compared.a.name, [remark for remark in a if remark not in b]),
        (compared.b.name, [remark for remark in b if remark not in a]),
    ):
        if remarks:
            yield f"Note on {name}: {'; '.join(remarks)}."
    if compared.n_folds == 1:
        yield (
            "With a single split there is no test over retrained models; the interval holds for "
            "these trained models only."
        )
    boot = compared.metrics[0].bootstrap
    if boot.lacking_class > 0.05 * boot.n_resamples:
        share = percent(boot.lacking_class / boot.n_resamples, 0)
        yield f"{share} of the bootstrap samples lacked a class, which was left out there."
    undefined = [one.metric for one in compared.metrics if one.bootstrap.undefined]
    if undefined:
        yield f"Bootstrap samples without a value were left out for {', '.join(undefined)}."


def _remarks(row: RowFacts) -> list[str]:
    """The flags and the audit's verdict, or that there is none."""
    verdict = "" if row.verdict == "clean" else row.verdict or "not audited"
    return list(dict.fromkeys((*row.flags, *filter(None, verdict.split("; ")))))
