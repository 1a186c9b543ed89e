"""Photographs averaged to lesions, against a dictionary and a loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionbench.metrics.lesions import by_lesion

K = 3


@st.composite
def photographs(draw: st.DrawFn) -> tuple[list[int], np.ndarray, list[str]]:
    n = draw(st.integers(1, 25))
    lesions = draw(st.lists(st.sampled_from("abcdefgh"), min_size=n, max_size=n))
    # A lesion's class, now and then another one for a single photograph.
    own = {name: draw(st.integers(0, K - 1)) for name in sorted(set(lesions))}
    wrong = draw(st.lists(st.sampled_from([0, 0, 0, 1]), min_size=n, max_size=n))
    y = [(own[name] + w) % K for name, w in zip(lesions, wrong, strict=True)]
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    return y, rng.dirichlet(np.ones(K), n), lesions


@given(photographs())
@settings(deadline=None, max_examples=100)
def test_a_loop_gives_the_same(case: tuple[list[int], np.ndarray, list[str]]) -> None:
    y, p, lesions = case
    expected: list[tuple[int, list[float], int]] = []
    done: set[str] = set()
    for i, name in enumerate(lesions):
        members = [j for j, other in enumerate(lesions) if other == name]
        if len({y[j] for j in members}) > 1:
            expected.append((y[i], list(p[i]), 1))
        elif name not in done:
            done.add(name)
            mean = [sum(p[j][c] for j in members) / len(members) for c in range(K)]
            expected.append((y[i], mean, len(members)))
    labels, averaged, sizes = by_lesion(y, p, lesions)
    # Single photographs of a torn lesion stand where they stood among the first ones.
    assert labels.tolist() == [e[0] for e in expected]
    np.testing.assert_allclose(averaged, [e[1] for e in expected], rtol=1e-12)
    assert sizes.tolist() == [e[2] for e in expected]
    assert sizes.sum() == len(y)
    np.testing.assert_allclose(averaged.sum(axis=1), 1)


def test_lesions_of_one_photograph_change_nothing() -> None:
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, K, 30), rng.dirichlet(np.ones(K), 30)
    labels, averaged, sizes = by_lesion(y, p, [f"PAT_{i}" for i in range(30)])
    assert (labels == y).all() and (averaged == p).all() and (sizes == 1).all()


def test_two_views_of_one_lesion_outvote_a_doubtful_one() -> None:
    labels, averaged, sizes = by_lesion(
        [1, 0, 1], [[0.6, 0.4], [0.9, 0.1], [0.1, 0.9]], list("aba")
    )
    assert labels.tolist() == [1, 0] and sizes.tolist() == [2, 1]
    np.testing.assert_allclose(averaged, [[0.35, 0.65], [0.9, 0.1]])


def test_the_label_decides_about_no_average() -> None:
    """Averaged per class, the two photographs of class 1 would help each other out."""
    labels, averaged, sizes = by_lesion(
        [0, 1, 1], [[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]], list("aaa")
    )
    assert labels.tolist() == [0, 1, 1] and (sizes == 1).all()
    np.testing.assert_array_equal(averaged, [[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]])


def test_lengths_must_fit() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        by_lesion([0, 1], np.eye(2), ["a"])
