"""Notes on cells that fit the card and may mean something else."""

from __future__ import annotations

import pytest
from made_up_data import CARD, HEADER

from fusionbench.data.prepare import status


def notes(pebbles, card=CARD, **columns):
    """What is said where these columns hold these cells, one after the other, round and round;
    those that are about these columns."""
    for i, row in enumerate(pebbles.rows):
        row.update({name: cells[i % len(cells)] for name, cells in columns.items()})
    pebbles.write()
    report = status(pebbles.card(card), pebbles.folder)
    assert not report.problems
    return [note for note in report.notes if note.startswith(tuple(columns))]


EMPTY = ["NA", "n/a", "nan", "NaN", "None", "-", "unknown", "Unknown", "null", "?", "#N/A", "unk"]


@pytest.mark.parametrize("text", EMPTY)
def test_texts_that_look_empty_are_noted_with_the_remedy(pebbles, text):
    (note,) = notes(pebbles, colour=["grey", "red", text])
    assert f"colour: '{text}' (4 rows)" in note and f'aliases = {{ "{text}" = "" }}' in note
    declared = CARD.replace('{ gray = "grey" }', f'{{ gray = "grey", "{text}" = "" }}')
    assert notes(pebbles, declared, colour=["grey", "red", text]) == []
    declared = f'unknown = ["UNK", "{text}"]\n{CARD}'
    assert notes(pebbles, declared, colour=["grey", "red", text]) == []
    listed = CARD.replace(
        "aliases = { gray", f'values = ["grey", "red", "{text}"]\naliases = {{ gray'
    )
    assert notes(pebbles, listed, colour=["grey", "red", text]) == []


@pytest.mark.parametrize("column", ["grams", "wet", "rock"])
def test_where_such_a_text_is_refused_the_remedy_is_the_same(pebbles, column):
    pebbles.rows[0][column] = "NA"
    pebbles.write()
    (problem,) = status(pebbles.card(), pebbles.folder).problems
    assert f"'NA' in {column}" in problem["fix"] and 'aliases = { "NA" = "" }' in problem["fix"]


ALIKE = [
    ["1", "1.0"],
    ["1", "01"],
    ["1.50", "1.5"],
    ["True", "TRUE"],
    ["yes", "True"],
    ["no", "False", "0"],
    ["grey", "Grey "],
    ["upper arm", "Upper_Arm"],
    ["caf\u00e9", "cafe\u0301"],
]
DIFFERENT = [
    ["1", "10"],
    ["1.5", "1.05"],
    ["0", "-0.5"],
    ["yes", "1", "2"],
    ["a", "b"],
    ["01", "10"],
    ["123456789012345678901", "123456789012345678902"],
]


@pytest.mark.parametrize("cells", ALIKE, ids="|".join)
def test_one_category_in_several_spellings_is_noted(pebbles, cells):
    found = notes(pebbles, colour=cells)
    (note,) = [note for note in found if "different values" in note]
    assert all(repr(cell.strip()) in note for cell in cells)


@pytest.mark.parametrize("cells", DIFFERENT, ids="|".join)
def test_different_categories_are_not(pebbles, cells):
    assert not [note for note in notes(pebbles, colour=cells) if "different values" in note]


@pytest.mark.parametrize("cells", [["7", "7.0"], ["P17", "p17"], ["P17", "P017"]], ids="|".join)
def test_one_patient_in_two_spellings_is_noted(pebbles, cells):
    (note,) = notes(pebbles, beach=cells)
    assert "are read as different patients" in note
    assert notes(pebbles, beach=["P1", "P2", "P10", "P20"]) == []


def test_one_lesion_in_two_spellings_is_noted_within_its_patient_only(pebbles):
    halves = {"beach": ["a"] * 6 + ["b"] * 6, "stone": ["1"] * 6 + ["1.0"] * 6}
    assert notes(pebbles, **halves) == []
    (note,) = notes(pebbles, beach=["a"] * 6 + ["b"] * 6, stone=["1"] * 9 + ["1.0"] * 3)
    assert "stone: 'b / 1' (3 rows) and 'b / 1.0' (3 rows) are read as different lesions" in note


def test_one_id_in_two_spellings_is_noted(pebbles):
    ids = [f"n{i}" for i in range(10)] + ["4", "4.0"]
    for row, i in zip(pebbles.rows, ids, strict=True):
        row["nr"] = i
    pebbles.write([*HEADER, "nr"])
    report = status(pebbles.card(f'id = "nr"\n{CARD}'), pebbles.folder)
    (note,) = [note for note in report.notes if note.startswith("nr")]
    assert "'4' (1 row) and '4.0' (1 row) are read as different samples" in note


@pytest.mark.parametrize("text", ["NA", "unknown", "-"])
def test_a_patient_or_lesion_called_unknown_is_noted(pebbles, text):
    (note,) = notes(pebbles, beach=["b0", "b1", text])
    assert f"'{text}' is read as one patient of 4 rows" in note
    stones = [n for n in notes(pebbles, beach=["b0"], stone=["1", text]) if n.startswith("stone")]
    assert f"'b0 / {text}' is read as one lesion of 6 rows" in stones[0]


def test_columns_that_tell_nothing_are_noted(pebbles):
    assert notes(pebbles, colour=[""]) == ["colour: nothing is recorded in any row"]
    assert notes(pebbles, grams=["UNK"]) == ["grams: nothing is recorded in any row"]
    assert notes(pebbles, wet=["True", "1"]) == ["wet: every row says 'True'"]
    assert notes(pebbles, grams=["5", "5.0"]) == ["grams: every row says '5.0'"]
    assert notes(pebbles, wet=["True", ""]) == []  # whether it was recorded may tell something


def test_many_spellings_are_counted(pebbles):
    cells = [text for i in range(1, 6) for text in (str(i), f"{i}.0")]
    found = notes(pebbles, colour=cells)
    assert len(found) == 4 and "2 more" in found[-1]
