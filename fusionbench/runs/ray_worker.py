"""What a Ray worker does: one task is one fold of one run. The driver alone writes to the store."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fusionbench.config.run_config import Execution
from fusionbench.errors import FusionbenchError
from fusionbench.progress import Progress, Task
from fusionbench.runs import shipping
from fusionbench.runs.shipping import Delivery, Files, Order, Shared

# Between two messages of a worker about how far it is.
PAUSE = 1.0  # seconds

# Plugins that this process has written down, so that each is imported once.
_unfolded: dict[Files, tuple[tempfile.TemporaryDirectory[str], tuple[Path, ...]]] = {}


def work(
    order: Order,
    study: bytes,
    shared: Shared,
    plugins: Files,
    pixels: Any,  # uint8 (n, S, S, 3) in the node's shared memory; None for a control
    weights: tuple[str, bytes] | None,  # name and content of the file to start from
    board: Any,  # actor that is told how far the run is
) -> Delivery:
    """Compute one fold from what was shipped."""
    # The node's own would come on top of those that were shipped.
    os.environ.pop("FUSIONBENCH_PLUGINS", None)
    progress = BoardProgress(board, order.run_id)
    with _threads(order.threads), tempfile.TemporaryDirectory(prefix="fusionbench-") as folder:
        paths = _paths(plugins)
        execution = Execution(plugins=paths, device=order.device, step=order.step)
        try:
            opened = shipping.unpack(study, shared, paths)
        except FusionbenchError as error:
            return Delivery(order.run_id, refused=str(error))
        if pixels is not None:
            opened = shipping.with_pixels(opened, pixels)
        if weights is not None:
            opened = shipping.with_weights(opened, *weights, Path(folder))
        return shipping.fill(order, opened, execution, progress)


def own_threads() -> int:
    """How many threads this process computes with; results may depend on it in the last bits."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    from threadpoolctl import threadpool_info

    return max((pool["num_threads"] for pool in threadpool_info()), default=os.cpu_count() or 1)


class Board:
    """Where workers leave how far they are, and the driver reads it. A Ray actor."""

    def __init__(self) -> None:
        self.said: dict[str, float] = {}

    def say(self, run_id: str, share: float) -> None:
        self.said[run_id] = share

    def read(self, running: list[str]) -> dict[str, float]:
        """Shares done of those runs that have said anything."""
        self.said = {run: self.said[run] for run in running if run in self.said}
        return self.said


class BoardProgress(Progress):
    """Tells a board now and then; the share is that of the outermost task that is long."""

    def __init__(self, board: Any, run_id: str) -> None:
        self.board, self.run_id, self.last = board, run_id, 0.0

    @contextmanager
    def task(self, label: str, total: int, unit: str = "it") -> Iterator[Task]:
        yield _BoardTask(self, total)

    def say(self, share: float) -> None:
        now = time.monotonic()
        if now - self.last >= PAUSE:
            self.last = now
            self.board.say.remote(self.run_id, share)


class _BoardTask(Task):
    def __init__(self, progress: BoardProgress, total: int) -> None:
        self.progress, self.total, self.done = progress, max(total, 1), 0

    def advance(self, steps: int = 1, **info: object) -> None:
        self.done += steps
        self.progress.say(self.done / self.total)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """As many as on the driver: sums in another order have other last bits."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=count):
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(count)
        os.environ["OMP_NUM_THREADS"] = str(count)  # for a PyTorch that is loaded later
        yield


def _paths(plugins: Files) -> tuple[Path, ...]:
    if plugins not in _unfolded:
        folder = tempfile.TemporaryDirectory(prefix="fusionbench-plugins-")
        _unfolded[plugins] = (folder, shipping.unfold(plugins, Path(folder.name)))
    return _unfolded[plugins][1]
