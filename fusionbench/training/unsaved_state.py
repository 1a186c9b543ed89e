"""What a method remembers beside parameters and buffers: checkpoints and saved weights lose it."""

from __future__ import annotations

import copy
import hashlib
import io
import pickle
import random
import sys
from contextlib import suppress
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fusionbench.plugin.loss import CombinedLoss
from fusionbench.training.step import TrainingStep, made_for_a_fold

# Of nn.Module itself, but for hooks, which are a plugin's functions.
_TORCH_OWN = frozenset(vars(nn.Module())) - {"_forward_hooks", "_forward_pre_hooks"}
_NOT_A_PLUGIN = ("torch", "timm", "numpy", "fusionbench", "builtins", "None")


class UnsavedState:
    """Compares what the method holds with what it held before training."""

    def __init__(self, step: TrainingStep) -> None:
        self.trained, self.made = step.trained, made_for_a_fold(step.trained)
        self.before = _digests(self.made, self.trained)
        self.loss: CombinedLoss | None = None
        with suppress(Exception):
            self.loss = copy.deepcopy(step.loss)

    def changed(self, epoch: int, epochs: int) -> tuple[str, ...]:
        """The names of what training up to the end of `epoch` has changed, as in `fusion.seen`.
        What a loss sets in `begin_epoch` does not count: it is told the epoch again."""
        now = _digests(self.made, self.trained)
        names = [name for name, digest in now.items() if self.before.get(name) != digest]
        if self.loss is not None and any(name.startswith("loss.") for name in names):
            with torch.random.fork_rng(devices=[]):
                self.loss.begin_epoch(epoch, epochs)
            fresh = nn.ModuleDict({"loss": self.loss})
            told = _digests(fresh, fresh)
            names = [name for name in names if told.get(name) != now[name]]
        return tuple(names)


def _digests(made: nn.Module, trained: nn.Module) -> dict[str, str]:
    """Of each attribute of the modules that plugins make, of their classes and source files, and
    of the random numbers that no checkpoint holds. What `trained` registers is left out."""
    known: dict[int, str] = {id(t): name for name, t in trained.named_parameters()}
    known |= {id(t): name for name, t in trained.named_buffers()}
    known |= {id(part): name for name, part in trained.named_modules()}
    values: dict[str, Any] = {
        "Python's random numbers": random.getstate(),
        "numpy's random numbers": np.random.get_state(),
    }
    for path, part in made.named_modules():
        own = {k: v for k, v in vars(part).items() if k not in _TORCH_OWN}
        values |= {f"{path}.{name}": value for name, value in own.items()}
        for cls in type(part).__mro__:
            if _is_plugins(cls):
                source = dict(vars(sys.modules[cls.__module__]))
                source |= {f"{cls.__name__}.{name}": value for name, value in vars(cls).items()}
                values |= {name: value for name, value in source.items() if "__" not in name}
    return {name: _digest(value, known) for name, value in values.items()}


def _is_plugins(value: type | FunctionType) -> bool:
    return str(value.__module__).partition(".")[0] not in _NOT_A_PLUGIN


class _Spelling(pickle.Pickler):
    """A value as bytes that change when it does. Never read: `repr` stands for anything."""

    def __init__(self, file: io.BytesIO, known: dict[int, str]) -> None:
        super().__init__(file, protocol=5)
        self.known = known  # what a checkpoint holds

    def persistent_id(self, value: Any) -> str | None:
        return self.known.get(id(value))

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            content = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            return repr, ((f"{value.dtype} {tuple(value.shape)}", content.tobytes()),)
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            return repr, ((f"{value.dtype} {value.shape}", value.tobytes()),)
        if isinstance(value, FunctionType) and _is_plugins(value):
            cells = tuple(cell.cell_contents for cell in value.__closure__ or ())
            held = (cells, value.__defaults__, value.__kwdefaults__, vars(value))
            return repr, ((value.__qualname__, held),)
        if isinstance(value, ModuleType | type | FunctionType):
            return repr, (value.__name__,)
        return NotImplemented


def _digest(value: Any, known: dict[int, str]) -> str:
    file = io.BytesIO()
    try:
        _Spelling(file, known).dump(value)
    except Exception:  # a lock, a stream: compared as the object that it is
        return str(id(value))
    return hashlib.sha256(file.getbuffer()).hexdigest()
