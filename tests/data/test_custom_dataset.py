"""A dataset of one's own: a csv, a folder of photographs and a card; not a line of code."""

from __future__ import annotations

import numpy as np
from made_up_data import photo

from fusionbench.data.choices import input_columns
from fusionbench.data.encoder import MetadataEncoder
from fusionbench.data.image_cache import open_or_build
from fusionbench.data.images import decode
from fusionbench.data.locate import find_data, open_card
from fusionbench.data.table import load_table

CARD = """
name = "leaves"
title = "Leaves of three trees"
id = "number"
group = ["park", "tree"]
unknown = ["?"]

[files]
metadata = "tables/leaves.csv"
images = ["front/*", "back"]

[[views]]
name = "front"
column = "front_photo"

[[views]]
name = "back"
column = "back_photo"

[label]
column = "species"
classes = ["oak", "birch"]
patterns = { oak = ["quercus *"], birch = ["betula *"] }

[[columns]]
name = "length_cm"
kind = "numeric"

[[columns]]
name = "season"
kind = "categorical"

[[columns]]
name = "shiny"
kind = "boolean"
"""

CSV = """number,park,tree,species,length_cm,season,shiny,front_photo,back_photo
1,north,a,quercus robur,8.5,autumn,true,y1/leaf1.jpg,leaf1b
2,north,a,quercus petraea,,spring,false,y1/leaf2.jpg,leaf2b
3,north,b,betula pendula,4,?,?,y2/leaf1.jpg,leaf3b
4,south,a,betula pubescens,5,autumn,,y2/leaf2.jpg,leaf4b
"""


def test_a_made_up_dataset_needs_a_card_and_no_code(tmp_path):
    home = tmp_path / "leaves"
    (home / "tables").mkdir(parents=True)
    (home / "dataset.toml").write_text(CARD)
    (home / "tables" / "leaves.csv").write_text(CSV)
    for i, name in enumerate(["front/y1/leaf1.jpg", "front/y1/leaf2.jpg", "front/y2/leaf1.jpg",
                              "front/y2/leaf2.jpg"]):  # fmt: skip
        photo(home / name, i)
    for i in range(1, 5):
        photo(home / "back" / f"LEAF{i}B.PNG", 10 + i)

    card = open_card(str(home / "dataset.toml"))
    table = load_table(card, find_data(card), view=["front", "back"])
    assert table.complete and table.ids.tolist() == ["1", "2", "3", "4"]
    assert table.labels.tolist() == [0, 0, 1, 1]
    assert table.groups.tolist() == ["north|a", "north|a", "north|b", "south|a"]
    assert table.lesions.tolist() == table.ids.tolist()
    assert [p.parent.name for p in table.images["front"]] == ["y1", "y1", "y2", "y2"]
    assert [p.name for p in table.images["back"]] == [f"LEAF{i}B.PNG" for i in range(1, 5)]

    encoder = MetadataEncoder(input_columns(card), unknown=card.unknown).fit(table.metadata)
    assert encoder.feature_names == (
        "length_cm", "season=?", "season=autumn", "season=spring",
        "shiny=False", "shiny=True", "shiny=?",
    )  # fmt: skip
    assert encoder.transform(table.metadata)[:, 1:].tolist() == [
        [0, 1, 0, 0, 1, 0],
        [0, 0, 1, 1, 0, 0],
        [1, 0, 0, 0, 0, 1],
        [0, 1, 0, 0, 0, 0],
    ]
    for view in table.views:
        cache = open_or_build(table.images[view], table.digests[view], 8, name=f"leaves-{view}")
        assert (cache == np.stack([decode(p, 8) for p in table.images[view]])).all()
