from __future__ import annotations

from pathlib import Path

import pytest

from fusionbench.data.card import Label, read_card
from fusionbench.errors import DataError
from fusionbench.plugin.registry import builtin_root

CARDS = sorted((builtin_root() / "datasets").glob("*/dataset.toml"))


@pytest.mark.parametrize("path", CARDS, ids=lambda p: p.parent.name)
def test_built_in_cards_are_read_and_named_after_their_folder(path: Path):
    card = read_card(path)
    assert card.name == path.parent.name
    assert card.default_protocol in {p.name for p in card.protocols}
    if card.expect.rows is not None and card.expect.classes:
        assert sum(card.expect.classes.values()) == card.expect.rows
    assert set(card.expect.classes) <= set(card.classes)


def test_every_misfit_of_a_card_is_listed(pebbles):
    text = (
        'name = "Bad Name"\ntitle = "x"\nsurprise = 1\n[files]\nmetadata = "m.csv"\n'
        '[[views]]\nname = "v"\ncolumn = "f"\n[label]\ncolumn = "y"\nclasses = ["one"]\n'
        '[[columns]]\nname = "c"\nkind = "colour"\n'
    )
    with pytest.raises(DataError) as caught:
        pebbles.card(text)
    fields = {p["field"] for p in caught.value.problems}
    assert {"name", "surprise", "label.classes", "columns[0].kind"} <= fields


@pytest.mark.parametrize("text", ["name = ", "\x00", 'name = "a"\nname = "b"'])
def test_a_card_that_is_no_toml_is_refused(pebbles, text):
    with pytest.raises(DataError, match="cannot be read as TOML"):
        pebbles.card(text)


def test_labels_match_classes_then_patterns_and_nothing_else():
    label = Label(column="d", classes=("NEV", "MEL"), patterns={"NEV": ("* nevus",)})
    assert label.class_of("MEL") == "MEL"
    assert label.class_of("reed or spitz nevus") == "NEV"
    assert label.class_of("nevus") is None
    assert label.class_of("mel") is None


def test_a_label_that_fits_two_classes_is_a_problem_in_whatever_order_they_stand():
    patterns = {"MEL": ("*melanoma*",), "NEV": ("*nevus*",)}
    for classes in (("MEL", "NEV"), ("NEV", "MEL")):
        label = Label(column="d", classes=classes, patterns=patterns)
        assert label.class_of("nevus with melanoma in situ") is None
        assert set(label.classes_of("nevus with melanoma in situ")) == {"MEL", "NEV"}
        assert label.class_of("dysplastic nevus") == "NEV"
        named = patterns | {"MEL": ("*melanoma*", "nevus with melanoma in situ")}
        label = Label(column="d", classes=classes, patterns=named)
        assert label.class_of("nevus with melanoma in situ") == "MEL"


@pytest.mark.parametrize("text", ["naevus [blue]", "[x]", "a]b[", "[!a]", "what?", "*"])
def test_only_star_and_question_mark_are_wildcards_and_a_pattern_fits_itself(text):
    label = Label(column="d", classes=("NEV", "MEL"), patterns={"NEV": (text, f"{text} *")})
    assert label.class_of(text) == "NEV"
    assert label.class_of(f"{text} of the nail") == "NEV"
    assert Label(column="d", classes=("A", "B"), patterns={"A": ("[ab]",)}).class_of("a") is None
