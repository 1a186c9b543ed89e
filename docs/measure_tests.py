"""Simulates the tests that `fusionbench compare` could decide by; writes docs/tests-measured.md.

    nice python docs/measure_tests.py          1,000 comparisons a condition: 20 minutes of one core
    nice python docs/measure_tests.py --quick  20 comparisons, to see that it works; writes nothing

Made-up patients are those of PAD-UFES-20 in number, in photographs each and in classes. Two methods
learn from the same 5 folds: each sees features that both share and features of its own, which say
the class equally well unless a condition says otherwise, and estimates the class means from the
training folds. A seed adds noise to what was learned and to every prediction. What each test does
with the result is counted: how often it finds a difference that is not there (its level), and one
that is there (its power).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusionbench.stats.bootstrap import paired
from fusionbench.stats.pooled import Pooled
from fusionbench.stats.resampled import fold_means, mixed_t, resampled_t

Floats = NDArray[np.float64]

TARGET = Path(__file__).parent / "tests-measured.md"
# PAD-UFES-20: photographs of each class, and patients who have so many photographs.
CLASSES = {"ACK": 730, "BCC": 845, "MEL": 52, "NEV": 244, "SCC": 192, "SEK": 235}
SIZES = np.repeat([1, 2, 3, 4, 5, 6, 7, 10], [829, 328, 132, 42, 21, 12, 6, 3])
K, SEEDS, ALPHA, SWAPS = len(CLASSES), 3, 0.05, 499
SHARE = np.array([*CLASSES.values()]) / sum(CLASSES.values())
METRICS = ("bacc", "auc_ovr_macro")


@dataclass(frozen=True)
class Made:
    """How the data are made. The defaults give a BACC of 0.68, an AUC of 0.92, a standard deviation
    of BACC of 3 points between folds and of 2 between seeds, and seeds (methods) that call 24 %
    (33 %) of the photographs differently."""

    patients: int = len(SIZES)
    folds: int = 5
    shared: float = 1.7  # distance between class means, in standard deviations of the noise
    own: float = 0.8
    learned: float = 0.15  # a seed's noise in what is learned, common to the photographs of a fold
    each: float = 0.6  # a seed's noise in each logit
    edge: float = 0.0  # how much more the second method's own features say
    prior: float = 0.0  # how much of the classes' log frequency the second method adds


@dataclass(frozen=True)
class Data:
    """Labels, patients and folds (n,), and probabilities (2 methods, seeds, n, K)."""

    y: NDArray[np.int64]
    owner: NDArray[np.int64]
    fold: NDArray[np.int64]
    p: Floats


def make(made: Made, rng: np.random.Generator) -> Data:
    """One data set and its cross-validation, folds stratified and by patient."""
    sizes = rng.permutation(SIZES)[: made.patients]
    patients, owner = len(sizes), np.repeat(np.arange(len(sizes)), sizes)
    n = len(owner)
    main = rng.choice(K, patients, p=SHARE)  # a patient's photographs often show one diagnosis
    y = np.where(rng.random(n) < 0.6, main[owner], rng.choice(K, n, p=SHARE))
    of_patient = np.empty(patients, dtype=np.int64)
    of_patient[np.lexsort((rng.random(patients), main))] = np.arange(patients) % made.folds
    fold, truth = of_patient[owner], np.eye(K)[y]

    def seen(strength: float) -> Floats:
        """(n, K) features; three tenths of their noise are the patient's."""
        common = rng.normal(size=(patients, K))[owner]
        return strength * truth + math.sqrt(0.3) * common + math.sqrt(0.7) * rng.normal(size=(n, K))

    both, logits = seen(made.shared), np.empty((2, SEEDS, n, K))
    for method in (0, 1):
        x = np.hstack([both, seen(made.own + made.edge * method)])
        for f in range(made.folds):
            train, test = fold != f, fold == f
            counts = np.maximum(truth[train].sum(axis=0), 1)
            means = truth[train].T @ x[train] / counts[:, None]
            log_prior = made.prior * method * np.log(counts / counts.sum())
            for seed in range(SEEDS):
                learned = means + made.learned * rng.normal(size=means.shape)
                exact = x[test] @ learned.T - (learned**2).sum(axis=1) / 2 + log_prior
                logits[method, seed, test] = exact + made.each * rng.normal(size=exact.shape)
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return Data(y, owner, fold, p / p.sum(axis=-1, keepdims=True))


def metric_values(y: NDArray[np.int64], p: Floats, metric: str) -> Floats:
    """(..., n, K) probabilities -> (...) values."""
    right = p.argmax(axis=-1) == y
    return np.mean([
        (right if metric == "bacc" else beaten(p[..., c], y == c))[..., y == c].mean(axis=-1)
        for c in np.unique(y)
    ], axis=0)  # fmt: skip


def beaten(score: Floats, positive: NDArray[np.bool_]) -> Floats:
    """(..., n) scores -> the share of negatives below each positive, and of positives above each
    negative; AUC is the mean of either. (No two scores are the same.)"""
    order = score.argsort(axis=-1)
    above = positive[order]
    among = above.cumsum(axis=-1)  # positives up to here
    share = np.where(above, (np.arange(1, len(positive) + 1) - among) / (~positive).sum(),
                     1 - among / positive.sum())  # fmt: skip
    found = np.empty_like(share)
    np.put_along_axis(found, order, share, axis=-1)
    return found


def influence(data: Data, metric: str) -> tuple[Floats, Floats]:
    """(seeds, patients): what each patient adds to the error of the pooled difference, to first
    order; and half of what swapping the patient's predictions takes from it, which is exact."""
    errors, swaps = np.zeros((2, SEEDS, len(data.y)))
    right = (data.p.argmax(axis=-1) == data.y).astype(float)
    for c in range(K):
        positive = data.y == c
        if metric == "bacc":
            sides, shares, swapped = (positive,), right[0] - right[1], right[0] - right[1]
        else:
            score = data.p[..., c]
            sides = (positive, ~positive)
            a, b = beaten(score, positive)
            union = beaten(np.concatenate([*score], axis=-1), np.tile(positive, 2))
            shares, swapped = a - b, union[:, : len(a[0])] - union[:, len(a[0]) :]
        for side in sides:
            share, size = shares[:, side], K * side.sum()
            errors[:, side] += (share - share.mean(axis=1, keepdims=True)) / size
            swaps[:, side] += swapped[:, side] / size
    sums = np.zeros((2, SEEDS, data.owner.max() + 1))
    np.add.at(sums, (slice(None), slice(None), data.owner), np.stack([errors, swaps]))
    return sums[0], sums[1]


def p_values(data: Data, metric: str, rng: np.random.Generator) -> Iterator[tuple[str, int, float]]:
    """(test, seeds, p) of every candidate, for one seed and for all of them."""
    folds = int(data.fold.max()) + 1
    values = [metric_values(data.y[data.fold == f], data.p[:, :, data.fold == f], metric)
              for f in range(folds)]  # fmt: skip
    pooled = metric_values(data.y, data.p, metric)
    errors, swaps = influence(data, metric)
    signs = 1.0 - 2 * rng.integers(0, 2, size=(SWAPS, errors.shape[1]), dtype=np.int8)
    for s in (1, SEEDS):
        a, b = ({(seed, f): float(values[f][side, seed]) for seed in range(s) for f in range(folds)}
                for side in (0, 1))  # fmt: skip
        averaged = ({(0, f): mean for f, mean in fold_means(x).items()} for x in (a, b))
        square = (plain := mixed_t(*averaged)).se ** 2
        whole = float((pooled[0] - pooled[1])[:s].mean())
        patients = float((errors[:s].mean(axis=0) ** 2).sum())
        swapped = np.abs(signs @ swaps[:s].mean(axis=0))
        yield "corrected", s, resampled_t(a, b, 1 / (folds - 1)).p
        yield "plain", s, plain.p
        yield "bootstrap", s, normal(whole, patients)
        yield "swaps", s, float((1 + (swapped >= abs(whole) - 1e-12).sum()) / (1 + SWAPS))
        yield "larger", s, normal(whole, max(patients, square))
        if s > 1:
            yield "mixed", s, mixed_t(a, b).p
            d = [f[0][:s] - f[1][:s] for f in values]
            retrained = float(np.var(d, axis=1, ddof=1).mean()) / (folds * s)
            yield "patients+seeds", s, normal(whole, patients + retrained)


def normal(difference: float, variance: float) -> float:
    """Two-sided p."""
    return math.erfc(abs(difference) / math.sqrt(2 * variance))


NAMES = {
    "corrected": "corrected resampled t-test (Nadeau & Bengio)",
    "plain": "paired t-test over folds, seeds averaged (= mixed model, folds random)",
    "mixed": "mixed model, folds and seeds random",
    "bootstrap": "patient bootstrap",
    "swaps": "permutation: the methods' predictions swapped by patient",
    "larger": "z, larger standard error of bootstrap and folds",
    "patients+seeds": "z, variances of bootstrap and seeds added",
}


def rates(made: Made, runs: int, key: int, metrics: tuple[str, ...]) -> dict[str, Floats]:
    """Metric -> how often each of NAMES rejects, (tests, 2): one seed, several; NaN without it."""
    found = {m: np.full((len(NAMES), 2, runs), np.nan) for m in metrics}
    for run in range(runs):
        rng = np.random.default_rng([key, run])
        data = make(made, rng)
        for metric in metrics:
            for name, seeds, p in p_values(data, metric, rng):
                found[metric][[*NAMES].index(name), int(seeds > 1), run] = p
    return {m: np.where(np.isnan(p), np.nan, p < ALPHA).mean(axis=-1) for m, p in found.items()}


def edges_for(made: Made, runs: int, points: tuple[float, ...]) -> dict[str, list[float]]:
    """Metric -> the edges that make the second method better by so many points on average: read
    off a line through what edges change on the same patients with the same noise."""
    edges = np.linspace(-0.3, 0.8, 8)
    changes = {metric: np.zeros(len(edges)) for metric in METRICS}
    plain = replace(made, edge=0.0, prior=0.0)
    for run in range(runs):
        for i, used in enumerate((plain, *(replace(made, edge=e) for e in edges))):
            data = make(used, np.random.default_rng([99, run]))
            for metric in METRICS:
                of_folds = [metric_values(data.y[data.fold == f], data.p[1][:, data.fold == f],
                                          metric).mean() for f in range(made.folds)]  # fmt: skip
                if i == 0:
                    changes[metric] -= np.mean(of_folds) / runs
                else:
                    changes[metric][i - 1] += np.mean(of_folds) / runs
    return {m: [float(np.interp(k / 100, changes[m], edges)) for k in points] for m in METRICS}


def agreement(runs: int) -> tuple[int, float]:
    """Data sets, and in what share of them and of the metrics the linearised bootstrap decides as
    the one of fusionbench.stats.bootstrap."""
    same = []
    for run in range(runs):
        rng = np.random.default_rng([1, run])
        data = make(Made(edge=0.15), rng)
        rows = tuple((int(f), str(i)) for i, f in enumerate(data.fold))
        sides = [Pooled(rows, data.y, p, data.owner, tuple(CLASSES)) for p in data.p]
        real = paired(*sides, METRICS, n_resamples=1000, seed=run)
        for metric in METRICS:
            p = {(name, s): value for name, s, value in p_values(data, metric, rng)}
            same.append((p["bootstrap", SEEDS] < ALPHA) == (real[metric].p < ALPHA))
    return runs, float(np.mean(same))


Condition = tuple[str, dict[str, Made]]  # what it is called, and its data for each metric


def conditions(runs: int) -> tuple[list[Condition], list[Condition]]:
    """Those without a difference, and those with one."""
    other, better = Made(prior=0.5), (1, 2, 3)
    equal, edges = edges_for(other, runs, (0,)), edges_for(Made(), runs, better)
    few = Made(patients=275)
    none: list[Condition] = [
        (title, dict.fromkeys(METRICS, made))
        for title, made in (
            ("equal methods", Made()),
            ("seeds differ twice as much", Made(learned=0.3)),
            ("a fifth of the patients", few),
            ("a fifth, seeds differ twice as much", replace(few, learned=0.3)),
            ("a fifth, seeds change nothing", replace(few, learned=0.0, each=0.0)),
            ("10 folds", Made(folds=10)),
        )
    ]
    unlike = {m: replace(other, edge=equal[m][0]) for m in METRICS}
    none.insert(1, ("unlike methods, equal on average", unlike))
    some = [
        (f"{points} point{'s' * (points > 1)}", {m: Made(edge=edges[m][i]) for m in METRICS})
        for i, points in enumerate(better)
    ]
    return none, some


def measure(todo: list[Condition], runs: int, first: int) -> dict[str, Floats]:
    """Metric -> (conditions, tests, 2) rates."""
    found: dict[str, list[Floats]] = {metric: [] for metric in METRICS}
    for i, (title, by_metric) in enumerate(todo):
        together = len({*by_metric.values()}) == 1
        for group in [METRICS] if together else [(metric,) for metric in METRICS]:
            one = rates(by_metric[group[0]], runs, first + i, group)
            for metric in group:
                found[metric].append(one[metric])
        print(title, flush=True)
    return {metric: np.stack(rates_) for metric, rates_ in found.items()}


def table(todo: list[Condition], found: Floats, seeds: int) -> Iterator[str]:
    """Lines of Markdown; `found` of one metric, (conditions, tests)."""
    yield f"| {seeds} seed{'s' * (seeds > 1)} | {' | '.join(title for title, _ in todo)} |"
    yield "|:--|" + "--:|" * len(todo)
    for test, name in enumerate(NAMES.values()):
        if not np.isnan(found[:, test]).any():
            yield f"| {name} | {' | '.join(f'{100 * r:.1f}' for r in found[:, test])} |"
    yield ""


def main() -> None:
    """Simulate, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    runs = 20 if quick else 1000
    none, some = conditions(2 if quick else 80)
    level, power = measure(none, runs, 10), measure(some, runs, 50)
    sets, same = agreement(2 if quick else 25)
    lines = [
        "<!-- Generated by docs/measure_tests.py; not to be edited. -->",
        f"Percent of {runs:,} simulated comparisons with p < {ALPHA}; the standard error of 5.0 "
        f"is {100 * math.sqrt(0.0475 / runs):.1f}. The bootstrap is its linearisation, which "
        f"decided as 1,000 resamples did in {100 * same:.0f} % of {2 * sets} comparisons.",
        "",
    ]
    for title, todo, found in (
        ("Level: no difference in {}", none, level),
        ("Power: a true difference in {}", some, power),
    ):
        for metric in METRICS:
            lines += [f"## {title.format(metric)}", ""]
            for i, seeds in enumerate((1, SEEDS)):
                lines += table(todo, found[metric][..., i], seeds)
    text = "\n".join(lines).rstrip() + "\n"
    print(text)
    if not quick:
        TARGET.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
