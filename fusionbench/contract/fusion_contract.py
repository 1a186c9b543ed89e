"""The contract of a fusion, on micro-backbones of different layouts.

Image sides are small and batches of four, so that a plugin is checked in seconds on one core.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusionbench.contract.attention import ONE_KEY, OVER_BATCH, WatchAttention
from fusionbench.contract.checks import (
    Broken,
    Check,
    Checks,
    Step,
    check_settings,
    named,
    require,
    run_all,
    steps,
)
from fusionbench.contract.module_checks import (
    SHARED_CHECKS,
    gradients_of,
    open_gates,
    repeatable,
    require_finite,
    require_gradients,
    require_same,
    some,
    trained,
)
from fusionbench.models.backbones import Backbone, build_backbone
from fusionbench.models.fusion_model import FusionModel
from fusionbench.plugin import registry
from fusionbench.plugin.columns import MetadataColumn
from fusionbench.plugin.fusion import Features, Fusion, Spec
from fusionbench.plugin.loss import CombinedLoss, Loss, total
from fusionbench.progress import SILENT, Progress

# NCHW with BatchNorm, tokens behind a class token, NCHW with LayerNorm, NHWC.
MICRO_BACKBONES = ("test_efficientnet", "test_vit", "test_convnext", "test_mambaout")
IMAGE_SIZE, METADATA = 64, 9
# Nine features; the last of four more, for a method that takes them, says what was recorded.
COLUMNS = (
    MetadataColumn("age", "numeric", (0,), recorded=9),
    MetadataColumn(
        "region", "categorical", (1, 2, 3, 4), ("ARM", "FACE", "LEG", "NECK"), recorded=10
    ),
    MetadataColumn("itch", "boolean", (5, 6), ("False", "True"), recorded=11),
    MetadataColumn("bleed", "boolean", (7, 8), ("False", "True"), recorded=12),
)
COUNTS = (40, 30, 20, 10, 5)
TARGET = torch.tensor([2, 0, 0, 4])  # one class twice, for losses that compare samples
BATCH, CLASSES = len(TARGET), len(COUNTS)
# What the network calls, with the names of the arguments.
METHODS = {
    "encode": ("meta",),
    "stage": ("k", "tokens", "meta"),
    "fuse": ("image", "meta"),
    "fuse_stages": ("features", "meta"),
}


@dataclass(frozen=True)
class FusionCase:
    """A fusion on a backbone."""

    cls: type[Fusion]
    backbone: str
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[MetadataColumn, ...]:
        taken = self.cls.takes_recorded
        return COLUMNS if taken else tuple(replace(c, recorded=None) for c in COLUMNS)

    @property
    def features(self) -> int:
        return METADATA + (len(COLUMNS) if self.cls.takes_recorded else 0)

    def build(self, seed: int = 0) -> FusionModel:
        backbone = deepcopy(_backbone(self.backbone))
        torch.manual_seed(seed)
        spec = Spec(
            backbone.stages, backbone.width, self.features, CLASSES, 0, self.columns, COUNTS
        )
        return FusionModel(backbone, self.cls(spec, **self.params))

    def module(self, seed: int = 0) -> FusionModel:
        """In eval mode; BatchNorm statistics fit the batches, so that signals are of normal
        size all through an untrained network."""
        model = self.build(seed)
        for part in model.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.momentum = None  # the plain average over the batches below
                part.reset_running_stats()
        for seed in (100, 101):
            self.values(model.train(), self.batch(seed))
        return model.eval()

    def batch(self, seed: int = 1, size: int = BATCH) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) and metadata (B, M), half of it 0/1 as one-hot columns are."""
        generator = torch.Generator().manual_seed(seed)
        image = torch.randn(size, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
        meta = torch.randn(size, self.features, generator=generator)
        meta[:, self.features // 2 :] = (meta[:, self.features // 2 :] > 0).float()
        for column in self.columns:
            if column.recorded is not None:
                recorded = (torch.rand(size, generator=generator) < 0.8).float()
                meta[:, list(column.features)] *= recorded[:, None]
                meta[:, column.recorded] = recorded
        return image, meta

    @torch.no_grad()
    def values(self, module: Any, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        output = module(*batch)
        return {"logits": output.logits, "embedding": output.embedding}

    def objective(self, module: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(module(*batch).logits.float(), TARGET)


@lru_cache(maxsize=len(MICRO_BACKBONES))
def _backbone(name: str) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(name, IMAGE_SIZE)


def _require_shapes(model: FusionModel, batch: tuple[Tensor, Tensor]) -> None:
    output, size = model(*batch), len(batch[0])
    parts: list[tuple[str, Tensor, tuple[int, ...]]] = [
        ("logits", output.logits, (size, CLASSES)),
        ("embedding", output.embedding, (size, model.spec.embedding)),
    ]
    for k, (tokens, stage) in enumerate(zip(output.stages, model.spec.stages, strict=True)):
        token_shape = (size, stage.grid[0] * stage.grid[1], stage.channels)
        parts.append((f"stage {k}, (B, N, C),", tokens, token_shape))
    parts += [(f"head {n}", logits, (size, CLASSES)) for n, logits in output.heads.items()]
    for name, value, shape in parts:
        require(tuple(value.shape) == shape, f"{name} is {tuple(value.shape)}, not {shape}.")
        require_finite(value, name)


def shapes(case: FusionCase) -> None:
    model = case.module()
    _require_shapes(model, case.batch())
    _require_shapes(model.train(), case.batch())


def head(case: FusionCase) -> None:
    """A linear layer must not stand on probabilities."""
    model = case.module()
    embedding = case.values(model, case.batch())["embedding"].float()
    if type(model.head) is not nn.Linear or embedding.shape[1] != CLASSES:
        return
    sums = {"probabilities": embedding.sum(1), "log-probabilities": embedding.exp().sum(1)}
    for what, total_ in sums.items():
        require(
            not torch.allclose(total_, torch.ones(len(total_)), atol=1e-4),
            f"fuse returns {what}, and a linear layer makes logits of them. Return logits or "
            "log-probabilities, and let `head(self, width)` return nn.Identity().",
        )


def recorded_cells(case: FusionCase) -> str:
    """A cell that was not recorded and its value must not both matter."""
    if not case.cls.takes_recorded:
        return "the method does not ask which cells were recorded"
    model, (image, meta) = case.module(), case.batch()
    trained(case, model)  # a method may start as the identity
    model.eval()
    for column in case.columns:
        hidden = meta.clone()
        hidden[:, column.recorded] = 0
        other = hidden.clone()
        other[:, list(column.features)] += 1
        before, after = (case.values(model, (image, m)) for m in (hidden, other))
        message = f"the value of {column.name} matters where nothing was recorded"
        require_same(after, before, message, 1e-6)
    return ""


def parameter_groups(case: FusionCase) -> None:
    """Groups of the method name its parameters, once each."""
    fusion = case.build().fusion
    groups = fusion.parameter_groups()
    ids = [id(p) for group in groups for p in group["params"]]
    own = {id(p) for p in fusion.parameters()}
    require(len(ids) == len(set(ids)), "parameter_groups names a parameter twice.")
    require(own >= set(ids), "parameter_groups names a parameter that is not the method's.")
    strange = {key for group in groups for key in group} - {"params", "lr_scale", "weight_decay"}
    require(not strange, f"parameter_groups: unknown keys {', '.join(sorted(strange))}.")


def batch_of_one(case: FusionCase) -> None:
    _require_shapes(case.module(), case.batch(size=1))


def gradients(case: FusionCase) -> None:
    model = case.module()
    reached = trained(case, model)
    require_gradients(model, reached, ("fusion.", "head."))
    # What a backbone never uses (a layer behind a dropped head) is not this fusion's fault.
    plain = FusionCase(Fusion, case.backbone)
    used = [n for n, nonzero in trained(plain, plain.module()).items() if nonzero]
    cut = sorted(n for n in used if n.startswith("backbone.") and not reached.get(n))
    require(not cut, f"no gradient reaches {len(cut)} parameters of the backbone: {some(cut)}.")


def metadata(case: FusionCase) -> str:
    model, (image, meta) = case.module(), case.batch()

    def moved() -> bool:
        before, after = (case.values(model, (image, m))["logits"] for m in (meta, meta.roll(1, 0)))
        return float((before - after).abs().max()) > 1e-6 * float(before.abs().max())

    if not case.cls.uses_metadata:
        require(not moved(), "uses_metadata is False, but other metadata changes the logits.")
        return "metadata is ignored, as declared"
    if not moved():
        # A method may start as the identity (a gate at zero): look again after a few steps.
        trained(case, model)
        model.eval()
        require(
            moved(),
            "other metadata leaves the logits as they are. A method that means to ignore it says "
            "`uses_metadata = False`.",
        )
    return ""


def in_place(case: FusionCase) -> None:
    model, changed = case.module(), set[str]()
    for method in METHODS:
        original = getattr(model.fusion, method)

        def watched(*args: Any, method: str = method, original: Any = original) -> Any:
            before = [[tensor.clone() for tensor in _tensors(arg)] for arg in args]
            result = original(*args)
            for name, arg, copies in zip(METHODS[method], args, before, strict=True):
                if not all(map(torch.equal, _tensors(arg), copies)):
                    changed.add(f"`{method}` changes its `{name}`")
            return result

        setattr(model.fusion, method, watched)
    case.values(model, case.batch())
    case.values(model.train(), case.batch(2))
    require(
        not changed,
        f"{', '.join(sorted(changed))} in place (as `x += y`, `x[:, 0] = y`, `relu_` and "
        "`inplace=True` do); the network still needs it. Write `x = x + y`, or work on x.clone().",
    )


def _tensors(argument: Any) -> list[Tensor]:
    if isinstance(argument, Features):
        return [argument.image, *argument.stages, argument.prefix]
    return [argument] if isinstance(argument, Tensor) else []


def batch_mates(case: FusionCase) -> str:
    model, (image, meta), (other_image, other_meta) = case.module(), case.batch(), case.batch(2)
    open_gates(model.fusion)
    mixed = (torch.cat([image[:1], 2 * other_image[1:]]), torch.cat([meta[:1], 2 * other_meta[1:]]))

    def first(image: Tensor, meta: Tensor) -> dict[str, Tensor]:
        return {name: v[:1] for name, v in case.values(model, (image, meta)).items()}

    with WatchAttention() as watch:
        whole = first(image, meta)
    why = f". {OVER_BATCH}" if watch.over_batch else ""
    message = f"the values of a sample depend on its batch mates in eval mode{why}"
    for others in (mixed, (image[:1], meta[:1])):
        require_same(first(*others), whole, message, 1e-4)
    # In training mode, too; but for normalisation layers, which are meant to.
    for part in model.train().modules():
        if isinstance(part, nn.modules.batchnorm._NormBase):
            part.eval()

    def drawn(*batch: Any) -> dict[str, Tensor]:
        """From the same random numbers and the same state: a method may count its batches."""
        torch.manual_seed(0)
        return {name: v[:1] for name, v in case.values(deepcopy(model), batch).items()}

    message = "the values of a sample depend on its batch mates in training mode"
    require_same(drawn(*mixed), drawn(image, meta), message, 1e-4)
    return ONE_KEY if watch.one_key else ""


def deep_copy(case: FusionCase) -> None:
    model, batch = case.module(), case.batch()
    case.values(model.train(), case.batch(2))
    before = case.values(model.eval(), batch)
    copy = deepcopy(model)
    require_same(case.values(copy, batch), before, "a deep copy gives other values")
    _scramble(copy)
    require_same(case.values(model, batch), before, "changing a deep copy changes the original")
    copy = deepcopy(model)
    _scramble(model.fusion)
    message = "a deep copy still calls the original (a hook, lambda or bound method on the module)"
    require_same(case.values(copy, batch), before, message)


@torch.no_grad()
def _scramble(module: nn.Module) -> None:
    for p in module.parameters():
        p.add_(torch.randn_like(p) + 0.5)


class _Stop(Exception):
    pass


def after_an_exception(case: FusionCase) -> None:
    model, batch = case.module(), case.batch()
    before, hooks = case.values(model, batch), _hooks(model)
    last = len(model.spec.stages) - 1
    for method in ("encode", "stage", "fuse_stages"):
        original = getattr(model.fusion, method)

        def stop(*args: Any, method: str = method, original: Any = original) -> Any:
            result = original(*args)
            if method == "stage" and args[0] < last:
                return result
            raise _Stop

        setattr(model.fusion, method, stop)
        try:
            case.values(model, case.batch(2))
            raise Broken(f"an exception raised in {method} is swallowed.")
        except _Stop:
            pass
        finally:
            delattr(model.fusion, method)
        where = f"after an exception in {method}"
        require(_hooks(model) == hooks, f"{where}, hooks are left behind: {_hooks(model)}.")
        flow = model.backbone._flow
        require(flow.stage is None and not flow.tokens, f"{where}, the backbone keeps its state.")
        require_same(case.values(model, batch), before, f"{where}, the values are others")
    require(_hooks(model) == hooks, f"a forward leaves hooks behind: {_hooks(model)}.")


def _hooks(model: nn.Module) -> int:
    """How many hooks of any kind the model and torch itself carry."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    count = sum(len(getattr(m, kind)) for m in model.modules() for kind in kinds)
    everywhere = nn.modules.module
    return count + sum(len(getattr(everywhere, f"_global{kind}")) for kind in kinds)


def channels_last(case: FusionCase) -> None:
    model, (image, meta) = case.module(), case.batch()
    before = case.values(model, (image, meta))
    model = model.to(memory_format=torch.channels_last)
    image = image.contiguous(memory_format=torch.channels_last)
    message = "with channels-last memory the values are others"
    require_same(case.values(model, (image, meta)), before, message, 1e-3)


def training_step(case: FusionCase, losses: Mapping[str, Callable[[Spec], Loss]]) -> None:
    """One training step of the whole network."""
    model = case.module().train()
    loss = CombinedLoss({name: make(model.spec) for name, make in losses.items()})
    terms = loss(model(*case.batch()), TARGET)
    for name, value in terms.items():
        require_finite(value, f"the term {name}")
    total(terms).backward()
    require(any(gradients_of(model).values()), "the loss sends no gradient into the model.")


# What a fusion must keep on every backbone that accepts it.
FUSION_CHECKS: Checks[FusionCase] = {
    **named(shapes, head, batch_of_one, gradients, metadata, recorded_cells, in_place, repeatable),
    **named(batch_mates, parameter_groups, deep_copy, after_an_exception, channels_last),
    **SHARED_CHECKS,
}


def check_fusion(
    cls: type[Fusion],
    *,
    params: Mapping[str, Any] | None = None,
    backbones: Sequence[str] = MICRO_BACKBONES,
    losses: Mapping[str, type[Loss]] | None = None,
    only: Collection[str] = tuple(FUSION_CHECKS),
    thorough: bool = False,
    progress: Progress = SILENT,
) -> list[Check]:
    """Every check of a fusion on every backbone; never stops at the first failure.

    params     hyper-parameters other than the defaults
    losses     those it must work with, besides `ce`; None: every registered one
    only       names of FUSION_CHECKS to run
    thorough   compile on every backbone, not only on the first that accepts the fusion

    A backbone that the fusion refuses (FusionRefused) is skipped with its reason; one of them must
    be accepted.
    """
    registered = {
        name: registry.load(entry, Loss)
        for name, entry in registry.discover("losses").items()
        if not entry.broken
    }
    groups: list[list[Step]] = [
        [
            ("settings", cls.__name__, partial(_settings, cls, registered)),
            ("forward", cls.__name__, partial(forward, cls)),
        ]
    ]
    for name in backbones:
        case = FusionCase(cls, name, params or {})
        groups.append([("builds", name, case.build), *steps(case, name, FUSION_CHECKS, only)])
        for loss, loss_cls in (registered if losses is None else losses).items():
            pair = {"ce": registered["ce"], loss: loss_cls}
            groups[-1].append(("loss", f"{name} + {loss}", partial(training_step, case, pair)))
    checks = run_all(cls, groups, progress, thorough=thorough)
    built = [check.status for check in checks if check.name == "builds"]
    if built and set(built) == {"skip"}:
        text = "it refuses every backbone it was tried on."
        checks.append(Check("accepted", "all backbones", "fail", text))
    return checks


def forward(cls: type[Fusion]) -> None:
    own = [name for name in ("forward", "__call__") if getattr(cls, name) != getattr(Fusion, name)]
    require(
        not own,
        f"it overrides `{', '.join(own)}`, which nothing calls: a network calls encode, stage and "
        "fuse. Put the computation into `fuse(self, image, meta)`.",
    )


def _settings(cls: type[Fusion], known: Collection[str]) -> None:
    check_settings(cls)
    for name in cls.default_loss.split("+"):
        require(registry.key_of(name) in known, f"default_loss names {name!r}, which is no loss.")
