"""A tree of numbers, text and tensors in one safetensors file: bit for bit, and nothing to run.

    pieces(tree) -> Iterator        the file, piece by piece
    read(path) -> tree              CheckpointError where a byte is not as it was written

Tensors stand by their path in the tree, everything else as JSON in the file's metadata. The last
tensor, "sha256", is over all bytes before it. Written here rather than by safetensors' save_file,
which writes to a temporary file of a name of its own: a process killed meanwhile leaves hundreds
of megabytes that nobody knows of. Read by safetensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fusionbench.errors import FusionbenchError

Tensors = dict[str, Tensor]

KEY = "fusionbench"
DIGEST = "sha256"
_DIGEST_BYTES = 32
_READ = 8 << 20

# https://huggingface.co/docs/safetensors#format
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class CheckpointError(FusionbenchError):
    """A checkpoint that cannot be written, or that is no good."""


def pieces(tree: Any) -> Iterator[bytes | memoryview]:
    """The file, piece by piece: no second copy of the tensors is made in main memory.

    `tree` is of dicts, lists, tuples, numbers, text, None, tensors and their types. Raises
    CheckpointError for anything else.
    """
    named: Tensors = {}
    text = json.dumps(_to_json(tree, "", named))
    # Larger elements first, so that all are aligned; the digest comes last.
    order = sorted(named, key=lambda name: -named[name].element_size())
    header: dict[str, Any] = {"__metadata__": {KEY: text}}
    start = 0
    for name in order:
        tensor = named[name]
        end = start + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    header[DIGEST] = {
        "dtype": "U8",
        "shape": [_DIGEST_BYTES],
        "data_offsets": [start, start + _DIGEST_BYTES],
    }
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    digest = hashlib.sha256()
    for piece in (len(head).to_bytes(8, "little"), head):
        digest.update(piece)
        yield piece
    for name in order:
        flat = named[name].cpu().reshape(-1).view(torch.uint8)
        raw = flat.numpy().data
        digest.update(raw)
        yield raw
    yield digest.digest()


def read(path: Path) -> Any:
    """The tree of a file. Raises CheckpointError."""
    if path.is_symlink() or not path.is_file():
        raise CheckpointError(f"{path} is no plain file.")
    try:
        _check_digest(path)
        with safe_open(path, framework="pt") as file:
            text = json.loads((file.metadata() or {})[KEY])
            # Cloned: what is read lies in the file, which will be replaced.
            return _from_json(text, lambda name: file.get_tensor(name).clone())
    except (
        *(SafetensorError, OSError, RuntimeError),
        *(LookupError, ValueError, TypeError, StopIteration),
    ) as error:
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}.") from error


def _check_digest(path: Path) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = path.stat().st_size - _DIGEST_BYTES
        while left > 0 and (piece := file.read(min(_READ, left))):
            digest.update(piece)
            left -= len(piece)
        if left or file.read() != digest.digest():
            raise CheckpointError(f"{path} is cut off or damaged.")


def _to_json(value: Any, where: str, named: Tensors) -> Any:
    """Plain JSON with a reference for each tensor, which goes to `named`."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return _tensor_to_json(value, where, named)
    if isinstance(value, torch.dtype):  # some optimisers keep one among their settings
        return {"dtype": _dtype_name(value, where)}
    if isinstance(value, list | tuple):
        items = [_to_json(item, f"{where}/{i}", named) for i, item in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": items}
    if isinstance(value, Mapping):  # keys are numbers, too
        pairs = [[key, _to_json(item, f"{where}/{key}", named)] for key, item in value.items()]
        return {"dict": pairs}
    raise CheckpointError(f"{where} is a {type(value).__name__}, which no checkpoint holds.")


def _tensor_to_json(tensor: Tensor, where: str, named: Tensors) -> Any:
    """As its memory lies: sums over channels-last memory have other bits than over contiguous."""
    _dtype_name(tensor.dtype, where)
    strides = tensor.stride()
    order = sorted(range(tensor.ndim), key=lambda axis: -strides[axis])
    name = where.removeprefix("/")
    named[name] = tensor.detach().permute(order).contiguous()
    return {"tensor": name, "order": order}


def _dtype_name(dtype: torch.dtype, where: str) -> str:
    if dtype not in _DTYPES:
        raise CheckpointError(f"{where} is of {dtype}, which no checkpoint holds.")
    return _DTYPES[dtype]


def _from_json(value: Any, load: Callable[[str], Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        order = value["order"]
        return load(value["tensor"]).permute([order.index(axis) for axis in range(len(order))])
    if "dtype" in value:
        return next(dtype for dtype, name in _DTYPES.items() if name == value["dtype"])
    if "dict" in value:
        return {key: _from_json(item, load) for key, item in value["dict"]}
    if "list" in value:
        return [_from_json(item, load) for item in value["list"]]
    return tuple(_from_json(item, load) for item in value["tuple"])
