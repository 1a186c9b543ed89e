"""What augmentation costs of a training step on the CPU, as ratios within one run: `make bench`.

kornia's equivalents are measured beside ours where kornia is installed; the project does not
depend on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fusionbench.models.backbones import build_backbone
from fusionbench.training.augment import AUGMENTATIONS
from fusionbench.training.placement import choose_placement

BATCH = 32
Sizes = pytest.mark.parametrize("size", [128, 224])


def photographs(size: int) -> Tensor:
    """(B, 3, S, S) float32 in channels-last memory, as the training step makes them of uint8."""
    images = torch.rand(BATCH, 3, size, size, generator=torch.Generator().manual_seed(0))
    return images.contiguous(memory_format=torch.channels_last)


def measure(benchmark: Any, work: Callable[[], object], size: int, rounds: int) -> None:
    benchmark.group = f"augmentation and training step, ResNet-18, {size} px, batch {BATCH}, CPU"
    benchmark.pedantic(work, rounds=rounds, iterations=1, warmup_rounds=1)


def kornia_flip(kornia: Any) -> Any:
    return kornia.AugmentationSequential(
        kornia.RandomHorizontalFlip(p=0.5), kornia.RandomVerticalFlip(p=0.5)
    )


def kornia_mild(kornia: Any) -> Any:
    """As near to `mild` as kornia comes."""
    return kornia.AugmentationSequential(
        kornia.RandomAffine(
            degrees=180.0,
            translate=(0.05, 0.05),
            scale=(0.85, 1.15),
            padding_mode="reflection",
            p=1.0,
        ),
        kornia.RandomHorizontalFlip(p=0.5),
        kornia.ColorJiggle(brightness=0.15, contrast=0.15, saturation=0.15, p=1.0),
    )


@Sizes
def test_a_bare_training_step(benchmark: Any, size: int) -> None:
    """Forward, loss and backward of the backbone alone, channels-last, in the precision that
    `auto` is here."""
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", size)
    model = torch.nn.Sequential(backbone.net, torch.nn.Linear(512, 6))
    autocast = choose_placement(torch.device("cpu"), "auto", backbone).autocast
    model.to(memory_format=torch.channels_last)
    images, target = photographs(size), torch.arange(BATCH) % 6

    def step() -> None:
        with autocast():
            loss = torch.nn.functional.cross_entropy(model(images), target)
        loss.backward()
        model.zero_grad(set_to_none=True)

    measure(benchmark, step, size, rounds=5)


@Sizes
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_ours(benchmark: Any, name: str, size: int) -> None:
    """Drawn and applied; every round with numbers of its own."""
    images, generator = photographs(size), torch.Generator().manual_seed(0)
    measure(benchmark, lambda: AUGMENTATIONS[name](images, generator), size, rounds=30)


@Sizes
@pytest.mark.parametrize("build", [kornia_flip, kornia_mild])
def test_kornia(benchmark: Any, build: Callable[[Any], Any], size: int) -> None:
    """The same with a maintained library, whose numbers come from PyTorch's default generator."""
    augment = build(pytest.importorskip("kornia.augmentation"))
    images = photographs(size)
    with torch.random.fork_rng():
        measure(benchmark, lambda: augment(images), size, rounds=30)
