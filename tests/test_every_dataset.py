"""Every kind of dataset goes the whole way: card, photographs, split, training, records, table."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.errors import DataError
from fusionbench.leaderboard import blocks
from fusionbench.records import Store
from fusionbench.runs.run import run

SHELLS = """
name = "shells"
title = "Shells of two beaches"
group = ["bucket"]

[files]
metadata = "shells.csv"
images = ["photos"]

[[views]]
name = "top"
column = "photo"

[label]
column = "kind"
classes = ["cockle", "whelk"]

[[columns]]
name = "grams"
kind = "numeric"

[[columns]]
name = "beach"
kind = "categorical"
"""


def small(dataset: str | Path, **changes: object) -> RunConfig:
    return RunConfig.of(
        fusion="sgmc",
        backbone="test_efficientnet",
        dataset=str(dataset),
        weights="none",
        epochs=1,
        image_size=32,
        precision="fp32",
    ).changed(**changes)


def test_a_csv_a_folder_and_a_card(tmp_path: Path) -> None:
    folder = tmp_path / "shells"
    (folder / "photos").mkdir(parents=True)
    generator = np.random.default_rng(0)
    with (folder / "shells.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["photo", "bucket", "kind", "grams", "beach"])
        for i in range(60):
            pixels = generator.integers(0, 255, (24, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / f"s{i}.png")
            grams = "" if i % 7 == 0 else i
            writer.writerow(
                [f"s{i}.png", i // 3, ["cockle", "whelk"][i % 2], grams, "NS"[i % 5 % 2]]
            )
    card = folder / "dataset.toml"
    card.write_text(SHELLS)
    execution = Execution(data=folder, store=tmp_path / "store", device="cpu")
    outcome = run(small(card), execution)
    assert len(outcome.records) == 5 and not outcome.failures
    (block,) = blocks(outcome.records)
    assert (block.dataset, block.protocol) == ("shells", "grouped-5fold")
    assert block.rows[0].ranked
    split = folder / "splits/grouped-5fold.csv"  # generated once, and written down
    before = split.read_bytes()
    run(small(card, seed=1), execution)
    assert split.read_bytes() == before


@pytest.mark.parametrize(("protocol", "folds"), [("official", 1), ("grouped-5fold", 5)])
def test_derm7pt_in_its_own_layout(tmp_path: Path, protocol: str, folds: int) -> None:
    from derm7pt_layout import write_derm7pt

    root = write_derm7pt(tmp_path, per_diagnosis=12)
    execution = Execution(data=root, store=tmp_path / "store", device="cpu", folds=(0,))
    config = small(
        "derm7pt",
        protocol=protocol,
        view="clinical",
        select="inner-val",
        allow_missing_images=True,  # the layout is whole, the number of cases is not
    )
    (record,) = run(config, execution).records
    assert record.result is not None
    assert record.result.classes == ("BCC", "NEV", "MEL", "MISC", "SK")
    assert record.result.folds_expected == folds
    assert set(record.identity.data.columns) == {"elevation", "location", "sex"}
    assert "images missing" in record.result.flags
    proxies = run(config.changed(columns=("sex", "pigment_network")), execution)
    assert proxies.records[0].result is not None
    assert "label proxies: pigment_network" in proxies.records[0].result.flags


@pytest.fixture
def real() -> Path:
    base = os.environ.get("FUSIONBENCH_DATA")
    if not base or not (Path(base) / "pad-ufes-20" / "metadata.csv").is_file():
        pytest.skip("$FUSIONBENCH_DATA/pad-ufes-20 is not here")
    return Path(base)


def test_real_photographs(real: Path, tmp_path: Path) -> None:
    execution = Execution(data=real, store=tmp_path / "store", device="cpu", folds=(0,))
    config = small("pad-ufes-20", encoding="ordinal", missing="indicator", batch_size=64)
    with pytest.raises(DataError, match=r"1,?200 photographs"):
        run(config, execution)
    config = config.changed(allow_missing_images=True)
    (record,) = run(config, execution).records
    assert record.result is not None
    assert record.result.n_rows_dataset == 2298 and record.result.n_rows_used == 1098
    assert record.result.flags == ("images missing",)
    assert record.result.n_train + record.result.n_test == 1098
    predictions = Store(execution.store).predictions(record.run_id)
    assert len(set(predictions.ids)) == record.result.n_test

    both = config.changed(protocol="metablock-2021", fusion="none")
    (published,) = run(both, execution).records
    assert published.result is not None
    assert set(published.result.parts) == {"test", "holdout"}
    assert "leaky: patients" in published.result.flags
    assert len(blocks([record, published])) == 2
