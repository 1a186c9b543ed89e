"""Speed, as ratios within one run: `make bench`. These never gate a test run.

Each group holds a reference and what is compared with it; pytest-benchmark prints the ratio. To
quote one, take `fusionbench bench`: its subjects take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fusionbench.bench.plain_loop import bare, reference
from fusionbench.bench.real_trainer import Method
from fusionbench.bench.subjects import Setting, open_setting
from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.data.digests import file_digests
from fusionbench.data.image_cache import open_or_build
from fusionbench.data.images import decode

SIZE, STEPS = 128, 2
CONFIG = RunConfig.of(backbone="resnet18", weights="none", image_size=SIZE, batch_size=32)
METHODS = ("none", "concat", "metanet", "metablock", "sgmc:ce", "sgmc")
ROUNDS = {"rounds": 5, "iterations": 1, "warmup_rounds": 1}


@pytest.fixture(scope="module")
def setting() -> Iterator[Setting]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    limit = torch._dynamo.config.cache_size_limit
    yield open_setting(CONFIG, Execution())
    torch.use_deterministic_algorithms(deterministic)
    torch._dynamo.config.cache_size_limit = limit


def _waited(setting: Setting, work: Callable[[], None]) -> Callable[[], None]:
    """A GPU has done the work when it returns."""

    def run() -> None:
        work()
        if setting.device.type == "cuda":
            torch.cuda.synchronize()

    return run


@pytest.mark.benchmark(group="training step up to the optimiser, ResNet-18, 128 px, batch 32")
@pytest.mark.parametrize("name", METHODS)
def test_training_step(benchmark, setting: Setting, name: str) -> None:
    benchmark.pedantic(_waited(setting, Method(name, setting).parts()["whole"]), **ROUNDS)


@pytest.mark.benchmark(group="two steps: the trainer against a bare loop")
@pytest.mark.parametrize("make", [bare, partial(Method, "none")], ids=["bare", "trainer"])
def test_trainer(benchmark, setting: Setting, make: Callable[[Setting], Any]) -> None:
    benchmark.pedantic(_waited(setting, partial(make(setting).run, STEPS)), **ROUNDS)


@pytest.mark.benchmark(group="two steps: SGMC with guidance against its textbook form")
@pytest.mark.parametrize(
    "make", [partial(reference, "sgmc"), partial(Method, "sgmc")], ids=["textbook", "ours"]
)
def test_textbook(benchmark, setting: Setting, make: Callable[[Setting], Any]) -> None:
    benchmark.pedantic(_waited(setting, partial(make(setting).run, STEPS)), **ROUNDS)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    paths = []
    for i in range(200):
        small = generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        path = folder / f"{i}.jpg"
        Image.fromarray(small).resize((600, 450)).save(path, quality=92)
        paths.append(path)
    return paths


@pytest.mark.benchmark(group="decoding 200 photographs to 128 px")
def test_bare_decoding(benchmark, photographs: list[Path]) -> None:
    def pool() -> None:
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda path: decode(path, SIZE), photographs))

    benchmark.pedantic(pool, rounds=3)


@pytest.mark.benchmark(group="decoding 200 photographs to 128 px")
def test_building_the_cache(benchmark, photographs: list[Path], tmp_path: Path) -> None:
    digests = file_digests(photographs, root=photographs[0].parent, cache_dir=tmp_path)
    folders = iter(range(100))

    def build() -> None:
        open_or_build(photographs, digests, SIZE, cache_dir=tmp_path / str(next(folders)))

    benchmark.pedantic(build, rounds=3)
