"""The checks of a fusion's contract, each on one backbone."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusionbench.contract.checks import (
    Broken,
    GradientLog,
    compiled,
    loose_tensors,
    nudge,
    require,
    require_close,
    require_finite,
    require_loadable,
    scramble,
    some,
    through_safetensors,
)
from fusionbench.contract.fusion_case import BATCH, CLASSES, Case, logits, target
from fusionbench.models.fusion_model import FusionModel
from fusionbench.plugin.fusion import Fusion
from fusionbench.plugin.loss import CombinedLoss, Loss, Output, total


def _require_shapes(model: FusionModel, output: Output, size: int) -> None:
    want = {"logits": (size, CLASSES), "embedding": (size, model.spec.embedding)}
    for name, shape in want.items():
        value: Tensor = getattr(output, name)
        require(tuple(value.shape) == shape, f"{name} is {tuple(value.shape)}, not {shape}.")
        require_finite(value, name)
    for k, (tokens, stage) in enumerate(zip(output.stages, model.spec.stages, strict=True)):
        tokens_shape = (size, stage.grid[0] * stage.grid[1], stage.channels)
        require(
            tuple(tokens.shape) == tokens_shape,
            f"stage {k} returned {tuple(tokens.shape)}, not {tokens_shape} (B, N, C).",
        )
        require_finite(tokens, f"stage {k}")


def shapes(case: Case) -> None:
    model = case.model()
    _require_shapes(model, model(*case.batch()), BATCH)
    model.train()
    _require_shapes(model, model(*case.batch()), BATCH)


def batch_of_one(case: Case) -> None:
    model = case.model()
    _require_shapes(model, model(*case.batch(size=1)), 1)


def gradients(case: Case) -> None:
    log = _gradient_log(case)
    log.require_all(("fusion.", "head."))
    # What a backbone never uses (a layer behind a dropped head) is not this fusion's fault.
    plain = _gradient_log(Case(Fusion, case.backbone, case.image_size))
    cut = sorted(n for n in plain.nonzero - log.nonzero if n.startswith("backbone."))
    require(not cut, f"no gradient reaches {len(cut)} parameters of the backbone: {some(cut)}.")


def _gradient_log(case: Case) -> GradientLog:
    """In training and in eval mode (where BatchNorm hides no bias), with small steps between, so
    that a gate which starts at zero is open by the end."""
    model = case.model()
    log = GradientLog(model)
    for step in range(4):
        model.train(step % 2 == 0)
        F.cross_entropy(model(*case.batch(step)).logits, target(step)).backward()
        log.look()
        nudge(model)
    return log


def metadata(case: Case) -> str:
    model = case.model()
    image, meta = case.batch()
    moved = _meta_effect(model, image, meta)
    if case.cls.uses_metadata and not moved:
        # A method may start as the identity (a gate at zero): look again after a few steps.
        for step in range(4):
            model.train()
            F.cross_entropy(model(*case.batch(step)).logits, target(step)).backward()
            nudge(model)
        moved = _meta_effect(model.eval(), image, meta)
        require(
            moved,
            "other metadata leaves the logits as they are. A method that means to ignore it says "
            "`uses_metadata = False`.",
        )
    if not case.cls.uses_metadata:
        require(not moved, "uses_metadata is False, but other metadata changes the logits.")
        return "metadata is ignored, as declared"
    return ""


def _meta_effect(model: nn.Module, image: Tensor, meta: Tensor) -> bool:
    before, after = logits(model, (image, meta)), logits(model, (image, meta.roll(1, 0)))
    return float((before - after).abs().max()) > 1e-6 * float(before.abs().max())


def batch_mates(case: Case) -> None:
    model = case.model()
    image, meta = case.batch()
    other_image, other_meta = case.batch(2)
    with torch.no_grad():
        whole = model(image, meta)
        alone = model(image[:1], meta[:1])
        mixed = model(
            torch.cat([image[:1], 2 * other_image[1:]]), torch.cat([meta[:1], 2 * other_meta[1:]])
        )
    for output in (mixed, alone):
        for part in ("logits", "embedding"):
            require_close(
                getattr(output, part)[:1],
                getattr(whole, part)[:1],
                1e-4,
                f"the {part} of a sample depend on its batch mates in eval mode",
            )


def repeatable(case: Case) -> None:
    model, batch = case.model(), case.batch()
    before = logits(model, batch)
    # What a second model, another batch and the global random generators must not reach.
    logits(case.model(seed=5), case.batch(2))
    logits(model, case.batch(3))
    torch.rand(3), random.random(), np.random.rand(3)
    require_close(
        logits(model, batch), before, 0.0, "the same batch in eval mode gives other logits later"
    )


def state_dict(case: Case) -> None:
    model, batch = case.model(), case.batch()
    model.train()
    model(*case.batch(2))  # moves what moves in training
    before = logits(model.eval(), batch)
    fresh = case.model(seed=9)
    loose = loose_tensors(fresh.fusion)
    require(
        not loose,
        f"{', '.join(loose)}: tensors that are neither parameter nor buffer are not "
        "saved, nor moved to a GPU. Use register_buffer.",
    )
    require_loadable(fresh, through_safetensors(model))
    require_close(logits(fresh, batch), before, 0.0, "after loading the state dict: other logits")


def deep_copy(case: Case) -> None:
    model, batch = case.model(), case.batch()
    model.train()
    model(*case.batch(2))
    before = logits(model.eval(), batch)
    copy = deepcopy(model)
    require_close(logits(copy, batch), before, 0.0, "a deep copy gives other logits")
    scramble(copy)
    require_close(logits(model, batch), before, 0.0, "changing a deep copy changes the original")
    copy = deepcopy(model)
    scramble(model.fusion)
    require_close(
        logits(copy, batch),
        before,
        0.0,
        "a deep copy still calls the original (a hook, lambda or bound method kept on the module)",
    )


class _Stop(Exception):
    pass


def after_exception(case: Case) -> None:
    model, batch = case.model(), case.batch()
    before, hooks = logits(model, batch), _hooks(model)
    last = len(model.spec.stages) - 1
    for method in ("encode", "stage", "fuse"):
        original = getattr(model.fusion, method)

        def stop(*args: Any, method: str = method, original: Any = original) -> Tensor:
            result = original(*args)
            if method == "stage" and args[0] < last:
                return result
            raise _Stop

        setattr(model.fusion, method, stop)
        try:
            logits(model, case.batch(2))
        except _Stop:
            pass
        else:
            raise Broken(f"an exception raised in {method} is swallowed.")
        finally:
            delattr(model.fusion, method)
        where = f"after an exception in {method}"
        require(_hooks(model) == hooks, f"{where}, hooks are left behind: {_hooks(model)}.")
        flow = model.backbone._flow
        require(flow.stage is None and not flow.tokens, f"{where}, the backbone keeps its state.")
        require_close(logits(model, batch), before, 0.0, f"{where}, the logits are others")
    require(_hooks(model) == hooks, f"a forward leaves hooks behind: {_hooks(model)}.")


def _hooks(model: nn.Module) -> int:
    """How many hooks of any kind the model and torch itself carry."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    count = sum(len(getattr(m, kind)) for m in model.modules() for kind in kinds)
    everywhere = nn.modules.module
    return count + sum(len(getattr(everywhere, f"_global{kind}")) for kind in kinds)


def channels_last(case: Case) -> None:
    model, (image, meta) = case.model(), case.batch()
    before = logits(model, (image, meta))
    model = model.to(memory_format=torch.channels_last)
    image = image.contiguous(memory_format=torch.channels_last)
    message = "with channels-last memory the logits are others"
    require_close(logits(model, (image, meta)), before, 1e-3, message)


def bf16_autocast(case: Case) -> None:
    model, batch = case.model(), case.batch()
    before = logits(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        after = logits(model, batch)
    require_close(after, before, 0.15, "under bf16 autocast the logits are far from float32's")
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(*batch).logits.float(), target(1))
    loss.backward()
    GradientLog(model).look()


def compiled_equals_eager(case: Case) -> None:
    model, batch = case.model(), case.batch()
    before = logits(model, batch)
    with compiled(model) as fast:
        message = "compiled, the logits are others"
        require_close(logits(fast, batch), before, 1e-3, message)


def with_loss(case: Case, losses: Mapping[str, type[Loss]]) -> None:
    """The whole training step."""
    model = case.model().train()
    loss = CombinedLoss({name: cls(model.spec) for name, cls in losses.items()}).train()
    terms = loss(model(*case.batch()), target(1))
    for name, value in terms.items():
        require_finite(value, f"the term {name}")
    total(terms).backward()
    log = GradientLog(model)
    log.look()
    require(log.nonzero, "the loss sends no gradient into the model.")


# Check name -> check. What a fusion must keep on every backbone that accepts it.
FUSION_CHECKS: dict[str, Callable[[Case], str | None]] = {
    "shapes": shapes,
    "batch of one": batch_of_one,
    "gradients": gradients,
    "metadata": metadata,
    "batch mates": batch_mates,
    "repeatable": repeatable,
    "state dict": state_dict,
    "deepcopy": deep_copy,
    "after an exception": after_exception,
    "channels-last": channels_last,
    "bf16 autocast": bf16_autocast,
    "compiled": compiled_equals_eager,
}
