"""The feed gives every batch exactly once, with the right bits, and cleans up after itself."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionbench.training import feed
from fusionbench.training.feed import Arrays, Batch, batches, place, sizes

CPU = torch.device("cpu")
GPU = torch.device("cuda")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
devices = pytest.mark.parametrize(
    "device", [CPU, pytest.param(GPU, marks=needs_gpu)], ids=lambda d: str(d.type)
)


def table(n: int = 23, side: int = 5) -> Arrays:
    generator = torch.Generator().manual_seed(n)
    return Arrays(
        torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8, generator=generator),
        torch.rand(n, 4, generator=generator),
        torch.arange(n),
    )


def mapped(arrays: Arrays, folder: Path) -> Arrays:
    """The same with its images in a read-only memory map, as the cache gives them."""
    path = folder / "images.u8"
    path.write_bytes(arrays.images.numpy().tobytes())
    shape = tuple(arrays.images.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of read-only memory
        images = torch.from_numpy(np.memmap(path, dtype=np.uint8, mode="r", shape=shape))
    return Arrays(images, arrays.metadata, arrays.labels)


def assert_is(batch: Batch, arrays: Arrays, rows: list[int]) -> None:
    """The oracle: one row of the table after the other."""
    assert len(batch.image) == len(rows)
    assert batch.image.dtype == torch.uint8 and batch.meta.dtype == torch.float32
    for i, row in enumerate(rows):
        assert torch.equal(batch.image[i].permute(1, 2, 0).cpu(), arrays.images[row].cpu())
        assert torch.equal(batch.meta[i].cpu(), arrays.metadata[row].cpu())
        assert int(batch.target[i]) == int(arrays.labels[row])


def feeders() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("feed")]


@given(
    rows=st.lists(st.integers(0, 22), max_size=40),
    batch_size=st.integers(1, 12),
    keep_single=st.booleans(),
    streamed=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_every_row_comes_once_in_order_whatever_the_order(
    rows: list[int], batch_size: int, keep_single: bool, streamed: bool
) -> None:
    arrays = table()
    given_rows = np.array(rows, dtype=np.int64)
    got = list(
        batches(arrays, given_rows, batch_size, CPU, keep_single=keep_single, streamed=streamed)
    )
    expected = [
        (start, rows[start : start + batch_size])
        for start in range(0, len(rows), batch_size)
        if keep_single or len(rows[start : start + batch_size]) > 1
    ]
    assert [batch.start for batch in got] == [start for start, _ in expected]
    for batch, (_, part) in zip(got, expected, strict=True):
        assert_is(batch, arrays, part)
        assert batch.image.permute(0, 2, 3, 1).is_contiguous()
    assert [len(part) for _, part in expected] == sizes(
        len(rows), batch_size, keep_single=keep_single
    )


def test_a_single_left_over_row_is_for_evaluation_only() -> None:
    assert sizes(9, 4) == [4, 4] and sizes(9, 4, keep_single=True) == [4, 4, 1]
    assert sizes(10, 4) == [4, 4, 2] and sizes(8, 4) == [4, 4]
    assert sizes(0, 4) == sizes(1, 4) == sizes(3, 1) == []
    assert sizes(1, 4, keep_single=True) == [1]


@devices
@pytest.mark.parametrize("streamed", [False, True])
def test_the_same_bits_from_a_memory_map_at_any_place(
    tmp_path: Path, device: torch.device, streamed: bool
) -> None:
    arrays = table()
    rows = np.random.default_rng(0).integers(0, 23, 50)
    disk = mapped(arrays, tmp_path)
    for source in (arrays, disk):
        got = list(batches(source, rows, 8, device, streamed=streamed))
        assert len(got) == 7
        for batch in got:
            assert {t.device.type for t in batch[:3]} == {device.type}
            assert_is(batch, arrays, rows[batch.start : batch.start + 8].tolist())
            assert batch.image.is_contiguous(memory_format=torch.channels_last)


@devices
def test_a_batch_that_is_held_is_not_written_to_again(device: torch.device) -> None:
    """More batches than are gathered ahead, all held while the later ones come."""
    arrays = table(100)
    rows = np.random.default_rng(1).permutation(100)
    held = list(batches(arrays, rows, 5, device, streamed=True))
    assert len(held) == 20 > 2 * feed.DEPTH
    for batch in held:
        assert_is(batch, arrays, rows[batch.start : batch.start + 5].tolist())
    assert len({batch.image.data_ptr() for batch in held}) == len(held)


def test_no_more_is_gathered_ahead_than_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    real = feed._gather

    def counted(table: Any, picked: np.ndarray, into: Any) -> Any:
        done.append(picked[0])
        return real(table, picked, into)

    monkeypatch.setattr(feed, "_gather", counted)
    stream = batches(table(100), np.arange(100), 5, CPU, streamed=True)
    for taken in range(1, 10):
        next(stream)
        assert taken <= len(done) <= taken - 1 + feed.DEPTH
    stream.close()


def test_gathering_goes_on_while_the_consumer_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second batch is there before it is asked for; on this thread nothing is gathered."""
    second, threads = threading.Event(), set()
    real = feed._gather

    def noted(table: Any, picked: np.ndarray, into: Any) -> Any:
        threads.add(threading.current_thread())
        result = real(table, picked, into)
        if picked[0] == 5:
            second.set()
        return result

    monkeypatch.setattr(feed, "_gather", noted)
    stream = batches(table(), np.arange(20), 5, CPU, streamed=True)
    next(stream)
    assert second.wait(timeout=30)
    assert threading.current_thread() not in threads
    stream.close()


def test_a_consumer_that_stops_early_leaves_no_thread() -> None:
    before = feeders()
    stream = batches(table(), np.arange(23), 2, CPU, streamed=True)
    next(stream)
    assert len(feeders()) > len(before)
    stream.close()
    assert feeders() == before
    assert len(list(batches(table(), np.arange(23), 2, CPU, streamed=True))) == 11
    assert feeders() == before


@devices
def test_an_error_in_the_background_reaches_the_consumer(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    real = feed._gather

    def failing(table: Any, picked: np.ndarray, into: Any) -> Any:
        if picked[0] == 10:
            raise OSError("the disk is gone")
        return real(table, picked, into)

    monkeypatch.setattr(feed, "_gather", failing)
    before, got = feeders(), []
    with pytest.raises(OSError, match="the disk is gone"):
        for batch in batches(table(), np.arange(23), 5, device, streamed=True):
            got.append(batch.start)
    assert got == [0, 5]  # what came before it came
    assert feeders() == before


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("wrong", [[0, 23], [-1, 3]])
def test_a_row_that_is_not_there_is_refused(wrong: list[int], streamed: bool) -> None:
    with pytest.raises(IndexError, match="of a table of 23"):
        next(batches(table(), np.array(wrong), 2, CPU, streamed=streamed))


def test_on_a_cpu_images_stay_where_they_are() -> None:
    images = table().images
    assert place(images, CPU) is images


@needs_gpu
def test_images_go_to_a_gpu_that_has_room() -> None:
    arrays = table()
    assert place(arrays.images, GPU).is_cuda
    assert place(arrays.images, GPU, room=0.0) is arrays.images
    on_gpu = Arrays(place(arrays.images, GPU), arrays.metadata.cuda(), arrays.labels.cuda())
    rows = np.random.default_rng(0).integers(0, 23, 50)
    for batch in batches(on_gpu, rows, 8, GPU):
        assert batch.image.is_cuda
        assert batch.image.is_contiguous(memory_format=torch.channels_last)
        assert_is(batch, arrays, rows[batch.start : batch.start + 8].tolist())


@needs_gpu
def test_resident_batches_do_not_wait_for_the_host() -> None:
    arrays = table()
    on_gpu = Arrays(arrays.images.cuda(), arrays.metadata.cuda(), arrays.labels.cuda())
    stream = batches(on_gpu, np.arange(20), 5, GPU)
    next(stream)  # the order goes over once
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len(list(stream)) == 3
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
def test_a_slow_gpu_sees_no_overwritten_batch() -> None:
    """The device works at a batch long after the host has asked for the next ones."""
    arrays = table(400, 64)
    rows = np.random.default_rng(2).permutation(400)
    sums = []
    for batch in batches(arrays, rows, 8, GPU):
        torch.cuda._sleep(20_000_000)
        sums.append((batch.start, batch.image.long().sum(dim=(1, 2, 3))))
    expected = arrays.images.long().sum(dim=(1, 2, 3))
    for start, found in sums:
        assert torch.equal(found.cpu(), expected[rows[start : start + 8]])
