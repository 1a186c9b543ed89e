"""Where training stands after an epoch, in a file, so that a run that was stopped goes on.

    parts = Parts(trained, optimizer, scheduler, ema, device)
    parts.capture(state) -> State       after an epoch: everything that the next one depends on
    parts.restore(state)                in a new process, before its first epoch
    keeper = Keeper(store, run, place)
    keeper.keep(state)                  writes all of the file or none, whenever we are killed
    keeper.find() -> State | None       reads it, if it is complete and was made for this very run

Each run has one file, `checkpoints/<run_id>.pt`, written by torch.save. Every checksum in it is
compared before torch.load reads it, which builds tensors and plain values and runs no code.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fusionbench.errors import FusionbenchError
from fusionbench.progress import SILENT, Progress
from fusionbench.records import Store
from fusionbench.records.reading import unfit
from fusionbench.training.optimizers import Plateau

Tensors = dict[str, Tensor]

FORMAT = 4
# What checkpoints may take of the time, unless the user says how often to write them: on a GPU an
# epoch may be shorter than the writing of its checkpoint.
SHARE = 0.02
# How fast the first is taken to be written, in bytes per second; from then on it is known.
RATE = 500e6


class CheckpointError(FusionbenchError):
    """A checkpoint that cannot be used."""


@dataclass
class State:
    """Where training stands after `epoch` epochs. The tensors are the model's own, not copies."""

    epoch: int = 0
    best_epoch: int = 0  # of the watched score, or of the training loss
    best_score: float = -math.inf  # higher is better
    best: Tensors | None = None  # the weights of that epoch, in main memory
    history: list[dict[str, float | None]] = field(default_factory=list)
    train_seconds: float = 0.0
    images_seen: int = 0
    seconds: float = 0.0  # of everything, in all processes that have worked on the run
    tensors: dict[str, Tensors] = field(default_factory=dict)  # of modules, and random states
    optimizer: dict[str, Any] = field(default_factory=dict)
    plateau: dict[str, Any] = field(default_factory=dict)
    # What the method has changed beside all of that (training.unsaved_state).
    unsaved: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parts:
    """What changes while a model is trained.

    The order of rows, augmentation and metadata dropout are not among them: they are drawn from
    (seed, epoch). Nor are timm's schedulers: the learning rates stand in the optimiser's groups
    and each follows from the number of the update.
    """

    trained: nn.Module  # model and loss
    optimizer: torch.optim.Optimizer
    scheduler: Any
    ema: ModelEmaV3 | None
    device: torch.device

    def capture(self, state: State) -> State:
        """`state` with all tensors. Keep it before training goes on: they are not copied."""
        scheduler = self.scheduler
        return replace(
            state,
            tensors=self._tensors(),
            optimizer=self.optimizer.state_dict(),
            plateau=scheduler.reduce.state_dict() if isinstance(scheduler, Plateau) else {},
        )

    def restore(self, state: State) -> None:
        """Go back to a captured state, and empty it of what now is in its place.

        Raises CheckpointError where it does not fit, with model and random state untouched; the
        optimiser is then spoilt.
        """
        own, random = self._tensors(), state.tensors.get("random", {})
        if changed := _kinds(own) ^ _kinds(state.tensors):
            raise CheckpointError(f"It holds another model: {min(changed)[0]} differs.")
        try:
            self.optimizer.load_state_dict(state.optimizer)
            if isinstance(self.scheduler, Plateau):
                self.scheduler.reduce.load_state_dict(state.plateau)
            with torch.no_grad():
                for part, tensors in own.items():
                    for name, tensor in tensors.items():
                        tensor.copy_(state.tensors[part][name])
            torch.set_rng_state(random["cpu"])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(random["cuda"], self.device)
        except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"It does not fit: {type(error).__name__}: {error}.") from error
        state.tensors, state.optimizer, state.plateau = {}, {}, {}

    def _tensors(self) -> dict[str, Tensors]:
        """Every parameter and buffer once, those that a state_dict leaves out as well, and copies
        of the random states."""
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        modules = {"trained": self.trained}
        if self.ema is not None:
            modules["ema"] = self.ema.module
        return {"random": random} | {
            part: {k: v.detach() for k, v in (*m.named_parameters(), *m.named_buffers())}
            for part, m in modules.items()
        }


class Keeper:
    """Keeps the checkpoint of one run. The run's lock is held by who calls."""

    def __init__(
        self,
        store: Store,
        run: str,
        place: Mapping[str, Any],
        *,
        every: float | None = None,
        label: str = "the run",
        progress: Progress = SILENT,
    ) -> None:
        """`place` is what, besides the run_id, decides over bits (place_of). At least `every`
        seconds lie between two checkpoints; 0: one after every epoch. None: as often as takes no
        more than SHARE of the time."""
        self.store, self.run, self.place = store, run, dict(place)
        self.every, self.label, self.progress = every, label, progress
        self.cost: float | None = None  # of the last one, in seconds
        self.seconds_before = 0.0  # of the processes that were stopped
        self._began = self._last = time.perf_counter()
        self._complained = False

    def find(self) -> State | None:
        """What to go on from. None where there is no checkpoint, or, with a note, where it cannot
        be used."""
        path = self.store.path("checkpoints", self.run)
        if not path.exists() and not path.is_symlink():
            return None
        try:
            state, place = read(path)
        except CheckpointError as error:
            self.reject(error)
            return None
        for key in sorted({*place, *self.place}):
            there, here = place.get(key, "nothing"), self.place.get(key, "nothing")
            if there != here:
                self.progress.note(
                    f"{self.label} starts from the beginning: its checkpoint of epoch "
                    f"{state.epoch} was made with {key} {there}, not {here}"
                )
                return None
        self.seconds_before = state.seconds
        return state

    def keep(self, state: State) -> None:
        """Replace the checkpoint, if it is time to. Where that fails training goes on, with a
        note. The last one stays where the method has begun to keep state that would be lost."""
        if state.unsaved:
            self._complain(
                f"the method changes {', '.join(state.unsaved[:5])} while it trains, which neither "
                "checkpoints nor saved weights hold: a stopped fold does not resume from here. "
                "Keep such state in buffers (register_buffer)"
            )
            return
        now = time.perf_counter()
        since = now - self._last
        if self.every is not None:
            due = since >= self.every
        else:
            due = since * SHARE >= (_bytes(state) / RATE if self.cost is None else self.cost)
        if not due:
            return
        state = replace(state, seconds=self.seconds_before + now - self._began)
        try:
            file = io.BytesIO()
            torch.save({"place": self.place, "state": vars(state)}, file)
            self.store.write_checkpoint(self.run, [file.getbuffer()])
            self._last = time.perf_counter()
            self.cost = self._last - now
        except FusionbenchError as error:
            self._complain(f"no checkpoint of epoch {state.epoch}: {error}")

    def _complain(self, text: str) -> None:
        if not self._complained:
            self.progress.note(text)
            self._complained = True

    def reject(self, error: Exception) -> None:
        """Say that a checkpoint cannot be used."""
        self.seconds_before = 0.0
        self.progress.note(
            f"{self.label} starts from the beginning: its checkpoint cannot be used. {error}"
        )


def read(path: Path) -> tuple[State, dict[str, Any]]:
    """State and place of a checkpoint. Raises CheckpointError for a damaged or foreign file."""
    if reason := unfit(path):
        raise CheckpointError(f"{path} cannot be read: {reason}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return State(**content["state"]), dict(content["place"])
    except Exception as error:  # of many types, from the file's pickle and from what it builds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise CheckpointError(
            f"{path} cannot be read: {type(error).__name__}: {reason[:200]}."
        ) from error


def place_of(environment: Mapping[str, Any], run: str) -> dict[str, Any]:
    """What must be the same for a run to go on to the same bits: the run (which stands for data,
    settings and sources), versions, processor, threads and precision. Of a trainer's
    `environment`."""
    kept = ("fusionbench", "device_type", "device", "precision", "path")
    place = {"checkpoint format": FORMAT, "run": run} | {key: environment[key] for key in kept}
    place |= {name: environment["libraries"][name] for name in ("torch", "timm", "numpy")}
    if environment["device_type"] == "cpu":
        place["instructions"] = torch.backends.cpu.get_cpu_capability()
        place["threads"] = environment["threads"]
    return place


def _bytes(state: State) -> int:
    parts = tree_leaves([state.tensors, state.optimizer, state.best])
    return sum(part.nbytes for part in parts if isinstance(part, Tensor))


def _kinds(parts: dict[str, Tensors]) -> set[tuple[str, tuple[int, ...], str]]:
    return {
        (f"{part}/{name}", tuple(tensor.shape), str(tensor.dtype))
        for part, tensors in parts.items()
        for name, tensor in tensors.items()
    }
