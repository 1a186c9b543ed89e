from __future__ import annotations

from pathlib import Path

import pytest
from made_up_data import CARD

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


MISTAKES = {
    "near field": ("group =", "groups =", "groups: is not a known field: did you mean group?"),
    "near field of a column": ("minimum = 0", "minimun = 0", "minimun: .* mean minimum"),
    "field of the whole card": ("aliases = { gray", "group_missing = 'own' #", "top of the file"),
    "other field": ("minimum = 0", "zzz = 0", "columns.0..zzz: .*; known: name, kind"),
    "text for a list": ('["beach"]', '"beach"', r"group: must be a list in \[ \], not 'beach'"),
    "list for text": ('"Pebbles"', '["Pebbles"]', "title: must be text in quotation marks"),
    "number for text": ('"Pebbles"', "7", "title: must be text in quotation marks, not 7"),
    "text for a number": ("maximum = 500", 'maximum = "x"', "maximum: must be a number, not 'x'"),
    "numbers for classes": ('"flat", "round", "odd"', "0, 1", r"^\S+ has 2 problems: .*quotation"),
    "one class": ('"flat", "round", "odd"', '"odd"', "at least 2 entries"),
    "a class twice": ('"round"', '"flat"', "classes has 'flat' twice"),
    "a column twice": ('name = "rock"', 'name = "wet"', "columns: the name 'wet' is there twice"),
    "a value twice": ('"granite", "slate"', '"slate", "slate"', "rock: values has 'slate' twice"),
    "a label as column": ('name = "rock"', 'name = "shape"', "'shape' is also a metadata column"),
    "an id as column": ('name = "rock"', 'name = "file"', "'file' names a sample or its photo"),
    "ignored column": ('["remark"]', '["rock"]', "ignored, and among the columns: rock"),
    "kind": ('"boolean"', '"bool"', "'categorical', 'boolean' or 'numeric', not 'bool'"),
    "bounds": ("minimum = 0", "minimum = 501", "grams: minimum 501 is above maximum 500"),
    "bounds of texts": ("values =", "minimum = 0 #", "rock: minimum and maximum are for numeric"),
    "values of numbers": ("minimum = 0", "values = ['0']", "grams: values are for categorical"),
    "empty name": ('["beach"]', '[""]', "group.0.: must not be empty"),
    "name": ('"pebbles"', '"My Pebbles"', "name: must be lower-case letters, .* not 'My Pebbles'"),
    "one table for several": ("[[views]]", "[views]", r"write \[\[views\]\], not \[views\]"),
    "several tables for one": ("[label]", "[[label]]", r"write \[label\], not \[\[label\]\]"),
    "no section": ("[files]", "[file]", "has 2 problems: files: is missing"),
    "class that is none": ("patterns = { odd", "patterns = { ood", "name no class: ood"),
    "count": ("[label]", "[expect]\nrows = -1\n[label]", "expect.rows: must be at least 0"),
    "counted class": ("[label]", "[expect.classes]\nx = 1\n[label]", "names no class: x"),
    "no quotation marks": (
        '"Pebbles"',
        "Pebbles",
        r"line 3, column 9\): title = Pebbles",
    ),
    "a field twice": ("[files]", "title = 'b'\ntitle = 'c'\n[files]", "line 12.* title = 'c'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_with_file_field_and_remedy_in_our_words(pebbles, mistake):
    old, new, says = MISTAKES[mistake]
    assert old in CARD
    with pytest.raises(DataError, match=says) as caught:
        pebbles.card(CARD.replace(old, new, 1))
    text = str(caught.value)
    assert text.startswith(str(pebbles.folder / "dataset.toml")) and "?." not in text
    assert not [word for word in ("tuple", "valid dict", "validation", "parse") if word in text]


def test_a_byte_order_mark_is_fine_and_another_encoding_is_named(pebbles):
    assert pebbles.card("\ufeff" + CARD) == pebbles.card(CARD)
    path = pebbles.folder / "dataset.toml"
    path.write_bytes(CARD.replace("Pebbles", "P\u00e9bbles").encode("latin-1"))
    with pytest.raises(DataError, match=r"not UTF-8 \(byte \d+\)\. Save it as UTF-8"):
        read_card(path)
