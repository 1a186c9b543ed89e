from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fusionbench.data.locate import default_folder, find_data, metadata_file, open_card
from fusionbench.errors import DataError, UsageError
from fusionbench.plugin import registry

HEADER = "patient_id,diagnostic,img_id\n"


def put(folder: Path, name: str = "metadata.csv", header: str = HEADER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(header + "x,BCC,a.png\n")
    return folder


@pytest.fixture
def pad(monkeypatch, tmp_path):
    """PAD-UFES-20's card, as if it lay in an empty folder."""
    monkeypatch.delenv("FUSIONBENCH_DATA", raising=False)
    folder = tmp_path / "cards" / "pad-ufes-20"
    folder.mkdir(parents=True)
    shutil.copy(registry.builtin_root() / "datasets/pad-ufes-20/dataset.toml", folder)
    return open_card(str(folder))


@pytest.mark.parametrize("name", ["pad-ufes-20", "PAD_UFES_20", "derm7pt"])
def test_a_card_by_name(name):
    assert open_card(name).name == registry.key_of(name)


def test_a_card_by_file_and_by_folder(pebbles):
    pebbles.card()
    assert open_card(str(pebbles.folder)).name == "pebbles"
    assert open_card(str(pebbles.folder / "dataset.toml")) == open_card(str(pebbles.folder))


def test_unknown_names_get_the_nearest(tmp_path):
    with pytest.raises(UsageError, match="Did you mean pad-ufes-20"):
        open_card("pad-ufes20")
    with pytest.raises(UsageError, match="no dataset card at"):
        open_card(str(tmp_path / "absent" / "dataset.toml"))
    with pytest.raises(UsageError, match=r"no dataset card at .*dataset\.toml"):
        open_card(str(tmp_path))


@pytest.mark.parametrize(
    "below",
    [
        ".",
        "pad-ufes-20",
        "PAD-UFES-20",
        "PAD-UFES-20/PAD-UFES-20",
        "pad-ufes-20/zr7vgbcyr2-1",
        "download",
        "download/whatever",
    ],
)
def test_data_is_found_where_archives_and_mirrors_leave_it(pad, tmp_path, below):
    root = put(tmp_path / "given" / below)
    assert find_data(pad, tmp_path / "given").resolve() == root.resolve()


def test_the_metadata_file_is_found_in_any_case(pad, tmp_path):
    root = put(tmp_path / "given", "Metadata.CSV")
    found = find_data(pad, root)
    assert metadata_file(pad, found) == root / "Metadata.CSV"


def test_order_data_then_environment_then_beside_the_card(pad, tmp_path, monkeypatch):
    beside = put(pad.folder / "data")
    assert find_data(pad) == beside
    elsewhere = put(tmp_path / "collection" / "pad-ufes-20")
    monkeypatch.setenv("FUSIONBENCH_DATA", str(tmp_path / "collection"))
    assert find_data(pad) == elsewhere
    given = put(tmp_path / "given")
    assert find_data(pad, given) == given
    # A --data that holds nothing is an error, not a reason to take other data.
    with pytest.raises(DataError, match="not here"):
        find_data(pad, tmp_path / "empty")


def test_another_dataset_of_the_same_layout_is_not_taken_for_it(pad, tmp_path, monkeypatch):
    put(tmp_path / "collection" / "synthetic")
    put(tmp_path / "collection" / "my-own-subset")
    monkeypatch.setenv("FUSIONBENCH_DATA", str(tmp_path / "collection"))
    with pytest.raises(DataError):
        find_data(pad)
    put(tmp_path / "collection", header="id,name\n")
    with pytest.raises(DataError):
        find_data(pad)
    put(tmp_path / "given" / "synthetic")
    with pytest.raises(DataError):
        find_data(pad, tmp_path / "given")
    put(tmp_path / "strange" / "inside", header="id,name\n")
    with pytest.raises(DataError):
        find_data(pad, tmp_path / "strange")


def test_two_candidates_are_not_guessed_between(pad, tmp_path):
    put(tmp_path / "given" / "one")
    put(tmp_path / "given" / "two")
    with pytest.raises(DataError, match="2 folders that look like"):
        find_data(pad, tmp_path / "given")


def test_absent_data_says_where_from_what_where_and_how_to_go_on(pad, tmp_path):
    with pytest.raises(DataError) as caught:
        find_data(pad)
    text = str(caught.value)
    assert caught.value.exit_code == 1
    for part in ("metadata.csv", "zr7vgbcyr2", str(pad.folder / "data"), "--data", "synthetic"):
        assert part in text


def test_inside_an_installed_package_data_goes_below_the_working_folder(pad, tmp_path, monkeypatch):
    builtin = tmp_path / "site-packages" / "fusionbench" / "builtin"
    shutil.copytree(pad.folder, builtin / "datasets" / "pad-ufes-20")
    monkeypatch.setattr(registry, "builtin_root", lambda: builtin)
    monkeypatch.chdir(tmp_path)
    card = open_card("pad-ufes-20")
    assert default_folder(card) == tmp_path / "datasets" / "pad-ufes-20" / "data"
    root = put(tmp_path / "datasets" / "pad-ufes-20" / "data")
    assert find_data(card) == root
