"""One function over many files in threads, with a progress bar."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

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
    """`function(item)` for every item, in order; by default one worker per processor.

    For work that releases Python's lock: reading, hashing, decoding. The first exception ends it.
    """
    with (
        progress.task(label, total=len(items), unit=unit) as task,
        ThreadPoolExecutor(workers or os.cpu_count()) as pool,
    ):
        for result in pool.map(function, items):
            task.advance()
            yield result
