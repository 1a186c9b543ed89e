"""SGMC-Net checkpoints in a plain PyTorch layout <-> the fusion `sgmc` and its loss.

    conv1, bn1, layer1..4                   the ResNet, named as torchvision names it
    fs_block.fc.{0,1}                       Linear, BatchNorm1d
    csf1..4.cf_block.meta_mapper.0          Linear(M, C)
    csf1..4.sf_block.{img_conv, meta_mlp.0, meta_conv, gamma, omega}
                                            Conv2d(C, 1, 3), Linear(M, H*W), Conv2d(1, 1, 3), (1,)
    csf1..4.fr_block.{conv_c, conv_s}       Conv2d(C, 1, 1)
    encoder1..4.encoder.{0,1,5}             Conv2d(C, C, 1), BatchNorm2d, Linear(C, 128)
    classifier                              Linear(D, K)

H*W are 56, 28, 14 and 7 squared, those of a 224 px image; at another image size such a network
draws its metadata map as trained and resizes it bilinearly, after the ReLU and before meta_conv.
The encoders serve training only, so here they belong to the loss:

    state = fusionbench.weights.read_weights(path)
    model = from_reference(state, "resnet18").eval()
    loss = loss_from_reference(state, model)
    assert to_reference(model, loss).keys() == state.keys()

Fidelity is to this layout as written above, read with the formulas of F. Li et al., Pattern
Recognition 156, 2024, 110742, https://doi.org/10.1016/j.patcog.2024.110742.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusionbench import registry
from fusionbench.backbones import build_backbone
from fusionbench.errors import UsageError
from fusionbench.fusion import Fusion
from fusionbench.losses import Loss
from fusionbench.model import FusionModel, build_spec

STAGES = 4
SHOWN = 12  # names in a message

# (blocks per layer, has a third convolution) -> name, torchvision's and timm's
RESNETS = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
# Our name -> theirs, as prefixes of state-dict keys.
MODEL_NAMES = {
    "backbone.net.": "",
    "fusion.select.": "fs_block.fc.",
    "head.": "classifier.",
}
LOSS_NAMES = {}
for _k in range(STAGES):
    _ours, _theirs = f"fusion.blocks.{_k}.", f"csf{_k + 1}."
    MODEL_NAMES[_ours + "channel."] = _theirs + "cf_block.meta_mapper.0."
    MODEL_NAMES[_ours + "spatial.image_conv."] = _theirs + "sf_block.img_conv."
    MODEL_NAMES[_ours + "spatial.meta_map."] = _theirs + "sf_block.meta_mlp.0."
    MODEL_NAMES[_ours + "spatial.meta_conv."] = _theirs + "sf_block.meta_conv."
    MODEL_NAMES[_ours + "spatial.gamma"] = _theirs + "sf_block.gamma"
    MODEL_NAMES[_ours + "spatial.omega"] = _theirs + "sf_block.omega"
    MODEL_NAMES[_ours + "weigh_c."] = _theirs + "fr_block.conv_c."
    MODEL_NAMES[_ours + "weigh_s."] = _theirs + "fr_block.conv_s."
    LOSS_NAMES[f"encoders.{_k}.mix."] = f"encoder{_k + 1}.encoder.0."
    LOSS_NAMES[f"encoders.{_k}.norm."] = f"encoder{_k + 1}.encoder.1."
    LOSS_NAMES[f"encoders.{_k}.project."] = f"encoder{_k + 1}.encoder.5."
# A 1x1 convolution there is a Linear on tokens here.
POINTWISE = re.compile(r"(fr_block\.conv_[cs]|encoder\d\.encoder\.0)\.weight$")
ENCODER = re.compile(rf"encoder[1-{STAGES}]\.")


class ResizedMap(nn.Linear):
    """relu(Linear(m)) drawn on the grid it was trained on, resized bilinearly: (B, M) -> (B, H*W).

    It stands in for the plain Linear of the spatial branch: what it returns is not negative, so the
    ReLU that follows there changes nothing.
    """

    def __init__(self, metadata: int, drawn: tuple[int, int], grid: tuple[int, int]) -> None:
        super().__init__(metadata, drawn[0] * drawn[1])
        self.drawn, self.grid = drawn, grid

    def forward(self, input: Tensor) -> Tensor:
        drawn = torch.relu(super().forward(input)).unflatten(1, (1, *self.drawn))
        return F.interpolate(drawn, self.grid, mode="bilinear", align_corners=False).flatten(1)


def from_reference(
    state_dict: Mapping[str, Tensor],
    backbone: str = "resnet18",
    *,
    image_size: int = 224,
    sem_sigmoid: bool = True,
) -> FusionModel:
    """A FusionModel with these weights, in training mode as any new module, on the CPU, float32.

    Metadata width, classes, map sizes and whether FR weighs per pixel or per channel are read off
    the shapes. `image_size` in pixels; `sem_sigmoid` as in the fusion, no shape tells it. Encoders
    may be there or not: `loss_from_reference` reads them. BatchNorm counters may be absent.

    Raises UsageError for another backbone, and for missing, unexpected or misshapen entries, which
    it names.
    """
    state = {key: value for key, value in state_dict.items() if not ENCODER.match(key)}
    name = backbone.split(".")[0]
    if name not in RESNETS.values():
        raise UsageError(
            f"The plain SGMC-Net layout is a ResNet's; backbone {backbone} is none of its.",
            f"Known: {', '.join(RESNETS.values())}.",
        )
    found = _resnet(state)
    if found and found != name:
        raise UsageError(
            f"The state dict holds a {found}, not a {name}.", f"Pass backbone={found!r}."
        )

    with torch.enable_grad():  # it is probed by a backward pass; a caller may just be evaluating
        net = build_backbone(name, image_size)
    # An entry that is absent is sized 1 here and reported as missing below.
    spec = build_spec(
        net, metadata=_rows(state, "fs_block.fc.0.bias"), classes=_rows(state, "classifier.bias")
    )
    fr = "channel" if _rows(state, "csf1.fr_block.conv_c.bias") > 1 else "pixel"
    sgmc: Any = registry.load(registry.find("fusions", "sgmc"), Fusion)
    model = FusionModel(net, sgmc(spec, fr=fr, sem_sigmoid=sem_sigmoid))
    for k, stage in enumerate(spec.stages):
        side = math.isqrt(_rows(state, f"csf{k + 1}.sf_block.meta_mlp.0.bias"))
        if (side, side) != stage.grid:
            spatial = model.fusion.get_submodule(f"blocks.{k}.spatial")
            spatial.meta_map = ResizedMap(spec.metadata, (side, side), stage.grid)
    _fill(model, MODEL_NAMES, state, f"SGMC-Net on {name}")
    return model


def loss_from_reference(
    state_dict: Mapping[str, Tensor],
    model: FusionModel,
    *,
    weight: float = 0.1,
    tau: float = 0.07,
    exclude_self: bool = False,
    per_positive: bool = False,
) -> Loss:
    """The loss `self-contrastive` for this model with the encoders of the state dict.

    Raises UsageError for missing or misshapen entries of the encoders.
    """
    state = {key: value for key, value in state_dict.items() if ENCODER.match(key)}
    plugin: Any = registry.load(registry.find("losses", "self-contrastive"), Loss)
    loss: Loss = plugin(
        model.spec,
        weight=weight,
        tau=tau,
        width=_rows(state, "encoder1.encoder.5.bias"),
        exclude_self=exclude_self,
        per_positive=per_positive,
    )
    _fill(loss, LOSS_NAMES, state, "SGMC-Net's contrast encoders")
    return loss


def to_reference(model: FusionModel, loss: Loss | None = None) -> dict[str, Tensor]:
    """The state dict of the plain layout, of the model and, if given, of its guidance; copies.

    `loss` is the loss `self-contrastive` itself, as `loss_from_reference` returns it. The metadata
    maps are written at the sizes they have: 56, 28, 14, 7 for a model built at 224 px.

    Raises UsageError for what the layout cannot hold: another fusion, an SGMC without some of its
    blocks, a backbone that is not a ResNet.
    """
    if model.backbone.name.split(".")[0] not in RESNETS.values():  # a ResNeXt has the same names
        raise UsageError(
            f"The plain SGMC-Net layout is a ResNet's; this model's backbone is "
            f"{model.backbone.name}.",
            f"Known: {', '.join(RESNETS.values())}.",
        )
    state = _renamed(model.state_dict(), MODEL_NAMES, f"This model on {model.backbone.name}")
    if loss is not None:
        state |= _renamed(loss.state_dict(), LOSS_NAMES, "This loss")
    return state


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str], what: str) -> dict[str, Tensor]:
    renamed, used, strange = {}, set(), []
    for key, value in state.items():
        prefix = next((p for p in names if key.startswith(p)), None)
        if prefix is None:
            strange.append(key)
            continue
        used.add(prefix)
        theirs = names[prefix] + key.removeprefix(prefix)
        value = value.detach().clone(memory_format=torch.contiguous_format)
        renamed[theirs] = value[:, :, None, None] if POINTWISE.search(theirs) else value
    absent = [theirs.rstrip(".") for ours, theirs in names.items() if ours not in used]
    problems = [_listed("has beside it", strange), _listed("lacks", absent)]
    if found := " and it ".join(filter(None, problems)):
        raise UsageError(
            f"{what} does not fit the plain SGMC-Net layout: it {found}.",
            "The layout holds the fusion sgmc with all its blocks, and the loss self-contrastive.",
        )
    return renamed


def _fill(
    module: nn.Module, names: Mapping[str, str], state: Mapping[str, Tensor], what: str
) -> None:
    """Load `state` under our names, once every entry is there, known and of its shape."""
    own = module.state_dict()
    want = _renamed(own, names, what)  # in the order of `own`
    counters = {key for key in want if key.endswith("num_batches_tracked")}
    misshapen = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in want.items()
        if key in state and state[key].shape != value.shape
    ]
    problems = [
        _listed("missing", [key for key in want if key not in state and key not in counters]),
        _listed("unexpected", [key for key in state if key not in want]),
        _listed("misshapen", misshapen),
    ]
    if any(problems):
        raise UsageError(
            f"The state dict is not {what} in the plain layout: "
            f"{'; '.join(filter(None, problems))}."
        )
    module.load_state_dict(
        {
            ours: state[theirs].reshape(own[ours].shape)
            for ours, theirs in zip(own, want, strict=True)
            if theirs in state
        },
        strict=False,
    )


def _resnet(state: Iterable[str]) -> str | None:
    """Which ResNet these keys are, by its blocks."""
    blocks = {m.groups() for key in state if (m := re.match(r"layer([1-4])\.(\d+)\.", key))}
    counts = tuple(sum(layer == str(n) for layer, _ in blocks) for n in range(1, 5))
    return RESNETS.get((counts, any(re.match(r"layer1\.0\.conv3\.", key) for key in state)))


def _rows(state: Mapping[str, Tensor], key: str) -> int:
    return len(state[key]) if key in state else 1


def _listed(what: str, names: list[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{what} {', '.join(names[:SHOWN])}{more}" if names else ""
