"""A comparison as one paragraph that a reader can paste into a paper."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fusionbench.analysis.pair import ALPHA, Comparison, Contrast, Side
from fusionbench.config.wording import plural, subset
from fusionbench.leaderboard.rows import Stat
from fusionbench.leaderboard.table_model import plain
from fusionbench.metrics.names import describe


def paragraph(compared: Comparison) -> str:
    """What was compared on what, the numbers with both tests, and what follows, in one paragraph.

    Says "no significant difference was found", never "equal": a test that finds nothing shows
    nothing.
    """
    sentences = [_setting(compared), *(_finding(compared, one) for one in compared.metrics)]
    sentences.append(_method(compared))
    sentences += _caveats(compared)
    return plain(" ".join(s for s in sentences if s))


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
    boot = compared.metrics[0].bootstrap
    folds = plural(compared.n_folds, "fold")
    a, b = len(compared.a.seeds), len(compared.b.seeds)
    repeats = plural(a, "seed") if a == b else f"{a} and {b} seeds"
    data = compared.dataset
    if not compared.complete_data:
        data += f", {subset(compared.n_rows_used, compared.n_rows_dataset, compared.dataset)}"
    return (
        f"We compared {compared.a.name} with {compared.b.name} on {data}, "
        f"under the protocol {compared.protocol} ({folds}, {repeats}; {boot.n_rows:,} test "
        f"photographs of {boot.n_patients:,} patients)."
    )


def _finding(compared: Comparison, one: Contrast) -> str:
    metric = describe(one.metric)
    percent = " %" if metric.percent else ""
    boot, test = one.bootstrap, one.test
    level = f"{100 * boot.confidence:.0f} % CI"
    lower = "" if metric.better == "high" else ", lower is better"
    values = (
        f"{metric.title} ({metric.name}{lower}) was {value_text(one.metric, one.a)}{percent} "
        f"against {value_text(one.metric, one.b)}{percent}"
    )
    pooled = (
        f"on the pooled out-of-fold predictions the difference was "
        f"{metric.difference(boot.difference)}, "
        f"{level} {interval_text(one.metric, boot.low, boot.high)} "
        f"(paired patient bootstrap, {p_text(one.p_bootstrap)})"
    )
    if test.undefined:
        return f"{values}; {pooled}: {conclusion(compared, one)}."
    t = "infinite" if math.isinf(test.t) else f"{test.t:.2f}"
    over_folds = (
        f"the mean difference over folds was {metric.difference(test.difference)} "
        f"(corrected resampled t-test, t({test.df}) = {t}, {p_text(one.p_test)})"
    )
    text = f"{values}; {over_folds}, and {pooled}: {conclusion(compared, one)}."
    if one.significant != (one.p_bootstrap < ALPHA) and not math.isnan(one.p_bootstrap):
        text += (
            " The bootstrap, which takes the trained models as given, finds a difference between "
            "these models; over retrained folds it is not established."
            if not one.significant
            else " The bootstrap over patients alone does not find it."
        )
    return text


def _method(compared: Comparison) -> str:
    one = compared.metrics[0]
    over = "folds and seeds" if max(len(s.seeds) for s in (compared.a, compared.b)) > 1 else "folds"
    parts = (
        []
        if compared.n_folds == 1
        else [f"Values are mean ± sample standard deviation over {over}"]
    )
    drawn = (
        f"the bootstrap drew patients {one.bootstrap.n_resamples:,} times (percentile intervals)"
    )
    parts.append(drawn if parts else drawn[0].upper() + drawn[1:])
    if over != "folds" and not one.test.undefined:
        parts.append("seeds were averaged within folds before testing")
    if len(compared.metrics) > 1:
        parts.append(f"p-values are Holm-corrected over {len(compared.metrics)} metrics")
    return "; ".join(parts) + "."


def _caveats(compared: Comparison) -> list[str]:
    """What stands on the rows, and where the numbers are weak."""
    found = []
    for title, remarks in _shared_remarks(compared.a, compared.b):
        found.append(f"Note on {title}: {'; '.join(remarks)}.")
    if compared.n_folds == 1:
        found.append(
            "With a single split there is no test over retrained models; the interval holds for "
            "these trained models only."
        )
    boot = compared.metrics[0].bootstrap
    if boot.lacking_class > 0.05 * boot.n_resamples:
        share = 100 * boot.lacking_class / boot.n_resamples
        found.append(
            f"{share:.0f} % of the bootstrap samples lacked a class, which was left out there."
        )
    undefined = [one.metric for one in compared.metrics if one.bootstrap.undefined]
    if undefined:
        found.append(f"Bootstrap samples without a value were left out for {', '.join(undefined)}.")
    return found


def _shared_remarks(a: Side, b: Side) -> list[tuple[str, Sequence[str]]]:
    both = [r for r in a.remarks if r in b.remarks]
    own = [(side.name, [r for r in side.remarks if r not in both]) for side in (a, b)]
    return [(who, said) for who, said in [("both", both), *own] if said]
