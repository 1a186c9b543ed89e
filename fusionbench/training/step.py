"""The step that trains: augmentation, forward, loss and backward of one batch.

It takes the first of these paths that works, counted from the one that is asked for:

    compiled+captured   compiled by torch.compile, recorded in a CUDA graph and replayed
    captured            recorded as it is: for what torch.compile does not take in one piece
    compiled            without a graph: for what looks at a tensor's value in Python
    eager               plain PyTorch

Only batches of the first size that comes are compiled; others (an epoch's last) run as they are.
What the optimiser does comes after the step and is the same on every path.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from fusionbench.config.run_config import StepPath
from fusionbench.files import cache_folder
from fusionbench.models.fusion_model import FusionModel
from fusionbench.plugin.loss import CombinedLoss, total
from fusionbench.progress import SILENT, Progress
from fusionbench.training.augment import Augmentation
from fusionbench.training.capture import CudaGraphs, Recorder
from fusionbench.training.placement import Placement, by_rule

Terms = dict[str, Tensor]
# What a step runs on (image, drawn, meta, target) and what comes of it: terms, gradients.
Way = Callable[..., tuple[Terms, list[Tensor | None]]]

PATHS: tuple[StepPath, ...] = get_args(StepPath)
_TORCH_OWN = frozenset(vars(nn.Module()))


class TrainingStep:
    """Called with a batch, it leaves the gradients in the parameters' `.grad`.

    model, loss   on the device of the placement, in channels-last memory; trained in place
    trained       both of them, as one module
    path          which of the above is taken: a lower one once a batch has shown that it must be
    """

    def __init__(
        self,
        model: FusionModel,
        loss: CombinedLoss,
        augment: Augmentation,
        placement: Placement,
        path: StepPath = "eager",
        progress: Progress = SILENT,
        *,
        compiler: str = "inductor",
        recorder: Recorder | None = None,
    ) -> None:
        """`compiler`: a backend of torch.compile; `recorder`: CUDA graphs if None."""
        device = placement.device
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.loss = loss.to(device)
        self.trained = nn.ModuleDict({"model": self.model, "loss": self.loss})
        self._made = made_for_a_fold(self.trained)
        self.augment, self.placement, self.progress = augment, placement, progress
        self.path = path
        self._compiler, self._recorder = compiler, recorder
        if self._recorder is None and path.endswith("captured"):
            self._recorder = CudaGraphs(device)
        if path.startswith("compiled"):
            # Kept with our other caches, so that another process finds what was compiled.
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
        self._ways: dict[int, Way] = {}  # by batch size
        self._full: int | None = None
        self._begun = plain_state(loss)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Training mode, and the losses are told. Epochs count from 1."""
        self.trained.train()
        self.loss.begin_epoch(epoch, epochs)
        begun = plain_state(self.loss)
        if not same(begun, self._begun):  # a graph holds what Python held when it was recorded
            self._ways.clear()
        self._begun = begun

    def __call__(self, image: Tensor, drawn: Tensor, meta: Tensor, target: Tensor) -> Terms:
        """Every loss term, and their sum as "loss": scalars without gradients, which the next call
        may overwrite.

        image (B, 3, S, S) uint8 in channels-last memory, meta (B, M) and target (B,), all on the
        device; drawn (P, B) is what the augmentation drew for the images, on the CPU.
        """
        if self.augment.static:
            drawn = drawn.to(image.device, non_blocking=True)
        else:
            image, drawn = self.augment.apply(as_float(image), drawn), image.new_empty(0)
        inputs, size = (image, drawn, meta, target), len(target)
        self._full = self._full or size
        with nullcontext() if size == self._full else by_rule():
            if size not in self._ways:
                self._ways[size] = self._find_way(inputs)
            terms, gradients = self._ways[size](*inputs)
        for parameter, gradient in zip(self.trained.parameters(), gradients, strict=True):
            parameter.grad = gradient
        return terms

    def reinitialise(self, model: FusionModel, loss: CombinedLoss) -> bool:
        """Start again from the values of a freshly built model and loss, on what was compiled and
        recorded for the old ones. False, with nothing changed, where they are not alike in all but
        their values: they need a new step."""
        fresh = nn.ModuleDict({"model": model, "loss": loss})
        if not same(_all_but_values(fresh), _all_but_values(self.trained)):
            return False
        with torch.no_grad():
            for (_, old), (_, new) in zip(_tensors(self.trained), _tensors(fresh), strict=True):
                old.copy_(new)
        self.release_gradients()
        return True

    def release_gradients(self) -> None:
        """Forget the gradients of the last batch."""
        self.trained.zero_grad(set_to_none=True)

    def release(self) -> None:
        """Give back the memory of what was recorded."""
        self._ways.clear()
        self.release_gradients()

    def _forward(self, image: Tensor, drawn: Tensor, meta: Tensor, target: Tensor) -> Terms:
        if self.augment.static:
            image = self.augment.apply(as_float(image), drawn)
        image = self.model.backbone.normalised(image)
        with self.placement.autocast():
            terms = self.loss(self.model(image, meta), target)
            return {"loss": total(terms), **terms}

    def _gradients(
        self, forward: Callable[..., Terms], *inputs: Tensor
    ) -> tuple[Terms, list[Tensor | None]]:
        self.release_gradients()
        terms = forward(*inputs)
        terms["loss"].backward()
        return (
            {name: term.detach() for name, term in terms.items()},
            [parameter.grad for parameter in self.trained.parameters()],
        )

    def _find_way(self, inputs: tuple[Tensor, ...]) -> Way:
        """How batches of this size are computed; steps down from paths that fail."""
        while self.path != "eager":
            try:
                with self._undone():
                    if not self._ways:
                        self._try_plainly(inputs)
                    return self._built(inputs)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # what is wrong with the plugin itself, eager raises again
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                reason = f"{type(error).__name__}: {' '.join(lines[:2])}"
            lower = PATHS[PATHS.index(self.path) - 1]
            self.progress.note(f"the training step is {lower}, not {self.path} ({reason})")
            self.path = lower
            self._ways.clear()
        return partial(self._gradients, self._forward)

    def _try_plainly(self, inputs: tuple[Tensor, ...]) -> None:
        """Raises RuntimeError for a plugin that remembers in Python what its next step depends on:
        that would be built into the step. Seen before minutes are spent on compiling it."""
        before = plain_state(self._made)
        self._gradients(self._forward, *inputs)
        if not same(before, plain_state(self._made)):
            raise RuntimeError("a plugin changes its Python attributes while it trains")

    def _built(self, inputs: tuple[Tensor, ...]) -> Way:
        forward: Callable[..., Terms] = self._forward
        compiled = self.path.startswith("compiled") and len(inputs[-1]) == self._full
        captured = self.path.endswith("captured")
        if compiled:
            forward = torch.compile(
                forward, fullgraph=captured, dynamic=False, backend=self._compiler
            )
        way = partial(self._gradients, forward)
        if captured:
            assert self._recorder is not None
            return self._recorder(way, inputs)
        if compiled:
            way(*inputs)  # it is compiled when it is first called
        return way

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """What is done inside leaves no trace in buffers, gradients, random state and plugins."""
        buffers = [(buffer, buffer.clone()) for buffer in self.trained.buffers()]
        before, device = plain_state(self._made), self.placement.device
        devices = [device] if device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=devices):
                yield
        finally:
            restore(self._made, before)
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)
            self.release_gradients()


def as_float(image: Tensor) -> Tensor:
    """uint8 -> float32 in 0..1."""
    return image.float().div_(255)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def made_for_a_fold(trained: nn.ModuleDict) -> nn.ModuleDict:
    """All but the backbone, whose settings are the run's."""
    parts = dict(trained["model"].named_children()) | {"loss": trained["loss"]}
    return nn.ModuleDict({name: part for name, part in parts.items() if name != "backbone"})


def _all_but_values(trained: nn.ModuleDict) -> tuple[Any, ...]:
    """What two models and losses must share for one to take the other's values."""
    return (
        [(name, type(part)) for name, part in trained.named_modules()],
        [(name, t.shape, t.dtype, t.requires_grad) for name, t in _tensors(trained)],
        plain_state(made_for_a_fold(trained)),
    )


def plain_state(module: nn.Module) -> dict[str, Any]:
    """What the module and all below it hold beside parameters and buffers: attribute, by dotted
    name -> a copy of its value. A compiled or recorded step has these built in, so they must be the
    same wherever it is used again."""
    return {
        f"{path}.{name}".lstrip("."): _copied(value)
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if name not in _TORCH_OWN
    }


def restore(module: nn.Module, state: dict[str, Any]) -> None:
    """Go back to an earlier `plain_state` of the module."""
    for path, part in module.named_modules():
        own = vars(part)
        for name in [n for n in own if n not in _TORCH_OWN]:
            key = f"{path}.{name}".lstrip(".")
            if key not in state:
                del own[name]
            elif not same(own[name], state[key]):
                own[name] = _copied(state[key])


def same(a: Any, b: Any) -> bool:
    """Whether two values are surely equal: False also for what cannot be compared."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    try:
        return bool(a == b)
    except Exception:
        return False


def _copied(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception:  # a lock, a stream: then it is compared as the object it is
        return value
