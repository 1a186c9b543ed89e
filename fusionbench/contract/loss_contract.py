"""The contract of a loss, on made-up model outputs and on micro-backbones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fusionbench.contract.checks import (
    Check,
    GradientLog,
    check_settings,
    compiled,
    loose_tensors,
    nudge,
    require,
    require_close,
    require_finite,
    require_loadable,
    run,
    through_safetensors,
)
from fusionbench.contract.fusion_case import MICRO_BACKBONES
from fusionbench.models.backbones import build_backbone
from fusionbench.models.fusion_model import FusionModel, build_spec
from fusionbench.plugin.fusion import Fusion, Spec, Stage
from fusionbench.plugin.loss import Loss, Output, total
from fusionbench.progress import SILENT, Progress

# Two shapes of network: a pyramid, and blocks of one width.
NETWORKS: dict[str, tuple[Stage, ...]] = {
    "pyramid": (Stage(8, (4, 4)), Stage(12, (2, 2)), Stage(16, (2, 1)), Stage(20, (1, 1))),
    "isotropic": (Stage(16, (3, 3)), Stage(16, (3, 3))),
}
EMBEDDING, WIDTH, METADATA = 10, 20, 7


@dataclass(frozen=True)
class _Case:
    """A loss on a network's outputs."""

    cls: type[Loss]
    network: str
    params: Mapping[str, Any] = field(default_factory=dict)
    classes: int = 5

    def loss(self, seed: int = 0) -> Loss:
        torch.manual_seed(seed)
        spec = Spec(
            stages=NETWORKS[self.network],
            width=WIDTH,
            metadata=METADATA,
            classes=self.classes,
            embedding=EMBEDDING,
            counts=tuple(range(10 * self.classes, 0, -10)),
        )
        return self.cls(spec, **self.params)

    def batch(
        self, seed: int = 1, size: int = 6, target: Sequence[int] | None = None
    ) -> tuple[Output, Tensor]:
        """An Output of leaves that take gradients, and targets."""
        generator = torch.Generator().manual_seed(seed)

        def leaf(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).requires_grad_()

        output = Output(
            leaf(size, self.classes),
            leaf(size, EMBEDDING),
            tuple(leaf(size, s.grid[0] * s.grid[1], s.channels) for s in NETWORKS[self.network]),
        )
        if target is not None:
            return output, torch.tensor(list(target))
        return output, torch.randint(0, self.classes, (size,), generator=generator)


def _leaves(output: Output) -> list[Tensor]:
    return [output.logits, output.embedding, *output.stages]


def _each(output: Output, change: Callable[[Tensor], Tensor]) -> Output:
    return Output(
        change(output.logits), change(output.embedding), tuple(change(t) for t in output.stages)
    )


def _scaled(output: Output, factor: float) -> Output:
    return _each(output, lambda t: (t.detach() * factor).requires_grad_())


def _terms(loss: Loss, output: Output, target: Tensor) -> dict[str, Tensor]:
    """The terms, looked at."""
    terms = loss(output, target)
    require(isinstance(terms, dict) and terms, f"it returned {type(terms).__name__}, not a dict.")
    for name, value in terms.items():
        require(isinstance(name, str) and name, f"a term is called {name!r}, not by a text.")
        require(isinstance(value, Tensor), f"the term {name} is a {type(value).__name__}.")
        require(value.ndim == 0, f"the term {name} is {tuple(value.shape)}, not a scalar.")
        require_finite(value, f"the term {name}")
    return terms


def _step(loss: Loss, output: Output, target: Tensor) -> dict[str, Tensor]:
    """Terms, and finite gradients from them to the output and to the loss's own parameters."""
    terms = _terms(loss, output, target)
    total(terms).backward()
    for leaf in _leaves(output):
        if leaf.grad is not None:
            require_finite(leaf.grad, "the gradient of the model's output")
    GradientLog(loss).look()
    return terms


def _build(case: _Case) -> None:
    case.loss()


def terms(case: _Case) -> None:
    loss = case.loss()
    _terms(loss, *case.batch())
    _terms(loss.eval(), *case.batch())


def gradients(case: _Case) -> None:
    """In training and eval mode (where BatchNorm hides no bias), with small steps between."""
    loss = case.loss()
    log = GradientLog(loss)
    reaches_output = False
    for step in range(4):
        loss.train(step % 2 == 0)
        output, target = case.batch(step)
        total(_terms(loss, output, target)).backward()
        log.look()
        nudge(loss)
        reaches_output |= any(t.grad is not None and bool(t.grad.any()) for t in _leaves(output))
    log.require_all()
    require(reaches_output, "no gradient reaches the model's output: there is nothing to learn.")


def one_class(case: _Case) -> None:
    _step(case.loss(), *case.batch(target=[1] * 6))


def each_class_once(case: _Case) -> None:
    _step(case.loss(), *case.batch(size=case.classes, target=range(case.classes)))


def batch_of_two(case: _Case) -> None:
    for target in ([0, 0], [0, 1]):
        _step(case.loss(), *case.batch(size=2, target=target))


def two_classes(case: _Case) -> None:
    few = _Case(case.cls, case.network, case.params, classes=2)
    _step(few.loss(), *few.batch())


def extreme_values(case: _Case) -> None:
    output, target = case.batch()
    _step(case.loss(), _scaled(output, 1e4), target)
    _step(case.loss(), _scaled(output, 0.0), target)


def bf16_autocast(case: _Case) -> None:
    output, target = case.batch()
    low = _each(output, lambda t: t.detach().bfloat16().requires_grad_())
    want = _terms(case.loss(), _each(low, lambda t: t.float()), target)
    with torch.autocast("cpu", torch.bfloat16):
        loss = case.loss()
        got = _terms(loss, low, target)
    for name, value in want.items():
        message = f"under bf16 autocast the term {name} is far from float32's"
        require_close(got[name], value, 0.1, message)
    total(got).backward()
    GradientLog(loss).look()


def batch_order(case: _Case) -> None:
    output, target = case.batch()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    want = _terms(case.loss(), output, target)
    got = _terms(case.loss(), _each(output, lambda t: t[order]), target[order])
    for name, value in want.items():
        message = f"the term {name} depends on the order of the batch"
        require_close(got[name], value, 1e-4, message)


def repeatable(case: _Case) -> None:
    """The same from the same state (a loss may keep a memory in buffers), whatever other
    instances have seen."""
    loss, batch = case.loss(), case.batch()
    want = _seeded(deepcopy(loss), batch)
    _seeded(case.loss(seed=5), case.batch(2))
    _seeded(deepcopy(loss), case.batch(3))
    got = _seeded(deepcopy(loss), batch)
    for name, value in want.items():
        message = f"the term {name} is another on the same batch, from the same state"
        require_close(got[name], value, 0.0, message)


def _seeded(loss: Loss, batch: tuple[Output, Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(3)  # a loss may drop out or mix at random
    return _terms(loss, *batch)


def state_dict(case: _Case) -> None:
    loss, batch = case.loss(), case.batch()
    _step(loss, *case.batch(2))
    want = _seeded(loss.eval(), batch)
    fresh = case.loss(seed=9).eval()
    loose = loose_tensors(fresh)
    require(
        not loose,
        f"{', '.join(loose)}: tensors that are neither parameter nor buffer are not saved, nor "
        "moved to a GPU. Use register_buffer.",
    )
    require_loadable(fresh, through_safetensors(loss))
    got = _seeded(fresh, batch)
    for name, value in want.items():
        require_close(got[name], value, 0.0, f"after loading the state dict: another {name}")


def compiled_equals_eager(case: _Case) -> None:
    loss, batch = case.loss(), case.batch()
    want = _seeded(deepcopy(loss), batch)
    with compiled(loss) as fast:
        torch.manual_seed(3)
        got = fast(*batch)
    for name, value in want.items():
        require_close(got[name], value, 1e-3, f"compiled, the term {name} is another")


def on_backbone(cls: type[Loss], name: str, image_size: int, params: Mapping[str, Any]) -> None:
    """The training step of an image-only model."""
    backbone = build_backbone(name, image_size)
    spec = build_spec(backbone, metadata=METADATA, classes=5, counts=(5, 4, 3, 2, 1))
    model = FusionModel(backbone, Fusion(spec)).train()
    loss = cls(model.spec, **params)
    output = model(torch.randn(4, 3, image_size, image_size), torch.randn(4, METADATA))
    total(_terms(loss, output, torch.tensor([0, 1, 1, 4]))).backward()
    log = GradientLog(model)
    log.look()
    require(log.nonzero, "the loss sends no gradient into the model.")


# Check name -> check. What a loss must keep on the outputs of every kind of network.
LOSS_CHECKS: dict[str, Callable[[_Case], None]] = {
    "terms": terms,
    "gradients": gradients,
    "one class": one_class,
    "each class once": each_class_once,
    "batch of two": batch_of_two,
    "two classes": two_classes,
    "extreme values": extreme_values,
    "bf16 autocast": bf16_autocast,
    "batch order": batch_order,
    "repeatable": repeatable,
    "state dict": state_dict,
    "compiled": compiled_equals_eager,
}


def check_loss(
    cls: type[Loss],
    *,
    params: Mapping[str, Any] | None = None,
    backbones: Sequence[str] = MICRO_BACKBONES,
    image_size: int = 64,
    only: Collection[str] | None = None,
    progress: Progress = SILENT,
) -> list[Check]:
    """Every check of a loss, on made-up outputs and on image-only models of the backbones; never
    stops at the first failure.

    params   hyper-parameters other than the defaults
    only     names of LOSS_CHECKS to run; None: all of them
    """
    settings = dict(params or {})
    bodies = {n: body for n, body in LOSS_CHECKS.items() if only is None or n in only}
    checks = [run("settings", cls.__name__, partial(check_settings, cls))]
    steps = len(NETWORKS) * len(bodies) + len(backbones)
    with progress.task(f"checking {cls.__name__}", steps, "checks") as task:
        for network in NETWORKS:
            case = _Case(cls, network, settings)
            built = run("builds", network, partial(_build, case))
            checks.append(built)
            if built.status == "fail":
                continue
            for check, body in bodies.items():
                if check == "compiled" and network != "pyramid":
                    continue
                checks.append(run(check, network, partial(body, case)))
                task.advance()
        for name in backbones:
            body = partial(on_backbone, cls, name, image_size, settings)
            checks.append(run("model", name, body))
            task.advance()
    return checks
