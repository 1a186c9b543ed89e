"""What `fusionbench bench` times: the bare network, and methods as `fusionbench run` trains them.

All of them start from random weights. What the photographs show does not change how long a step
takes, so methods train on a drawn dataset.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusionbench.config.run_config import StepPath
from fusionbench.models.backbones import create_net
from fusionbench.progress import SILENT, Progress, Task
from fusionbench.runs.network_study import setup
from fusionbench.runs.network_trainer import NetworkTrainer
from fusionbench.runs.study import Opened
from fusionbench.training.augment import AUGMENTATIONS
from fusionbench.training.capture import CudaGraphs
from fusionbench.training.checkpoints import Parts
from fusionbench.training.loop import train_epoch
from fusionbench.training.optimizers import make_optimizer, make_scheduler
from fusionbench.training.step import PATHS, TrainingStep


class BareNetwork:
    """The plain timm model with a linear head under cross-entropy, in the plainest loop: one batch
    that is on the device and normalised already; forward, loss, backward, optimizer.

    Device, precision, memory format, optimizer and path are those of `shared`. Nothing else of the
    trainer is in it, except for the capture of CUDA graphs. `path` is final after the first step.
    """

    name, loss = "bare", "ce"

    def __init__(self, shared: NetworkTrainer) -> None:
        config, placement = shared.experiment.config, shared.placement
        training, classes = config.training, len(shared.experiment.table.card.classes)
        size = training.image_size
        self.path: StepPath = shared.path
        self._device, self._autocast = placement.device, placement.autocast
        torch.manual_seed(config.seed)
        net = create_net(config.method.backbone, size)
        network = nn.Sequential(net, nn.Linear(shared.backbone.width, classes))
        self.network = network.to(self._device).to(memory_format=torch.channels_last).train()
        self.optimizer = make_optimizer(self.network, training, {})
        image = torch.rand(training.batch_size, 3, size, size, device=self._device)
        self._image = image.contiguous(memory_format=torch.channels_last)
        self._target = torch.arange(training.batch_size, device=self._device) % classes
        self._gradients: Callable[[], object] | None = None

    def run(self, steps: int) -> None:
        """Train so many steps. Does not wait for the GPU at the end."""
        gradients = self._gradients = self._gradients or self._first_that_works()
        for _ in range(steps):
            gradients()
            self.optimizer.step()

    def _loss(self) -> Tensor:
        with self._autocast():
            return F.cross_entropy(self.network(self._image).float(), self._target)

    def _first_that_works(self) -> Callable[[], object]:
        """What computes the gradients, on the highest path that works, as a TrainingStep does."""
        while True:
            try:
                return self._built()
            except torch.OutOfMemoryError:
                raise
            except Exception:
                if self.path == "eager":
                    raise
                self.path = PATHS[PATHS.index(self.path) - 1]

    def _built(self) -> Callable[[], object]:
        loss, captured = self._loss, self.path.endswith("captured")
        if self.path.startswith("compiled"):
            loss = torch.compile(loss, fullgraph=captured, dynamic=False)

        def gradients() -> list[Tensor | None]:
            self.network.zero_grad(set_to_none=True)
            loss().backward()
            return [p.grad for p in self.network.parameters()]

        if not captured:
            gradients()
            return gradients
        recorded = CudaGraphs(self._device)(gradients, ())
        for p, gradient in zip(self.network.parameters(), recorded.outputs, strict=True):
            p.grad = gradient
        return recorded.replay


class TrainedMethod:
    """A method in the real trainer: photographs through the feed, augmented and normalised, with
    metadata, learning-rate schedule and the record of losses."""

    def __init__(
        self, name: str, shared: NetworkTrainer, progress: Progress = SILENT, *, steps: int = 1
    ) -> None:
        """`name` is FUSION or FUSION:LOSS; `steps` are those of an epoch. Photographs, placement
        and settings are those of `shared`. Raises UsageError, PluginError, FusionRefused."""
        fusion, _, loss = name.partition(":")
        self.name = name
        config = shared.experiment.config.changed(fusion=fusion, loss=loss)
        self.seed, self.training = config.seed, config.training
        experiment = setup(config, Opened(shared.execution, progress))
        fold = experiment.protocol.folds[0]
        rows = experiment.rows(fold)
        _, encoder, self.arrays = experiment.fold_data(
            fold, rows, shared.images, shared.placement.device
        )
        torch.manual_seed(self.seed)
        model, losses = experiment.model(
            experiment.backbone(), encoder, rows.train, self.arrays.metadata
        )
        self.loss = "+".join(losses.parts)
        augment = AUGMENTATIONS[self.training.augment]
        self.step = TrainingStep(model, losses, augment, shared.placement, shared.path, progress)
        optimizer = make_optimizer(self.step.trained, self.training, {})
        scheduler = make_scheduler(optimizer, self.training, steps, {})
        self.parts = Parts(self.step.trained, optimizer, scheduler, None, shared.placement.device)
        self._rows, self._epoch = rows.train, 0

    @property
    def path(self) -> StepPath:
        """How its step runs; final after the first one."""
        return self.step.path

    def run(self, steps: int) -> None:
        """Train for an epoch of so many full batches. Raises RunFailedError for a loss that is not
        finite."""
        rows = np.resize(self._rows, steps * self.training.batch_size)
        self._epoch = self._epoch % self.training.epochs + 1
        train_epoch(
            self.step, self.arrays, rows, self.training, self.parts, None,
            seed=self.seed, epoch=self._epoch, task=Task(),
        )  # fmt: skip
