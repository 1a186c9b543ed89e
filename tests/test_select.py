"""What a person types means one row, or an error that names the candidates."""

from __future__ import annotations

import pytest
from made_up_records import control, record

from fusionbench.analysis.ranking import rank
from fusionbench.errors import FusionbenchError, UsageError
from fusionbench.leaderboard import blocks, sheets
from fusionbench.leaderboard.select import select_row

RECORDS = [
    *(record(fusion="concat", fold=k) for k in range(2)),
    *(record(fusion="metablock", fold=k) for k in range(2)),
    *(record(fusion="metablock", backbone="resnet50", fold=k) for k in range(2)),
    record(**control("random-forest")),
    record(fusion="concat", settings={"epochs": 5, "shuffle_metadata": True}),
]
BLOCKS = blocks(RECORDS)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("concat", "concat@resnet18"),
        ("Concat", "concat@resnet18"),
        ("metablock@resnet50", "metablock@resnet50"),
        ("MetaBlock@resnet18", "metablock@resnet18"),
        ("random_forest", "random-forest"),
        ("concat/shuffled", "concat@resnet18/shuffled"),
        ("concat@resnet18/shuffled", "concat@resnet18/shuffled"),
        ("metablock_resnet50", "metablock@resnet50"),  # part of run ids
    ],
)
def test_one_row_is_found(text: str, name: str) -> None:
    block, row = select_row(BLOCKS, text)
    assert row.name == name and row in block.rows


def test_every_row_is_found_by_its_key_and_by_each_of_its_runs() -> None:
    for block in BLOCKS:
        for row in block.rows:
            for text in (row.key, row.key[:8], *row.run_ids):
                assert select_row(BLOCKS, text) == (block, row)


def test_several_rows_are_an_error_that_names_them() -> None:
    with pytest.raises(UsageError) as raised:
        select_row(BLOCKS, "metablock")
    keys = [row.key for block in BLOCKS for row in block.rows if row.fusion == "metablock"]
    assert len(keys) == 2 and all(key in raised.value.message for key in keys)
    assert "resnet50" in raised.value.message


def test_none_is_an_error_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean metablock"):
        select_row(BLOCKS, "metablok")
    with pytest.raises(UsageError, match="no finished run"):
        select_row([], "concat")
    with pytest.raises(UsageError):
        select_row(BLOCKS, " ")


def test_rows_on_two_views_are_told_apart_wherever_blocks_are_named() -> None:
    """One dataset on two views: in headings, among candidates and where one stands for the other;
    a dataset on one view is named without it."""
    found = blocks(
        record(dataset=dataset, fold=k, data_fingerprint=view, settings={"view": view})
        for dataset, views in (("derm7pt", ("clinical", "dermoscopic")), ("one", ("clinical",)))
        for view in views
        for k in range(2)
    )
    places = [
        "derm7pt / grouped-5fold, clinical",
        "derm7pt / grouped-5fold, dermoscopic",
        "one / grouped-5fold",
    ]
    assert [sheet.heading for sheet in sheets(found)] == places
    with pytest.raises(UsageError) as raised:
        select_row(found[:2], "sgmc")
    assert all(f", {place}" in raised.value.message for place in places[:2])
    with pytest.raises(FusionbenchError, match="three methods") as few:
        rank(found)
    assert f"{places[1]} left out: {places[0]} stands for it" in few.value.remedy
