"""Which rows train, validate and test: a protocol is a committed file that gives each id its part.

The file, `id,part` rows sorted by id, decides; how it was made (`make_split`) is kept beside it.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusionbench.config.wording import listed, plural
from fusionbench.data.card import DatasetCard, ProtocolSpec
from fusionbench.data.csv_rows import read_rows
from fusionbench.data.locate import metadata_file
from fusionbench.errors import DataError
from fusionbench.files import lasting_folder, write_atomically
from fusionbench.plugin.registry import builtin_root
from fusionbench.progress import SILENT, Progress
from fusionbench.protocols.generated import Ints, Values, make_split
from fusionbench.protocols.split_files import HEADER, RowNames, read_indexes, read_split

if TYPE_CHECKING:
    from fusionbench.data.table import Table


@dataclass(frozen=True, eq=False)
class Fold:
    """Positions into the table's rows, ascending; no position is in two of them."""

    index: int
    train: Ints
    test: Ints
    valid: Ints | None = None  # only where it was published
    extra: dict[str, Ints] = field(default_factory=dict)  # further test parts: {"holdout": ...}


@dataclass(frozen=True, eq=False)
class Split:
    """A split, read and checked against the table."""

    spec: ProtocolSpec
    split_hash: str  # 16 hex digits of `hash_of` the whole file, also where images are missing
    folds: tuple[Fold, ...]


def load_protocol(
    card: DatasetCard,
    ids: Sequence[str],
    labels: Values,
    groups: Values | None,
    name: str = "",
    *,
    root: Path | None = None,
    complete: bool = True,
    left_out: Sequence[str] = (),
    progress: Progress = SILENT,
) -> Split:
    """The folds of a table of these ids, labels and groups (one entry per row; None: no groups).

    `root` is the data folder, which only a protocol with `index_files` reads. `complete=False`:
    rows of the dataset are left out for want of their images; the split is restricted to the rest.
    `left_out`: ids that the card leaves out and that a split may name all the same.
    Where the card names a file that does not exist yet, the split is made once and written down:
    beside the card, or where that is not the user's own folder, under the user's data folder.

    Raises UsageError for an unknown name, DataError where the file is absent, edited, does not fit
    the table, or parts a group in a grouped protocol.
    """
    spec = card.protocol(name)
    ids = [str(i) for i in ids]
    names = RowNames([*ids, *left_out])
    if spec.index_files:
        parts = read_indexes(card, spec, root, names.exact)
        source = ", ".join(spec.index_files.values())
    elif path := _locate(card, spec, ids, labels, groups, complete, progress):
        order = partial(_ids_in_file, card, root)
        parts, source = read_split(path, spec, names.exact, order), str(path)
    else:
        parts, source = make_split(spec, ids, labels, groups, card.classes), "the new split"
    remedy = (
        "Restore the files as they were published."
        if spec.published
        else "If fusionbench made the file and the dataset has changed, delete the file: the split "
        "is then made again. Its results cannot be compared with the old ones."
    )
    digest = hash_of(parts)
    if spec.sha256 and digest != spec.sha256:
        raise DataError(
            f"{source} is not the published split {spec.name} of {card.name}: its hash is "
            f"{digest[:16]}, the card says {spec.sha256[:16]}.",
            remedy,
        )
    parts = names.matched(parts, source)
    absent = [i for i in ids if i not in parts]
    if ids and len(absent) == len(ids):
        raise DataError(
            f"{source} names none of the {len(ids)} rows: its ids are as {next(iter(parts))}, "
            f"those of the table as {ids[0]}.",
            f"Its ids should be those of the metadata's column {card.id_column}.",
        )
    odd = dict.fromkeys(absent, "not in the split")
    if complete:
        odd |= dict.fromkeys(sorted(set(parts) - set(names.exact)), "not in the table")
    if odd and not spec.partial:
        some = "; ".join(f"{i} is {what}" for i, what in [*odd.items()][:4])
        raise DataError(
            f"{source} was made for other rows ({len(odd)} differ): {some}"
            f"{'; …' if len(odd) > 4 else '.'}",
            f"To use the {len(ids) - len(absent)} of {len(ids)} rows that it names, write "
            f"partial = true into the protocol's entry in the card. {remedy}",
            [{"file": source, "id": i, "problem": what} for i, what in odd.items()],
        )
    protocol = Split(spec, digest[:16], _folds(spec, parts, ids))
    for fold in protocol.folds:
        if not len(fold.train) or not len(fold.test):
            raise DataError(
                f"Fold {fold.index} of {spec.name} has {len(fold.train)} training and "
                f"{len(fold.test)} test rows.",
                "Too many photographs are missing for this protocol.",
            )
    if spec.kind == "grouped-kfold" and groups is not None:
        shared = overlap(protocol, groups)
        if any(shared):
            raise DataError(
                f"{source} parts groups: {sum(shared)} are both in training and in test.", remedy
            )
    return protocol


def split_of(
    table: Table, name: str = "", *, root: Path | None = None, progress: Progress = SILENT
) -> Split:
    """load_protocol for a loaded table; `progress` is told which classes a fold lacks."""
    split = load_protocol(
        table.card,
        table.ids.tolist(),
        table.labels,
        table.groups if table.card.group else None,
        name,
        root=root,
        complete=table.complete,
        left_out=table.left_out,
        progress=progress,
    )
    for note in _notes(split, table):
        progress.note(note)
    return split


def _notes(split: Split, table: Table) -> Iterator[str]:
    """What a reader of results must know of the parts: rows and classes that are not in them."""
    yield from class_notes(table)
    name, classes = split.spec.name, table.card.classes
    used = len({*np.concatenate([p for fold in split.folds for p in _parts_of(fold)]).tolist()})
    if used < len(table):
        yield f"{name}: {len(table) - used:,} of {len(table):,} rows are in no part"
    for k in np.unique(table.labels):
        lack = {
            part: [f.index for f in split.folds if k not in table.labels[getattr(f, part)]]
            for part in ("train", "test")
        }
        if lack["train"]:
            where = _folds_named(lack["train"])
            yield f"{name}: the class {classes[k]} has no training row in {where}"
        if lack["test"]:
            where = _folds_named(lack["test"])
            yield (
                f"{name}: the class {classes[k]} has no test row in {where}; means over classes "
                "are over the others there"
            )


def class_notes(table: Table) -> Iterator[str]:
    """Classes that no row has."""
    classes, here = table.card.classes, {*table.labels.tolist()}
    if empty := [name for k, name in enumerate(classes) if k not in here]:
        left = plural(len(here), "other class", "other classes")
        yield f"no row has the class {listed(empty, 'or')}: means over classes are over {left}"


def _parts_of(fold: Fold) -> list[Ints]:
    valid = [] if fold.valid is None else [fold.valid]
    return [fold.train, fold.test, *valid, *fold.extra.values()]


def _folds_named(folds: list[int]) -> str:
    return f"fold{'s' * (len(folds) > 1)} {listed(folds)}"


def overlap(protocol: Split, groups: Values) -> tuple[int, ...]:
    """Per fold, how many groups are both in training or validation and in test. Any key does:
    patients, lesions."""
    keys = np.asarray(groups)
    counts = []
    for fold in protocol.folds:
        seen = fold.train if fold.valid is None else np.concatenate([fold.train, fold.valid])
        counts.append(len({*keys[seen].tolist()} & {*keys[fold.test].tolist()}))
    return tuple(counts)


def _locate(
    card: DatasetCard,
    spec: ProtocolSpec,
    ids: Sequence[str],
    labels: Values,
    groups: Values | None,
    complete: bool,
    progress: Progress,
) -> Path | None:
    """The split's file, made now where the card leaves that to us; None: nothing to be kept."""
    beside = card.folder / spec.file
    if beside.exists() or spec.published:
        return beside
    # Ours to read, not to write in: the built-in cards are source. There the rows are part of the
    # name, because one folder serves every copy of the data.
    rows = [f"{i}\t{y}" for i, y in zip(ids, np.asarray(labels).tolist(), strict=True)]
    digest = hashlib.sha256("\n".join(rows).encode("utf-8")).hexdigest()[:12]
    apart = lasting_folder() / "splits" / card.name / f"{spec.name}-{digest}.csv"
    if apart.exists():
        return apart
    if not complete:
        # Not written down: it would not fit once the missing images are there.
        return None
    parts = make_split(spec, ids, labels, groups, card.classes)
    builtin = card.folder.resolve().is_relative_to((builtin_root() / "datasets").resolve())
    for path in [apart] if builtin else [beside, apart]:
        try:
            write_split(path, parts)
        except OSError:
            continue
        progress.note(f"Made the split {spec.name} and wrote it to {path}; keep that file.")
        return path
    raise DataError(
        f"The new split {spec.name} can be written neither to {beside} nor to {apart}.",
        "Set FUSIONBENCH_CACHE to a folder you can write to.",
    )


def _folds(spec: ProtocolSpec, parts: Mapping[str, str], ids: Sequence[str]) -> tuple[Fold, ...]:
    part = np.array([parts.get(i, "") for i in ids], dtype=object)
    if spec.kind == "fixed":
        train, valid, test = (np.flatnonzero(part == p) for p in ("train", "valid", "test"))
        return (Fold(0, train, test, valid if len(valid) else None),)
    held = np.flatnonzero(part == "holdout")
    extra = {"holdout": held} if len(held) else {}
    return tuple(
        Fold(
            k,
            np.flatnonzero((part != str(k)) & (part != "holdout") & (part != "")),
            np.flatnonzero(part == str(k)),
            extra=extra,
        )
        for k in range(spec.folds)
    )


def _ids_in_file(card: DatasetCard, root: Path | None) -> list[str]:
    if root is None:
        return []
    return list(read_rows(metadata_file(card, root))[0][card.id_column])


def hash_of(parts: Mapping[str, str]) -> str:
    """sha256 of the split as `write_split` writes it, whatever the order of the rows."""
    return hashlib.sha256(_text(parts).encode("utf-8")).hexdigest()


def write_split(path: Path, parts: Mapping[str, str]) -> None:
    """Write `id,part` rows, sorted by id; the whole file or nothing."""
    write_atomically(path, _text(parts))


def _text(parts: Mapping[str, str]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(sorted(parts.items()))
    return out.getvalue()
