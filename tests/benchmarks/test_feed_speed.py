"""The feed: as fast as the step needs it, from a table of 100,000 images too. `make bench`.

None of this gates a test run. Ratios and images per second are in each result's `extra_info`.
The table is a sparse file: it takes no disk, and what is read of it passes through the page cache
as any other file that is there. A disk that has to be waited for is not what is measured here.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fusionbench.models.backbones import build_backbone
from fusionbench.training import feed
from fusionbench.training.feed import Arrays, Batch, batches
from fusionbench.training.placement import choose_placement

CPU = torch.device("cpu")
# What an H100 takes of ResNet-50 at 224 px, in images/s: the feed must give more.
NEEDED = 4744


def arrays(images: Tensor) -> Arrays:
    return Arrays(images, torch.zeros(len(images), 21), torch.arange(len(images)) % 6)


def sparse(path: Path, n: int, size: int) -> Tensor:
    """uint8 (n, size, size, 3) of zeros that take no disk, mapped as the cache is."""
    with path.open("wb") as file:
        file.truncate(n * size * size * 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of read-only memory
        return torch.from_numpy(np.memmap(path, np.uint8, mode="r", shape=(n, size, size, 3)))


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether this is a measurement, or only a look whether it works."""
    return bool(request.config.getoption("benchmark_enable"))


@pytest.fixture
def large(tmp_path: Path, full: bool) -> Iterator[Callable[[int], Tensor]]:
    """Makes a table of 100,000 images of a size; its file is gone afterwards."""
    path = tmp_path / "large.u8"
    yield lambda size: sparse(path, 100_000 if full else 200, size)
    path.unlink()


def resident_memory() -> dict[str, int]:
    """MiB of this process: its own, and mapped files (which the kernel takes back at will)."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return {name: int(found[name].split()[0]) >> 10 for name in ("RssAnon", "RssFile")}


@pytest.mark.benchmark(group="6,400 of 100,000 images, 224 px, batch 64")
@pytest.mark.parametrize("threads", [1, 2])
def test_the_feed_alone(
    benchmark, large, full: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = arrays(large(224))
    monkeypatch.setattr(feed, "THREADS", threads)
    order = np.random.default_rng(0)

    def rows() -> tuple[tuple[np.ndarray], dict[str, int]]:
        return (order.permutation(len(table.images))[: 6400 if full else 128],), {}

    def drain(picked: np.ndarray) -> int:
        return sum(len(b.image) for b in batches(table, picked, 64, CPU, streamed=True))

    before = resident_memory()
    taken = benchmark.pedantic(drain, setup=rows, rounds=5 if full else 1)
    if full:
        benchmark.extra_info["images/s"] = round(taken / benchmark.stats.stats.min)
        benchmark.extra_info["needed"] = NEEDED
        after = resident_memory()
        benchmark.extra_info |= {f"{k} MiB more": after[k] - before[k] for k in after}


class _Batches(Dataset[Tensor]):
    """What torch's DataLoader is given: the batches of an epoch, gathered as the feed does."""

    def __init__(self, table: Tensor, parts: list[np.ndarray]) -> None:
        self.table, self.parts = table, parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, i: int) -> Tensor:
        into = torch.empty(len(self.parts[i]), *self.table.shape[1:], dtype=torch.uint8)
        return feed._gather(self.table.numpy(), self.parts[i], into)


@pytest.mark.benchmark(group="100 batches of 64 images, 224 px, from a warm memory map")
@pytest.mark.parametrize("way", ["bare gather", "feed", "DataLoader"])
def test_against_the_library(benchmark, tmp_path: Path, full: bool, way: str) -> None:
    n = 2000 if full else 128
    images = sparse(tmp_path / "table.u8", n, 224)
    rows = np.random.default_rng(0).integers(0, n, 6400 if full else 128)
    parts = [rows[i : i + 64] for i in range(0, len(rows), 64)]
    dataset = _Batches(images, parts)
    loader = DataLoader(
        dataset, batch_size=None, num_workers=1, prefetch_factor=3, persistent_workers=True
    )  # fmt: skip
    ways: dict[str, Callable[[], int]] = {
        "bare gather": lambda: sum(len(dataset[i]) for i in range(len(parts))),
        "feed": lambda: sum(
            len(b.image) for b in batches(arrays(images), rows, 64, CPU, streamed=True)
        ),
        "DataLoader": lambda: sum(len(b) for b in loader),
    }
    taken = benchmark.pedantic(ways[way], rounds=5 if full else 1, warmup_rounds=1)
    assert taken == len(rows)
    (tmp_path / "table.u8").unlink()


def trainer(
    backbone: str, size: int, device: torch.device, *, compiled: bool
) -> Callable[[Batch], None]:
    """A channels-last training step of the bare backbone, in the precision that `auto` is."""
    torch.manual_seed(0)
    probed = build_backbone(backbone, size)
    autocast = choose_placement(device, "auto", probed).autocast
    net: nn.Module = probed.net
    net = net.to(device, memory_format=torch.channels_last).train()
    forward = torch.compile(net, mode="reduce-overhead") if compiled else net

    def step(batch: Batch) -> None:
        with autocast():
            value = forward(batch.image.float().div_(255)).float().square().mean()
        value.backward()
        net.zero_grad(set_to_none=False)

    return step


def endless(table: Arrays, batch_size: int, device: torch.device, steps: int) -> Iterator[Batch]:
    rows = np.random.default_rng(0).integers(0, len(table.images), batch_size * steps)
    streamed = not table.images.is_cuda and len(table.images) > 10_000
    return batches(table, rows, batch_size, device, streamed=streamed)


def compare(
    benchmark, step: Callable[[Batch], None], feeds: dict[str, Iterator[Batch]], steps: int,
    rounds: int, device: torch.device,
) -> None:  # fmt: skip
    """`steps` steps of each feed in turn, `rounds` times, the order changing; the ratio is the
    median over rounds."""
    turns: dict[str, list[float]] = {name: [] for name in feeds}

    def turn(name: str) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            step(next(feeds[name]))
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def both() -> None:
        for name in sorted(turns, reverse=len(turns["resident"]) % 2 == 1):
            turns[name].append(turn(name))

    benchmark.pedantic(both, rounds=rounds, warmup_rounds=1)
    # The first is for warming up, where more than one is run.
    resident, streamed = (turns[name][1:] or turns[name] for name in ("resident", "streamed"))
    ratios = [a / b for a, b in zip(resident, streamed, strict=True)]
    benchmark.extra_info["speed streamed / resident"] = round(median(ratios), 3)
    benchmark.extra_info["ms per step, resident"] = round(1000 * median(resident) / steps, 2)


@pytest.mark.benchmark(group="streaming 100,000 images beside a step: ResNet-18, 128 px, CPU")
def test_beside_a_step_on_the_cpu(benchmark, large, full: bool) -> None:
    size, batch_size, rounds = (128, 32, 20) if full else (32, 4, 1)
    step = trainer("resnet18", size, CPU, compiled=False)
    small = torch.zeros(1000 if full else 16, size, size, 3, dtype=torch.uint8)
    feeds = {
        "resident": endless(arrays(small), batch_size, CPU, rounds + 1),
        "streamed": endless(arrays(large(size)), batch_size, CPU, rounds + 1),
    }
    compare(benchmark, step, feeds, 1, rounds, CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.benchmark(group="streaming 100,000 images beside a step: ResNet-50, 224 px, GPU")
def test_beside_a_step_on_a_gpu(benchmark, large, full: bool) -> None:
    device = torch.device("cuda")
    steps, rounds = (100, 6) if full else (2, 1)
    step = trainer("resnet50", 224, device, compiled=True)
    small = torch.zeros(2000 if full else 128, 224, 224, 3, dtype=torch.uint8, device=device)
    feeds = {
        "resident": endless(arrays(small), 64, device, steps * (rounds + 1)),
        "streamed": endless(arrays(large(224)), 64, device, steps * (rounds + 1)),
    }
    compare(benchmark, step, feeds, steps, rounds, device)
