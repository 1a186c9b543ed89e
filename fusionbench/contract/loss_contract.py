"""The contract of a loss, on made-up model outputs and on micro-backbones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from fusionbench.contract.checks import (
    Check,
    Checks,
    Step,
    check_settings,
    named,
    require,
    run_all,
    steps,
)
from fusionbench.contract.fusion_contract import MICRO_BACKBONES, FusionCase, training_step
from fusionbench.contract.module_checks import (
    SHARED_CHECKS,
    gradients_of,
    require_finite,
    require_gradients,
    require_same,
    trained,
)
from fusionbench.plugin.fusion import Fusion, Spec, Stage
from fusionbench.plugin.loss import Loss, Output, total
from fusionbench.progress import SILENT, Progress

# Two shapes of network: a pyramid, and blocks of one width.
NETWORKS: dict[str, tuple[Stage, ...]] = {
    "pyramid": (Stage(8, (4, 4)), Stage(12, (2, 2)), Stage(16, (2, 1)), Stage(20, (1, 1))),
    "isotropic": (Stage(16, (3, 3)), Stage(16, (3, 3))),
}
EMBEDDING, WIDTH, METADATA, CLASSES = 10, 20, 7, 5
Batch = tuple[Output, Tensor]


@dataclass(frozen=True)
class LossCase:
    """A loss on a network's outputs."""

    cls: type[Loss]
    network: str
    params: Mapping[str, Any] = field(default_factory=dict)
    classes: int = CLASSES

    @property
    def spec(self) -> Spec:
        counts = tuple(range(10 * self.classes, 0, -10))
        stages = NETWORKS[self.network]
        return Spec(stages, WIDTH, METADATA, self.classes, EMBEDDING, counts=counts)

    def module(self, seed: int = 0) -> Loss:
        torch.manual_seed(seed)
        return self.cls(self.spec, **self.params)

    def batch(
        self, seed: int = 1, target: Sequence[int] | None = None, scale: float = 2.0
    ) -> Batch:
        """An Output of leaves that take gradients, and targets; bfloat16 holds every number. By
        default its numbers are as large as the logits of a network that has learnt something."""
        generator = torch.Generator().manual_seed(seed)
        target = target or torch.randint(0, self.classes, (6,), generator=generator).tolist()

        def leaf(*shape: int) -> Tensor:
            values = scale * torch.randn(len(target), *shape, generator=generator)
            return values.bfloat16().float().requires_grad_()

        output = Output(
            leaf(self.classes),
            leaf(self.spec.embedding),
            tuple(leaf(s.grid[0] * s.grid[1], s.channels) for s in self.spec.stages),
        )
        return output, torch.tensor(target)

    def values(self, module: Any, batch: Batch) -> dict[str, Tensor]:
        """From the state that the module is in: a loss may keep a memory in buffers, and may drop
        out or mix at random."""
        torch.manual_seed(3)
        return _terms(deepcopy(module), *batch)

    def objective(self, module: Any, batch: Batch) -> Tensor:
        return total(_terms(module, *batch))


def _leaves(output: Output) -> list[Tensor]:
    return [output.logits, output.embedding, *output.stages]


def _each(output: Output, change: Callable[[Tensor], Tensor]) -> Output:
    logits, embedding, *stages = map(change, _leaves(output))
    return output._replace(logits=logits, embedding=embedding, stages=tuple(stages))


def _terms(loss: Callable[..., Any], output: Output, target: Tensor) -> dict[str, Tensor]:
    """The terms, looked at; under autocast of such an output as a network then returns."""
    if torch.is_autocast_enabled("cpu"):
        output = _each(output, Tensor.bfloat16)
    terms = loss(output, target)
    require(isinstance(terms, dict) and terms, f"it returned {type(terms).__name__}, not a dict.")
    for name, value in terms.items():
        require(isinstance(name, str) and name, f"a term is called {name!r}, not by a text.")
        require(isinstance(value, Tensor), f"the term {name} is a {type(value).__name__}.")
        require(value.ndim == 0, f"the term {name} is {tuple(value.shape)}, not a scalar.")
        require_finite(value, f"the term {name}")
    return terms


def terms(case: LossCase) -> None:
    loss = case.module()
    _terms(loss, *case.batch())
    _terms(loss.eval(), *case.batch())


def gradients(case: LossCase) -> None:
    loss, batches = case.module(), [case.batch(step) for step in range(4)]
    require_gradients(loss, trained(case, loss, batches))
    leaves = [leaf for output, _ in batches for leaf in _leaves(output)]
    reached = any(bool(leaf.grad.any()) for leaf in leaves if leaf.grad is not None)
    require(reached, "no gradient reaches the model's output: there is nothing to learn.")


def training_steps(
    case: LossCase,
    targets: Sequence[Sequence[int]] = ([1, 3, 0, 2, 4, 1],),
    scales: Sequence[float] = (2.0,),
    classes: int = CLASSES,
) -> None:
    """A training step with each of the targets, at each size of the outputs: terms, and gradients
    to the output and to the loss's own parameters, must be finite."""
    case = replace(case, classes=classes)
    for target, scale in product(targets, scales):
        loss, batch = case.module(), case.batch(target=target, scale=scale)
        case.objective(loss, batch).backward()
        gradients_of(loss)
        for leaf in _leaves(batch[0]):
            if leaf.grad is not None:
                require_finite(leaf.grad, "the gradient of the model's output")


def batch_order(case: LossCase) -> None:
    output, target = case.batch()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    want = case.values(case.module(), (output, target))
    got = case.values(case.module(), (_each(output, lambda t: t[order]), target[order]))
    require_same(got, want, "the terms depend on the order of the batch", 1e-4)


# What a loss must keep on the outputs of every kind of network.
LOSS_CHECKS: Checks[LossCase] = {
    **named(terms, gradients),
    "one class": partial(training_steps, targets=[[1] * 6]),
    "each class once": partial(training_steps, targets=[range(CLASSES)]),
    "batch of two": partial(training_steps, targets=[[0, 0], [0, 1]]),
    "two classes": partial(training_steps, targets=[[0, 1, 1, 0, 1, 0]], classes=2),
    "extreme values": partial(training_steps, scales=(1e4, 0.0)),
    **named(batch_order),
    **SHARED_CHECKS,
}


def check_loss(
    cls: type[Loss],
    *,
    params: Mapping[str, Any] | None = None,
    backbones: Sequence[str] = MICRO_BACKBONES,
    only: Collection[str] = tuple(LOSS_CHECKS),
    progress: Progress = SILENT,
) -> list[Check]:
    """Every check of a loss, on made-up outputs and on image-only models of the backbones; never
    stops at the first failure.

    params   hyper-parameters other than the defaults
    only     names of LOSS_CHECKS to run
    """
    settings = dict(params or {})
    groups: list[list[Step]] = [[("settings", cls.__name__, partial(check_settings, cls))]]
    for network in NETWORKS:
        case = LossCase(cls, network, settings)
        chosen = steps(case, network, LOSS_CHECKS, only)
        groups.append([("builds", network, case.module), *chosen])
    for name in backbones:
        loss = {cls.__name__: partial(cls, **settings)}
        step = partial(training_step, FusionCase(Fusion, name), loss)
        groups.append([("model", name, step)])
    return run_all(cls, groups, progress)
