"""One function over many files in threads, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from fusionbench.config.environment import usable_cores
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
) -> Iterator[R]:
    """`function(item)` for every item, in order; by default one worker per core.

    For work that releases Python's lock: reading, hashing, decoding. The first exception ends it.
    """
    with (
        progress.task(label, total=len(items), unit=unit) as task,
        ThreadPoolExecutor(workers or usable_cores()) as pool,
    ):
        for result in pool.map(function, items):
            task.advance()
            yield result


def remembered(
    memory: Memory[R],
    function: Callable[[T], R],
    items: Mapping[str, T],
    label: str,
    unit: str,
    *,
    fleeting: Collection[str] = (),
    progress: Progress,
) -> dict[str, R]:
    """key -> `function(item)`, by which `memory` is completed, except for the `fleeting` keys."""
    known = memory.read()
    todo = {key: item for key, item in items.items() if key not in known}
    if todo:
        results = in_threads(function, [*todo.values()], label, unit, progress=progress)
        fresh = dict(zip(todo, results, strict=True))
        known |= fresh
        if lasting := {key: fresh[key] for key in fresh if key not in fleeting}:
            memory.add(lasting, progress)
    return known


def refused(
    function: Callable[[T], object],
    items: Mapping[T, Path],
    label: str,
    *,
    workers: int | None = None,
    progress: Progress,
) -> list[dict[str, object]]:
    """Call `function(item)`; one problem per file for which that raises DataError."""

    def why(item: T) -> str:
        try:
            function(item)
        except DataError as error:
            return error.message
        return ""

    reasons = in_threads(why, [*items], label, "img", workers=workers, progress=progress)
    return [
        {"file": str(path), "problem": reason}
        for path, reason in zip(items.values(), reasons, strict=True)
        if reason
    ]
