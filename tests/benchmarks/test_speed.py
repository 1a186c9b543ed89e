"""Speed, as ratios within one run: `make bench`. These never gate a test run.

Each group holds a reference and what is compared with it; pytest-benchmark prints the ratio.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fusionbench import registry
from fusionbench.backbones import build_backbone
from fusionbench.data.cache import open_or_build
from fusionbench.data.digests import file_digests
from fusionbench.data.images import decode
from fusionbench.fusion import Fusion
from fusionbench.losses import CombinedLoss, Loss, total
from fusionbench.model import FusionModel, build_spec

SIZE, BATCH = 128, 32


def _step(fusion: str, losses: tuple[str, ...]):
    """A training step (forward, loss, backward) of a method on ResNet-18, bf16, channels-last."""
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", SIZE)
    spec = build_spec(backbone, metadata=21, classes=6)
    cls = registry.load(registry.find("fusions", fusion), Fusion)
    model = FusionModel(backbone, cls(spec)).to(memory_format=torch.channels_last)
    loss = CombinedLoss(
        {n: registry.load(registry.find("losses", n), Loss)(model.spec) for n in losses}
    )
    image = torch.rand(BATCH, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    meta, target = torch.rand(BATCH, 21), torch.arange(BATCH) % 6

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = total(loss(model(image, meta), target))
        value.backward()
        model.zero_grad(set_to_none=True)

    return step


@pytest.mark.benchmark(group="training step, ResNet-18, 128 px, batch 32, CPU bf16")
@pytest.mark.parametrize(
    ("fusion", "losses"),
    [
        ("none", ("ce",)),
        ("concat", ("ce",)),
        ("metanet", ("ce",)),
        ("metablock", ("ce",)),
        ("sgmc", ("ce",)),
        ("sgmc", ("ce", "self-contrastive")),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_training_step(benchmark, fusion: str, losses: tuple[str, ...]) -> None:
    step = _step(fusion, losses)
    step()
    benchmark.pedantic(step, rounds=5, iterations=1, warmup_rounds=1)


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
