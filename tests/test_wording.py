"""How numbers and names are spelled."""

import pytest

from fusionbench.config import wording


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (wording.plural(0, "fold"), "0 folds"),
        (wording.plural(1, "fold"), "1 fold"),
        (wording.plural(1200, "entry", "entries"), "1,200 entries"),
        (wording.listed([]), ""),
        (wording.listed(["a"]), "a"),
        (wording.listed(("a", "b")), "a and b"),
        (wording.listed("abc", "or"), "a, b or c"),
        (wording.percent(1), "100 %"),
        (wording.percent(0.5401), "54 %"),
        (wording.percent(0.01), "1 %"),
        (wording.percent(0.0031), "0.3 %"),
        (wording.percent(0.0001), "<0.1 %"),
        (wording.percent(0), "0 %"),
        (wording.percent(0.0001, 1), "0.0 %"),
        (wording.percent(0.0031, 0), "0 %"),
        (wording.duration(0.04), "0.0 s"),
        (wording.duration(9.94), "9.9 s"),
        (wording.duration(9.96), "10 s"),
        (wording.duration(59.4), "59 s"),
        (wording.duration(59.6), "1 min 00 s"),
        (wording.duration(3599.4), "59 min 59 s"),
        (wording.duration(3599.6), "1 h 00 min"),
        (wording.duration(7500), "2 h 05 min"),
        (wording.method_name("sgmc", "resnet50"), "sgmc@resnet50"),
        (wording.method_name("a", "b", "ce", shuffled=True), "a@b/shuffled (ce)"),
        (wording.method_name("metadata-forest", None), "metadata-forest"),
        (wording.subset(20, 2298, "pad"), "subset: 20 of 2,298 photographs (not pad)"),
    ],
)  # fmt: skip
def test_spellings(text: str, expected: str) -> None:
    assert text == expected
