"""Friedman, Nemenyi and the diagram, against Demšar's worked example and other libraries."""

from __future__ import annotations

import itertools
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from scipy import stats

from fusionbench.stats.ranks import Friedman, diagram, figure_of, friedman

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


NAME = "m{}-$x^2_{}$ <b>&amp; \u00e4 \x1b[31m, rank=64, width=0.25, depth=12 (ce+deep-supervision)"


def ranked(methods: int, apart: float, *, name: str = NAME, datasets: int = 12) -> Friedman:
    """Methods of nearly equal ranks, or more and more apart."""
    rng = np.random.default_rng(methods)
    x = rng.normal(size=(datasets, methods)) - apart * np.arange(methods)
    return friedman(x, [name.format(i, i)[: max(60, len(name) - 20)] for i in range(methods)])


def boxes(figure: Figure) -> list[tuple[str, Bbox]]:
    """Each text, and where it lies; in points from the lower left."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [text for text in figure.findobj(Text) if text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in texts]


@pytest.mark.parametrize("name", [NAME, "m{}", "{} " + 200 * "w"])
@pytest.mark.parametrize("apart", [0.0, 0.002, 0.5, 3.0])
@pytest.mark.parametrize("methods", [3, 4, 12, 20])
def test_nothing_in_the_diagram_is_clipped_or_overlaps(
    methods: int, apart: float, name: str
) -> None:
    """Every text lies inside the figure and touches neither another text nor a line."""
    found = ranked(methods, apart, name=name)
    figure = figure_of(found, title="Average rank by recall/MEL, $12$ datasets")
    texts = boxes(figure)
    assert len(texts) >= 2 * methods + 4 and sum("$12$" in text for text, _ in texts) == 1
    inside = figure.bbox
    for i, (text, box) in enumerate(texts):
        assert inside.x0 <= box.x0 and box.x1 <= inside.x1, text
        assert inside.y0 <= box.y0 and box.y1 <= inside.y1, text
        assert not [other for other, of in texts[:i] if box.overlaps(of)], text
    for line in figure.findobj(Line2D):
        corners = line.get_transform().transform(np.column_stack(line.get_data()))
        for a, b in itertools.pairwise(corners):
            stretch = Bbox([np.minimum(a, b) - 0.5, np.maximum(a, b) + 0.5])
            assert not [text for text, box in texts if stretch.overlaps(box)]


def test_equal_ranks_and_one_far_away_can_be_drawn() -> None:
    same = friedman(np.ones((4, 5)), [f"m{i}" for i in range(5)])
    far = friedman([[9, 2, 1, 0], [9, 1, 2, 0], [9, 0, 1, 2]], ["a", "b", "c", "d"])
    for found in (same, far):
        assert {"a", "m0"} & {text for text, _ in boxes(figure_of(found))}


def test_the_diagram_is_a_file_and_the_same_each_time(tmp_path: Path) -> None:
    """Names are text, as they are: no formula, no markup, no control characters."""
    names = [r"a $\frac{1$ <b>&amp;", "b\x1b]0;title\x07\n\ud800\u202e", "\u76ae\u80a4", "C4.5"]
    found = friedman(RANKS, names, higher_is_better=False, alpha=0.10)
    for suffix, start in ((".svg", b"<?xml"), (".pdf", b"%PDF"), (".png", b"\x89PNG")):
        for path in (tmp_path / "new" / f"cd{suffix}", tmp_path / f"again{suffix}"):
            diagram(found, path, title="AUC $ 14 datasets")
        assert path.read_bytes().startswith(start)
        assert path.read_bytes() == (tmp_path / "new" / f"cd{suffix}").read_bytes()
    texts = [e.text for e in ElementTree.parse(tmp_path / "again.svg").iter() if e.text]
    assert {names[0], "b?]0;title????", names[2], "C4.5", "AUC $ 14 datasets"} <= {*texts}
    assert b"/Type3" not in (tmp_path / "again.pdf").read_bytes()  # fonts are embedded as TrueType
