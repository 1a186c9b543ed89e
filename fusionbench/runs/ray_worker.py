"""What travels to a Ray worker, and what it does: one task is one fold of one run.

There goes an order, and with it all that the worker would read from files: the table and the split
(once per dataset), the decoded photographs (once per dataset and size), the source of the plugins,
and starting weights where they are a file here. What comes with fusionbench is the worker's own.
The worker opens the run from that; its run_id, which hashes data, plugins and weights, must be the
planned one. Both directions are the engine's own: it runs code by its nature.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from fusionbench.config.run_config import Execution
from fusionbench.data.table import Table
from fusionbench.plugin import registry
from fusionbench.plugin.imports import builtin_root, imported_files, roots_of
from fusionbench.plugin.source import read_source
from fusionbench.progress import Progress
from fusionbench.protocols import Split
from fusionbench.runs.fold import Computed, LastRow, Order
from fusionbench.runs.study import Opened, Study
from fusionbench.runs.worker import Telling, attempt, set_threads

# Of each path of --plugins: its last two names, and (path inside, source) of the files.
Sources = tuple[tuple[str, tuple[tuple[str, bytes], ...]], ...]


@dataclass(frozen=True)
class Weights:
    """A file of starting weights."""

    identity: str  # as the driver's record has it
    name: str
    content: bytes


class Shipped(Opened):
    """The data and the split that came along, whatever the configuration calls them."""

    def __init__(self, data: tuple[Table, Split], execution: Execution) -> None:
        super().__init__(execution)
        self.data = data

    def of(self, *_: object, **__: object) -> tuple[Table, Split]:
        return self.data


def work(
    order: Order,
    threads: int,
    data: tuple[Table, Split],
    sources: Sources,
    pixels: Any,  # uint8 (n, S, S, 3) in the node's shared memory; None for a control
    weights: Weights | None,
    board: Any,  # actor that is told how far the run is
) -> Computed | Exception:
    """Compute one fold from what was shipped."""
    # The node's own would come on top of those that were shipped.
    os.environ.pop("FUSIONBENCH_PLUGINS", None)
    set_threads(threads)  # as many as on the driver: sums in another order have other last bits
    progress = Telling(lambda *message: board.hear.remote(order.run_id, *message))
    with tempfile.TemporaryDirectory(prefix="fusionbench-") as folder:

        def computed(order: Order, progress: Progress) -> Computed:
            config = order.config
            if weights is not None:
                path = Path(folder, weights.name)
                path.write_bytes(weights.content)
                config = config.changed(weights=str(path))
            # The store is the driver's: no record is written here, and no checkpoint, which would
            # go with the worker.
            execution = replace(
                order.execution,
                plugins=_unfolded(sources)[1],
                store=Path(folder, "none"),
                checkpoint_every=math.inf,
            )
            here = replace(order, config=config, execution=execution)
            # Not kept: the memory is for the next task, of any row.
            row = LastRow(Shipped(data, execution))
            study: Any = row.reopen(here)
            if pixels is not None:
                study = replace(study, pixels=pixels)
            if weights is not None:
                study = replace(study, weights=weights.identity)
            return row.compute(study, here, progress)

        result: Computed | Exception = attempt(computed, order, progress)
        return result


class Board:
    """Where workers leave how far they are, and the driver reads it. A Ray actor."""

    def __init__(self) -> None:
        self.at: dict[str, tuple[int, int]] = {}  # by run: steps done and steps in all

    def hear(self, run_id: str, what: str, *said: Any) -> None:
        if what == "task":
            self.at[run_id] = 0, said[1]
        elif what in ("advance", "resume") and run_id in self.at:
            done, total = self.at[run_id]
            self.at[run_id] = done + said[0], total

    def read(self, running: list[str]) -> dict[str, float]:
        """Shares done of those runs that have said anything."""
        self.at = {run: self.at[run] for run in running if run in self.at}
        return {run: done / max(total, 1) for run, (done, total) in self.at.items()}


def starting_weights(study: Study) -> Weights | None:
    """The file that the run starts from, where it is one on this machine."""
    if not study.uses_images or study.config.method.weights == "none":
        return None
    from fusionbench.models.weights import check_unchanged, offline_file

    name, backbone = study.config.method.weights, study.config.method.backbone
    path = offline_file(backbone) if name == "imagenet" else Path(name)
    if path is None:  # each machine asks timm's hub
        return None
    content, planned = path.read_bytes(), study.method_identity.weights or ""
    check_unchanged(planned, backbone, name)
    return Weights(planned, path.name, content)


def plugin_sources(plugins: Sequence[Path]) -> Sources:
    """Of what `--plugins` and $FUSIONBENCH_PLUGINS name, the files that the registry would read,
    and those beside them that they import."""
    found = []
    for root in registry.plugin_paths(plugins):
        paths = [root]
        if root.is_dir():
            folders = [root, *(root / kind for kind in registry.KINDS)]
            paths = sorted(path for folder in folders for path in folder.glob("*.py"))
        paths = [path for path in paths if not read_source(path).broken]
        ours = builtin_root() / "plugins"
        for path in [*paths]:
            beside = imported_files(path, roots_of(path))
            paths += [file for file in beside if not file.is_relative_to(ours)]
        files = tuple(
            (os.path.relpath(path, root), path.read_bytes()) for path in dict.fromkeys(paths)
        )
        if files:
            found.append((f"{root.parent.name or 'plugins'}/{root.name}", files))
    return tuple(found)


def unfold(sources: Sources, folder: Path) -> tuple[Path, ...]:
    """Write those files below `folder`; the paths to give as --plugins."""
    roots = [folder / str(i) / name for i, (name, _) in enumerate(sources)]
    for root, (_, files) in zip(roots, sources, strict=True):
        for inside, source in files:
            path = Path(os.path.normpath(root / inside))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source)
    return tuple(roots)


@cache
def _unfolded(sources: Sources) -> tuple[Any, tuple[Path, ...]]:
    """Once in a process, so that each plugin is imported once; the folder goes with the first."""
    folder = tempfile.TemporaryDirectory(prefix="fusionbench-plugins-")
    return folder, unfold(sources, Path(folder.name))
