"""Any timm model as a backbone: built, probed, and tapped after its stages.

A full timm model with `num_classes=0` (so the pretrained tail stays) carries permanent forward
hooks on its `feature_info` modules; a hook hands the stage's output to a function that is set for
the duration of one forward. The hooks hold plain objects, no closures, so that deepcopy and EMA
copies stay independent.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from fusionbench.errors import BackboneError, PluginError, UsageError
from fusionbench.plugin.fusion import Features, Stage

StageFn = Callable[[int, Tensor], Tensor]
MAX_STAGES = 4


@dataclass
class _Flow:
    """State of one forward: what to call at a tap, and what came by."""

    stage: StageFn | None = None
    tokens: list[Tensor] = field(default_factory=list)
    prefix: Tensor | None = None  # of the last tap that came by


@dataclass(frozen=True)
class _TapLayout:
    """How a stage lays out its output: maps (NCHW, NHWC) or tokens behind `prefix` others."""

    kind: Literal["NCHW", "NHWC", "tokens"]
    grid: tuple[int, int]
    channels: int
    prefix: int = 0

    def read(self, x: Tensor) -> Tensor:
        """The stage's output as (B, N, C)."""
        if self.kind == "NCHW":
            return x.permute(0, 2, 3, 1).flatten(1, 2)
        if self.kind == "NHWC":
            return x.flatten(1, 2)
        return x[:, self.prefix :]

    def others(self, x: Tensor) -> Tensor:
        """The prefix tokens (B, P, C), P = 0 where there are none."""
        return self.read(x)[:, :0] if self.kind != "tokens" else x[:, : self.prefix]

    def write(self, x: Tensor, tokens: Tensor) -> Tensor:
        """`tokens` in the layout of the original output `x`."""
        if self.kind == "NCHW":
            return tokens.unflatten(1, self.grid).permute(0, 3, 1, 2)
        if self.kind == "NHWC":
            return tokens.unflatten(1, self.grid)
        return torch.cat([x[:, : self.prefix], tokens], dim=1) if self.prefix else tokens


class _Tap:
    """A forward hook that replaces a stage's output. Identity while no forward of ours runs."""

    def __init__(self, flow: _Flow, k: int, layout: _TapLayout) -> None:
        self.flow, self.k, self.layout = flow, k, layout

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        if self.flow.stage is None:
            return output
        before = self.layout.read(output)
        after = self.flow.stage(self.k, before)
        if after.shape != before.shape:
            raise PluginError(
                f"The fusion's stage({self.k}, …) returned {tuple(after.shape)} for tokens of "
                f"{tuple(before.shape)}.",
                "It must return the shape it was given, (B, N, C).",
            )
        self.flow.tokens.append(after)
        self.flow.prefix = self.layout.others(output)
        if after is before:
            return output
        return self.layout.write(output, after.to(output.dtype))


class Backbone(nn.Module):
    """A tapped timm model. Build it with `build_backbone`.

    stages      the tapped stages, for `Spec`
    taps        timm module names of the taps, same order
    width       D of the pooled pre-logits
    mean, std   of the input normalisation the weights expect (RGB, 0..1)
    """

    _scale: Tensor
    _shift: Tensor

    def __init__(
        self, name: str, net: nn.Module, layouts: dict[str, _TapLayout], width: int
    ) -> None:
        super().__init__()
        self.name, self.width = name, width
        self.taps = tuple(layouts)
        self.stages = tuple(Stage(v.channels, v.grid) for v in layouts.values())
        config = timm.data.resolve_model_data_config(net)
        self.mean, self.std = tuple(config["mean"]), tuple(config["std"])
        scale = 1 / torch.tensor(self.std).view(1, 3, 1, 1)
        self.register_buffer("_scale", scale, persistent=False)
        self.register_buffer(
            "_shift", -torch.tensor(self.mean).view(1, 3, 1, 1) * scale, persistent=False
        )
        self.net = net
        self._frozen = False
        self._flow = _Flow()
        for k, (module, layout) in enumerate(layouts.items()):
            net.get_submodule(module).register_forward_hook(_Tap(self._flow, k, layout))

    def freeze(self, part: str) -> None:
        """Exclude from training: "none", "backbone" or "stages:K", all up to the K-th stage; by
        timm's own order of layers. Raises UsageError where that is not known."""
        if part == "none":
            return
        frozen = {name for name, _ in self.net.named_parameters()}
        if part != "backbone":
            k = int(part.removeprefix("stages:"))
            matcher: Any = getattr(self.net, "group_matcher", None)
            if k > len(self.taps) or matcher is None:
                raise UsageError(
                    f"--freeze {part}: {self.name} has stages 1 to {len(self.taps)}."
                    if k > len(self.taps)
                    else f"--freeze {part}: timm does not give the order of {self.name}'s layers.",
                    "Use another K, or --freeze backbone.",
                )
            layers = timm.models.group_parameters(self.net, matcher(), reverse=True)
            inside = [layer for n, layer in layers.items() if n.startswith(f"{self.taps[k - 1]}.")]
            frozen = {name for name, layer in layers.items() if layer <= max(inside)}
        self._frozen = True
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(name not in frozen)

    def train(self, mode: bool = True) -> Backbone:
        """As any module's; what is frozen stays in evaluation mode."""
        super().train(mode)
        for part in self.net.modules() if self._frozen else ():
            parameters = list(part.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                part.eval()
        return self

    def normalised(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) in 0..1 -> what `forward` takes, in new memory."""
        return torch.addcmul(self._shift, image, self._scale)

    def forward(self, image: Tensor, stage: StageFn) -> Features:
        """(B, 3, S, S) -> pre-logits (B, D), per stage what `stage(k, tokens)` returned, and the
        prefix tokens beside the last of them."""
        if getattr(self.net, "grad_checkpointing", False):
            # Hooks are skipped, or run a second time in backward, when no stage is set any more.
            raise BackboneError(
                f"Backbone {self.name} has gradient checkpointing on, which its taps do not bear.",
                "Switch it off: net.set_grad_checkpointing(False).",
            )
        flow = self._flow
        flow.stage, flow.tokens = stage, []
        try:
            pooled = self.net(image)
            tokens, prefix = tuple(flow.tokens), flow.prefix
        finally:
            flow.stage, flow.tokens, flow.prefix = None, [], None
        if len(tokens) != len(self.taps):
            raise BackboneError(
                f"Backbone {self.name}: {len(tokens)} of {len(self.taps)} taps ran in a forward.",
                "Checkpointed or scripted submodules skip hooks: switch that off.",
            )
        assert prefix is not None
        return Features(pooled, tokens, prefix)


def build_backbone(name: str, image_size: int, *, drop_path_rate: float = 0.0) -> Backbone:
    """Build and probe a timm model with random weights (load others with weights.load_weights).

    Raises UsageError for an unknown name and BackboneError, with the reason, for a model that
    cannot be tapped or does not accept the image size.
    """
    net = create_net(name, image_size, drop_path_rate=drop_path_rate)
    layouts, width = probe(name, net, image_size)
    return Backbone(name, net, layouts, width)


def known_config(name: str) -> timm.models.PretrainedCfg | None:
    """What timm knows of a model's published weights; UsageError, with close names, for a name or
    tag (`resnet18.a1_in1k`) that timm does not have."""
    if timm.is_model(name):
        with contextlib.suppress(RuntimeError):  # of an unknown tag
            return timm.get_pretrained_cfg(name)
    # Of a hub's name, hf_hub:timm/NAME or a URL, only the last part can be timm's.
    wanted = re.split(r"[/:]", name.strip().rstrip("/"))[-1][:80].lower()
    base = wanted.split(".")[0]
    tagged = list(timm.models.get_arch_pretrained_cfgs(base))
    names = [base, *tagged] if timm.is_model(base) else timm.list_models()
    near = [wanted] if wanted in names else difflib.get_close_matches(wanted, names, n=3)
    part = max(re.split(r"[^a-z0-9]+", wanted), key=len)
    near = near or [n for n in names if n == base or (part and part in n)][:3]
    remedy = f"Did you mean {' or '.join(near)}? " if near else ""
    remedy += "`fusionbench list backbones` lists all names."
    raise UsageError(f"timm has no backbone called {name[:200]!r}.", remedy)


def create_net(
    name: str, image_size: int, *, drop_path_rate: float = 0.0, pretrained: bool = False
) -> nn.Module:
    """A timm model without classifier, for images of that size (pixels).

    Raises UsageError for an unknown name, BackboneError where timm does not build it; what timm
    raises when it cannot fetch pretrained weights passes through.
    """
    config = known_config(name)
    options: dict[str, Any] = {"num_classes": 0}
    if drop_path_rate:
        options["drop_path_rate"] = drop_path_rate
    if config is not None and config.fixed_input_size:
        options["img_size"] = image_size
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:
        if pretrained:
            raise
        native = config.input_size[-1] if config is not None else "its own"
        raise BackboneError(
            f"timm cannot build {name} at {image_size} px: {str(error).rstrip('.')}.",
            f"Try --image-size {native}, or another backbone.",
        ) from error


@torch.enable_grad()  # also for a caller who has switched gradients off
def probe(name: str, net: nn.Module, image_size: int) -> tuple[dict[str, _TapLayout], int]:
    """Tap candidates of a timm model, looked at in one forward and backward: module -> layout.

    At most four stages: of a pyramid the deepest ones, of an isotropic model evenly spaced blocks.
    A stage whose tokens cannot reach the pre-logits (the last block of a class-token ViT) is not
    used. Raises BackboneError with the reason where fewer than two are left.
    """

    def refuse(reason: str) -> BackboneError:
        return BackboneError(
            f"Backbone {name} cannot be tapped at {image_size} px: {reason}.",
            "Choose another --image-size or backbone (fusionbench list backbones).",
        )

    info = getattr(net, "feature_info", None) or []
    modules = dict(net.named_modules())
    usable = {e["module"]: e for e in getattr(info, "info", info) if e.get("module") in modules}
    if len(usable) < 2:
        raise refuse("its feature_info in timm names fewer than two distinct modules")

    seen: dict[str, Any] = {}
    handles = [
        modules[m].register_forward_hook(lambda _m, _a, out, m=m: seen.__setitem__(m, out))
        for m in usable
    ]
    training = net.training
    net.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            features = net(torch.randn(2, 3, image_size, image_size))
            weighted = (features * torch.randn_like(features)).sum()
        outputs = {m: out for m, out in seen.items() if isinstance(out, Tensor)}
        inputs = [features, *outputs.values()]
        _, *grads = torch.autograd.grad(weighted, inputs, materialize_grads=True)
    except Exception as error:
        raise refuse(f"its forward fails ({type(error).__name__}: {error})") from error
    finally:
        for handle in handles:
            handle.remove()
        net.train(training)
    if features.ndim != 2:
        raise refuse(f"its pre-logits are {features.ndim}-dimensional, not (B, D)")

    layouts: dict[str, _TapLayout] = {}
    reasons = [f"{m} returns a {type(out).__name__}" for m, out in seen.items() if m not in outputs]
    for (module, out), grad in zip(outputs.items(), grads, strict=True):
        layout = _layout(net, out, int(usable[module]["num_chs"]))
        if layout is None:
            reasons.append(f"{module} returns shape {tuple(out.shape)}, of unknown layout")
        elif not layout.read(grad).any():
            reasons.append(f"the tokens of {module} do not reach the pre-logits")
        else:
            layouts[module] = layout
    if len(layouts) < 2:
        raise refuse("; ".join(reasons[:3]) or "fewer than two of its stages ran")
    names = list(layouts)
    if len({usable[m].get("reduction") for m in names}) >= MAX_STAGES:
        names = names[-MAX_STAGES:]
    elif (step := len(names) / MAX_STAGES) > 1:
        names = [names[round(step * (i + 1)) - 1] for i in range(MAX_STAGES)]
    return {m: layouts[m] for m in names}, int(features.shape[1])


def _layout(net: nn.Module, out: Tensor, channels: int) -> _TapLayout | None:
    if out.ndim == 4:
        first, last = out.shape[1] == channels, out.shape[-1] == channels
        if first and last:  # as many channels as columns: ask the model
            first = getattr(net, "output_fmt", "NCHW") != "NHWC"
        if first:
            return _TapLayout("NCHW", (out.shape[2], out.shape[3]), channels)
        if last:
            return _TapLayout("NHWC", (out.shape[1], out.shape[2]), channels)
    if out.ndim == 3 and out.shape[-1] == channels:
        # A class token may join only later (cait, convit): then there is no prefix here yet.
        for prefix in (int(getattr(net, "num_prefix_tokens", 0) or 0), 0):
            side = math.isqrt(max(out.shape[1] - prefix, 0))
            if side > 0 and side * side == out.shape[1] - prefix:
                return _TapLayout("tokens", (side, side), channels, prefix)
    return None
