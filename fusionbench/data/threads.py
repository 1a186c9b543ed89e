"""One function over many files in threads, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from fusionbench.config.environment import usable_cores
from fusionbench.config.wording import plural
from fusionbench.errors import DataError
from fusionbench.files import Memory
from fusionbench.progress import Progress

T = TypeVar("T")
R = TypeVar("R")


def in_threads(
    function: Callable[[T], R],
    items: Sequence[T],
    label: str,
    unit: str,
    *,
    workers: int | None = None,
    progress: Progress,
) -> tuple[dict[T, R], dict[T, str]]:
    """`function(item)` of every item, in order, and the message of every DataError that it raises;
    by default one worker per core.

    For work that releases Python's lock: reading, hashing, decoding.
    """
    results: dict[T, R] = {}
    faults: dict[T, str] = {}

    def attempt(item: T) -> None:
        try:
            results[item] = function(item)
        except DataError as error:
            faults[item] = error.message

    with (
        progress.task(label, total=len(items), unit=unit) as task,
        ThreadPoolExecutor(workers or usable_cores()) as pool,
    ):
        for _ in pool.map(attempt, items):
            task.advance()
    return (
        {item: results[item] for item in items if item in results},
        {item: faults[item] for item in items if item in faults},
    )


def remembered(
    memory: Memory[R],
    function: Callable[[Path], R],
    files: Mapping[str, Path],
    label: str,
    unit: str,
    *,
    fleeting: Collection[str] = (),
    progress: Progress,
) -> dict[str, R]:
    """key -> `function(file)`, by which `memory` is completed, except for the `fleeting` keys.

    Raises DataError where that raises one, after the rest: `problems` lists all these files.
    """
    known = memory.read()
    if todo := [key for key in files if key not in known]:
        fresh, faults = in_threads(
            lambda key: function(files[key]), todo, label, unit, progress=progress
        )
        known |= fresh
        if lasting := {key: fresh[key] for key in fresh if key not in fleeting}:
            memory.add(lasting, progress)
        if faults:
            raise unusable({files[key]: (None, reason) for key, reason in faults.items()})
    return known


def unusable(faults: Mapping[Path, tuple[int | None, str]]) -> DataError:
    """One error of files: path -> (the line of the csv that names it, what is wrong with it)."""
    problems: list[dict[str, object]] = [
        {"file": str(path), "row": row, "problem": reason} for path, (row, reason) in faults.items()
    ]
    return DataError(
        f"{plural(len(problems), 'photograph')} cannot be used; the first: "
        f"{problems[0]['problem']}",
        "Replace the files listed, or run on the rest with --allow-missing-images; its results are "
        "never ranked beside those on the whole set.",
        problems,
    )
