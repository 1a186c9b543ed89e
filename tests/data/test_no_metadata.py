"""Datasets without metadata: no column in the card, or nothing in the columns."""

from __future__ import annotations

import pytest
from made_up_data import CARD

from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.data import image_cache
from fusionbench.data.locate import find_data, open_card
from fusionbench.data.prepare import verify
from fusionbench.data.table import load_table
from fusionbench.errors import UsageError
from fusionbench.runs.run import run

PROTOCOL = """
[[protocols]]
name = "two"
kind = "image-kfold"
folds = 2
file = "splits/two.csv"
"""
NONE = CARD[: CARD.index("[[columns]]")] + PROTOCOL


def config(pebbles, fusion, card=CARD + PROTOCOL, **settings):
    pebbles.write()
    pebbles.card(card)
    return RunConfig.of(
        fusion=fusion,
        backbone="test_resnet",
        dataset=str(pebbles.folder / "dataset.toml"),
        weights="none",
        epochs=1,
        batch_size=4,
        image_size=32,
        precision="fp32",
        **settings,
    )


METHODS = ["concat", "sgmc", "metadata-logistic", "missingness"]


@pytest.fixture
def undecoded(monkeypatch):
    """Nothing is decoded from now on: what is refused is refused before."""
    monkeypatch.setattr(image_cache, "decode", None)


@pytest.mark.parametrize("method", METHODS)
def test_without_a_column_methods_that_need_one_are_refused(pebbles, here, method, undecoded):
    with pytest.raises(UsageError, match=rf"{method} uses metadata, .* has no \[\[columns\]\]"):
        run(config(pebbles, method, NONE), here)
    assert not here.store.exists()


def test_without_a_column_methods_without_metadata_run(pebbles, here: Execution):
    (record,) = run(config(pebbles, "none", NONE), here).records
    assert record.result is not None and record.identity.data.columns == ()
    card = open_card(str(pebbles.folder))
    root = find_data(card)
    table = load_table(card, root)
    assert table.metadata.shape == (12, 0) == table.take(table.rows).metadata.shape
    assert verify(card, root).ok


@pytest.mark.parametrize("method", METHODS)
def test_columns_in_which_nothing_is_recorded_are_named(pebbles, here, method, undecoded):
    for row in pebbles.rows:
        row |= {"grams": "UNK", "colour": "", "rock": "", "wet": ""}
    with pytest.raises(UsageError, match="in grams, colour, rock and wet in any row of the data"):
        run(config(pebbles, method), here)
    pebbles.rows[0]["colour"] = "?"
    card = CARD.replace('{ gray = "grey" }', '{ "?" = "" }') + PROTOCOL
    with pytest.raises(UsageError, match="in grams, colour, rock and wet in any row of the data"):
        run(config(pebbles, method, card), here)
    assert not here.store.exists()


def test_what_is_recorded_in_no_training_row_of_a_fold_is_named(pebbles, here, undecoded):
    split = pebbles.folder / "splits" / "two.csv"
    split.parent.mkdir()
    rows = [f"{row['file']},{i // 3 % 2}" for i, row in enumerate(pebbles.rows)]
    split.write_text("\n".join(["id,part", *rows, ""]))
    for i, row in enumerate(pebbles.rows):
        row["colour"] = "grey" if i // 3 % 2 else ""
    with pytest.raises(UsageError, match="in colour in any row that fold 1 trains on"):
        run(config(pebbles, "concat", columns=("colour",)), here)
    for row in pebbles.rows:
        row["wet"] = "" if row["colour"] else "True"
    with pytest.raises(UsageError, match="no row that fold 0 trains on is left under --missing dr"):
        run(config(pebbles, "concat", columns=("colour", "wet"), missing="drop-rows"), here)


def test_columns_that_are_no_inputs_by_default_are_offered(pebbles, here, undecoded):
    head, *columns = (CARD + PROTOCOL).split("[[columns]]\n")
    card = "[[columns]]\nrole = 'optional'\n".join([head, *columns[:-1]]) + (
        "[[columns]]\n" + columns[-1]
    )
    with pytest.raises(UsageError, match="--columns names some of: grams, colour, rock, wet"):
        run(config(pebbles, "concat", card), here)
