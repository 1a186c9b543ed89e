"""The plainest training loop, for what methods are held to: the bare backbone and references."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusionbench.bench.results import Kind
from fusionbench.bench.subjects import CLASSES, METADATA, Setting, Work, built, ignored, targets
from fusionbench.config.run_config import StepPath
from fusionbench.models.backbones import build_backbone, create_net
from fusionbench.plugin.loss import total
from fusionbench.training.capture import CudaGraphs
from fusionbench.training.optimizers import make_optimizer
from fusionbench.training.placement import Placement
from fusionbench.training.step import PATHS


class Loop:
    """The plainest training loop: one batch, in place, normalised; forward, loss, backward and
    optimiser. Nothing of our trainer is in it but the capture of CUDA graphs."""

    def __init__(
        self,
        name: str,
        kind: Kind,
        trained: nn.Module,
        loss: Callable[[Tensor], Tensor],
        setting: Setting,
        *,
        loss_name: str,
        precision: str,
        path: StepPath,
        memory_format: torch.memory_format,
    ) -> None:
        """`loss` of the images (B, 3, S, S) is what `trained`, in training mode, minimises."""
        self.name, self.kind, self.loss_name, self.precision = name, kind, loss_name, precision
        self._path: StepPath = path
        config, self.device = setting.config, setting.device
        self.trained = trained.to(self.device).to(memory_format=memory_format).train()
        self.optimizer = make_optimizer(self.trained, config, {})
        image = torch.rand(
            config.training.batch_size, 3, config.training.image_size, config.training.image_size
        )
        self.image = image.to(self.device).to(memory_format=memory_format)
        self._loss = loss
        self._autocast = Placement(self.device, precision).autocast
        self._step: Work | None = None

    @property
    def path(self) -> str:
        channels_last = self.image.is_contiguous(memory_format=torch.channels_last)
        return self._path if channels_last else f"{self._path}, contiguous"

    def run(self, steps: int) -> None:
        if self._step is None:
            self._step = self._built(backward=True)
        for _ in range(steps):
            self._step()
            self.optimizer.step()

    def parts(self) -> Mapping[str, Work]:
        self.run(1)
        assert self._step is not None
        return {
            "forward": self._built(backward=False),
            "whole": self._step,
            "optimizer": lambda: ignored(self.optimizer.step()),
        }

    def _forward(self) -> Tensor:
        with self._autocast():
            return self._loss(self.image)

    def _work(self, *, backward: bool) -> Callable[[], list[Tensor | None]]:
        """A step up to the optimiser; returns the gradients, which a recording keeps alive."""
        forward = self._forward
        if self._path.startswith("compiled"):
            forward = torch.compile(forward, fullgraph=True, dynamic=False)

        def work() -> list[Tensor | None]:
            if not backward:
                forward()
                return []
            self.trained.zero_grad(set_to_none=True)
            forward().backward()
            return [p.grad for p in self.trained.parameters()]

        return work

    def _built(self, *, backward: bool) -> Work:
        """Steps down from a path that fails, as a TrainingStep does."""
        while True:
            try:
                return self._on_path(backward=backward)
            except torch.OutOfMemoryError:
                raise
            except Exception:
                if self._path == "eager":
                    raise
                self._path = PATHS[PATHS.index(self._path) - 1]

    def _on_path(self, *, backward: bool) -> Work:
        work = self._work(backward=backward)
        if not self._path.endswith("captured"):
            work()
            return lambda: ignored(work())
        recorded = CudaGraphs(self.device)(work, ())
        if backward:
            for p, gradient in zip(self.trained.parameters(), recorded.outputs, strict=True):
                p.grad = gradient
        return recorded.replay


def bare(setting: Setting) -> Loop:
    """The plain timm model with a linear head under cross-entropy, on the trainer's own precision,
    memory format and path: what no method can beat by much."""
    config = setting.config
    torch.manual_seed(config.seed)
    net = create_net(config.method.backbone, config.training.image_size)
    with torch.no_grad():
        width = net.eval()(
            torch.zeros(2, 3, config.training.image_size, config.training.image_size)
        ).shape[1]
    classifier = nn.Sequential(net, nn.Linear(width, CLASSES))
    target = targets(config.training.batch_size).to(setting.device)
    return Loop(
        "bare",
        "bare",
        classifier,
        lambda image: F.cross_entropy(classifier(image).float(), target),
        setting,
        loss_name="ce",
        precision=setting.placement.precision,
        path=setting.path,
        memory_format=torch.channels_last,
    )


def reference(name: str, setting: Setting, plugins: tuple[Path, ...] = ()) -> Loop:
    """A method as papers' code runs it: fp32, eager, contiguous memory, and SGMC in its textbook
    form. Its images are in place and normalised: it is not charged for its data."""
    backbone = build_backbone(setting.config.method.backbone, setting.config.training.image_size)
    model, loss, _ = built(name, setting.config, backbone, plugins, textbook=True)
    target = targets(setting.config.training.batch_size).to(setting.device)
    meta = torch.rand(len(target), METADATA, device=setting.device)
    return Loop(
        f"{name} reference",
        "reference",
        nn.ModuleDict({"model": model, "loss": loss}),
        lambda image: total(loss(model(image, meta), target)),
        setting,
        loss_name="+".join(loss.parts),
        precision="fp32",
        path="eager",
        memory_format=torch.contiguous_format,
    )
