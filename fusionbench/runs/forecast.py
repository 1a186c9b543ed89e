"""How long the rest of a sweep will take and how large its weights are, from like runs."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from fusionbench.config.identity import Identity
from fusionbench.errors import RecordError
from fusionbench.records import Record, Store
from fusionbench.runs.plan import Job

# Records read per method, backbone and dataset: enough for a median.
ENOUGH = 8


@dataclass(frozen=True)
class Forecast:
    """Of the runs that are to be computed."""

    seconds: float  # of computing, of the runs for which it is known
    unknown: int  # runs whose method, backbone, dataset or size was never run here
    sources: int  # records that the seconds follow from
    weight_bytes: int  # of the runs for which it is known; 0 where none are kept
    free_bytes: int | None  # on the store's disk


def forecast(todo: Sequence[Job], store: Store, *, save_weights: bool = False) -> Forecast:
    """Measured durations of runs of the same method, backbone, dataset and image size, scaled by
    epochs; where any of them had the same loss, of these only. Reads few records."""
    files: dict[str, list[str]] = defaultdict(list)
    for path in store.files("records"):
        files[_kind(path.stem)].append(path.stem)
    known: dict[str, list[Record]] = {}
    seconds, weights, unknown = 0.0, 0, 0
    used: set[str] = set()
    for job in todo:
        own, kind = job.study.identity(job.split), _kind(job.run_id)
        if kind not in known:
            known[kind] = []
            for name in files[kind][-ENOUGH:]:
                with suppress(RecordError):  # the leaderboard and `store verify` say so
                    known[kind].append(store.read(name))
        alike = [r for r in known[kind] if _size(r.identity) == _size(own)]
        alike = [r for r in alike if r.identity.method.loss == own.method.loss] or alike
        used |= {record.run_id for record in alike}
        epochs = job.study.config.training.epochs if job.study.uses_images else 0
        if paces := [pace for record in alike if (pace := _pace(record)) is not None]:
            seconds += median(paces) * (epochs or 1)
        else:
            unknown += 1
        if save_weights and epochs:
            sizes = [r.result.parameters.get("total", 0) for r in alike if r.result]
            weights += 4 * max(sizes, default=0)
    return Forecast(seconds, unknown, len(used), weights, _free(store.folder))


def _kind(run_id: str) -> str:
    """Dataset, protocol, method and backbone: the name without fold, seed and digest."""
    return run_id.rsplit("_", 3)[0]


def _size(identity: Identity) -> int | None:
    return identity.training.image_size if identity.training is not None else None


def _pace(record: Record) -> float | None:
    """Seconds per epoch, evaluation included; of the whole run for a method without epochs."""
    total = record.measured.durations.get("total")
    if total is None or record.result is None:
        return None
    return total / max(record.result.epochs_run, 1)


def _free(folder: Path) -> int | None:
    there = next((p for p in (folder, *folder.absolute().parents) if p.is_dir()), None)
    try:
        return shutil.disk_usage(there).free if there else None
    except OSError:
        return None
