"""Speed, as ratios within one run: `make bench`. These never gate a test run.

Each group holds a reference and what is compared with it; pytest-benchmark prints the ratio. To
quote one, take `fusionbench bench`: its subjects take turns.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.textbook_sgmc import TextbookGuidance, TextbookSGMC
from PIL import Image
from torch import nn

from fusionbench.bench.measure import open_shared
from fusionbench.bench.subjects import BareNetwork, TrainedMethod
from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.data.digests import file_digests
from fusionbench.data.image_cache import open_or_build
from fusionbench.data.images import decode
from fusionbench.files import cache_folder
from fusionbench.models.backbones import build_backbone
from fusionbench.models.fusion_model import FusionModel
from fusionbench.plugin import registry
from fusionbench.plugin.fusion import Spec
from fusionbench.plugin.loss import CombinedLoss, Loss, total
from fusionbench.runs.network_trainer import NetworkTrainer
from fusionbench.training.optimizers import make_optimizer

SIZE, STEPS = 128, 2
CONFIG = RunConfig.of(
    dataset="synthetic", backbone="resnet18", weights="none", image_size=SIZE, batch_size=32
)
METHODS = ("none", "concat", "metanet", "metablock", "sgmc:ce", "sgmc")


@pytest.fixture(scope="module")
def shared() -> Iterator[NetworkTrainer]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    limit = torch._dynamo.config.cache_size_limit
    yield open_shared(CONFIG, Execution())
    torch.use_deterministic_algorithms(deterministic)
    torch._dynamo.config.cache_size_limit = limit


@pytest.mark.benchmark(group="two training steps, ResNet-18, 128 px, batch 32")
@pytest.mark.parametrize("name", ["bare", *METHODS, "textbook sgmc"])
def test_training(benchmark, shared: NetworkTrainer, name: str) -> None:
    makers = {"bare": lambda: BareNetwork(shared).run, "textbook sgmc": lambda: textbook(shared)}
    run = makers.get(name, lambda: TrainedMethod(name, shared).run)()

    def waited() -> None:
        """A GPU has done the work when this returns."""
        run(STEPS)
        if shared.placement.device.type == "cuda":
            torch.cuda.synchronize()

    benchmark.pedantic(waited, rounds=5, warmup_rounds=1)


def textbook(shared: NetworkTrainer) -> Callable[[int], None]:
    """SGMC with guidance as papers' code runs it: from the textbook, in fp32, eager, in contiguous
    memory. Its one batch is in place and normalised: it is not charged for its data."""
    training, device = CONFIG.training, shared.placement.device
    backbone = build_backbone(CONFIG.method.backbone, SIZE)
    spec = Spec(backbone.stages, backbone.width, metadata=75, classes=6)
    model = FusionModel(backbone, TextbookSGMC(spec))
    ce = registry.load(registry.find("losses", "ce"), Loss)(model.spec)
    loss = CombinedLoss({"ce": ce, "self-contrastive": TextbookGuidance(model.spec)})
    trained = nn.ModuleDict({"model": model, "loss": loss}).to(device).train()
    optimizer = make_optimizer(trained, training, {})
    image = torch.rand(training.batch_size, 3, SIZE, SIZE, device=device)
    meta = torch.rand(training.batch_size, spec.metadata, device=device)
    target = torch.arange(training.batch_size, device=device) % spec.classes

    def run(steps: int) -> None:
        for _ in range(steps):
            trained.zero_grad(set_to_none=True)
            total(loss(model(image, meta), target)).backward()
            optimizer.step()

    return run


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
def test_building_the_cache(benchmark, photographs: list[Path]) -> None:
    digests = [*file_digests(photographs, root=photographs[0].parent).values()]

    def build() -> None:
        shutil.rmtree(cache_folder() / "images", ignore_errors=True)
        open_or_build(photographs, digests, SIZE)

    benchmark.pedantic(build, rounds=3)
