"""A method as `fusionbench run` trains it, and the parts of its step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fusionbench.bench.results import Kind
from fusionbench.bench.subjects import METADATA, Setting, Work, built, ignored, targets
from fusionbench.models.backbones import build_backbone
from fusionbench.progress import SILENT, Progress, Task
from fusionbench.training.augment import AUGMENTATIONS
from fusionbench.training.feed import Arrays, batches, place
from fusionbench.training.loop import _train_epoch
from fusionbench.training.optimizers import make_optimizer, make_scheduler
from fusionbench.training.step import Terms, TrainingStep, as_float

# Different photographs, at most; more steps than that see them again.
MOST_IMAGES = 2048


class Method:
    """A method in the real trainer: uint8 images through the feed, augmented, with metadata,
    schedule and the record of losses."""

    kind: Kind = "method"

    def __init__(
        self,
        name: str,
        setting: Setting,
        plugins: tuple[Path, ...] = (),
        progress: Progress = SILENT,
        *,
        steps: int = 1,
    ) -> None:
        """`name` is FUSION or FUSION:LOSS; `steps` are those of an epoch, for whose images there
        is room. Raises UsageError, PluginError, FusionRefused."""
        config, self.device = setting.config, setting.device
        self.name, self.precision = name, setting.placement.precision
        torch.manual_seed(config.seed)
        backbone = build_backbone(config.method.backbone, config.training.image_size)
        model, loss, self.config = built(name, config, backbone, plugins)
        self.loss_name = "+".join(loss.parts)
        augment = AUGMENTATIONS[config.training.augment]
        self.step = TrainingStep(model, loss, augment, setting.placement, setting.path, progress)
        self.optimizer = make_optimizer(self.step.trained, config.training, {})
        self.scheduler = make_scheduler(self.optimizer, self.config, steps, {})
        self.arrays = self._made_up(min(steps * config.training.batch_size, MOST_IMAGES))
        self.epoch = 0

    @property
    def path(self) -> str:
        return self.step.path

    def run(self, steps: int) -> None:
        rows = np.arange(steps * self.config.training.batch_size) % len(self.arrays.labels)
        self.epoch = self.epoch % self.config.training.epochs + 1
        _train_epoch(
            self.step, self.arrays, rows, self.config, self.optimizer, self.scheduler, None, None,
            seed=self.config.seed, epoch=self.epoch, steps=steps, task=Task(),
        )  # fmt: skip

    def parts(self) -> Mapping[str, Work]:
        step, size = self.step, self.config.training.batch_size
        rows = np.arange(size) % len(self.arrays.labels)
        generator = torch.Generator().manual_seed(self.config.seed)

        def fetched() -> tuple[Tensor, Tensor, Tensor, Tensor]:
            (batch,) = batches(self.arrays, rows, size, self.device)
            drawn = step.augment.draw(size, generator)
            return batch.image, drawn, batch.meta, batch.target

        given = fetched()
        step.begin_epoch(1, self.config.training.epochs)
        asked = (step.model, step.loss, step.augment, step.placement, step.path)
        inputs, forward = _Inputs(*asked), _Forward(*asked)
        inputs(*given)
        forward(*given)
        step(*given)  # last: the optimiser is timed on its gradients
        return {
            "feed": lambda: ignored(fetched()),
            "inputs": lambda: ignored(inputs(*given)),
            "forward": lambda: ignored(forward(*given)),
            "whole": lambda: ignored(step(*given)),
            "optimizer": lambda: ignored(self.optimizer.step()),
        }

    def _made_up(self, count: int) -> Arrays:
        size = self.config.training.image_size
        generator = torch.Generator().manual_seed(self.config.seed)
        images = torch.randint(256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
        return Arrays(
            place(images, self.device),
            torch.rand(count, METADATA, generator=generator).to(self.device),
            targets(count).to(self.device),
        )


class _Forward(TrainingStep):
    """A step that stops before backward, on the same path."""

    def _gradients(
        self, forward: Callable[..., Terms], *inputs: Tensor
    ) -> tuple[Terms, list[Tensor | None]]:
        terms = forward(*inputs)
        kept = [parameter.grad for parameter in self.trained.parameters()]
        return {name: term.detach() for name, term in terms.items()}, kept


class _Inputs(_Forward):
    """A step that stops where the model would begin: images augmented and normalised."""

    def _forward(self, image: Tensor, drawn: Tensor, meta: Tensor, target: Tensor) -> Terms:
        if self.augment.static:
            image = self.augment.apply(as_float(image), drawn)
        return {"loss": (image - self._mean) / self._std}
