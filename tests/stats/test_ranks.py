"""Friedman, Nemenyi and the diagram, against Demšar's worked example and other libraries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from fusionbench.stats.ranks import diagram, friedman

# Demšar (JMLR 7, 2006), Table 6: AUC of four versions of C4.5 on 14 datasets, as ranks (the paper
# prints AUCs with three decimals, and ranks the ones behind them).
METHODS = ("C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf")
RANKS = [
    (4, 3, 2, 1),
    (1, 2, 3, 4),
    (4, 1, 2, 3),
    (4, 1, 3, 2),
    (4, 2, 3, 1),
    (1, 2.5, 4, 2.5),
    (3, 2, 4, 1),
    (2.5, 2.5, 4, 1),
    (4, 3, 2, 1),
    (2.5, 2.5, 2.5, 2.5),
    (4, 2.5, 1, 2.5),
    (3, 2, 4, 1),
    (4, 1, 2, 3),
    (3, 1, 4, 2),
]


def test_the_papers_example() -> None:
    """Section 3.2.4: average ranks, chi² = 9.28, F = 3.69, critical difference 1.25."""
    found = friedman(RANKS, METHODS, higher_is_better=False)
    assert {name: round(rank, 3) for name, rank in found.ranks.items()} == {
        "C4.5": 3.143,
        "C4.5+m": 2.0,
        "C4.5+cf": 2.893,
        "C4.5+m+cf": 1.964,
    }
    assert list(found.ranks) == ["C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"]
    assert found.chi2 == pytest.approx(9.28, abs=0.01) and found.p_chi2 < 0.05
    assert found.f == pytest.approx(3.69, abs=0.005)
    assert found.df == (3, 39) and 0.01 < found.p < 0.05  # critical F(3, 39) = 2.85
    assert found.critical_difference == pytest.approx(1.25, abs=0.005)
    # "at p = 0.10, CD = 1.12": only there C4.5 is worse than the best two.
    assert found.groups == (("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"),)
    loose = friedman(RANKS, METHODS, higher_is_better=False, alpha=0.10)
    assert loose.critical_difference == pytest.approx(1.12, abs=0.005)
    assert loose.groups == (("C4.5+m+cf", "C4.5+m", "C4.5+cf"), ("C4.5+cf", "C4.5"))


@pytest.mark.parametrize("seed", range(5))
def test_other_libraries_give_the_same(seed: int) -> None:
    import scikit_posthocs

    x = np.random.default_rng(seed).normal(size=(6 + seed, 5)) + np.arange(5) * 0.6
    names = ("a", "b", "c", "d", "e")
    found = friedman(x, names)
    chi2, p = stats.friedmanchisquare(*x.T)  # no ties here
    assert (found.chi2, found.p_chi2) == pytest.approx((chi2, p))
    pairs = scikit_posthocs.posthoc_nemenyi_friedman(x)
    for (a, b), value in found.p_pairs.items():
        assert value == pytest.approx(pairs.iloc[names.index(a), names.index(b)], abs=1e-6)
        near = abs(found.ranks[a] - found.ranks[b]) < found.critical_difference
        assert near == (value > 0.05) == any({a, b} <= set(group) for group in found.groups)
    low = friedman(-x, names, higher_is_better=False)
    assert low.ranks == found.ranks


def test_agreement_and_chance() -> None:
    always = friedman([[3, 2, 1]] * 4, ("a", "b", "c"))
    assert always.f == float("inf") and always.p == 0 and always.chi2 == pytest.approx(8)
    never = friedman([[1, 1, 1]] * 4, ("a", "b", "c"))
    assert (never.chi2, never.f, never.p) == (0, 0, 1)
    assert never.groups == (("a", "b", "c"),)


def test_too_little_is_refused() -> None:
    for values, names in (
        ([[1, 2, 3]], ("a", "b", "c")),
        ([[1, 2], [2, 1]], ("a", "b")),
        ([[1, 2, np.nan], [2, 1, 3]], ("a", "b", "c")),
        ([[1, 2, 3], [2, 1, 3]], ("a", "b", "b")),
    ):
        with pytest.raises(ValueError):
            friedman(values, names)


def test_the_diagram_is_a_file_and_the_same_each_time(tmp_path: Path) -> None:
    found = friedman(RANKS, METHODS, higher_is_better=False, alpha=0.10)
    diagram(found, tmp_path / "new" / "cd.svg", title="AUC $ 14 datasets")
    text = (tmp_path / "new" / "cd.svg").read_text("utf-8")
    assert text.lstrip().startswith("<?xml") and all(f"{name} (" in text for name in METHODS[1:2])
    diagram(found, tmp_path / "cd.svg", title="AUC $ 14 datasets")
    assert (tmp_path / "cd.svg").read_text("utf-8") == text
    diagram(found, tmp_path / "cd.png")
    assert (tmp_path / "cd.png").read_bytes().startswith(b"\x89PNG")
