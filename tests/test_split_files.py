"""Split files as others write them. Every variant says the same split in other words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusionbench.cli import main
from fusionbench.data.card import DatasetCard, read_card
from fusionbench.data.table import load_table
from fusionbench.errors import DataError
from fusionbench.progress import Progress
from fusionbench.protocols import Split, load_protocol, split_of

IDS = [f"imgs/L_{i:04d}.jpg" for i in range(30)]
PARTS = ["train" if i < 18 else "valid" if i < 24 else "test" for i in range(30)]
FOLDS = [i % 3 for i in range(30)]


def load(folder: Path, spec: dict[str, Any], ids: list[str] = IDS, **options: Any) -> Split:
    text = "file,kind\n" + "".join(f"{i},a\n" for i in ids)
    (folder / "table.csv").write_text(text, encoding="utf-8")
    card = DatasetCard.model_validate(
        {
            "name": "made-up",
            "title": "Made up",
            "files": {"metadata": "table.csv"},
            "views": [{"name": "photo", "column": "file"}],
            "label": {"column": "kind", "classes": ["a", "b"]},
            "columns": [{"name": "weight", "kind": "numeric"}],
            "protocols": [{"name": "mine", **spec}],
            "folder": folder,
        }
    )
    options.setdefault("root", folder)
    return load_protocol(card, ids, [0] * len(ids), None, "mine", **options)


def positions(split: Split) -> list[list[int] | None]:
    (fold,) = split.folds
    return [None if p is None else p.tolist() for p in (fold.train, fold.valid, fold.test)]


def csv(header: str, ids: list[str], parts: list[Any], line: str = "{id},{part}") -> str:
    rows = [line.format(id=i, part=p, k=k) for k, (i, p) in enumerate(zip(ids, parts, strict=True))]
    return "\n".join([*([header] if header else []), *rows]) + "\n"


WORDS = {"train": "Training", "valid": "val", "test": "TEST"}
STEMS = [i.rpartition("/")[2].removesuffix(".jpg") for i in IDS]
FIXED: dict[str, tuple[str, str]] = {
    "ours": ("s.csv", csv("id,part", IDS, PARTS)),
    "other header": ("s.csv", csv("image,split", IDS, PARTS)),
    "no header": ("s.csv", csv("", IDS, PARTS)),
    "parts before ids": ("s.csv", csv("subset,filename", IDS, PARTS, "{part},{id}")),
    "other words": ("s.csv", csv("img,set", IDS, [WORDS[p] for p in PARTS])),
    "stems": ("s.csv", csv("id,part", STEMS, PARTS)),
    "another extension": ("s.csv", csv("id,part", [s + ".PNG" for s in STEMS], PARTS)),
    "another folder": ("s.csv", csv("path,split", [f"C:\\data\\{s}.jpg" for s in STEMS], PARTS)),
    "other capitals": ("s.csv", csv("name,split", [s.lower() for s in STEMS], PARTS)),
    "a whole table": (
        "s.csv",
        csv("k,sex,age,photo,kfold,partition,set_by", IDS, PARTS, "{k},m,{k},{id},1,{part},me"),
    ),
    "positions": ("s.csv", csv("index,split", IDS, PARTS, "{k},{part}")),
    "json by part": (
        "s.json",
        json.dumps({w: [i for i, p in zip(IDS, PARTS, strict=True) if p == n]
                    for n, w in WORDS.items()}),
    ),
    "json by id": ("s.json", json.dumps(dict(zip(STEMS, PARTS, strict=True)))),
    "json rows": (
        "s.json", json.dumps([{"image": i, "split": p} for i, p in zip(IDS, PARTS, strict=True)])
    ),
    "json positions": (
        "s.json",
        json.dumps({n: [k for k, p in enumerate(PARTS) if p == n] for n in WORDS}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FIXED)
def test_a_published_split_is_read_however_it_is_written(tmp_path: Path, case: str) -> None:
    name, text = FIXED[case]
    (tmp_path / name).write_text(text, encoding="utf-8")
    split = load(tmp_path, {"kind": "fixed", "file": name})
    expected = [[k for k, p in enumerate(PARTS) if p == n] for n in ("train", "valid", "test")]
    assert positions(split) == expected
    # Its name is the file's content, whichever photographs are at hand.
    if "positions" not in case:
        some = load(tmp_path, {"kind": "fixed", "file": name}, IDS[5:], complete=False)
        assert some.split_hash == split.split_hash


def folds_of(spell: Callable[[int], object]) -> list[object]:
    return [spell(k) for k in FOLDS]


KFOLD: dict[str, tuple[str, str]] = {
    "ours": ("s.csv", csv("id,part", IDS, FOLDS)),
    "from one": ("s.csv", csv("image_id,kfold", STEMS, folds_of(lambda k: k + 1))),
    "named": ("s.csv", csv("image_id,fold", IDS, folds_of(lambda k: f"fold_{k}"))),
    "named from one": ("s.csv", csv("file,x", IDS, folds_of(lambda k: f"Fold {k + 1}"))),
    "as fractions": ("s.csv", csv("file,fold", IDS, folds_of(lambda k: f"{k}.0"))),
    "beside other numbers": (
        "s.csv", csv("file,label,fold", IDS, FOLDS, "{id},{part},{part}")
    ),
    "positions from one": (
        "s.csv", "row,fold\n" + "".join(f"{k + 1},{f}\n" for k, f in enumerate(FOLDS))
    ),
    "json by fold": (
        "s.json",
        json.dumps({f"fold{n}": [i for i, f in zip(IDS, FOLDS, strict=True) if f == n]
                    for n in range(3)}),
    ),
    "json folds": (
        "s.json",
        json.dumps([{"train": [i for i, f in zip(IDS, FOLDS, strict=True) if f != n],
                     "val": [i for i, f in zip(IDS, FOLDS, strict=True) if f == n]}
                    for n in range(3)]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", KFOLD)
def test_folds_are_read_however_they_are_written(tmp_path: Path, case: str) -> None:
    name, text = KFOLD[case]
    (tmp_path / name).write_text(text, encoding="utf-8")
    split = load(tmp_path, {"kind": "image-kfold", "folds": 3, "file": name})
    for k, fold in enumerate(split.folds):
        assert fold.test.tolist() == [i for i, f in enumerate(FOLDS) if f == k]
        assert np.array_equal(np.sort([*fold.train, *fold.test]), np.arange(30))


def of_part(part: str, spell: Callable[[int], object]) -> list[object]:
    return [spell(k) for k, p in enumerate(PARTS) if p == part]


@pytest.mark.parametrize(
    ("header", "spell"),
    [
        ("img", lambda k: IDS[k]),
        ("img,age", lambda k: f"{STEMS[k]},{k}"),
        ("", lambda k: STEMS[k]),  # a plain list
        ("indexes", lambda k: k),
        ("index", lambda k: k + 1),
        ("Position", lambda k: k),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "txt"])
def test_a_file_for_each_part(
    tmp_path: Path, header: str, spell: Callable[[int], object], suffix: str
) -> None:
    files = {part: f"{part}.{suffix}" for part in ("train", "val", "test")}
    for part, name in files.items():
        lines = of_part("valid" if part == "val" else part, spell)
        text = "\n".join(map(str, [header, *lines] if header else lines))
        (tmp_path / name).write_text(text + "\n", encoding="utf-8")
    split = load(tmp_path, {"kind": "fixed", "index_files": files})
    expected = [[k for k, p in enumerate(PARTS) if p == n] for n in ("train", "valid", "test")]
    assert positions(split) == expected
    # They may lie beside the card, too.
    apart = tmp_path / "data"
    apart.mkdir()
    (apart / "table.csv").write_bytes((tmp_path / "table.csv").read_bytes())
    assert (
        positions(load(tmp_path, {"kind": "fixed", "index_files": files}, root=apart)) == expected
    )


def test_lists_in_json_for_each_part(tmp_path: Path) -> None:
    for part, content in (("train", STEMS[:20]), ("test", STEMS[20:])):
        (tmp_path / f"{part}.json").write_text(json.dumps(content))
    files = {"train": "train.json", "test": "test.json"}
    split = load(tmp_path, {"kind": "fixed", "index_files": files})
    assert positions(split) == [list(range(20)), None, list(range(20, 30))]


def test_a_split_of_a_part_of_the_rows_is_used_where_the_card_says_so(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(csv("id,part", IDS[:25], PARTS[:25]))
    spec: dict[str, Any] = {"kind": "fixed", "file": "s.csv"}
    with pytest.raises(DataError, match=r"5 differ") as error:
        load(tmp_path, spec)
    assert "25 of 30 rows" in error.value.remedy and "partial = true" in error.value.remedy
    assert "delete" not in error.value.remedy
    expected = [[k for k, p in enumerate(PARTS[:25]) if p == n] for n in ("train", "valid", "test")]
    assert positions(load(tmp_path, {**spec, "partial": True})) == expected
    folds = {"kind": "image-kfold", "folds": 3, "file": "s.csv", "partial": True}
    (tmp_path / "s.csv").write_text(csv("id,part", IDS[:25], FOLDS[:25]))
    for fold in load(tmp_path, folds).folds:
        assert sorted([*fold.train, *fold.test]) == list(range(25))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("s.csv", csv("id,part", [f"x{i}" for i in range(30)], PARTS), r"none of the 30 rows.*x0"),
        ("s.csv", csv("id,a,b", IDS, PARTS, "{id},{part},{part}"), "a and b may all be the column"),
        ("s.csv", csv("id,sex", IDS, ["f"] * 30), "none of id and sex is the column of parts"),
        ("s.csv", csv("a,b", ["u"] * 30, PARTS), "none of a and b holds ids"),
        ("s.csv", csv("id,part", IDS, ["hold"] * 30), "no such part; known: train, valid, test"),
        ("s.csv", csv("id,part", [*IDS[1:], STEMS[1]], PARTS), "names the row .* twice"),
        ("s.json", "{", "no split in json"),
        ("s.json", "[" * 100_000, "no split in json: it is nested too deeply"),
        ("s.json", '{"train": [["a"]]}', "entry 1 is no row"),
        ("s.json", "[]", "it holds no list"),
        ("s.json", "3", "it holds no list"),
    ],
)
def test_what_is_not_clear_is_refused_with_what_the_file_should_hold(
    tmp_path: Path, name: str, text: str, says: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=says) as error:
        load(tmp_path, {"kind": "fixed", "file": name})
    assert error.value.remedy and "delete" not in error.value.remedy


def test_one_name_of_several_rows_means_none(tmp_path: Path) -> None:
    ids = ["a/1.jpg", "b/1.jpg", "c/2.jpg", "c/3.jpg"]
    parts = ["train", "train", "test", "test"]
    (tmp_path / "s.csv").write_text(csv("id,part", ["1", "a/1", "2", "3"], parts))
    with pytest.raises(DataError, match=r"b/1\.jpg is not in the split; 1 is not in the table"):
        load(tmp_path, {"kind": "fixed", "file": "s.csv"}, ids)


def verified(card: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """What `data verify --json` prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["data", "verify", str(card), "--json"])
    return json.loads(capsys.readouterr().out)


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.mark.parametrize(
    ("labels", "parts", "says"),
    [
        ("aabbcc" * 2, ["train", "test"] * 6, []),
        ("aabbaac", ["train", "train", "train", "test", "test", "train", "test"],
         ["mine: the class c has no training row in fold 0"]),
        ("aabbaac", ["train", "train", "train", "test", "test", "train", "train"],
         ["mine: the class c has no test row in fold 0; means over classes are over the others "
          "there"]),
        ("aabbaab", ["train", "train", "train", "test", "test", "train", "test"],
         ["no row has the class c: means over classes are over 2 other classes"]),
        ("aaaabbb", ["0", "1", "2", "0", "1", "0", "1"],
         ["no row has the class c: means over classes are over 2 other classes",
          "mine: the class b has no test row in fold 2; means over classes are over the others "
          "there"]),
        ("aaabbb", ["0", "1", "2", "0", "1", "0"],
         ["no row has the class c: means over classes are over 2 other classes",
          "mine: the class b has no test row in fold 2; means over classes are over the others "
          "there"]),
        ("aabbcc", ["0", "1", "0", "0", "1", ""],
         ["mine: 1 of 6 rows are in no part",
          "mine: the class b has no training row in fold 0",
          "mine: the class b has no test row in fold 1; means over classes are over the others "
          "there",
          "mine: the class c has no training row in fold 1",
          "mine: the class c has no test row in fold 0; means over classes are over the others "
          "there"]),
    ],
)  # fmt: skip
def test_classes_that_a_fold_lacks_are_said(
    tmp_path: Path,
    labels: str,
    parts: list[str],
    says: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folds = {"kind": "image-kfold", "folds": max(2, len({*parts} - {""}))}
    kind = {"kind": "fixed"} if "train" in parts else folds
    lines = ["[[protocols]]", 'name = "mine"', 'file = "s.csv"', "partial = true"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in kind.items()]
    card = tmp_path / "dataset.toml"
    card.write_text(
        'name = "made-up"\ntitle = "Made up"\nfiles = { metadata = "table.csv" }\n'
        'views = [{ name = "photo", column = "file" }]\n'
        'label = { column = "kind", classes = ["a", "b", "c"] }\n'
        'columns = [{ name = "weight", kind = "numeric" }]\n' + "\n".join(lines)
    )
    (tmp_path / "images").mkdir()
    for k in range(len(labels)):
        pixels = np.full((16, 16, 3), 10 * k, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{k}.png")
    rows = "".join(f"{k}.png,{label},{k}\n" for k, label in enumerate(labels))
    (tmp_path / "table.csv").write_text("file,kind,weight\n" + rows)
    split = "".join(f"{k},{part}\n" for k, part in enumerate(parts) if part)
    (tmp_path / "s.csv").write_text("id,part\n" + split)
    progress = Notes()
    split_of(load_table(read_card(card), tmp_path), "mine", root=tmp_path, progress=progress)
    assert progress.notes == says
    report = verified(card, capsys)
    assert report["ok"] and report["notes"] == says


def test_verify_reads_the_splits_that_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_card: Path
) -> None:
    text = tiny_card.read_text().replace('name = "tiny"', 'name = "tiny-too"', 1)
    text += '\n[[protocols]]\nname = "paper"\nkind = "fixed"\nfile = "paper.csv"\n'
    head, options = text.split("[generator_options]")
    options, paper = options.split("\n[[protocols]]")
    card = tmp_path / "dataset.toml"
    card.write_text(f"{head}[[protocols]]{paper}\n[generator_options]{options}")
    report = verified(card, capsys)
    (problem,) = report["problems"]
    assert problem["file"] == "protocol paper" and "paper.csv is missing" in problem["problem"]
    assert not (tmp_path / "splits").exists()  # nothing is made
    (tmp_path / "paper.csv").write_text("image,split\nx,train\n")
    (problem,) = verified(card, capsys)["problems"]
    assert "names none of the" in problem["problem"] and problem["fix"]
