"""The contract of a fusion, on micro-backbones of different layouts.

Image sides are small and batches of four, so that a plugin is checked in seconds on one core.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusionbench import registry
from fusionbench.backbones import Backbone, build_backbone
from fusionbench.fusion import Fusion, FusionRefused
from fusionbench.losses import CombinedLoss, Loss, Output, total
from fusionbench.model import FusionModel, build_spec
from fusionbench.progress import SILENT, Progress
from fusionbench.testing.checks import (
    Broken,
    Check,
    GradientLog,
    check_settings,
    compiled,
    explain,
    loose_tensors,
    nudge,
    require,
    require_close,
    require_finite,
    require_loadable,
    run,
    scramble,
    some,
    through_safetensors,
)

# NCHW with BatchNorm, tokens behind a class token, NCHW with LayerNorm, NHWC.
MICRO_BACKBONES = ("test_efficientnet", "test_vit", "test_convnext", "test_mambaout")
BATCH, CLASSES, METADATA = 4, 5, 9
GROUPS = {"age": (0,), "region": (1, 2, 3, 4), "itch": (5, 6), "bleed": (7, 8)}
COUNTS = (40, 30, 20, 10, 5)


@dataclass(frozen=True)
class _Case:
    """A fusion on a backbone."""

    cls: type[Fusion]
    backbone: str
    image_size: int
    params: Mapping[str, Any] = field(default_factory=dict)

    def build(self, seed: int = 0) -> FusionModel:
        backbone = deepcopy(_backbone(self.backbone, self.image_size))
        torch.manual_seed(seed)
        spec = build_spec(
            backbone, metadata=METADATA, classes=CLASSES, groups=GROUPS, counts=COUNTS
        )
        return FusionModel(backbone, self.cls(spec, **self.params))

    def model(self, seed: int = 0) -> FusionModel:
        """In eval mode; BatchNorm statistics fit the batches, so that signals are of normal
        size all through an untrained network."""
        model = self.build(seed)
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = None  # the plain average over the batches below
            norm.reset_running_stats()
        model.train()
        with torch.no_grad():
            for batch in range(2):
                model(*self.batch(100 + batch))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        return model.eval()

    def batch(self, seed: int = 1, size: int = BATCH) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) and metadata (B, M), half of it 0/1 as one-hot columns are."""
        generator = torch.Generator().manual_seed(seed)
        image = torch.randn(size, 3, self.image_size, self.image_size, generator=generator)
        meta = torch.randn(size, METADATA, generator=generator)
        meta[:, METADATA // 2 :] = (meta[:, METADATA // 2 :] > 0).float()
        return image, meta


@lru_cache(maxsize=len(MICRO_BACKBONES))
def _backbone(name: str, image_size: int) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(name, image_size)


def _target(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, CLASSES, (BATCH,), generator=generator)


@torch.no_grad()
def _logits(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return model(*batch).logits


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


def shapes(case: _Case) -> None:
    model = case.model()
    _require_shapes(model, model(*case.batch()), BATCH)
    model.train()
    _require_shapes(model, model(*case.batch()), BATCH)


def batch_of_one(case: _Case) -> None:
    model = case.model()
    _require_shapes(model, model(*case.batch(size=1)), 1)


def gradients(case: _Case) -> None:
    log = _gradient_log(case)
    log.require_all(("fusion.", "head."))
    # What a backbone never uses (a layer behind a dropped head) is not this fusion's fault.
    plain = _gradient_log(_Case(Fusion, case.backbone, case.image_size))
    cut = sorted(n for n in plain.nonzero - log.nonzero if n.startswith("backbone."))
    require(not cut, f"no gradient reaches {len(cut)} parameters of the backbone: {some(cut)}.")


def _gradient_log(case: _Case) -> GradientLog:
    """In training and in eval mode (where BatchNorm hides no bias), with small steps between, so
    that a gate which starts at zero is open by the end."""
    model = case.model()
    log = GradientLog(model)
    for step in range(4):
        model.train(step % 2 == 0)
        F.cross_entropy(model(*case.batch(step)).logits, _target(step)).backward()
        log.look()
        nudge(model)
    return log


def metadata(case: _Case) -> str:
    model = case.model()
    image, meta = case.batch()
    moved = _meta_effect(model, image, meta)
    if case.cls.uses_metadata and not moved:
        # A method may start as the identity (a gate at zero): look again after a few steps.
        for step in range(4):
            model.train()
            F.cross_entropy(model(*case.batch(step)).logits, _target(step)).backward()
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
    before, after = _logits(model, (image, meta)), _logits(model, (image, meta.roll(1, 0)))
    return float((before - after).abs().max()) > 1e-6 * float(before.abs().max())


def batch_mates(case: _Case) -> None:
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


def repeatable(case: _Case) -> None:
    model, batch = case.model(), case.batch()
    before = _logits(model, batch)
    # What a second model, another batch and the global random generators must not reach.
    _logits(case.model(seed=5), case.batch(2))
    _logits(model, case.batch(3))
    torch.rand(3), random.random(), np.random.rand(3)
    require_close(
        _logits(model, batch), before, 0.0, "the same batch in eval mode gives other logits later"
    )


def state_dict(case: _Case) -> None:
    model, batch = case.model(), case.batch()
    model.train()
    model(*case.batch(2))  # moves what moves in training
    before = _logits(model.eval(), batch)
    fresh = case.model(seed=9)
    loose = loose_tensors(fresh.fusion)
    require(
        not loose,
        f"{', '.join(loose)}: tensors that are neither parameter nor buffer are not "
        "saved, nor moved to a GPU. Use register_buffer.",
    )
    require_loadable(fresh, through_safetensors(model))
    require_close(_logits(fresh, batch), before, 0.0, "after loading the state dict: other logits")


def deep_copy(case: _Case) -> None:
    model, batch = case.model(), case.batch()
    model.train()
    model(*case.batch(2))
    before = _logits(model.eval(), batch)
    copy = deepcopy(model)
    require_close(_logits(copy, batch), before, 0.0, "a deep copy gives other logits")
    scramble(copy)
    require_close(_logits(model, batch), before, 0.0, "changing a deep copy changes the original")
    copy = deepcopy(model)
    scramble(model.fusion)
    require_close(
        _logits(copy, batch),
        before,
        0.0,
        "a deep copy still calls the original (a hook, lambda or bound method kept on the module)",
    )


class _Stop(Exception):
    pass


def after_exception(case: _Case) -> None:
    model, batch = case.model(), case.batch()
    before, hooks = _logits(model, batch), _hooks(model)
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
            _logits(model, case.batch(2))
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
        require_close(_logits(model, batch), before, 0.0, f"{where}, the logits are others")
    require(_hooks(model) == hooks, f"a forward leaves hooks behind: {_hooks(model)}.")


def _hooks(model: nn.Module) -> int:
    """How many hooks of any kind the model and torch itself carry."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    count = sum(len(getattr(m, kind)) for m in model.modules() for kind in kinds)
    everywhere = nn.modules.module
    return count + sum(len(getattr(everywhere, f"_global{kind}")) for kind in kinds)


def channels_last(case: _Case) -> None:
    model, (image, meta) = case.model(), case.batch()
    before = _logits(model, (image, meta))
    model = model.to(memory_format=torch.channels_last)
    image = image.contiguous(memory_format=torch.channels_last)
    message = "with channels-last memory the logits are others"
    require_close(_logits(model, (image, meta)), before, 1e-3, message)


def bf16_autocast(case: _Case) -> None:
    model, batch = case.model(), case.batch()
    before = _logits(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        after = _logits(model, batch)
    require_close(after, before, 0.15, "under bf16 autocast the logits are far from float32's")
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(*batch).logits.float(), _target(1))
    loss.backward()
    GradientLog(model).look()


def compiled_equals_eager(case: _Case) -> None:
    model, batch = case.model(), case.batch()
    before = _logits(model, batch)
    with compiled(model) as fast:
        message = "compiled, the logits are others"
        require_close(_logits(fast, batch), before, 1e-3, message)


def with_loss(case: _Case, losses: Mapping[str, type[Loss]]) -> None:
    """The whole training step."""
    model = case.model().train()
    loss = CombinedLoss({name: cls(model.spec) for name, cls in losses.items()}).train()
    terms = loss(model(*case.batch()), _target(1))
    for name, value in terms.items():
        require_finite(value, f"the term {name}")
    total(terms).backward()
    log = GradientLog(model)
    log.look()
    require(log.nonzero, "the loss sends no gradient into the model.")


# Check name -> check. What a fusion must keep on every backbone that accepts it.
FUSION_CHECKS: dict[str, Callable[[_Case], str | None]] = {
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


def check_fusion(
    cls: type[Fusion],
    *,
    params: Mapping[str, Any] | None = None,
    backbones: Sequence[str] = MICRO_BACKBONES,
    losses: Mapping[str, type[Loss]] | None = None,
    image_size: int = 64,
    only: Collection[str] | None = None,
    thorough: bool = False,
    progress: Progress = SILENT,
) -> list[Check]:
    """Every check of a fusion on every backbone; never stops at the first failure.

    params     hyper-parameters other than the defaults
    losses     those it must work with, besides `ce`; None: every registered one
    only       names of FUSION_CHECKS to run; None: all of them
    thorough   compile on every backbone, not only on the first that accepts the fusion

    A backbone that the fusion refuses (FusionRefused) is skipped with its reason; one of them must
    be accepted.
    """
    settings = dict(params or {})
    classes = _registered_losses() if losses is None else dict(losses)
    ce = _registered_losses(("ce",))
    bodies = {n: body for n, body in FUSION_CHECKS.items() if only is None or n in only}
    checks = [run("settings", cls.__name__, partial(_settings, cls))]
    accepted = 0
    steps = len(backbones) * (len(bodies) + len(classes))
    with progress.task(f"checking {cls.__name__}", steps, "checks") as task:
        for name in backbones:
            case = _Case(cls, name, image_size, settings)
            built = _builds(case)
            checks.append(built)
            if built.status != "pass":
                task.advance(len(bodies) + len(classes))
                continue
            accepted += 1
            runs = _runs(case)
            for check, body in bodies.items():
                if check == "compiled" and accepted > 1 and not thorough:
                    continue
                if runs or check == "shapes":
                    checks.append(run(check, name, partial(body, case)))
                else:
                    checks.append(Check(check, name, "skip", "its forward fails: see shapes"))
                task.advance()
            for loss, loss_cls in classes.items() if runs else ():
                pair = {**ce, loss: loss_cls}
                checks.append(run("loss", f"{name} + {loss}", partial(with_loss, case, pair)))
                task.advance()
    if backbones and all(c.status == "skip" for c in checks if c.name == "builds"):
        checks.append(
            Check("accepted", "all backbones", "fail", "it refuses every backbone it was tried on.")
        )
    return checks


def _builds(case: _Case) -> Check:
    try:
        with torch.random.fork_rng(devices=[]):
            case.build()
    except FusionRefused as error:
        return Check("builds", case.backbone, "skip", str(error))
    except Exception as error:
        return Check("builds", case.backbone, "fail", explain(error))
    return Check("builds", case.backbone, "pass")


def _runs(case: _Case) -> bool:
    """Whether a forward goes through at all: without that, no other check says anything."""
    return run("runs", case.backbone, partial(_forward, case)).status == "pass"


def _forward(case: _Case) -> None:
    case.model()(*case.batch())


def _settings(cls: type[Fusion]) -> None:
    check_settings(cls)
    known = registry.discover("losses")
    for name in cls.default_loss.split("+"):
        require(registry.key_of(name) in known, f"default_loss names {name!r}, which is no loss.")


def _registered_losses(names: Sequence[str] | None = None) -> dict[str, type[Loss]]:
    return {
        name: registry.load(entry, Loss)
        for name, entry in registry.discover("losses").items()
        if not entry.broken and (names is None or name in names)
    }
