"""A dataset as the rest of the code sees it: one row per sample, checked, with a fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import pandas as pd

from fusionbench.config.wording import plural
from fusionbench.data.card import DatasetCard
from fusionbench.data.csv_rows import Problem, bad_rows, problem, read_rows
from fusionbench.data.digests import file_digests
from fusionbench.data.images import EXTENSIONS, ImageIndex, index_images
from fusionbench.data.locate import metadata_file
from fusionbench.data.photo_facts import photo_facts
from fusionbench.data.schema import check_rows, unlisted_columns, value_of
from fusionbench.errors import DataError
from fusionbench.progress import SILENT, Progress

T = TypeVar("T")
# Where a table without all photographs has none: this path, and "" for its digest.
ABSENT = Path()
CORRECT = "Correct the rows listed, or the card (datasets/README.md)."


@dataclass(frozen=True)
class Table:
    """n samples in the order of the file."""

    card: DatasetCard
    views: tuple[str, ...]
    ids: np.ndarray  # (n,) str
    labels: np.ndarray  # (n,) int64, positions in card.classes
    groups: np.ndarray  # (n,) str: the patient; the id where the card names no group
    lesions: np.ndarray  # (n,) str: the lesion within its group; the id where nothing names it
    rows: np.ndarray  # (n,) int64: 0-based position among the rows of the file
    lines: np.ndarray  # (n,) int64: where that row begins in the file; the header is line 1
    # One column per card.columns. Categorical and boolean: text ('True' / 'False'), None where
    # nothing was recorded, unknown marks as text. Numeric: float64, NaN where not recorded.
    metadata: pd.DataFrame
    images: dict[str, tuple[Path, ...]]  # view -> n files
    digests: dict[str, tuple[str, ...]]  # view -> n sha256 of those files
    fingerprint: str  # 16 hex digits; changes with anything that may change a result
    complete: bool  # every row of the file, and as many as card.expect says
    missing_images: tuple[str, ...] = ()  # file names in the csv that have no file that opens
    # Columns of the csv that the card does not read, as text.
    others: pd.DataFrame = field(default_factory=pd.DataFrame)
    left_out: tuple[str, ...] = ()  # ids of the rows that the card's label.ignore leaves out

    def __len__(self) -> int:
        return len(self.ids)

    def pictured(self, view: str | None = None) -> np.ndarray:
        """bool (n,): rows whose photograph is there. All, but for `photographs="optional"`."""
        return np.array([digest != "" for digest in self.digests[view or self.views[0]]], bool)

    def take(self, indices: np.ndarray) -> Table:
        """Those rows (positions or a mask), in that order. The fingerprint stays that of the
        whole: a fold is part of the same data."""
        chosen = np.arange(len(self))[indices]
        arrays = ("ids", "labels", "groups", "lesions", "rows", "lines")
        return replace(
            self,
            **{name: getattr(self, name)[chosen] for name in arrays},
            metadata=self.metadata.iloc[chosen].reset_index(drop=True),
            others=self.others.iloc[chosen] if len(self.others) else self.others,
            images={view: tuple(paths[i] for i in chosen) for view, paths in self.images.items()},
            digests={view: tuple(all_[i] for i in chosen) for view, all_ in self.digests.items()},
        )


def load_table(
    card: DatasetCard,
    root: Path,
    *,
    view: str | Sequence[str] | None = None,
    allow_missing_images: bool = False,
    photographs: Literal["required", "optional"] = "required",
    progress: Progress = SILENT,
) -> Table:
    """Read, check and fingerprint the dataset at `root` (from find_data).

    `view`: a view's name, several, or None for the card's first. Nothing is written but the
    digests of files below the cache folder, and that only after every row was found to fit.

    Raises DataError with every offending row in `problems`, or naming the missing photographs
    unless `allow_missing_images`, which opens every photograph once, leaves out the rows of those
    that are missing or damaged and gives another fingerprint.

    `photographs="optional"` keeps every row, whether or not its photograph is there and opens
    (`pictured` says which): for audits, not for training. Its fingerprint is never that of a table
    to train on.
    """
    chosen = (view or "",) if isinstance(view, str) or view is None else view
    views = tuple(card.view(name).name for name in chosen)
    reading = read_dataset(card, root, views)
    if (allow_missing_images or photographs == "optional") and not reading.problems:
        reading = reading.without(_damaged(reading, progress))
    return table_of(
        reading,
        views,
        allow_missing_images=allow_missing_images,
        photographs=photographs,
        progress=progress,
    )


def table_of(
    reading: DatasetRows,
    views: tuple[str, ...],
    *,
    allow_missing_images: bool = False,
    photographs: Literal["required", "optional"] = "required",
    progress: Progress = SILENT,
) -> Table:
    """load_table for a dataset that was read already, with these views among others."""
    card, root, frame = reading.card, reading.root, reading.frame
    if reading.problems:
        raise bad_rows(reading.path, reading.problems, CORRECT)
    missing = reading.missing(views)
    extra = unlisted_columns(card, frame)
    if extra:
        names = ", ".join(extra)
        progress.note(f"{reading.path.name} has columns that the card does not name: {names}.")
    for note in reading.notes:
        progress.note(f"{note}.")
    optional = photographs == "optional"
    if missing and not (allow_missing_images or optional):
        raise _missing_photographs(reading, missing)
    files = {name: reading.files[name] for name in views}
    pictured = [all(row) for row in zip(*files.values(), strict=True)]
    keep = np.array(pictured, dtype=bool) | optional
    if not keep.any():
        raise DataError(
            f"Not one photograph of {card.title} in {root} can be used.", _looked_in(card)
        )
    images = {
        name: tuple(path or ABSENT for path in compress(paths, keep))
        for name, paths in files.items()
    }
    there = list(dict.fromkeys(p for paths in images.values() for p in paths if p != ABSENT))
    digest_of = {ABSENT: "", **file_digests(there, root=root, progress=progress)}
    digests = {name: tuple(digest_of[p] for p in paths) for name, paths in images.items()}
    used = frame[keep]
    ids = used[card.id_column].to_numpy(dtype=str)
    classes = _each(used[card.label.column], lambda raw: card.label.class_of(raw) or "")
    table = Table(
        card=card,
        views=views,
        ids=ids,
        labels=np.array([card.classes.index(name) for name in classes], dtype=np.int64),
        groups=_groups(card, used, ids),
        lesions=_lesions(card, used, ids),
        rows=reading.positions[keep],
        lines=used.index.to_numpy(dtype=np.int64),
        metadata=_typed(card, used),
        images=images,
        digests=digests,
        fingerprint="",
        complete=(optional or not missing) and card.expect.rows in (None, len(frame)),
        missing_images=tuple(dict.fromkeys(name for _, name in missing)),
        others=used[[c for c in (*extra, *card.ignore) if c in used]],
        left_out=reading.left_out,
    )
    return replace(table, fingerprint=_fingerprint(table, photographs))


@dataclass(frozen=True)
class DatasetRows:
    """The csv of a dataset, and which file is the photograph of which row."""

    card: DatasetCard
    root: Path
    path: Path  # of the csv
    frame: pd.DataFrame  # as read_rows gives it, without the rows that are left out
    positions: np.ndarray  # (n,) int64: 0-based, among all rows of the file
    left_out: tuple[str, ...]  # ids of the rows that are left out
    notes: list[str]  # which rows are left out, or read as a group by themselves
    index: ImageIndex
    files: dict[str, list[Path | None]]  # view -> one per row
    # What does not fit the card, and names that mean several different files.
    problems: list[Problem]

    def missing(self, views: Iterable[str]) -> list[tuple[int, str]]:
        """(line, name) in the csv without a file, in these views as far as they were read."""
        return [
            (line, name)
            for view in views
            if view in self.files
            for line, name, path in zip(
                self.frame.index.tolist(),
                self.frame[self.card.view(view).column],
                self.files[view],
                strict=True,
            )
            if path is None
        ]

    def line_of(self) -> dict[Path, int]:
        """Every photograph, and the line of the first row that has it."""
        lines: dict[Path, int] = {}
        for paths in self.files.values():
            for line, path in zip(self.frame.index.tolist(), paths, strict=True):
                if path:
                    lines.setdefault(path, line)
        return lines

    def without(self, damaged: Collection[Path]) -> DatasetRows:
        """The same where these photographs, which do not open, count as missing; a note says so."""
        if not damaged:
            return self
        line_of = self.line_of()
        some = ", ".join(f"{path.name} (row {line_of[path]})" for path in [*damaged][:5])
        note = (
            f"{plural(len(damaged), 'photograph')} cannot be read and count as missing "
            f"(`fusionbench data verify` says why): {some}{', …' * (len(damaged) > 5)}"
        )
        files = {
            view: [None if path in damaged else path for path in paths]
            for view, paths in self.files.items()
        }
        return replace(self, files=files, notes=[*self.notes, note])


def read_dataset(card: DatasetCard, root: Path, views: Sequence[str]) -> DatasetRows:
    """Read the dataset at `root`; problems of rows are listed, not raised. Raises DataError where
    there is no csv that can be read."""
    path = metadata_file(card, root)
    every, problems = read_rows(path)
    labels = every.get(card.label.column, pd.Series("", every.index))
    used = (~labels.isin(card.label.ignore)).to_numpy() | (card.label.column not in every)
    frame, notes = every[used], []
    if len(every) and not len(frame):
        raise DataError(f"{path} has no row whose label is not ignored by the card.", CORRECT)
    if len(frame) < len(every):
        counts = ", ".join(f"{n} {cell!r}" for cell, n in labels[~used].value_counts().items())
        notes.append(f"{(~used).sum()} row(s) are left out for their label: {counts}")
    problems += check_rows(card, frame, path, views)
    if card.group_missing and (n := _nameless(frame, card.group).sum()):
        notes.append(f"{n} row(s) without {' and '.join(card.group)} are a group each")
    index = index_images(root, card)
    left_out = tuple(every[~used].get(card.id_column, ()))
    positions = np.flatnonzero(used)
    reading = DatasetRows(card, root, path, frame, positions, left_out, notes, index, {}, problems)
    for view in views:
        column = card.view(view).column
        if column not in frame:
            continue
        taken: dict[Path, tuple[object, str]] = {}
        paths = reading.files[view] = []
        for row, name in frame[column].items():
            options = index.candidates(name)
            if len(options) > 1 and len({p.read_bytes() for p in options}) > 1:
                where = ", ".join(str(p.relative_to(index.root)) for p in options)
                problems.append(problem(path, row, column, name, f"several files: {where}"))
            paths.append(options[0] if options else None)
            if not options:
                continue
            first, same = taken.setdefault(options[0], (row, name))
            if column == card.id_column and name != same:  # equal names are listed as equal ids
                text = f"the same file as row {first}: {options[0].name}"
                problems.append(problem(path, row, column, name, text))
    return reading


def _damaged(reading: DatasetRows, progress: Progress) -> tuple[Path, ...]:
    """The photographs that do not open. Those that do are remembered."""
    files, name = [*reading.line_of()], reading.card.name
    unreadable: set[Path] = set()
    try:
        digests = file_digests(files, root=reading.root, progress=progress)
    except DataError as error:
        unreadable = {Path(str(p["file"])) for p in error.problems}
        files_left = [path for path in files if path not in unreadable]
        digests = file_digests(files_left, root=reading.root, progress=progress)
    try:
        photo_facts({d: path for path, d in digests.items()}, name=name, progress=progress)
    except DataError as error:
        bad = {digests[Path(str(p["file"]))] for p in error.problems}
        unreadable |= {path for path, digest in digests.items() if digest in bad}
    return tuple(path for path in files if path in unreadable)


def _missing_photographs(reading: DatasetRows, missing: Sequence[tuple[int, str]]) -> DataError:
    card, index = reading.card, reading.index
    names = list(dict.fromkeys(name for _, name in missing))
    some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    reasons = ""
    if index.skipped_links:
        reasons = f" Links that leave the folder are not followed: {index.skipped_links[0]}."
    if unread := [path for name in names if (path := index.unread(name))]:
        what = f"; save it as one of {', '.join(EXTENSIONS)}"
        if not unread[0].is_file():
            what = ", which is a folder" if unread[0].is_dir() else ", which is no file"
        reasons += (
            f" For {len(unread)} of them there is something of a kind that is not read, such as "
            f"{unread[0].name}{what}."
        )
    return DataError(
        f"{len(names)} photographs of {card.title} are missing (of {len(reading.frame)} rows; "
        f"{len(index)} image files in {index.root}): {some}.{reasons}",
        f"{_looked_in(card)} Add them, or run on the rest with --allow-missing-images; its results "
        "are never ranked beside those on the whole set.",
        [{"file": name, "row": line, "problem": "missing"} for line, name in missing],
    )


def _looked_in(card: DatasetCard) -> str:
    return f"Image folders of the card: {', '.join(card.files.images)}."


def _joined(frame: pd.DataFrame, columns: Sequence[str], ids: np.ndarray) -> np.ndarray:
    """One key per row from several columns; escaped, so that two keys are equal only if every
    part is."""
    if not columns:
        return ids
    parts = [frame[c].str.replace("\\", "\\\\").str.replace("|", "\\|") for c in columns]
    return np.array(["|".join(key) for key in zip(*parts, strict=True)], dtype=str)


def _nameless(frame: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """bool (n,): rows in which one of these columns, where the file has it, is empty."""
    return (frame[[c for c in columns if c in frame]] == "").any(axis=1).to_numpy(dtype=bool)


def _groups(card: DatasetCard, frame: pd.DataFrame, ids: np.ndarray) -> np.ndarray:
    """The patients. One bar more than a joined key has keeps an id apart from every patient."""
    own = _joined(frame, [card.id_column], ids).astype(object) + "|" * len(card.group)
    keys = _joined(frame, card.group, ids)
    return np.where(_nameless(frame, card.group), own, keys).astype(str)


def _lesions(card: DatasetCard, frame: pd.DataFrame, ids: np.ndarray) -> np.ndarray:
    if not card.lesion:
        return ids
    columns = list(dict.fromkeys((*card.group, *card.lesion)))
    keys = _joined(frame, columns, ids)
    # A row whose lesion has no number, or whose patient no name, is a lesion by itself.
    return np.where(_nameless(frame, columns), ids, keys)


def _typed(card: DatasetCard, frame: pd.DataFrame) -> pd.DataFrame:
    columns: dict[str, pd.Series] = {}
    for column in card.columns:
        values = _each(frame[column.name], partial(value_of, column, unknown=card.unknown))
        kind = "float64" if column.kind == "numeric" else "object"
        columns[column.name] = pd.Series(values, dtype=kind)
    return pd.DataFrame(columns, index=pd.RangeIndex(len(frame)))


def _each(cells: pd.Series, read: Callable[[str], T]) -> list[T]:
    """What `read` makes of every cell; each distinct text is read once."""
    known = {cell: read(cell) for cell in cells.unique()}
    return [known[cell] for cell in cells]


def _fingerprint(table: Table, photographs: str) -> str:
    """sha256 of what a result depends on: classes, ignored labels, columns, unknown marks, every
    row's id, class, patient, lesion and typed cells, and the contents of every photograph. Not:
    paths, the order of columns in the file, columns that are not read, notes, expected counts."""
    views = sorted(table.views)
    meaning = {
        "classes": table.card.classes,
        "unknown": table.card.unknown,
        "columns": [(c.name, c.kind, c.values) for c in table.card.columns],
        "views": views,
    }
    if table.card.label.ignore:
        meaning["ignored labels"] = sorted(table.card.label.ignore)
    if photographs != "required":
        meaning["photographs"] = photographs
    digest = hashlib.sha256(json.dumps(meaning, sort_keys=True).encode())
    keys = [a.tolist() for a in (table.ids, table.labels, table.groups, table.lesions)]
    typed = [[None if c != c else c for c in table.metadata[name]] for name in table.metadata]
    photos = [table.digests[view] for view in views]
    for row in zip(*keys, *typed, *photos, strict=True):
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()[:16]
