"""The corrected t-test, Holm, power and the split of variance, by hand and by other means."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from fusionbench.stats.resampled import holm, mixed_t, resampled_t, smallest_difference
from fusionbench.stats.variance import spread


def one_seed(values: list[float]) -> dict[tuple[int, int], float]:
    return {(0, fold): value for fold, value in enumerate(values)}


def student_tail(t: float, df: int) -> float:
    """Two-sided p by integrating Student's density, without scipy.stats."""
    const = math.gamma((df + 1) / 2) / (math.sqrt(df * math.pi) * math.gamma(df / 2))
    inner, _ = integrate.quad(lambda x: (1 + x * x / df) ** (-(df + 1) / 2), 0, abs(t))
    return 1 - 2 * const * inner


def test_by_hand() -> None:
    """Differences 2, 4, 6, 3, 5 of 5 folds, ratio 1/4: mean 4, s² = 2.5, variance
    (1/5 + 1/4) 2.5 = 1.125, t = 4 / 1.0607 = 3.7712."""
    a, b = one_seed([12, 14, 16, 13, 15]), one_seed([10, 10, 10, 10, 10])
    found = resampled_t(a, b, 0.25)
    assert (found.difference, found.df, found.n) == (4, 4, 5)
    assert found.se == pytest.approx(math.sqrt(1.125))
    assert found.t == pytest.approx(3.77124, abs=1e-5)
    # Student's t with 4 degrees of freedom has a closed form: P(|T| > t) = 1 - s(3 - s²)/2 with
    # s = t / sqrt(4 + t²) ... for df = 4: F-tail 1 - (3s - s³)/2.
    s = found.t / math.sqrt(4 + found.t**2)
    assert found.p == pytest.approx(1 - (3 * s - s**3) / 2, rel=1e-9)
    assert (found.high - found.low) / 2 == pytest.approx(2.776445 * found.se, rel=1e-6)
    naive = stats.ttest_rel(list(a.values()), list(b.values()))
    assert found.t == pytest.approx(naive.statistic * math.sqrt(0.2 / 0.45))


@settings(max_examples=60, deadline=None)
@given(
    d=st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=2, max_size=12),
    ratio=st.floats(0.05, 1.0),
)
def test_a_second_implementation(d: list[float], ratio: float) -> None:
    found = resampled_t(one_seed(d), one_seed([0.0] * len(d)), ratio)
    mean = sum(d) / len(d)
    square = sum((x - mean) ** 2 for x in d) / (len(d) - 1)
    if not any(d):
        assert (found.t, found.p, found.low, found.high) == (0, 1, 0, 0)
    elif square > 1e-12:
        t = mean / math.sqrt((1 / len(d) + ratio) * square)
        assert found.t == pytest.approx(t)
        assert found.p == pytest.approx(student_tail(t, len(d) - 1), abs=1e-6)
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high) or found.p == pytest.approx(
            0.05
        )
    turned = resampled_t(one_seed([0.0] * len(d)), one_seed(d), ratio)
    assert (turned.difference, turned.p) == pytest.approx((-found.difference, found.p))


def test_equal_constant_and_too_few() -> None:
    same = one_seed([0.1, 0.2, 0.3])
    assert resampled_t(same, same, 0.5).p == 1
    off = {key: value + 1e-16 for key, value in same.items()}
    assert resampled_t(off, same, 0.5).p == 1  # the same number, rounded otherwise
    shifted = resampled_t(one_seed([0.5, 0.5]), one_seed([0.25, 0.25]), 0.5)
    assert (shifted.t, shifted.p) == (math.inf, 0)
    alone = resampled_t(one_seed([0.5]), one_seed([0.25]), 0.5)
    assert (
        alone.difference == 0.25 and math.isnan(alone.p) and "1 fold in common" in alone.undefined
    )
    none = resampled_t({(0, 0): 1.0}, {(0, 1): 1.0}, 0.5)
    assert math.isnan(none.difference) and "0 folds" in none.undefined
    with pytest.raises(ValueError, match="positive"):
        resampled_t(same, same, 0.0)


def test_seeds_are_averaged_within_their_fold() -> None:
    """Repeating every run with the same outcome must not make a difference more certain."""
    a, b = one_seed([0.7, 0.8, 0.65]), one_seed([0.6, 0.75, 0.62])
    once = resampled_t(a, b, 0.5)
    many = {(seed, fold): v for (_, fold), v in a.items() for seed in range(10)}
    assert resampled_t(many, b, 0.5) == once
    noisy = {(0, 0): 0.6, (1, 0): 0.8, (0, 1): 0.8, (0, 2): 0.65, (1, 2): math.nan}
    found = resampled_t(noisy, b, 0.5)
    assert found.difference == pytest.approx(once.difference) and found.p == pytest.approx(once.p)


def test_the_mixed_model_has_the_mean_squares_of_statsmodels() -> None:
    """Var(mean) = (MS_fold + MS_seed - MS_rest) / 15 of 5 folds by 3 seeds, Satterthwaite's df."""
    import pandas as pd
    import statsmodels.api as sm
    import statsmodels.formula.api as smf

    rng, with_seeds = np.random.default_rng(4), 0
    for case in range(8):
        a = layout(rng, 5, 3, (1.0, 0.8 * (case % 2), 0.3))
        b = layout(rng, 5, 3, (1.0, 0.0, 0.3))
        rows = [(s, f, a[s, f] - b[s, f]) for s, f in a]
        frame = pd.DataFrame(rows, columns=["s", "f", "v"])
        table = sm.stats.anova_lm(smf.ols("v ~ C(s) + C(f)", frame).fit())
        ms, df = table["sum_sq"] / table["df"], 4.0
        variance = ms["C(f)"]
        if ms["C(s)"] > ms["Residual"]:
            with_seeds += 1
            variance += ms["C(s)"] - ms["Residual"]
            df = variance**2 / (ms**2 / table["df"]).sum()
        found = mixed_t(a, b)
        assert found.difference == pytest.approx(frame["v"].mean())
        assert (found.n_folds, found.n_seeds, found.df) == (5, 3, pytest.approx(df))
        assert found.se == pytest.approx(math.sqrt(variance / 15))
        assert found.p == pytest.approx(2 * stats.t.sf(abs(found.difference) / found.se, df))
        assert mixed_t(b, a).p == pytest.approx(found.p) and mixed_t(b, a).t == -found.t
    assert 0 < with_seeds < 8


def test_without_pairs_of_seeds_the_mixed_model_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(5)
    a, b = layout(rng, 5, 3, (1.0, 0.5, 0.3)), layout(rng, 5, 3, (1.0, 0.5, 0.3))
    one = {key: value for key, value in b.items() if key[0] == 0}
    moved = {(seed + 3, fold): value for (seed, fold), value in b.items()}
    short = {key: value for key, value in b.items() if key != (2, 4)}
    for other in (one, moved, short):
        means = [[np.mean([v for (_, f), v in x.items() if f == fold]) for fold in range(5)]
                 for x in (a, other)]  # fmt: skip
        found = mixed_t(a, other)
        assert (found.n_folds, found.n_seeds, found.df) == (5, 1, 4)
        assert found.p == pytest.approx(stats.ttest_rel(*means).pvalue)
    assert mixed_t(a, a).p == 1 and mixed_t(one, one).p == 1
    shifted = mixed_t({key: value + 0.25 for key, value in one.items()}, one)
    assert shifted.p == pytest.approx(0, abs=1e-12)
    single = mixed_t({(0, 0): 0.5}, {(0, 0): 0.25})
    assert single.difference == 0.25 and math.isnan(single.p)
    assert math.isnan(mixed_t({(0, 0): 0.5}, {(0, 1): 0.5}).difference)


def test_holm_by_hand() -> None:
    """.01, .04, .03, .005 of four: .005*4, .01*3, .03*2, then not below what came before."""
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "e": math.nan})
    assert math.isnan(found.pop("e"))
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({}) == {}


@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_holm_is_that_of_statsmodels(n: int) -> None:
    from statsmodels.stats.multitest import multipletests

    p = np.random.default_rng(n).uniform(size=n) ** 3
    p[n // 2 :] = np.round(p[n // 2 :], 1)  # ties
    expected = multipletests(p, method="holm")[1]
    assert list(holm(dict(enumerate(p))).values()) == pytest.approx(list(expected))


@pytest.mark.parametrize(("folds", "power"), [(2, 0.5), (5, 0.8), (10, 0.9)])
def test_the_smallest_difference_is_found_that_often(folds: int, power: float) -> None:
    """Differences whose mean has the variance the test supposes: (1/n + ratio) s²."""
    ratio, sd, runs = 1 / (folds - 1), 2.0, 20_000
    delta = smallest_difference(folds, sd, ratio, power, 0.05)
    rng = np.random.default_rng(folds)
    common = rng.normal(size=(runs, 1)) * sd * math.sqrt(ratio)
    d = delta + common + rng.normal(size=(runs, folds)) * sd
    t = d.mean(axis=1) / (d.std(axis=1, ddof=1) * math.sqrt(1 / folds + ratio))
    found = (2 * stats.t.sf(abs(t), folds - 1) < 0.05).mean()
    assert found == pytest.approx(power, abs=4 * math.sqrt(0.25 / runs))


def test_more_folds_and_less_spread_show_smaller_differences() -> None:
    def smallest(folds: int, sd: float) -> float:
        return smallest_difference(folds, sd, 0.25, 0.8, 0.05)

    assert smallest(10, 1) < smallest(5, 1)
    assert smallest(5, 2) == pytest.approx(2 * smallest(5, 1))


def layout(rng: np.random.Generator, folds: int, seeds: int, sd: tuple[float, float, float]):
    x = (
        rng.normal(size=(folds, 1)) * sd[0]
        + rng.normal(size=(1, seeds)) * sd[1]
        + rng.normal(size=(folds, seeds)) * sd[2]
    )
    return {(s, f): float(x[f, s]) for f in range(folds) for s in range(seeds)}


def test_the_parts_of_the_variance_are_recovered() -> None:
    """Method of moments is unbiased before truncation: mean squares of many layouts add up."""
    rng = np.random.default_rng(1)
    found = [spread(layout(rng, 8, 6, (3.0, 2.0, 1.0))) for _ in range(800)]
    for name, true in (("fold", 3.0), ("seed", 2.0), ("rest", 1.0)):
        squares = [getattr(one, name) ** 2 for one in found]
        assert np.mean(squares) == pytest.approx(true**2, rel=0.1)
    assert found[0].rerun == pytest.approx(math.hypot(found[0].seed, found[0].rest))


def test_the_parts_are_those_of_statsmodels() -> None:
    """Mean squares of its two-way analysis of variance."""
    import pandas as pd
    import statsmodels.api as sm
    import statsmodels.formula.api as smf

    values = layout(np.random.default_rng(2), 5, 3, (1.0, 0.5, 0.3))
    frame = pd.DataFrame([(s, f, v) for (s, f), v in values.items()], columns=["s", "f", "v"])
    table = sm.stats.anova_lm(smf.ols("v ~ C(s) + C(f)", frame).fit())
    ms = table["sum_sq"] / table["df"]
    found = spread(values)
    assert found.rest**2 == pytest.approx(ms["Residual"])
    assert found.fold**2 == pytest.approx((ms["C(f)"] - ms["Residual"]) / 3)
    assert found.seed**2 == pytest.approx(max(0, (ms["C(s)"] - ms["Residual"]) / 5))


def test_what_is_no_layout_is_said() -> None:
    full = layout(np.random.default_rng(3), 4, 3, (1.0, 1.0, 1.0))
    short = {key: value for key, value in full.items() if key != (2, 1)}
    two = {key: value for key, value in full.items() if key[0] < 2}
    found = spread(short)
    assert found.note == "without seed 2: folds missing"
    assert (found.fold, found.seed, found.rest, found.n_seeds) == (
        spread(two).fold, spread(two).seed, spread(two).rest, 2,
    )  # fmt: skip
    assert spread(full | {(2, 1): math.nan}) == found
    alone = spread({key: value for key, value in full.items() if key[0] == 0})
    assert alone.fold is None and alone.rerun is None and "4 fold(s) by 1 seed(s)" in alone.note
    assert spread({}).fold is None
    constant = spread({(s, f): float(f) for s in range(2) for f in range(3)})
    assert (constant.seed, constant.rest) == (0, 0) and constant.fold == pytest.approx(1.0)
