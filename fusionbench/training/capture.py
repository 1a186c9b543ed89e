"""Work on a GPU, recorded once as a CUDA graph and replayed without Python.

    recorded = recorder(work, inputs)     runs `work(*inputs)` a few times, then records it
    recorded.outputs                     the tensors that each replay fills again
    recorded(*other_inputs)              copies them into the recorded inputs, replays

PyTorch's notes: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Kernels are chosen, libraries set up and memory is found before anything is recorded.
WARM_UP = 3


@dataclass(frozen=True)
class Recorded:
    """`inputs` and `outputs` stay where they are in memory; `replay` computes the latter again."""

    inputs: tuple[Tensor, ...]
    outputs: Any
    replay: Callable[[], None]

    def __call__(self, *inputs: Tensor) -> Any:
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given, non_blocking=True)
        self.replay()
        return self.outputs


# Records (work, inputs); `work` is called with the tensors it will find its inputs in.
Recorder = Callable[[Callable[..., Any], tuple[Tensor, ...]], Recorded]


class CudaGraphs:
    """Records graphs that are replayed one at a time, and therefore share their memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Recorded:
        """Raises RuntimeError for work that makes the host wait for the GPU (`.item()`, a boolean
        mask) or that cannot be recorded for another reason; torch.OutOfMemoryError."""
        own = tuple(t.clone() for t in inputs)
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for i in range(WARM_UP):
                # The first run may wait, for set-up; a wait in the last is one of every run.
                with _no_waiting() if i == WARM_UP - 1 else nullcontext():
                    work(*own)
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Another thread may copy the next batch meanwhile: only this one's calls are watched.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = work(*own)
        return Recorded(own, outputs, graph.replay)


@contextmanager
def _no_waiting() -> Iterator[None]:
    """A call that makes the host wait raises RuntimeError, with the place where it stands."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
