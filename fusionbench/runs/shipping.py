"""What travels to a worker on another machine and comes back.

There goes the opened run, so that the worker needs none of the dataset's files: its table and split
(once per dataset), the decoded photographs (once per dataset and size), the source of the plugins,
and starting weights where they are a file here. Plugin classes go by name and are loaded anew from
the source that came along or, for what comes with fusionbench, from the worker's own installation,
whose source must be the same. Back comes what a store holds of a run. Nobody else can put anything
in between: both directions are the engine's own, which runs code by its nature.
"""

from __future__ import annotations

import io
import math
import pickle
import tempfile
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from fusionbench import __version__
from fusionbench.config.run_config import Device, Execution, Step
from fusionbench.data.table import Table
from fusionbench.errors import FusionbenchError, PluginError
from fusionbench.plugin import control as controls
from fusionbench.plugin import registry
from fusionbench.progress import Progress
from fusionbench.protocols import Split
from fusionbench.records import Predictions, Record, Store
from fusionbench.records.reading import parse_record
from fusionbench.runs.study import Study
from fusionbench.runs.sweep_fold import compute

_PLUGINS = "fusionbench_plugins."  # of modules that the registry makes of plugin files

Files = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class Shared:
    """What all runs on one dataset and split have in common."""

    table: Table
    protocol: Split


@dataclass(frozen=True)
class Order:
    """One fold of one run, without what is shipped once per row or dataset."""

    run_id: str
    fold: int
    verdict: str
    device: Device
    step: Step
    save_weights: bool
    threads: int
    version: str = __version__


@dataclass(frozen=True)
class Delivery:
    """Files of a run, compressed: a result that is small enough travels inside the answer, and is
    then not lost with the worker's machine."""

    run_id: str
    record: bytes = b""
    predictions: bytes = b""  # b"" for a failure
    weights: bytes | None = None
    refused: str = ""  # why nothing was trained; there are no files then


def pack(study: Study) -> bytes:
    """The opened run without table and split, which `unpack` puts back."""
    buffer = io.BytesIO()
    _Packer(buffer, study).dump(study)
    return buffer.getvalue()


def unpack(data: bytes, shared: Shared, plugins: tuple[Path, ...]) -> Study:
    """Raises PluginError where a plugin's source is not what the run was planned with."""
    study: Study = _Unpacker(io.BytesIO(data), shared, plugins).load()
    return study


def plugin_files(plugins: Sequence[Path]) -> Files:
    """(relative path, source) of what `--plugins` and $FUSIONBENCH_PLUGINS name: the files that the
    registry would read, under one folder each that bears its own folder's name."""
    found: list[tuple[str, bytes]] = []
    for i, root in enumerate(registry.plugin_paths(plugins)):
        if root.is_file():
            found.append((f"{i}/{root.parent.name or 'plugins'}/{root.name}", root.read_bytes()))
            continue
        inside = [root, *(root / kind for kind in registry.KINDS)]
        for path in sorted(p for folder in inside for p in folder.glob("*.py")):
            found.append((f"{i}/{path.relative_to(root.parent)}", path.read_bytes()))
    return tuple(found)


def unfold(files: Files, folder: Path) -> tuple[Path, ...]:
    """Write those files below `folder`; the paths to give as --plugins."""
    roots: dict[str, Path] = {}
    for name, source in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source)
        number, *_ = Path(name).parts
        # A file's folder would pass for a folder of plugins: it is named itself.
        alone = sum(other.startswith(f"{number}/") for other, _ in files) == 1
        roots[number] = path if alone else folder / number / Path(name).parts[1]
    return tuple(roots.values())


def fill(order: Order, study: Study, execution: Execution, progress: Progress) -> Delivery:
    """Compute the run into a store of its own; what it then holds. Raises nothing expected."""
    if order.version != __version__:
        text = f"The worker has fusionbench {__version__}, this is {order.version}."
        return Delivery(order.run_id, refused=f"{text} Install the same one on every node.")
    fold = next(f for f in study.protocol.folds if f.index == order.fold)
    if study.run_id(fold) != order.run_id:
        text = f"The worker makes {study.run_id(fold)} of the run that is {order.run_id} here."
        return Delivery(order.run_id, refused=text)
    with tempfile.TemporaryDirectory(prefix="fusionbench-") as folder:
        store = Store(folder)
        # No checkpoints: this folder goes with the worker, and they with it.
        own = replace(
            execution,
            store=Path(folder),
            save_weights=order.save_weights,
            checkpoint_every=math.inf,
        )
        try:
            record = compute(study, fold, order.verdict, store, own, progress)
        except FusionbenchError as error:
            return Delivery(order.run_id, refused=str(error))
        return collected(store, record)


def collected(store: Store, record: Record) -> Delivery:
    """The files of a run, read from a store."""

    def of(kind: str, suffix: str) -> bytes:
        return (store.folder / kind / f"{record.run_id}{suffix}").read_bytes()

    if record.status == "failed":
        return Delivery(record.run_id, zlib.compress(of("failed", ".json")))
    weights = store.weights_path(record.run_id)
    return Delivery(
        record.run_id,
        zlib.compress(of("records", ".json")),
        zlib.compress(of("predictions", ".csv")),
        weights.read_bytes() if weights.is_file() else None,
    )


def stored(delivery: Delivery, store: Store) -> Record:
    """Write a delivery as the run itself would have; its record.

    Raises RecordError where the files do not belong together, FusionbenchError for a store that
    cannot be written.
    """
    record = parse_record(zlib.decompress(delivery.record), Path(delivery.run_id))
    if record.status == "failed":
        return store.write_failure(record)
    predictions = Predictions.from_csv(zlib.decompress(delivery.predictions).decode())
    if delivery.weights is not None:
        store.write_weights(record.run_id, delivery.weights)
    return store.write(record, predictions)


def with_pixels(study: Any, pixels: np.ndarray) -> Study:
    """The run with its photographs at hand: uint8 (n, S, S, 3), which may be read-only."""
    import torch

    from fusionbench.runs.network_study import NetworkStudy

    class Shipped(NetworkStudy):
        def images(self, workers: int | None, progress: Progress) -> torch.Tensor:
            with warnings.catch_warnings():  # torch warns of read-only memory; nobody writes to it
                warnings.simplefilter("ignore", UserWarning)
                return torch.from_numpy(pixels)

    return Shipped(**{field.name: getattr(study, field.name) for field in fields(study)})


def with_weights(study: Study, name: str, content: bytes, folder: Path) -> Study:
    """The run with its starting weights in a file of that name below `folder`."""
    path = folder / name
    path.write_bytes(content)
    return replace(study, config=study.config.changed(weights=str(path)))


def starting_weights(study: Study) -> Path | None:
    """The file that the run starts from, where it is one on this machine."""
    if not study.uses_images or study.config.method.weights == "none":
        return None
    from fusionbench.models.weights import offline_file

    if study.config.method.weights == "imagenet":
        return offline_file(study.config.method.backbone)  # None: each machine asks timm's hub
    return Path(study.config.method.weights)


class _Packer(pickle.Pickler):
    def __init__(self, buffer: io.BytesIO, study: Study) -> None:
        super().__init__(buffer, protocol=pickle.HIGHEST_PROTOCOL)
        self.study = study
        self.identity = study.identity(study.protocol.folds[0])

    def persistent_id(self, obj: Any) -> tuple[str, ...] | None:
        if obj is self.study.table:
            return ("table",)
        if obj is self.study.protocol:
            return ("protocol",)
        if isinstance(obj, type) and obj.__module__.startswith(_PLUGINS):
            _, kind, module = obj.__module__.split(".", 2)
            name = registry.key_of(module.rpartition("_")[0])
            # As the plan found it: a file that was edited since is not what the run_id stands for.
            source = next(
                p.source for p in self.identity.method.plugins if (p.kind, p.name) == (kind, name)
            )
            return ("plugin", kind, name, source)
        return None


class _Unpacker(pickle.Unpickler):
    def __init__(self, buffer: io.BytesIO, shared: Shared, plugins: tuple[Path, ...]) -> None:
        super().__init__(buffer)
        self.shared, self.plugins = shared, plugins

    def persistent_load(self, pid: Any) -> Any:
        if pid == ("table",):
            return self.shared.table
        if pid == ("protocol",):
            return self.shared.protocol
        _, kind, name, source = pid
        entry = registry.find(kind, name, self.plugins)
        if registry.source_hash(entry) != source:
            raise PluginError(
                f"The worker's source of the plugin {name} is not the one that the sweep was "
                f"planned with ({entry.path}).",
                "Install the same fusionbench on every node; do not edit plugins during a sweep.",
            )
        return registry.load(entry, _base(kind))


def _base(kind: str) -> type:
    if kind == "controls":
        return controls.Control
    from fusionbench.plugin.fusion import Fusion
    from fusionbench.plugin.loss import Loss

    return Fusion if kind == "fusions" else Loss
