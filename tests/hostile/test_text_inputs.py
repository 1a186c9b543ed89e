"""Tables, cards and settings that come from others: csv and TOML."""

from __future__ import annotations

import copy
import random
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attempts import Attempts, changed, mutated, toml_file
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_data import CARD, Pebbles, photo
from thorough import times

from fusionbench.config import recipe as recipes
from fusionbench.config.recipe import read_recipe, recipe_names
from fusionbench.data.card import ProtocolSpec, read_card
from fusionbench.data.csv_rows import bad_rows, read_rows
from fusionbench.data.images import index_images
from fusionbench.data.locate import find_data, open_card
from fusionbench.data.prepare import status
from fusionbench.data.schema import check_rows
from fusionbench.data.table import load_table
from fusionbench.leaderboard import published
from fusionbench.plugin.registry import builtin_root
from fusionbench.protocols import load_protocol, read_split
from fusionbench.protocols.split_files import read_indexes
from fusionbench.tables import builtin_tables, expand, read_table


def pebbles(folder: Path, photographs: int = 4) -> Pebbles:
    data = Pebbles(folder / "pebbles")
    data.folder.mkdir(parents=True)
    for i in range(photographs):
        row = {"file": f"p{i}.png", "beach": f"b{i // 2}", "stone": str(i), "grams": str(10 * i)}
        row |= {"shape": ["flat", "odd cube"][i % 2], "colour": "grey", "rock": "slate"}
        data.rows.append(row | {"wet": "True", "sorted_by": "shape"})
        photo(data.folder / "photos" / f"p{i}.png", i, (4, 4))
    data.write()
    return data


# ---- metadata


@pytest.mark.hostile("metadata csv")
def test_mutated_metadata(attempts: Attempts) -> None:
    draw = random.Random(1)
    data = pebbles(Path())
    card, good = data.card(), data.csv.read_bytes()
    for case in range(times(500)):
        data.csv.write_bytes(mutated(draw, good))
        attempts(lambda: read_rows(data.csv), "pebbles.csv")
        if case % 12 == 0:
            attempts(lambda: load_table(card, data.folder, allow_missing_images=True),
                     "pebbles.csv", "Pebbles")  # fmt: skip
            attempts(lambda: status(card, data.folder), "pebbles.csv")
    attempts.finish(580, refused=200)


CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["", "=1+1", "+1", "@x", "-1", "../../outside/victim.txt", "/etc/passwd", "p0.png", "p1.PNG",
     "a\x00b", "nan", "1e400", "UNK", "True", "\ufeff", "b" * 5000, "..", ".", "C:x", "٣"]
)  # fmt: skip


@pytest.mark.hostile("metadata csv")
def test_any_text_in_any_cell(attempts: Attempts) -> None:
    data = pebbles(Path())
    card, rows = data.card(), copy.deepcopy(data.rows)

    @given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([*rows[0]]), CELLS), max_size=4))
    @settings(
        deadline=None,
        max_examples=times(60),
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    def check(changes: list[tuple[int, str, str]]) -> None:
        data.rows = copy.deepcopy(rows)
        for row, column, cell in changes:
            data.rows[row][column] = cell
        data.write()
        attempts(lambda: load_table(card, data.folder, allow_missing_images=True),
                 "pebbles.csv", "Pebbles")  # fmt: skip

    check()
    attempts.finish(60)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n\n",
        b"\x00" * 1000,
        b"\xff\xfe" + "file,beach".encode("utf-16-le"),
        b"file\n" + b"x" * 200_000,
        b'file,beach\n"' + b"x\n" * 100_000,
        b"file," * 50_000,
        b"PK\x03\x04" + b"\x00" * 100,
        "file,beach\np0.png,é".encode("latin-1"),
        b"file,beach\n" + b'"' * 100_001,
    ],
)
@pytest.mark.hostile("metadata csv")
def test_what_is_no_csv(attempts: Attempts, content: bytes) -> None:
    path = Path("metadata.csv")
    path.write_bytes(content)
    assert not attempts(lambda: fits(path), "metadata.csv")
    attempts.finish(1)


def fits(path: Path) -> None:
    data = pebbles(Path("other"))
    frame, problems = read_rows(path)
    if problems := [*problems, *check_rows(data.card(), frame, path, ("top",))]:
        raise bad_rows(path, problems, "")


# ---- cards


def use_card(path: Path, data: Path) -> None:
    """What a command does with a card: read it, find the data, look at it, split it."""
    card = open_card(str(path))
    report = status(card, data)
    if report.fingerprint:
        table = load_table(card, Path(report.root), allow_missing_images=True)
        load_protocol(card, table.ids.tolist(), table.labels, table.groups, root=Path(report.root))


def card_data() -> dict[str, Any]:
    raw = tomllib.loads(CARD)
    raw["protocols"] = [
        {"name": "two", "kind": "image-kfold", "folds": 2, "file": "splits/two.csv"}
    ]
    raw["expect"] = {"rows": 4, "classes": {"flat": 2}}
    raw["unknown"] = ["UNK"]
    return raw


@pytest.mark.hostile("dataset cards")
def test_mutated_cards(attempts: Attempts) -> None:
    draw = random.Random(2)
    data = pebbles(Path())
    path = Path("card/dataset.toml")
    path.parent.mkdir()
    good = toml_file(card_data()).encode()
    path.write_bytes(good)
    assert attempts(lambda: use_card(path, data.folder))
    for _ in range(times(500)):
        path.write_bytes(mutated(draw, good))
        attempts(lambda: read_card(path), "dataset.toml")
    attempts.finish(500, refused=200)


@pytest.mark.hostile("dataset cards")
def test_cards_with_other_values(attempts: Attempts) -> None:
    draw = random.Random(3)
    data = pebbles(Path())
    path = Path("card/dataset.toml")
    path.parent.mkdir()
    for case in range(times(400)):
        path.write_text(toml_file(changed(draw, card_data())), encoding="utf-8")
        attempts(lambda: read_card(path), "dataset.toml")
        if case % 5 == 0:  # what a command does with it takes longer
            attempts(lambda: use_card(path, data.folder),
                     "dataset.toml", "pebbles", "Pebbles", "card")  # fmt: skip
    attempts.finish(480, refused=200)


def with_values(**values: Any) -> dict[str, Any]:
    raw = card_data()
    for dotted, value in values.items():
        *folders, name = dotted.split("__")
        where: Any = raw
        for part in folders:
            where = where[int(part) if part.isdigit() else part]
        where[name] = value
    return raw


LEAVING = [
    {"files__metadata": "../outside/victim.txt"},
    {"files__metadata": "/etc/passwd"},
    {"files__metadata": "a\x00b"},
    {"files__metadata": "x" * 5000},
    {"files__images": ["../.."]},
    {"files__images": ["/etc"]},
    {"files__images": ["/etc/*"]},
    {"files__images": [""]},
    {"files__images": ["**"]},
    {"files__images": ["a\x00b"]},
    {"files__images": ["**/../**"]},
    {"views__0__name": "../../../outside/view"},
    {"views__0__name": "a\x00b"},
    {"views__0__name": "x" * 5000},
    {"name": "a" * 400},
    {"protocols__0__file": "../../outside/written.csv"},
    {"protocols__0__file": "/nowhere/at/all.csv"},
    {"protocols__0__file": "a\x00b"},
    {"protocols__0__name": "../../../../outside/p"},
    {"protocols__0__folds": 10**9},
    {"label__patterns": {"odd": ["*a" * 200 + "b", "[!", "odd *"]}},
    {"generator": "synthetic", "generator_options": {"patients": 10**12}},
    {"generator": "../x"},
]


@pytest.mark.parametrize("values", LEAVING, ids=lambda v: str(v)[:50])
@pytest.mark.hostile("dataset cards")
def test_a_card_cannot_make_anything_leave_its_folder(
    attempts: Attempts, values: dict[str, Any]
) -> None:
    from fusionbench.data.prepare import prepare

    data = pebbles(Path())
    path = Path("card/dataset.toml")
    path.parent.mkdir()
    path.write_text(toml_file(with_values(**values)), encoding="utf-8")
    named = ("dataset.toml", "pebbles", "Pebbles", "card", "generator", "synthetic")

    def everything() -> None:
        use_card(path, data.folder)
        card = read_card(path)
        if card.generator:
            find_data(card)
        index_images(data.folder, card)
        prepare(card, data.folder, image_size=16)

    attempts(everything, *named)
    attempts.finish(1, refused=0)


# ---- declared tables, recipes


@pytest.mark.hostile("table files")
def test_mutated_tables(attempts: Attempts) -> None:
    draw = random.Random(4)
    names = sorted(builtin_tables().values())
    path = Path("mine.toml")
    for _ in range(times(120)):
        path.write_bytes(mutated(draw, draw.choice(names).read_bytes()))
        attempts(lambda: read_table(path), "mine.toml")
    attempts.finish(120, refused=50)


@pytest.mark.hostile("table files")
def test_tables_with_other_values(attempts: Attempts) -> None:
    draw = random.Random(5)
    raws = [tomllib.loads(p.read_text("utf-8")) for p in sorted(builtin_tables().values())]
    path = Path("mine.toml")
    for _ in range(times(120)):
        path.write_text(toml_file(changed(draw, draw.choice(raws))), encoding="utf-8")
        attempts(lambda: expand(read_table(path)), "mine.toml", "mine,")
    attempts.finish(120, refused=50)


@pytest.mark.parametrize(
    "name", ["a\x00b", "x" * 5000, "..", "/", "~no-such-user-9/x.toml", "", "*"]
)
@pytest.mark.hostile("table files")
def test_odd_names_of_tables_and_cards(attempts: Attempts, name: str) -> None:
    for read in (read_table, open_card):
        assert not attempts(lambda r=read: r(name), repr(name), name[:40], str(Path(name))[:40])
    attempts.finish(2, refused=2)


@pytest.mark.hostile("recipes")
def test_mutated_recipes(attempts: Attempts) -> None:
    draw = random.Random(6)
    folder = Path(recipes.__file__).parent / "recipes"
    files = [folder / f"{name}.toml" for name in recipe_names()]
    raws = [tomllib.loads(p.read_text("utf-8")) for p in files]
    path = Path("mine.toml")
    for _ in range(times(250)):
        path.write_bytes(mutated(draw, draw.choice(files).read_bytes()))
        attempts(lambda: read_recipe.__wrapped__(path), "mine.toml")
        path.write_text(toml_file(changed(draw, draw.choice(raws))), encoding="utf-8")
        attempts(lambda: read_recipe.__wrapped__(path), "mine.toml")
    attempts.finish(500, refused=150)


# ---- splits, published numbers


@pytest.mark.hostile("split files")
def test_mutated_splits(attempts: Attempts) -> None:
    draw = random.Random(7)
    spec = ProtocolSpec(name="three", kind="kfold-holdout", folds=3, file="s.csv")
    good = "id,part\n" + "".join(f'"PAT_{i}.png",{i % 3}\n' for i in range(30)) + "x,holdout\n"
    path = Path("s.csv")
    for _ in range(times(500)):
        path.write_bytes(mutated(draw, good.encode()))
        attempts(lambda: read_split(path, spec), "s.csv")
    attempts.finish(500, refused=150)


@pytest.mark.hostile("split files")
def test_mutated_index_files(attempts: Attempts) -> None:
    draw = random.Random(8)
    data = pebbles(Path())
    raw = card_data()
    files = {"train": "train.csv", "test": "test.csv"}
    raw["protocols"] = [{"name": "fixed", "kind": "fixed", "folds": 1, "index_files": files}]
    path = data.folder / "dataset.toml"
    path.write_text(toml_file(raw))
    card = read_card(path)
    (data.folder / "test.csv").write_text("indexes\n3\n")
    for _ in range(times(300)):
        (data.folder / "train.csv").write_bytes(mutated(draw, b"indexes\n0\n1\n2\n"))
        attempts(lambda: read_indexes(card, card.protocols[0], data.folder), "train.csv",
                 "test.csv")  # fmt: skip
    attempts.finish(300, refused=100)


@pytest.mark.parametrize(
    ("name", "read"),
    [("published.csv", published.load), ("published_changes.csv", published.load_changes)],
)
@pytest.mark.hostile("published numbers")
def test_mutated_published_numbers(
    attempts: Attempts, name: str, read: Callable[[Path], Any]
) -> None:
    draw = random.Random(name)
    lines = (builtin_root() / "leaderboards" / name).read_bytes().splitlines(keepends=True)
    path = Path(name)
    for _ in range(times(200)):
        few = [lines[0], *draw.sample(lines[1:], min(6, len(lines) - 1))]
        path.write_bytes(mutated(draw, b"".join(few)))
        attempts(lambda: read(path), name)
    attempts.finish(200, refused=60)


@pytest.mark.parametrize(
    "text",
    ["x = " + "[" * 100_000, "x = " + "{a=" * 50_000, "x = " + "9" * 5000,
     "[" + "a." * 5_000 + "b]",
     "x = '''" + "\n" * 200_000, "\x00", "x = 1979-13-45", "x = nan\n" * 3, 'x = "\\ud800"'],
    ids=lambda text: text[:8],
)  # fmt: skip
@pytest.mark.hostile("cards, tables, recipes")
def test_toml_that_parsers_choke_on(attempts: Attempts, text: str) -> None:
    path = Path("mine.toml")
    path.write_text(text)
    for read in (read_card, read_table, read_recipe.__wrapped__):
        assert not attempts(lambda r=read: r(path), "mine.toml")
    attempts.finish(3, refused=3)
