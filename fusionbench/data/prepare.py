"""From a download to a checked dataset: unpack, check everything, decode, report.

`prepare`, `verify` and `status` answer with a report that holds every problem, not the first.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from fusionbench.data.archive import unpack, unpack_inner
from fusionbench.data.card import DatasetCard
from fusionbench.data.cell_notes import cell_notes
from fusionbench.data.csv_rows import Problem
from fusionbench.data.digests import file_digests
from fusionbench.data.image_cache import open_or_build
from fusionbench.data.images import verify_images
from fusionbench.data.locate import default_folder, find_data
from fusionbench.data.schema import unlisted_columns
from fusionbench.data.table import Table, read_dataset, table_of
from fusionbench.errors import DataError, UsageError
from fusionbench.progress import SILENT, Progress


@dataclass(frozen=True)
class PrepareReport:
    """What is there and what is wrong with it."""

    dataset: str
    found: bool
    root: str = ""
    rows: int = 0
    left_out: int = 0  # rows that the card's label.ignore leaves out
    groups: int = 0
    images_found: int = 0  # rows' photographs that have a file, over all views looked at
    images_missing: int = 0
    images_damaged: int = 0  # of those found; known only where `checked_pixels`
    classes: dict[str, int] = field(default_factory=dict)
    fingerprint: str = ""  # of the default view; "" where the data cannot be used as it is
    cache: str = ""  # the file of decoded photographs that `prepare` made or found
    problems: tuple[Problem, ...] = ()  # each with at least `problem`
    notes: tuple[str, ...] = ()  # worth knowing, not wrong
    checked_pixels: bool = False  # every photograph was decoded in full

    @property
    def ok(self) -> bool:
        return self.found and not self.problems

    def to_dict(self) -> dict[str, object]:
        """Plain JSON."""
        return {**asdict(self), "ok": self.ok}


def prepare(
    card: DatasetCard,
    source: Path,
    dest: Path | None = None,
    *,
    image_size: int = 224,
    progress: Progress = SILENT,
) -> PrepareReport:
    """Make a downloaded archive or folder usable, check it as `verify` does, and build the image
    cache of the default view where nothing is wrong but missing photographs.

    An archive is unpacked to `dest` (default: locate.default_folder). A folder is used where it
    is. Raises DataError where the source cannot be read or holds no such dataset; what is wrong
    inside the dataset is in the report.
    """
    source = Path(source)
    if not source.exists():
        raise DataError(f"There is no archive or folder at {source}.")
    target = source
    if source.is_file():
        target = dest or default_folder(card)
        unpack(source, target, accept=partial(_check_holds, card, source), progress=progress)
    elif dest is not None:
        raise UsageError(
            f"{source} is a folder, which is used where it is; --to is for archives.",
            "Leave out --to, or copy the folder first.",
        )
    else:
        unpack_inner(target, progress=progress)
    root = find_data(card, target)
    report, table = inspect(card, root, pixels=True, progress=progress)
    if table is None:
        return report
    view = table.views[0]
    array = open_or_build(
        table.images[view],
        table.digests[view],
        image_size,
        name=f"{card.name}-{view}",  # as a run names it, so that it is found again
        lines=table.lines.tolist(),
        progress=progress,
    )
    return replace(report, cache=str(array.filename))


def verify(card: DatasetCard, root: Path, *, progress: Progress = SILENT) -> PrepareReport:
    """Check the dataset at `root` in full, all views: columns, every row, that every photograph is
    there and opens, and the counts that the card expects."""
    return inspect(card, root, pixels=True, progress=progress)[0]


def status(card: DatasetCard, data: Path | None = None) -> PrepareReport:
    """What `verify` says, without decoding photographs; `found` is False where there is no data
    (then the one problem says where it was looked for and how to get it)."""
    try:
        root = find_data(card, data)
    except DataError as error:
        problem: Problem = {"problem": error.message, "fix": error.remedy}
        return PrepareReport(card.name, found=False, problems=(problem,))
    return inspect(card, root, pixels=False, progress=SILENT)[0]


def _check_holds(card: DatasetCard, source: Path, folder: Path) -> None:
    """Raises DataError where an unpacked folder is not the dataset: a wrong archive."""
    try:
        find_data(card, folder)
    except DataError:
        raise DataError(
            f"{source} does not hold {card.title}: no {card.files.metadata} has its columns.",
            card.source.obtain.strip(),
        ) from None


def inspect(
    card: DatasetCard, root: Path, *, pixels: bool, progress: Progress
) -> tuple[PrepareReport, Table | None]:
    """The report, and the table of the default view where the data can be used as it is."""
    views = [view.name for view in card.views]
    try:
        reading = read_dataset(card, root, views)
    except DataError as error:
        only: Problem = {"problem": error.message, "fix": error.remedy}
        return PrepareReport(card.name, found=True, root=str(root), problems=(only,)), None
    frame, missing, problems = reading.frame, reading.missing(views), [*reading.problems]
    notes = [*reading.notes]
    notes += [f"column not in the card: {name}" for name in unlisted_columns(card, frame)]
    notes += cell_notes(card, frame)
    problems += [
        {"file": name, "row": line, "problem": "photograph is missing"} for line, name in missing
    ]
    pictured = sum(path is not None for paths in reading.files.values() for path in paths)
    line_of = reading.line_of()
    files = [*line_of]
    if len(reading.index) > len(files):
        unused = len(reading.index) - len(files)
        notes.append(f"{unused} image file(s) belong to no row{' in use' * bool(reading.left_out)}")
    notes += [f"link not followed: {link}" for link in reading.index.skipped_links]
    damaged: dict[Path, str] = {}
    if pixels:
        damaged = verify_images(files, progress=progress)
        problems += [
            {"file": str(path), "row": line_of[path], "problem": reason}
            for path, reason in damaged.items()
        ]
        reading = reading.without(damaged)
        notes += _copies([path for path in files if path not in damaged], root, progress)
    counts = Counter(card.label.class_of(raw) for raw in frame.get(card.label.column, ()))
    classes = {name: counts[name] for name in card.classes}
    patients = frame[[c for c in card.group if c in frame]]
    named = patients[(patients != "").all(axis=1) | (card.group_missing == "")]
    groups = len(named.drop_duplicates()) + len(patients) - len(named)
    expected = [("rows", len(frame), card.expect.rows), ("groups", groups, card.expect.groups)]
    expected += [(f"class {name}", counts[name], n) for name, n in card.expect.classes.items()]
    problems += [
        {"file": reading.path.name, "value": have, "problem": f"{have} {what}, expected {want}"}
        for what, have, want in expected
        if want is not None and have != want
    ]
    table = None
    if not reading.problems and len(damaged) < len(files):
        try:
            table = table_of(reading, (card.view("").name,), allow_missing_images=True)
        except DataError as error:
            problems.append({"problem": error.message, "fix": error.remedy})
    report = PrepareReport(
        card.name,
        found=True,
        root=str(root),
        rows=len(frame),
        left_out=len(reading.left_out),
        groups=groups,
        images_found=pictured,
        images_missing=len(missing),
        images_damaged=len(damaged),
        classes=classes,
        fingerprint=table.fingerprint if table else "",
        problems=tuple(problems),
        notes=tuple(notes),
        checked_pixels=pixels,
    )
    return report, table


def _copies(files: list[Path], root: Path, progress: Progress) -> list[str]:
    """Photographs that are byte for byte the same under several names."""
    same: dict[str, list[str]] = {}
    for path, digest in file_digests(files, root=root, progress=progress).items():
        same.setdefault(digest, []).append(path.name)
    return [f"same photograph: {', '.join(names)}" for names in same.values() if len(names) > 1]
