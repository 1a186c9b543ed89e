"""Samplers: which rows an epoch draws, that training uses them, and whose run_id they change."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.records import Store
from fusionbench.runs.network_study import setup
from fusionbench.runs.run import run
from fusionbench.runs.study import Opened
from fusionbench.training.loop import epoch_rows, row_odds

LABELS = np.repeat([0, 1, 2], [1600, 400, 25])
ROWS = np.arange(len(LABELS)) * 3 + 7  # positions in a larger table


def shares(sampler: Any, epochs: int = 40) -> np.ndarray:
    """Share of each class over several epochs."""
    drawn = [
        epoch_rows(ROWS, LABELS, sampler, np.random.default_rng([0, epoch]))
        for epoch in range(epochs)
    ]
    labels = LABELS[(np.concatenate(drawn) - 7) // 3]
    return np.bincount(labels, minlength=3) / len(labels)


def test_shuffle_is_the_generators_permutation() -> None:
    got = epoch_rows(ROWS, LABELS, "shuffle", np.random.default_rng([4, 2]))
    np.testing.assert_array_equal(got, np.random.default_rng([4, 2]).permutation(ROWS))
    assert sorted(got) == ROWS.tolist()


def test_class_shares_are_those_that_the_names_say() -> None:
    """81,000 draws: three standard deviations are 0.005."""
    np.testing.assert_allclose(shares("shuffle", 1), np.array([1600, 400, 25]) / 2025)
    np.testing.assert_allclose(shares("class-balanced"), [1 / 3] * 3, atol=0.006)
    roots = np.array([40.0, 20.0, 5.0])
    np.testing.assert_allclose(shares("square-root"), roots / roots.sum(), atol=0.006)


def test_rows_of_one_class_are_drawn_alike() -> None:
    drawn: Counter[int] = Counter()
    for epoch in range(40):
        rows = epoch_rows(ROWS, LABELS, "class-balanced", np.random.default_rng([0, epoch]))
        drawn.update(rows.tolist())
    rare = [drawn[row] for row in ROWS[LABELS == 2].tolist()]
    assert min(rare) > 900 and max(rare) < 1260  # 1,080 each, standard deviation 33


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=60),
    st.sampled_from(["shuffle", "class-balanced", "square-root"]),
    st.integers(0, 2**31),
)
def test_an_epoch_is_as_long_as_before_made_of_the_rows_and_repeatable(
    labels: list[int], sampler: Any, seed: int
) -> None:
    rows = np.arange(len(labels)) * 2 + 1
    first, again, other = (
        epoch_rows(rows, np.array(labels), sampler, np.random.default_rng([seed, epoch]))
        for epoch in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert len(first) == len(other) == len(rows)
    assert set(first.tolist()) <= set(rows.tolist())


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.sampled_from([0.5, 1.0]))
def test_odds_are_those_of_a_plain_loop(labels: list[int], power: float) -> None:
    weights = [1 / labels.count(label) ** power for label in labels]
    odds = row_odds(np.array(labels), power)
    np.testing.assert_allclose(odds, [w / sum(weights) for w in weights], rtol=1e-12)


# ---- in a run


@pytest.mark.parametrize("sampler", ["class-balanced", "square-root"])
def test_training_draws_as_the_sampler_says(
    quick: RunConfig, here: Execution, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    """What reaches the model is what epoch_rows gives for the fold's own rows and labels."""
    seen: list[tuple[np.ndarray, np.ndarray, str, np.ndarray]] = []
    used: list[np.ndarray] = []

    def listening(rows: Any, labels: Any, name: Any, generator: Any) -> Any:
        drawn = epoch_rows(rows, labels, name, generator)
        seen.append((rows, labels, name, drawn))
        return drawn

    from fusionbench.training import loop as train

    batches = train.batches

    def reading(arrays: Any, rows: np.ndarray, *more: Any, **named: Any) -> Any:
        used.append(rows)
        return batches(arrays, rows, *more, **named)

    monkeypatch.setattr(train, "epoch_rows", listening)
    monkeypatch.setattr(train, "batches", reading)
    config = quick.changed(sampler=sampler)
    (record,) = run(config, here).records
    experiment = setup(config, Opened(here))
    expected = experiment.rows(experiment.protocol.folds[0]).train
    assert len(seen) == config.training.epochs
    for rows, labels, name, drawn in seen:
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_array_equal(labels, experiment.table.labels[expected])
        assert name == sampler
        assert len(set(drawn.tolist())) < len(drawn) == len(expected)
    order = np.concatenate([drawn for *_, drawn in seen])
    np.testing.assert_array_equal(np.concatenate(used)[: len(order)], order)
    assert not np.array_equal(seen[0][3], seen[1][3])
    assert record.identity.settings["sampler"] == sampler


def test_a_sampled_run_repeats_bit_for_bit_and_differs_from_a_shuffled_one(
    quick: RunConfig, here: Execution, tmp_path: Path
) -> None:
    config = quick.changed(sampler="class-balanced")
    first = run(config, here).records[0]
    again = run(config, replace(here, store=tmp_path / "other")).records[0]
    shuffled = run(quick, here).records[0]
    assert first.reproducible() == again.reproducible()
    assert first.result is not None and shuffled.result is not None
    assert first.result.history != shuffled.result.history
    assert len(list(Store(here.store).records())) == 2


def test_a_loss_is_told_when_each_epoch_begins(
    quick: RunConfig, here: Execution, tmp_path: Path
) -> None:
    """Its term is the number it was told, so the record's history shows every call."""
    path = tmp_path / "told.py"
    path.write_text(
        "import torch\n"
        "from fusionbench.plugin.loss import Loss\n"
        "class Told(Loss):\n"
        "    def __init__(self, spec):\n"
        "        super().__init__(spec)\n"
        "        self.register_buffer('now', torch.zeros(()))\n"
        "    def begin_epoch(self, epoch, epochs):\n"
        "        self.now.fill_(100 * epoch + epochs)\n"
        "    def forward(self, output, target):\n"
        "        return {'told': self.now + 0 * output.logits.sum()}\n"
    )
    config = quick.changed(loss="ce+told", epochs=3)
    (record,) = run(config, replace(here, plugins=(path,))).records
    assert record.result is not None
    assert [entry["told"] for entry in record.result.history] == [103, 203, 303]


def test_the_flag_is_there_with_its_choices() -> None:
    from fusionbench.cli import cli

    result = CliRunner().invoke(cli, ["run", "--sampler", "sqrt"])
    assert result.exit_code == 2
    assert "'shuffle', 'class-balanced', 'square-root'" in result.output
