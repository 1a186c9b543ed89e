"""Splits: committed files, recipes, restriction, published index files, made-once splits."""

from __future__ import annotations

import csv
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionbench.data.card import DatasetCard, ProtocolSpec, read_card
from fusionbench.errors import DataError, UsageError
from fusionbench.plugin.registry import builtin_root
from fusionbench.protocols import (
    hash_of,
    inner_split,
    load_protocol,
    make_split,
    overlap,
    read_split,
    write_split,
)

DATASETS = builtin_root() / "datasets"
COMMITTED = {
    ("pad-ufes-20", "grouped-5fold"):
        "580d3beab3cb0c3ae9083f725880edd473df5a9d6ccc02cb83a6241ec7f5377d",
    ("pad-ufes-20", "image-5fold"):
        "e95652ec2cfbaf42220653aa970e815b980b184332ff2bce807ac8fe866b9bac",
    ("pad-ufes-20", "metablock-2021"):
        "d3943d736058c4a3b9a5d5c21d29aa5c4c6e56ffbefffccc4ca0a626b5fe200a",
    ("synthetic", "grouped-5fold"):
        "391a3e1059c57c48dc335a318c7b8a212299527f0252ef228a072f9149bb9a70",
    ("synthetic", "image-5fold"):
        "2c60b86929670197a455359272b6c90ad100e459be6ea41c743ba4c1c9ee5ce3",
}  # fmt: skip


def card_of(folder: Path, group: bool = True, **changes: object) -> DatasetCard:
    """A card of made-up columns, lying in `folder`."""
    return DatasetCard.model_validate(
        {
            "name": "made-up",
            "title": "Made up",
            "files": {"metadata": "table.csv"},
            "views": [{"name": "photo", "column": "file"}],
            "label": {"column": "kind", "classes": ["a", "b", "c"]},
            "group": ["owner"] if group else [],
            "columns": [{"name": "weight", "kind": "numeric"}],
            "folder": folder,
            **changes,
        }
    )


def table_of(n: int = 90) -> tuple[list[str], list[str], list[str]]:
    """ids, labels, groups: three photographs per owner, every class often enough."""
    ids = [f"p{i:03d}.jpg" for i in range(n)]
    return ids, [("a", "b", "c")[(i // 3) % 3] for i in range(n)], [f"o{i // 3}" for i in range(n)]


def pad_rows() -> list[dict[str, str]]:
    root = os.environ.get("FUSIONBENCH_DATA")
    path = Path(root or "") / "pad-ufes-20" / "metadata.csv"
    if root is None or not path.is_file():
        pytest.skip("set FUSIONBENCH_DATA to a folder that holds pad-ufes-20/metadata.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# The committed files


@pytest.mark.parametrize(("dataset", "name"), COMMITTED)
def test_committed_split_is_unchanged(dataset: str, name: str) -> None:
    spec = read_card(DATASETS / dataset / "dataset.toml").protocol(name)
    path = DATASETS / dataset / spec.file
    raw = path.read_bytes().replace(b"\r\n", b"\n")
    # Hashed here without the library: the file, the card and this test agree.
    assert hashlib.sha256(raw).hexdigest() == COMMITTED[dataset, name] == spec.sha256
    assert hash_of(read_split(path, spec)) == spec.sha256


def test_no_committed_split_without_a_literal_hash() -> None:
    files = {(p.parent.parent.name, p.stem) for p in DATASETS.glob("*/splits/*.csv")}
    assert files == set(COMMITTED)


def test_pad_protocols_on_the_real_table() -> None:
    rows = pad_rows()
    card = read_card(DATASETS / "pad-ufes-20" / "dataset.toml")
    ids = [r["img_id"] for r in rows]
    labels = np.array([card.classes.index(r["diagnostic"]) for r in rows])
    patients = [r["patient_id"] for r in rows]
    for name in ("grouped-5fold", "image-5fold", "metablock-2021"):
        protocol = load_protocol(card, ids, labels, patients, name)
        assert [f.index for f in protocol.folds] == [0, 1, 2, 3, 4]
        held = protocol.folds[0].extra.get("holdout", np.array([], dtype=int))
        tested = np.concatenate([f.test for f in protocol.folds])
        assert sorted([*tested, *held]) == list(range(2298))
        shared = 0
        for fold in protocol.folds:
            assert not set(fold.train) & set(fold.test)
            assert not (set(fold.train) | set(fold.test)) & set(held)
            assert len(fold.train) + len(fold.test) + len(held) == 2298
            for part in (fold.train, fold.test):
                assert set(labels[part]) == set(range(6))
            shared += len({patients[i] for i in fold.train} & {patients[i] for i in fold.test})
        assert sum(overlap(protocol, patients)) == shared
        assert (shared == 0) == (name == "grouped-5fold") == (protocol.spec.leaks == ())
    assert len(held) == 383  # metablock-2021, last of the three
    assert {patients[i] for i in held} & {patients[i] for i in protocol.folds[0].train}


def test_pad_image_recipes_give_the_committed_files() -> None:
    """Independent of the library: the published recipe, written out."""
    from sklearn.model_selection import StratifiedKFold

    rows = pad_rows()
    card = read_card(DATASETS / "pad-ufes-20" / "dataset.toml")
    y = np.array([r["diagnostic"] for r in rows])
    expected = np.full(len(y), "holdout", dtype=object)
    six = StratifiedKFold(6, shuffle=True, random_state=8)
    rest = [train for train, _ in six.split(np.zeros((len(y), 1)), y)][5]
    five = StratifiedKFold(5, shuffle=True, random_state=8)
    for k, (_, test) in enumerate(five.split(np.zeros((len(rest), 1)), y[rest])):
        expected[rest[test]] = str(k)
    spec = card.protocol("metablock-2021")
    committed = read_split(card.folder / spec.file, spec)
    assert [committed[r["img_id"]] for r in rows] == expected.tolist()
    image = card.protocol("image-5fold")
    made = make_split(image, [r["img_id"] for r in rows], y, None)
    assert hash_of(made) == image.sha256


def test_missing_images_restrict_the_committed_split() -> None:
    card = read_card(DATASETS / "synthetic" / "dataset.toml")
    spec = card.protocol()
    parts = read_split(card.folder / spec.file, spec)
    kept = sorted(parts)[::2]
    protocol = load_protocol(card, kept, [0] * len(kept), None, complete=False)
    assert protocol.split_hash == spec.sha256[:16]
    for fold in protocol.folds:
        assert {kept[i] for i in fold.test} == {i for i in kept if parts[i] == str(fold.index)}
        assert len(fold.train) + len(fold.test) == len(kept)
    with pytest.raises(DataError, match=r"made for other rows .* not in the table"):
        load_protocol(card, kept, [0] * len(kept), None)


def test_a_fold_left_without_rows_is_refused() -> None:
    card = read_card(DATASETS / "synthetic" / "dataset.toml")
    spec = card.protocol()
    parts = read_split(card.folder / spec.file, spec)
    kept = [i for i in parts if parts[i] != "3"]
    with pytest.raises(DataError, match=r"Fold 3 .* 0 test rows"):
        load_protocol(card, kept, [0] * len(kept), None, complete=False)


# Names


def test_find_protocol_by_name_and_default(tmp_path: Path) -> None:
    card = card_of(tmp_path)
    assert card.protocol().name == "grouped-5fold"
    assert card.protocol("image-5fold").leaks == ("patients",)
    assert [s.name for s in card_of(tmp_path, group=False).protocols] == ["image-5fold"]
    assert card_of(tmp_path, group=False).protocols[0].leaks == ()
    with pytest.raises(UsageError, match=r"grouped-5fld.*Did you mean grouped-5fold"):
        card.protocol("grouped-5fld")
    derm = read_card(DATASETS / "derm7pt" / "dataset.toml")
    assert derm.protocol().name == "official"


# Recipes


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """labels and groups with at least six groups of each class."""
    labels, groups, group = [], [], 0
    for label in range(draw(st.integers(2, 4))):
        for _ in range(draw(st.integers(6, 14))):
            size = draw(st.integers(1, 4))
            labels += [label] * size
            groups += [group] * size
            group += 1
    order = draw(st.permutations(range(len(labels))))
    return [labels[i] for i in order], [groups[i] for i in order]


@settings(deadline=None, max_examples=25)
@given(
    tables(), st.integers(0, 9), st.sampled_from(["grouped-kfold", "image-kfold", "kfold-holdout"])
)
def test_every_recipe_is_complete_and_groups_stay_whole(
    table: tuple[list[int], list[int]], seed: int, kind: str
) -> None:
    labels, groups = table
    ids = [f"r{i}" for i in range(len(labels))]
    spec = ProtocolSpec(name="x", kind=kind, folds=3, seed=seed, file="x.csv")  # type: ignore[arg-type]
    parts = make_split(spec, ids, labels, groups)
    assert list(parts) == ids
    names = {"0", "1", "2"} | ({"holdout"} if kind == "kfold-holdout" else set())
    assert set(parts.values()) == names
    if kind == "grouped-kfold":
        where: dict[int, set[str]] = {}
        for i, group in zip(ids, groups, strict=True):
            where.setdefault(group, set()).add(parts[i])
        assert all(len(w) == 1 for w in where.values())
    else:
        # By row, every class goes round evenly.
        for label in set(labels):
            counts = [
                sum(parts[i] == p and y == label for i, y in zip(ids, labels, strict=True))
                for p in sorted(names)
            ]
            assert max(counts) - min(counts) <= 1
    assert make_split(spec, ids, labels, groups) == parts


def test_a_class_too_small_is_named() -> None:
    spec = ProtocolSpec(name="x", kind="grouped-kfold", file="x.csv")
    labels = ["a"] * 20 + ["b"] * 20
    # Class b: twenty rows, but only three owners.
    groups = [*range(20), *[100 + i % 3 for i in range(20)]]
    with pytest.raises(DataError, match=r"5 groups of every class; too few of class b \(3\)"):
        make_split(spec, [str(i) for i in range(40)], labels, groups)
    positions = [0] * 20 + [1] * 20
    for kind in ("grouped-kfold", "image-kfold", "kfold-holdout"):
        few = ProtocolSpec(name="x", kind=kind, file="x.csv", folds=5)
        with pytest.raises(DataError, match=r"too few of class SCC \(3\)\."):
            make_split(few, [*map(str, range(23))], positions[:23], None, ("BCC", "SCC"))


@settings(deadline=None, max_examples=25)
@given(tables(), st.integers(0, 9), st.booleans())
def test_inner_split_keeps_groups_and_classes(
    table: tuple[list[int], list[int]], seed: int, grouped: bool
) -> None:
    labels, groups = table
    train = np.arange(0, len(labels), 1)[len(labels) // 7 :]
    keys = groups if grouped else None
    fit, valid = inner_split(train, labels, keys, seed)
    assert sorted([*fit, *valid]) == train.tolist()
    assert len(fit) and len(valid)
    if grouped:
        assert not {groups[i] for i in fit} & {groups[i] for i in valid}
    assert {labels[i] for i in fit} == {labels[i] for i in train}
    again = inner_split(train, labels, keys, seed)
    assert np.array_equal(again[0], fit) and np.array_equal(again[1], valid)


def test_inner_split_is_about_a_fifth_and_depends_on_the_seed() -> None:
    labels, groups = [i % 3 for i in range(300)], [i // 2 for i in range(300)]
    cuts = [inner_split(np.arange(300), labels, groups, seed)[1] for seed in (0, 1)]
    assert all(50 <= len(v) <= 70 for v in cuts)
    assert set(cuts[0]) != set(cuts[1])
    with pytest.raises(DataError, match="3 groups of training rows"):
        inner_split(np.arange(6), [0, 1] * 3, [0, 0, 1, 1, 2, 2], 0)


def test_inner_split_leaves_rare_classes_to_fit() -> None:
    # Three classes of one group each: whichever part they fall into, that one is not chosen.
    labels = [1, 1, 2, 2, 3, 3] + [0] * 54
    groups = [i // 2 for i in range(60)]
    for seed in range(10):
        fit, valid = inner_split(np.arange(60), labels, groups, seed)
        assert {labels[i] for i in fit} == {0, 1, 2, 3}
        assert len(valid)


# Made once


@pytest.mark.parametrize("name", ["grouped-5fold", "image-5fold"])
def test_card_only_dataset_gets_its_split_once(tmp_path: Path, name: str) -> None:
    card = card_of(tmp_path)
    ids, labels, groups = table_of()
    first = load_protocol(card, ids, labels, groups, name)
    path = tmp_path / "splits" / f"{name}.csv"
    raw = path.read_bytes()
    assert raw.startswith(b"id,part\n") and raw.count(b"\n") == 91
    assert hashlib.sha256(raw).hexdigest()[:16] == first.split_hash
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # nothing left over
    # The file decides from now on: edited consistently, it is followed.
    swapped = raw.replace(b",0\n", b",x\n").replace(b",1\n", b",0\n").replace(b",x\n", b",1\n")
    again = load_protocol(card, ids, labels, groups, name)
    path.write_bytes(swapped)
    other = load_protocol(card, ids, labels, groups, name)
    assert path.read_bytes() == swapped
    assert again.split_hash == first.split_hash != other.split_hash
    for k in range(5):
        assert np.array_equal(again.folds[k].test, first.folds[k].test)
    assert np.array_equal(other.folds[0].test, first.folds[1].test)


def test_split_of_other_rows_says_what_to_do(tmp_path: Path) -> None:
    card = card_of(tmp_path)
    ids, labels, groups = table_of()
    load_protocol(card, ids, labels, groups)
    renamed = ["new.jpg", *ids[1:]]
    with pytest.raises(DataError, match=r"\(2 differ\): new\.jpg is .*; p000\.jpg") as error:
        load_protocol(card, renamed, labels, groups)
    assert "delete the file" in error.value.remedy
    assert {p["id"] for p in error.value.problems} == {"new.jpg", "p000.jpg"}
    # Rows that are only missing their images are no error when that is known.
    kept = load_protocol(card, ids[:60], labels[:60], groups[:60], complete=False)
    assert sum(len(f.test) for f in kept.folds) == 60


def test_an_incomplete_table_leaves_no_split_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))
    card = card_of(tmp_path / "card")
    ids, labels, groups = table_of()
    protocol = load_protocol(card, ids, labels, groups, complete=False)
    assert len(protocol.folds) == 5
    assert not list(tmp_path.rglob("*.csv"))


def test_read_only_card_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The split goes to the user's folder, is found again there, and other rows get their own."""
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))
    blocked = tmp_path / "card"
    blocked.write_text("a file where a folder should be")
    card = card_of(blocked)
    ids, labels, groups = table_of()
    first = load_protocol(card, ids, labels, groups)
    (path,) = (tmp_path / "cache" / "splits" / "made-up").iterdir()
    before = path.stat().st_mtime_ns
    assert load_protocol(card, ids, labels, groups).split_hash == first.split_hash
    assert path.stat().st_mtime_ns == before
    load_protocol(card, ids[:-3], labels[:-3], groups[:-3])
    assert len(list(path.parent.iterdir())) == 2


def test_builtin_cards_are_never_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path))
    card = read_card(DATASETS / "derm7pt" / "dataset.toml")
    ids = [str(i) for i in range(100)]
    labels = [i % 5 for i in range(100)]
    protocol = load_protocol(card, ids, labels, ids, "grouped-5fold")
    assert sorted(np.concatenate([f.test for f in protocol.folds])) == list(range(100))
    assert not (DATASETS / "derm7pt" / "splits" / "grouped-5fold.csv").exists()
    assert len(list(tmp_path.rglob("grouped-5fold-*.csv"))) == 1


# Bad files


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("p000.jpg,1", r"row 92, id 'p000.jpg': the id repeats"),
        ("q.jpg,5", r"row 92, part '5': no such part; known: 0, 1, 2, 3, 4"),
        ("q.jpg,holdout", "no such part"),
        ("q.jpg", "has 1 cells"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, line: str, message: str) -> None:
    card = card_of(tmp_path)
    ids, labels, groups = table_of()
    load_protocol(card, ids, labels, groups)
    path = tmp_path / "splits" / "grouped-5fold.csv"
    path.write_text(f"{path.read_text()}{line}\n{line}\n")
    with pytest.raises(DataError, match=message) as error:
        load_protocol(card, ids, labels, groups)
    assert str(path) in str(error.value)
    assert [p["row"] for p in error.value.problems] == [92, 93]


def test_header_hash_and_parted_groups(tmp_path: Path) -> None:
    ids, labels, groups = table_of()
    spec = {"name": "mine", "kind": "grouped-kfold", "folds": 3, "file": "mine.csv"}
    card = card_of(tmp_path, protocols=[spec])
    (tmp_path / "mine.csv").write_text("image,fold\na,0\n")
    with pytest.raises(DataError, match=r"none of the 90 rows: its ids are as a, .* as p000\.jpg"):
        load_protocol(card, ids, labels, groups)
    # A grouped protocol that does not keep owners whole is refused.
    by_row = {i: str(k % 3) for k, i in enumerate(ids)}
    write_split(tmp_path / "mine.csv", by_row)
    with pytest.raises(DataError, match="parts groups"):
        load_protocol(card, ids, labels, groups)
    # So is a published file that was edited, or is gone.
    whole = {i: str(k // 3 % 3) for k, i in enumerate(ids)}
    sealed = card_of(tmp_path, protocols=[{**spec, "sha256": hash_of(whole)}])
    with pytest.raises(DataError, match="not the published split mine"):
        load_protocol(sealed, ids, labels, groups)
    (tmp_path / "mine.csv").unlink()
    with pytest.raises(DataError, match=r"mine\.csv is missing"):
        load_protocol(sealed, ids, labels, groups)
    # Order of rows and line ends are not the content.
    lines = [f"{i},{p}\r\n" for i, p in reversed(whole.items())]
    (tmp_path / "mine.csv").write_bytes(("id,part\r\n" + "".join(lines)).encode())
    assert load_protocol(sealed, ids, labels, groups).split_hash == hash_of(whole)[:16]


def test_fixed_split(tmp_path: Path) -> None:
    card = card_of(
        tmp_path, protocols=[{"name": "paper", "kind": "fixed", "folds": 1, "file": "paper.csv"}]
    )
    ids, labels, groups = table_of(30)
    with pytest.raises(DataError, match=r"paper\.csv is missing"):
        load_protocol(card, ids, labels, groups)
    parts = {i: "train" if k < 15 else "valid" if k < 21 else "test" for k, i in enumerate(ids)}
    write_split(tmp_path / "paper.csv", parts)
    (fold,) = load_protocol(card, ids, labels, groups).folds
    assert fold.train.tolist() == list(range(15))
    assert fold.valid is not None and fold.valid.tolist() == list(range(15, 21))
    assert fold.test.tolist() == list(range(21, 30))


@pytest.mark.parametrize("valid", ["valid", "val", "validation"])
def test_names_of_the_validation_part(tmp_path: Path, valid: str) -> None:
    spec = {"name": "paper", "kind": "fixed", "file": "paper.csv"}
    card = card_of(tmp_path, protocols=[spec])
    ids, labels, groups = table_of(30)
    parts = dict(zip(ids, ["train", valid, "test"] * 10, strict=True))
    write_split(tmp_path / "paper.csv", parts)
    (fold,) = load_protocol(card, ids, labels, groups).folds
    assert fold.valid is not None and fold.valid.tolist() == list(range(1, 30, 3))
    with pytest.raises(DataError, match="not in the split") as error:
        load_protocol(card, [*ids, "new"], [*labels, "a"], [*groups, "n"])
    assert "delete" not in error.value.remedy


def test_folds_counted_from_one(tmp_path: Path) -> None:
    spec = {"name": "mine", "kind": "image-kfold", "folds": 3, "file": "mine.csv"}
    card = card_of(tmp_path, protocols=[spec])
    ids, labels, groups = table_of(30)
    write_split(tmp_path / "mine.csv", {i: str(k % 3 + 1) for k, i in enumerate(ids)})
    folds = load_protocol(card, ids, labels, groups).folds
    assert [fold.test.tolist() for fold in folds] == [list(range(k, 30, 3)) for k in range(3)]


# Derm7pt's own index files


def derm_root(folder: Path, parts: dict[str, list[int]], rows: int = 1011) -> Path:
    """A folder laid out as derm7pt's, of made-up cases."""
    (folder / "meta").mkdir()
    cases = "".join(f"{i + 1},nevus\n" for i in range(rows))
    (folder / "meta" / "meta.csv").write_text("case_num,diagnosis\n" + cases)
    for name, positions in parts.items():
        body = "".join(f"{i}\n" for i in positions)
        (folder / "meta" / f"{name}_indexes.csv").write_text("indexes\n" + body)
    return folder


def published_sizes() -> dict[str, list[int]]:
    order = np.random.default_rng(3).permutation(1011).tolist()
    return {"train": order[:413], "valid": order[413:616], "test": order[616:]}


def test_derm7pt_official_comes_from_the_users_index_files(tmp_path: Path) -> None:
    card = read_card(DATASETS / "derm7pt" / "dataset.toml")
    parts = published_sizes()
    root = derm_root(tmp_path, parts)
    ids = [str(i + 1) for i in range(1011)]
    protocol = load_protocol(card, ids, [0] * 1011, ids, "official", root=root)
    (fold,) = protocol.folds
    assert fold.valid is not None
    assert (len(fold.train), len(fold.valid), len(fold.test)) == (413, 203, 395)
    assert fold.train.tolist() == sorted(parts["train"])
    assert fold.valid.tolist() == sorted(parts["valid"])
    assert fold.test.tolist() == sorted(parts["test"])
    # Without every third photograph the positions still mean rows of the whole file.
    kept = [i for i in range(1011) if i % 3]
    some = [ids[i] for i in kept]
    less = load_protocol(card, some, [0] * len(some), some, "official", root=root, complete=False)
    assert [kept[i] for i in less.folds[0].test] == [i for i in sorted(parts["test"]) if i % 3]
    assert less.split_hash == protocol.split_hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"valid": [1011]},
            "valid_indexes.csv .*row 2, indexes '1011': no row position",
        ),
        ({"valid": [-1]}, "no row position"),
        ({"test": [0, 0]}, "test_indexes.csv .*row 3, indexes '0': already in test"),
        ({"test": []}, "no rows"),
        ({"test": [0]}, "not in the split"),
    ],
)
def test_bad_index_files(tmp_path: Path, change: dict[str, list[int]], message: str) -> None:
    card = read_card(DATASETS / "derm7pt" / "dataset.toml")
    parts = {
        "train": list(range(1, 413)),
        "valid": list(range(413, 616)),
        "test": [0, *range(616, 1011)],
    }
    root = derm_root(tmp_path, {**parts, **change})
    ids = [str(i + 1) for i in range(1011)]
    with pytest.raises(DataError, match=message):
        load_protocol(card, ids, [0] * 1011, ids, root=root)


def test_absent_index_file_is_named(tmp_path: Path) -> None:
    card = read_card(DATASETS / "derm7pt" / "dataset.toml")
    root = derm_root(tmp_path, {"train": [0]})
    with pytest.raises(DataError, match=r"valid_indexes\.csv cannot be read"):
        load_protocol(card, ["1"], [0], None, root=root)
