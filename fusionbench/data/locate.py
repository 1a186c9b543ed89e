"""Where a dataset's card and its files are on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fusionbench.data.card import DatasetCard, read_card
from fusionbench.data.paths import given_path, is_file, is_folder
from fusionbench.errors import DataError, UsageError
from fusionbench.plugin import registry

CARD = "dataset.toml"
# How far below a named folder the data may sit, and how many folders are looked at on the way.
_DEPTH = 2
_FOLDERS = 500


def open_card(dataset: str, *, plugins: Sequence[str | Path] = ()) -> DatasetCard:
    """The card of a dataset, by its registered name, or by the path of a `dataset.toml` or of the
    folder that holds one.

    Raises UsageError (with the nearest names) where there is none, DataError where it does not fit.
    """
    cards = registry.dataset_cards(plugins)
    for name in (dataset, registry.key_of(dataset)):
        if name in cards:
            return read_card(cards[name])
    path = given_path(dataset)
    if is_folder(path):
        path /= CARD
    elif not (is_file(path) or path.suffix == ".toml" or len(path.parts) > 1):
        raise UsageError(*registry.unknown_name("dataset", dataset, cards))
    return read_card(path)


def find_data(card: DatasetCard, data: Path | None = None) -> Path:
    """The folder that `card.files` is relative to: the one in which the metadata file exists.

    With `data`, only there: the folder itself, a subfolder named after the dataset, or up to two
    folders deeper. Without: `$FUSIONBENCH_DATA`, then `default_folder(card)`, then beside the
    card. A card with a generator needs no search: its data is drawn on first use.
    Raises DataError saying where it looked, where the data comes from and what to do.
    """
    if card.generator and data is None:
        from fusionbench.data.synthetic.generate import ensure  # drawing is needed by few

        return ensure(card)
    places = _places(card, data)
    for folder, shared in places:
        if is_folder(folder) and (root := _root_in(card, folder, shared)):
            return root
    if data is None and _find_ignoring_case(card.folder, card.files.metadata):
        return card.folder  # it is there, whatever is wrong with it
    raise _absent(card, data, places)


def metadata_file(card: DatasetCard, root: Path) -> Path:
    """The metadata file under `root`, whatever the case of its name. Raises DataError."""
    path = _find_ignoring_case(root, card.files.metadata)
    if path is None:
        raise DataError(f"There is no {card.files.metadata} in {root}.")
    return path


def default_folder(card: DatasetCard) -> Path:
    """Where a dataset's files belong when nobody says otherwise: `data` beside the card; for a
    card inside an installed package `./datasets/<name>/data`."""
    builtin = registry.builtin_root()
    if builtin.name == "builtin" and card.folder.is_relative_to(builtin.resolve()):
        return Path.cwd() / "datasets" / card.name / "data"
    return card.folder / "data"


def _places(card: DatasetCard, data: Path | None) -> list[tuple[Path, bool]]:
    """(folder, whether it may hold other datasets too), in the order of search."""
    places: list[tuple[Path, bool]] = []
    if named := data or os.environ.get("FUSIONBENCH_DATA"):
        base = given_path(named)
        places = [(base / card.name, False), (base, data is None)]
    if data is None:  # otherwise falling back would use other data in silence
        places += [(default_folder(card), False), (card.folder, True)]
    return places


def _root_in(card: DatasetCard, folder: Path, shared: bool) -> Path | None:
    """The root at `folder` or below. In a shared folder only subfolders of known names count."""
    if path := _find_ignoring_case(folder, card.files.metadata):
        # A folder of another dataset's in the same layout would be read by mistake otherwise.
        return folder if not shared or _header_fits(card, path) else None
    names = {_plain(n) for n in (card.name, card.title, *card.files.roots)}
    foreign = {_plain(n) for n in registry.dataset_cards()} - names
    level = [folder]
    for _ in range(_DEPTH):
        below = [child for parent in level[:_FOLDERS] for child in _subfolders(parent)]
        below = [child for child in below if _plain(child.name) not in foreign]
        if shared:
            below = [child for child in below if _plain(child.name) in names]
        below.sort(key=lambda child: (_plain(child.name) not in names, str(child)))
        roots = [
            child
            for child in below
            if (path := _find_ignoring_case(child, card.files.metadata))
            and _header_fits(card, path)
        ]
        if len(roots) > 1 and _plain(roots[0].name) not in names:
            raise DataError(
                f"{folder} holds {len(roots)} folders that look like {card.name}: "
                f"{', '.join(map(str, roots[:5]))}.",
                "Name one of them with --data.",
            )
        if roots:
            return roots[0]
        level, shared = below, False
    return None


def _subfolders(folder: Path) -> list[Path]:
    try:
        return [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))]
    except OSError:
        return []


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _find_ignoring_case(root: Path, relative: str) -> Path | None:
    if is_file(root / relative):
        return root / relative
    paths = [root]
    for part in Path(relative).parts:
        try:
            below = sorted(child for path in paths for child in path.iterdir())
        except OSError:
            return None
        paths = [child for child in below if child.name.lower() == part.lower()][:1]
    return next((path for path in paths if path.is_file()), None)


def _header_fits(card: DatasetCard, path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            header = file.readline(65536) + file.readline(65536)
    except OSError:
        return False
    return card.id_column in header and card.label.column in header


def _tables_in(folder: Path) -> list[str]:
    """Names of up to five files that may hold a table."""
    endings = (".csv", ".tsv", ".xlsx", ".xls", ".ods", ".json", ".parquet", ".gz", ".zip")
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
    except (OSError, ValueError):
        return []
    return [name for name in names if name.lower().endswith(endings)][:5]


def _absent(card: DatasetCard, data: Path | None, places: list[tuple[Path, bool]]) -> DataError:
    where = "; ".join(dict.fromkeys(str(folder) for folder, _ in places))
    message = f"The data of {card.title} is not here: no {card.files.metadata} in {where}."
    lines = [card.source.obtain.strip()]
    if card.source.url and card.source.url not in lines[0]:
        lines.append(f"Source: {card.source.url}")
    folders = ", ".join(card.files.images)
    lines.append(
        f"Put {card.files.metadata} and the photographs ({folders}/) into {default_folder(card)}, "
        "or name their folder with --data DIR or $FUSIONBENCH_DATA."
    )
    name = card.files.metadata
    foreign = {_plain(n) for n in registry.dataset_cards()} - {_plain(card.name)}
    for folder, shared in places:
        below = [] if shared else _subfolders(folder)
        below += [child for parent in below[:_FOLDERS] for child in _subfolders(parent)]
        paths = [_find_ignoring_case(f, name) for f in below if _plain(f.name) not in foreign]
        if len(misfits := [path for path in paths if path]) == 1:
            message = f"{misfits[0]} does not fit the card of {card.title}: its header must name "
            message += f"{card.id_column!r} and {card.label.column!r}, among others."
        if path := _find_ignoring_case(folder, name):
            lines.insert(0, f"{path} is another dataset's: its header does not fit the card.")
        elif os.path.lexists(folder / name):
            what = "a folder" if is_folder(folder / name) else "no file, or a link to nothing"
            message = f"{folder / name} is {what}: the metadata of {card.title} is not in it."
        elif others := _tables_in(folder / Path(name).parent):
            lines.insert(
                0,
                f"{folder} holds {', '.join(others)}: the file of the metadata must be a csv that "
                f"is called as the card says (files.metadata = {name!r}).",
            )
    if data is not None:
        lines.append("Only --data was searched, because it was given.")
    if card.name != "synthetic":
        lines.append("To try it meanwhile: --dataset synthetic.")
    return DataError(message, "\n".join(line for line in lines if line))
