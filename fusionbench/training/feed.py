"""The feed: how batches reach the device without the training step waiting for them.

Images stay uint8 in one table. Where they lie on the model's device, a batch is one gather there.
Where they do not (a table larger than a GPU's memory, mapped from the disk), threads gather the
next batches into pinned host memory and a separate stream copies them, while the step runs.

The threads never call CUDA: an allocation or an event query beside a capture invalidates the
capture, which is also why torch's DataLoader with its pin_memory thread would not do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Batches gathered ahead. Two would do for a steady disk; the third takes up its hiccups.
DEPTH = 3
# Threads that gather. From memory one does; from a cold disk two gave 11 % more, four 3 % on top.
THREADS = 2


@dataclass(frozen=True)
class Arrays:
    """A dataset as tensors: images uint8 (n, S, S, 3), metadata float32 (n, M), labels (n,)."""

    images: Tensor
    metadata: Tensor
    labels: Tensor


class Batch(NamedTuple):
    """What one step takes, on the device."""

    image: Tensor  # uint8 (B, 3, S, S) in channels-last memory
    meta: Tensor  # float32 (B, M)
    target: Tensor  # (B,)
    start: int  # position of its first row among the epoch's


def place(images: Tensor, device: torch.device, room: float = 0.4) -> Tensor:
    """On a GPU that has room for them, all images at once; else where they are.

    `room` is the share of the GPU's free memory that images may take; the rest is the model's.
    """
    if device.type != "cuda":
        return images
    free, _ = torch.cuda.mem_get_info(device)
    return images.to(device) if images.nbytes < room * free else images


def sizes(n: int, batch_size: int, *, keep_single: bool = False) -> list[int]:
    """The sizes of the batches of `n` rows. A batch of a single row is left out, because BatchNorm
    has no variance of one; evaluation keeps it (`keep_single`)."""
    every = [min(batch_size, n - start) for start in range(0, n, batch_size)]
    return [size for size in every if size > 1 or keep_single]


def batches(
    arrays: Arrays,
    rows: np.ndarray,
    batch_size: int,
    device: torch.device,
    *,
    keep_single: bool = False,
    streamed: bool = False,
) -> Iterator[Batch]:
    """The batches of `rows` (positions in `arrays`, int (n,), repeats allowed), in their order.

    keep_single   whether a batch of a single row is given too: see sizes()
    streamed      gather in the background even where that is not needed; it always is done where
                  the images lie in host memory and the device is a GPU

    A batch belongs to the consumer: nothing writes to it later. On a GPU no batch waits for the
    host. A consumer that stops early closes the generator, which ends the threads.
    Raises IndexError for a row that is not there, and what reading the images raises.
    """
    n = len(arrays.images)
    if len(rows) and not (rows.min() >= 0 and rows.max() < n):
        raise IndexError(f"rows {rows.min()} to {rows.max()} of a table of {n}")
    lengths = sizes(len(rows), batch_size, keep_single=keep_single)
    # Only the last is ever shorter, or left out.
    spans = [slice(i * batch_size, i * batch_size + size) for i, size in enumerate(lengths)]
    order = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.int64)).to(device)
    metadata, labels = arrays.metadata.to(device), arrays.labels.to(device)
    stream = not arrays.images.is_cuda and (streamed or device.type == "cuda")
    pixels = _streamed if stream else _resident
    for span, image in zip(spans, pixels(arrays.images, rows, spans, device), strict=True):
        picked = order[span]
        yield Batch(
            image.permute(0, 3, 1, 2),
            metadata.index_select(0, picked),
            labels.index_select(0, picked),
            span.start,
        )


def _resident(
    images: Tensor, rows: np.ndarray, spans: list[slice], device: torch.device
) -> Iterator[Tensor]:
    """Each batch's images (B, S, S, 3), gathered where they lie."""
    if not images.is_cuda:
        table = images.numpy()
        for span in spans:
            yield _gather(table, rows[span], _empty(images, rows[span])).to(device)
        return
    order = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.int64)).to(images.device)
    for span in spans:
        yield images.index_select(0, order[span]).to(device)


def _streamed(
    images: Tensor, rows: np.ndarray, spans: list[slice], device: torch.device
) -> Iterator[Tensor]:
    """The same from host memory, gathered and copied ahead of the consumer."""
    table = images.numpy()
    copies = _Copies(device) if device.type == "cuda" else None
    todo = deque(rows[span] for span in spans)
    gathering: deque[Future[Tensor]] = deque()
    ready: deque[Tensor] = deque()
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="feed")
    try:
        while todo or gathering or ready:
            while todo and len(gathering) + len(ready) < DEPTH:
                picked = todo.popleft()
                into = _empty(images, picked, pinned=copies is not None)
                gathering.append(pool.submit(_gather, table, picked, into))
            # A copy starts as soon as its rows are there; only a batch that is due is waited for,
            # and only then is its error raised.
            while gathering and (not ready or _succeeded(gathering[0])):
                host = gathering.popleft().result()
                ready.append(copies.start(host) if copies is not None else host)
            image = ready.popleft()
            if copies is not None:
                copies.hand_over(image)
            yield image
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Copies:
    """Copies to the GPU on a separate stream.

    Memory stays bounded by two rules. Pinned buffers come from torch's caching host allocator,
    which gives one out again only after the copy from it has ended. And the host does not run more
    than DEPTH steps ahead of the GPU, for a batch's device memory is free again only after its
    step: the GPU then still has steps to do, so waiting for it costs nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._copied: deque[torch.cuda.Event] = deque()
        self._steps: deque[torch.cuda.Event] = deque()

    def start(self, host: Tensor) -> Tensor:
        """Begins the copy; the result may be used after hand_over()."""
        with torch.cuda.stream(self._stream):
            image = host.to(self._device, non_blocking=True)
            self._copied.append(self._stream.record_event())
        return image

    def hand_over(self, image: Tensor) -> None:
        """Lets the consumer's stream use the oldest copy that has not been handed over."""
        consumer = torch.cuda.current_stream(self._device)
        self._steps.append(consumer.record_event(torch.cuda.Event(blocking=True)))
        if len(self._steps) > DEPTH:
            self._steps.popleft().synchronize()
        consumer.wait_event(self._copied.popleft())
        # Its memory belongs to the copying stream: not to be reused before the step is through.
        image.record_stream(consumer)


def _succeeded(future: Future[Tensor]) -> bool:
    return future.done() and future.exception() is None


def _empty(images: Tensor, picked: np.ndarray, *, pinned: bool = False) -> Tensor:
    return torch.empty((len(picked), *images.shape[1:]), dtype=images.dtype, pin_memory=pinned)


def _gather(table: np.ndarray, picked: np.ndarray, into: Tensor) -> Tensor:
    """Rows of the table, in host memory. NumPy copies whole rows, without holding Python's lock;
    torch's indexing goes through the bytes one by one and takes ten times as long."""
    # "clip" writes to `out` directly; that every row is there has been seen to before.
    np.take(table, picked, axis=0, out=into.numpy(), mode="clip")
    return into
