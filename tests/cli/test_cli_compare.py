"""fusionbench compare and rank, on made-up records whose predictions belong to them."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_up_records import CLASSES, record
from msgspec import structs
from scipy import stats

from fusionbench.analysis.pair import choose, compare
from fusionbench.leaderboard import blocks
from fusionbench.metrics.compute import compute
from fusionbench.records import Predictions, Store
from fusionbench.stats.bootstrap import draw
from fusionbench.stats.pooled import pool

N = 60  # photographs a fold, two of each patient


def put(
    store: Store,
    skill: float,
    *,
    folds: range = range(5),
    seeds: range = range(1),
    result: dict[str, Any] | None = None,
    noise: int = 0,
    lacking: Collection[int] = (),
    **changes: Any,
) -> None:
    """A method's runs: the same patients for every method, right more often with `skill`. The folds
    `lacking` have no photograph of the last class."""
    k = len(CLASSES)
    for fold in folds:
        y = np.random.default_rng(fold).permutation(np.arange(N) % (k - (fold in lacking)))
        for seed in seeds:
            rng = np.random.default_rng([fold, seed, noise])
            p = np.exp(rng.normal(size=(N, k)) + skill * np.eye(k)[y])
            p /= p.sum(axis=1, keepdims=True)
            made = record(
                compute(y, p, CLASSES),
                n=N,
                fold=fold,
                seed=seed,
                result={"n_test": N, "n_train": 4 * N, "verdict": "clean"} | (result or {}),
                **changes,
            )
            predictions = Predictions(
                ids=tuple(f"{fold}_{i}.png" for i in range(N)),
                parts=("test",) * N,
                fold=fold,
                labels=tuple(CLASSES[c] for c in y),
                probabilities=p,
                classes=CLASSES,
                groups=tuple(f"P{fold}_{i // 2}" for i in range(N)),
                lesions=tuple(f"L{fold}_{i // 2}" for i in range(N)),
            )
            store.write(made, predictions)


NONE = {"fusion": "none", "fusion_params": {}, "loss": "ce", "loss_params": {}}
CONCAT = {"fusion": "concat", "fusion_params": {}, "loss": "ce", "loss_params": {}}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A good method, a poor one, one like the poor one."""
    kept = Store(tmp_path / "store")
    put(kept, 2.5)
    put(kept, 0.5, noise=1, **NONE)
    put(kept, 0.5, noise=2, **CONCAT)
    return kept.folder


def test_the_numbers_are_those_of_the_tests(cli, store: Path) -> None:
    found = cli("compare", "sgmc", "none", "--store", store, "--resamples", 200, "--json").json
    (one,) = found["metrics"]
    records = {r.run_id: r for r in Store(store).records()}
    by_method = {
        name: {
            r.identity.fold: r for r in records.values() if r.identity.method.fusion.name == name
        }
        for name in ("sgmc", "none")
    }
    values = {
        name: np.array([runs[f].result.metrics["bacc"] for f in range(5)])
        for name, runs in by_method.items()
    }
    d = values["sgmc"] - values["none"]
    t = d.mean() / np.sqrt((1 / 5 + 1 / 4) * d.var(ddof=1))
    assert one["test"]["t"] == pytest.approx(t)
    assert one["p_test"] == pytest.approx(2 * stats.t.sf(abs(t), 4))
    assert one["p_mixed"] == pytest.approx(stats.ttest_rel(values["sgmc"], values["none"]).pvalue)
    assert one["a"]["mean"] == pytest.approx(values["sgmc"].mean())
    pools = [
        pool({0: [Store(store).predictions(r.run_id) for r in runs.values()]})
        for runs in by_method.values()
    ]
    resampled = []
    for weights in draw(pools[0].n_patients, 200):
        rows = np.repeat(np.arange(5 * N), weights[pools[0].patients])
        a, b = (compute(q.y[rows], q.probabilities[0][rows], CLASSES)["bacc"] for q in pools)
        resampled.append(a - b)
    expected = tuple(np.quantile(resampled, [0.025, 0.975]))
    assert (one["bootstrap"]["low"], one["bootstrap"]["high"]) == pytest.approx(expected)
    assert one["bootstrap"]["n_patients"] == 150 and found["n_folds"] == 5


def test_the_paragraph_says_what_a_reader_needs(cli, store: Path) -> None:
    answer = cli("compare", "sgmc", "none@resnet18", "--store", store)
    assert (answer.code, answer.err) == (0, "")
    text, _, table = answer.out.partition("\n")
    for words in (
        "sgmc@resnet18 (ce+self-contrastive) with none@resnet18 (ce) on synthetic",
        "under the protocol grouped-5fold (5 folds, 1 seed; 300 test photographs of 150 patients)",
        "corrected resampled t-test, t(4) = ",
        "; mixed model over folds, p ",
        "the corrected t-test decides; it is conservative",
        "95 % CI [+",
        "paired patient bootstrap, p < 0.001",
        "drew patients 2,000 times",
        "sgmc@resnet18 (ce+self-contrastive) had a significantly higher BACC than none@resnet18",
    ):
        assert words in text
    assert "not audited" not in text and "subset" not in text
    assert re.search(r"BACC +\d+\.\d ± \d", table)


def test_nothing_found_is_not_called_equal(cli, store: Path) -> None:
    text = cli("compare", "none", "concat", "--store", store).out
    assert "no significant difference in BACC was found at the 5 % level" in text
    assert "equal" not in text and "significantly" not in text


def test_several_metrics_are_corrected(cli, store: Path) -> None:
    names = ("bacc", "nll", "auc_ovr_macro")
    options = [word for name in names for word in ("--metric", name)]
    alone = [
        cli("compare", "sgmc", "none", "--store", store, "--metric", name, "--json").json
        for name in names
    ]
    together = cli("compare", "sgmc", "none", "--store", store, *options, "--json").json
    raw = [one["metrics"][0]["p_test"] for one in alone]
    assert [m["test"]["p"] for m in together["metrics"]] == pytest.approx(raw)
    smallest = int(np.argmin(raw))
    assert together["metrics"][smallest]["p_test"] == pytest.approx(3 * raw[smallest])
    assert "Holm-corrected over 3 metrics" in together["paragraph"]
    # A lower NLL is the better one: none's is higher, and that is said to be worse.
    assert "none@resnet18 (ce) had a significantly higher (worse) NLL" in together["paragraph"]


def test_what_stands_on_the_rows_is_said(cli, tmp_path: Path) -> None:
    kept = Store(tmp_path / "store")
    subset = {"complete_data": False, "n_rows_dataset": 400, "n_rows_used": 300}
    put(kept, 1, result=subset | {"flags": ("optimistic: test-best",), "verdict": ""})
    put(kept, 1, noise=1, result=subset | {"verdict": "leaky: patients 54 %"}, **NONE)
    text = cli("compare", "sgmc", "none", "--store", kept.folder).out
    assert "subset: 300 of 400 photographs (not synthetic)" in text
    assert (
        "Note on sgmc@resnet18 (ce+self-contrastive): optimistic: test-best; not audited." in text
    )
    assert "Note on none@resnet18 (ce): leaky: patients 54 %." in text


def test_seeds_are_averaged_and_their_part_is_told(cli, tmp_path: Path) -> None:
    kept = Store(tmp_path / "store")
    put(kept, 1.5, seeds=range(3))
    put(kept, 0.5, noise=1, **NONE)
    answer = cli("compare", "sgmc", "none", "--store", kept.folder)
    assert "5 folds, 3 and 1 seeds" in answer.out
    assert "seeds were averaged within folds before the t-test" in answer.out
    assert re.search(r"A, bacc: standard deviation [\d.]+ points between folds", answer.out)
    found = cli("compare", "sgmc", "none", "--store", kept.folder, "--json").json["metrics"][0]
    assert found["test"]["df"] == 4 and found["a"]["n"] == 15
    assert found["spread_a"]["n_seeds"] == 3 and found["spread_b"]["fold"] is None


def test_what_the_less_conservative_test_finds_is_said(cli, tmp_path: Path) -> None:
    kept = Store(tmp_path / "store")
    put(kept, 1.3, seeds=range(3), lacking=(2,))
    put(kept, 1.0, noise=1, seeds=range(3), lacking=(2,), **NONE)
    answer = cli("compare", "sgmc", "none", "--store", kept.folder)
    (one,) = cli("compare", "sgmc", "none", "--store", kept.folder, "--json").json["metrics"]
    assert one["p_test"] > 0.05 > one["p_mixed"] and one["mixed"]["n_seeds"] == 3
    assert (
        "no significant difference in BACC was found at the 5 % level. The mixed model over folds "
        "and seeds, which is less conservative, finds a difference." in answer.out
    )
    # The table fits 80 columns with every heading whole, however long a metric's title is.
    long = cli("compare", "sgmc", "none", "--store", kept.folder, "--metric", "auc_ovr_weighted")
    for out in (answer.out, long.out):
        assert "pooled 95 % CI folds mixed patients" in " ".join(out.split())


def test_a_single_split_has_the_bootstrap_alone(cli, tmp_path: Path) -> None:
    kept = Store(tmp_path / "store")
    one = {"folds_expected": 1}
    put(kept, 2.5, folds=range(1), result=one)
    put(kept, 0.2, folds=range(1), result=one, noise=1, **NONE)
    text = cli("compare", "sgmc", "none", "--store", kept.folder).out
    assert "t-test" not in text.partition("\n")[0]
    assert "With a single split there is no test over retrained models" in text
    assert "significantly higher BACC" in text


def test_after_temperature_scaling(cli, tmp_path: Path) -> None:
    """nll_scaled of the pooled rows is that of softmax(logits / T), T of each run."""
    kept = Store(tmp_path / "store")
    put(kept, 1.5, folds=range(2), result={"folds_expected": 2})
    put(kept, 0.5, folds=range(2), result={"folds_expected": 2}, noise=1, **NONE)
    records = list(kept.records())
    with_t = {}
    for i, r in enumerate(records):
        t = 1 + 0.5 * i
        part = r.result.parts["test"]
        part = structs.replace(part, metrics=part.metrics | {"nll_scaled": 0.9})
        result = structs.replace(r.result, temperature=t, parts={"test": part})
        with_t[r.run_id] = structs.replace(r, result=result)
    block, a, b = choose(blocks(with_t.values()), "sgmc", "none")
    scaled: Any = SimpleNamespace(read=with_t.__getitem__, predictions=kept.predictions)
    (found,) = compare(scaled, block, a, b, ["nll_scaled"]).metrics
    total, n = 0.0, 0
    for run in a.run_ids:
        q = kept.predictions(run)
        logits = np.log(q.probabilities) / with_t[run].result.temperature
        for row, label in zip(logits, q.labels, strict=True):
            total += np.log(np.exp(row).sum()) - row[CLASSES.index(label)]
            n += 1
    assert found.bootstrap.value_a == pytest.approx(total / n)
    refused = cli("compare", "sgmc", "none", "--metric", "nll_scaled", "--store", kept.folder)
    assert refused.code == 2 and "nll_scaled is not among the metrics" in refused.err


def test_what_cannot_be_compared_is_refused(cli, store: Path) -> None:
    kept = Store(store)
    put(kept, 1, folds=range(3), **(NONE | {"fusion": "metanet"}))
    put(kept, 1, **(NONE | {"dataset": "other"}))
    put(kept, 1, **(NONE | {"dataset": "other", "fusion": "late"}))
    put(kept, 1, noise=3, **(CONCAT | {"fusion_params": {"width": 8}}))
    call = ("compare", "--store", store)
    for words, code, said in (
        (("sgmc", "metanet"), 1, "metanet@resnet18 "),
        (("sgmc", "metanet"), 1, "is incomplete: n=3/5 runs"),
        (("sgmc", "sgmc@resnet18"), 2, "are the same row"),
        (("sgmc", "late"), 2, "not evaluated on the same photographs under the same split"),
        (("sgmc", "concat"), 2, "fusion.width=8"),
        (("sgmc", "nine"), 2, "Did you mean none"),
        (("sgmc", "none", "--metric", "auc"), 2, "no metric called 'auc'"),
        (("sgmc", "none", "--metric", "recall/XYZ"), 2, "recall/XYZ is not among the metrics"),
    ):
        answer = cli(*call, *words)
        assert answer.code == code and said in answer.err and not answer.out, (words, answer)
    # "none" is there twice, but only once beside sgmc; a key always says which one.
    assert cli(*call, "none", "sgmc").code == cli(*call, "sgmc", "none").code == 0
    key = cli(*call, "sgmc", "none", "--json").json["b"]["key"]
    assert cli(*call, key, "sgmc", "--json").json["a"]["key"] == key


def test_means_over_fewer_classes_and_folds_are_said(cli, tmp_path: Path) -> None:
    """Two folds lack MEL: BACC and AUC are means over two classes there, and MEL has no recall."""
    kept = Store(tmp_path / "store")
    for i, (skill, method) in enumerate(((2.5, {}), (0.5, NONE), (1.0, CONCAT))):
        for dataset in ("one", "two"):
            put(kept, skill, noise=i, lacking=(1, 3), dataset=dataset, **method)
    call = ("--store", kept.folder, "--metric")
    both = cli("compare", "sgmc", "none", "--dataset", "one", *call, "bacc", *call[2:],
               "auc_ovr_macro", *call[2:], "recall/MEL", *call[2:], "acc").out  # fmt: skip
    said = "mean over 2 of 3 classes in 2 folds, whose test part lacks the others."
    assert "patients). BACC (bacc) was" in both
    assert f" BACC and AUC: {said} Recall MEL: mean over 3 of 5 folds, not defined in the" in both
    assert "ACC: mean" not in both.replace("BACC: mean", "")
    ranked = " ".join(cli("rank", *call, "bacc").out.split())
    for name in ("one", "two"):
        assert f"On {name} / grouped-5fold, BACC: {said[:-1]}" in ranked
    assert "mean over" not in cli("rank", *call, "acc").out


def test_rank_over_datasets(cli, tmp_path: Path) -> None:
    kept = Store(tmp_path / "store")
    for i, dataset in enumerate(("one", "two", "three")):
        put(kept, 3.0, dataset=dataset, noise=10 * i)
        put(kept, 1.5, dataset=dataset, noise=10 * i + 1, **CONCAT)
        put(kept, 0.0, dataset=dataset, noise=10 * i + 2, **NONE)
    put(kept, 1, dataset="one", protocol="image-5fold", result={"flags": ("leaky: patients",)})
    put(kept, 1, dataset="two", **(NONE | {"fusion": "metanet"}))
    picture = tmp_path / "cd.svg"
    answer = cli("rank", "--store", kept.folder, "--output", picture)
    assert answer.code == 0 and picture.read_text("utf-8").lstrip().startswith("<?xml")
    assert re.search(r"sgmc +1\.00", answer.out) and re.search(r"none +3\.00", answer.out)
    assert "Friedman over 3 datasets: chi² = 6.00" in answer.out  # N (k - 1): all agree
    assert "metanet@resnet18 (ce) left out: no row on one / grouped-5fold" in " ".join(
        answer.out.split()
    )
    assert "one / image-5fold left out: one / grouped-5fold stands for it" in " ".join(
        answer.out.split()
    )
    data = cli("rank", "--store", kept.folder, "--json").json
    assert list(data["values"]) == ["sgmc", "concat", "none"]
    assert list(data["test"]["ranks"].values()) == [1, 2, 3]
    assert len(data["values"]) == 3 and len(data["test"]["p_pairs"]) == 3


def test_too_little_to_rank_is_said(cli, store: Path) -> None:
    answer = cli("rank", "--store", store)
    assert answer.code == 1 and "two different ones at least" in answer.err
    put(Store(store), 1, dataset="other")
    put(Store(store), 1, folds=range(2), **(NONE | {"dataset": "other"}))
    answer = cli("rank", "--store", store)
    assert answer.code == 1 and "three methods that are complete on every dataset" in answer.err
    assert "none@resnet18 (ce) left out: n=2/5 on other" in answer.err
    assert cli("rank", "--store", store, "--output", "x.gif").code == 2
    assert "no finished run" in cli("rank", "--store", store, "--dataset", "nowhere").err
