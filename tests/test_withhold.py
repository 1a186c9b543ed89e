"""Metadata dropout: what a withheld cell looks like, how often, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.data.card import Column
from fusionbench.data.encoder import ENCODINGS, MISSING, Encoding, MetadataEncoder, Missing
from fusionbench.records import Store
from fusionbench.runs.run import run
from fusionbench.training.metadata_dropout import MetadataDropout

COLUMNS = (
    Column(name="age", kind="numeric"),
    Column(name="site", kind="categorical"),
    Column(name="sex", kind="categorical", values=("f", "m")),
    Column(name="itch", kind="boolean"),
    Column(name="smoke", kind="boolean"),
    Column(name="drink", kind="boolean"),
    Column(name="never", kind="categorical"),  # no features at all in one-hot
)
CPU = torch.device("cpu")


def patients(n: int, seed: int = 0, gaps: bool = True) -> pd.DataFrame:
    """n rows as Table.metadata has them; smoke and drink go unrecorded together."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "age": rng.integers(20, 90, n).astype("float64"),
            "site": rng.choice(["arm", "leg", "ear"], n).astype(object),
            "sex": rng.choice(["f", "m"], n).astype(object),
            "itch": rng.choice(["True", "False", "UNK"], n).astype(object),
            "smoke": rng.choice(["True", "False"], n).astype(object),
            "drink": rng.choice(["True", "False"], n).astype(object),
            "never": pd.Series([None] * n, dtype=object),
        }
    )
    if gaps:
        for name in ("age", "site", "itch"):
            frame[name] = frame[name].mask(rng.random(n) < 0.2)
        both = rng.random(n) < 0.3
        for name in ("smoke", "drink"):
            frame[name] = frame[name].mask(both)
    return frame


def built(
    train: pd.DataFrame, cell: float, block: float, encoding: Encoding = "onehot",
    missing: Missing = "zero",
) -> tuple[MetadataEncoder, MetadataDropout]:  # fmt: skip
    encoder = MetadataEncoder(COLUMNS, encoding=encoding, missing=missing).fit(train)
    return encoder, MetadataDropout.fitted(encoder, train, cell, block, CPU)


def cells_of(features: np.ndarray, encoder: MetadataEncoder) -> dict[str, np.ndarray]:
    """Column -> (n,) whether it is hidden; every feature of a column alike."""
    found = {}
    for column in encoder.described:
        positions = [*column.features, *([] if column.missing is None else [column.missing])]
        if positions:
            own = features[:, positions]
            assert (own == own[:, :1]).all()
            found[column.name] = own[:, 0]
    return found


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("missing", MISSING)
def test_a_withheld_cell_is_encoded_as_one_that_was_never_recorded(
    encoding: Encoding, missing: Missing
) -> None:
    """Oracle: the cells emptied in the raw table, and that encoded."""
    train = patients(60, gaps=missing != "drop-rows")
    if missing == "drop-rows":
        train["never"] = "x"
    encoder, found = built(train, 0.4, 0.3, encoding, missing)
    for frame in (train, patients(50, seed=1)):
        hidden = found.draw(len(frame), 7, 1)
        meta = torch.from_numpy(encoder.transform(frame))
        got = torch.cat(
            [found.apply(meta[i : i + 16], hidden[i : i + 16]) for i in range(0, len(meta), 16)]
        )
        emptied = frame.copy()
        for name, cells in cells_of(hidden.numpy(), encoder).items():
            assert 0 < cells.sum() < len(cells)
            for i in np.flatnonzero(cells):
                emptied.loc[i, name] = np.nan if name == "age" else None
        np.testing.assert_array_equal(got.numpy(), encoder.transform(emptied))
        assert (got != meta).any()


def test_cells_and_blocks_are_withheld_as_often_as_asked_and_blocks_whole() -> None:
    n, train = 4000, patients(200)
    encoder, found = built(train, 0.0, 0.25)
    cells = cells_of(found.draw(n, 3, 1).numpy(), encoder)
    assert (cells["smoke"] == cells["drink"]).all()
    assert not any(cells[name].any() for name in ("age", "site", "sex", "itch"))
    margin = 5 * np.sqrt(0.25 * 0.75 / n)
    assert abs(cells["smoke"].mean() - 0.25) < margin

    encoder, found = built(train, 0.1, 0.25)
    cells = cells_of(found.draw(n, 3, 1).numpy(), encoder)
    for name in ("age", "site", "sex", "itch"):
        assert abs(cells[name].mean() - 0.1) < margin
    either = 1 - 0.9 * 0.75
    for name in ("smoke", "drink"):
        assert abs(cells[name].mean() - either) < margin
    alone = cells["age"].astype(float)
    assert abs(np.corrcoef(alone, cells["site"])[0, 1]) < 5 / np.sqrt(n)
    assert np.corrcoef(cells["smoke"], cells["drink"])[0, 1] > 0.5


def test_without_a_block_in_the_training_rows_all_columns_are_one() -> None:
    encoder, found = built(patients(200, gaps=False), 0.0, 0.5)
    features = found.draw(300, 0, 1).numpy()
    assert set(features.sum(axis=1)) == {0, encoder.n_features}


def test_what_is_withheld_follows_from_seed_and_epoch() -> None:
    _, found = built(patients(100), 0.3, 0.2)
    one = found.draw(80, 5, 2)
    assert torch.equal(one, found.draw(80, 5, 2))
    assert not torch.equal(one, found.draw(80, 5, 3))
    assert not torch.equal(one, found.draw(80, 6, 2))


# ---- in a run


def outcome(config: RunConfig, execution: Execution) -> tuple[str, str]:
    """(what is reproducible of the record, its predictions)"""
    (record,) = run(config, execution).records
    predictions = execution.store / "predictions" / f"{record.run_id}.csv"
    return record.reproducible(), predictions.read_text()


def test_a_run_with_dropout_is_another_run_that_repeats_itself(
    quick: RunConfig, here: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = quick.changed(metadata_dropout=0.5, block_dropout=0.3)
    again = replace(here, store=here.store.parent / "again")
    record, predictions = outcome(changed, here)
    assert (record, predictions) == outcome(changed, again)
    assert '"metadata_dropout":0.5' in record and '"block_dropout":0.3' in record
    plain, without = outcome(quick, here)
    assert without != predictions
    assert '"metadata_dropout":0.0' in plain and '"block_dropout":0.0' in plain
    assert len(list(Store(here.store))) == 2

    # With rates of 0 nothing is drawn, and nothing else draws other numbers for it.
    monkeypatch.setattr(MetadataDropout, "draw", lambda *a, **k: pytest.fail("drawn"))
    assert outcome(quick, again) == (plain, without)


def test_dropout_changes_metadata_of_training_steps_and_nothing_else(
    quick: RunConfig, here: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a mask that hides nothing, a run with dropout is bit for bit the run without: order,
    augmentation, initial weights and evaluation draw from streams of their own."""
    _, without = outcome(quick, here)
    draw = MetadataDropout.draw

    def nothing(self: MetadataDropout, n: int, seed: int, epoch: int):
        hidden = draw(self, n, seed, epoch)
        assert hidden.any()
        return torch.zeros_like(hidden)

    monkeypatch.setattr(MetadataDropout, "draw", nothing)
    _, with_empty_mask = outcome(quick.changed(metadata_dropout=0.5), here)
    assert with_empty_mask == without


def test_an_image_only_method_does_not_notice(quick: RunConfig, here: Execution) -> None:
    config = quick.changed(fusion="none")
    _, without = outcome(config, here)
    _, dropped = outcome(config.changed(metadata_dropout=0.9), here)
    assert dropped == without
