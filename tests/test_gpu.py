"""What only a GPU can show: CUDA graphs, resident and streamed images, all through `run`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_step import METHODS, batch, built, train

from fusionbench.bench.measure import bench
from fusionbench.config.run_config import Execution, RunConfig, StepPath
from fusionbench.runs.run import run
from fusionbench.training.augment import AUGMENTATIONS
from fusionbench.training.feed import Arrays, batches
from fusionbench.training.placement import Placement
from fusionbench.training.step import TrainingStep

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = Placement(torch.device("cuda"), "fp32")


def made(path: StepPath, name: str) -> TrainingStep:
    fusion, losses, augment, reducer = METHODS[name]
    return TrainingStep(
        *built(fusion, losses, reducer=reducer), AUGMENTATIONS[augment], GPU, path
    )  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("path", ["captured", "compiled", "compiled+captured"])
def test_a_fast_step_equals_the_plain_one_over_50_steps(path: StepPath, name: str) -> None:
    """Without dropout, whose random numbers a compiled step draws in another order."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        plain, fast = made("eager", name), made(path, name)
        for step in (plain, fast):
            for module in step.trained.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        expected = train(plain, 50, clip=1.0, lr=1e-3, device=GPU.device)
        found = train(fast, 50, clip=1.0, lr=1e-3, device=GPU.device)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    assert fast.path == path
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=1e-3)


def test_a_captured_step_draws_other_dropout_each_time() -> None:
    step = made("captured", "concat")
    image, meta, target = (t.to(GPU.device) for t in batch(8))
    drawn = step.augment.draw(8, torch.Generator().manual_seed(0))
    step.begin_epoch(1, 1)
    torch.manual_seed(0)
    losses = [float(step(image, drawn, meta, target)["loss"]) for _ in range(4)]
    torch.manual_seed(0)
    again = [float(step(image, drawn, meta, target)["loss"]) for _ in range(4)]
    assert len(set(losses)) == 4
    assert losses == pytest.approx(again, rel=1e-4)


def test_streamed_images_are_the_resident_ones() -> None:
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 32, 32, 3), generator=g, dtype=torch.uint8)
    here = Arrays(images, torch.rand(60, 4), torch.arange(60))
    there = replace(here, images=images.to(GPU.device))
    rows = np.random.default_rng(0).integers(0, 60, 500)
    found = list(batches(here, rows, 16, GPU.device))
    for mine, other in zip(found, batches(there, rows, 16, GPU.device), strict=True):
        assert torch.equal(mine.image, other.image) and torch.equal(mine.target, other.target)


@pytest.mark.parametrize("fusion", ["none", "sgmc"])
def test_every_path_trains_a_model_of_the_same_worth(fusion: str, tmp_path: Path) -> None:
    config = RunConfig.of(
        fusion=fusion, backbone="test_resnet", dataset="synthetic", weights="none", image_size=48,
        epochs=4, batch_size=64, lr=3e-3, precision="fp32", seed=1,
    )  # fmt: skip
    worth = {}
    for path in ("eager", "captured", "compiled+captured"):
        here = Execution(store=tmp_path / path, device="cuda", step=path, folds=(0, 1))
        outcome = run(config, here)
        assert not outcome.failures
        assert [r.environment["path"] for r in outcome.records] == [path, path]
        worth[path] = [r.result.metrics["auc_ovr_macro"] for r in outcome.records if r.result]
    for path, values in worth.items():
        assert values == pytest.approx(worth["eager"], abs=0.1), path


def test_a_bench_tells_the_gpu_its_memory_and_the_path(quick: RunConfig) -> None:
    measured = bench(["none", "sgmc"], quick, Execution(device="cuda"), steps=3, rounds=2)
    assert measured.setting["name"] == torch.cuda.get_device_name()
    for row in measured.rows:
        assert row["path"] == "compiled+captured" and row["peak MB"] > 0
    assert measured.rows[2]["vs bare"]["median"] > 0
