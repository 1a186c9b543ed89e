"""What a module holds beside its parameters and buffers: numbers, switches, names.

A compiled or recorded step has these built in, so they must be the same wherever it is used again.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_TORCH_OWN = frozenset(vars(nn.Module()))


def plain_state(module: nn.Module) -> dict[str, Any]:
    """Attribute -> a copy of its value, by dotted name, of the module and all below it."""
    return {
        f"{path}.{name}".lstrip("."): _copied(value)
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if name not in _TORCH_OWN
    }


def restore(module: nn.Module, state: dict[str, Any]) -> None:
    """Go back to an earlier `plain_state` of the module."""
    for path, part in module.named_modules():
        own = vars(part)
        for name in [n for n in own if n not in _TORCH_OWN]:
            key = f"{path}.{name}".lstrip(".")
            if key not in state:
                del own[name]
            elif not same(own[name], state[key]):
                own[name] = _copied(state[key])


def same(a: Any, b: Any) -> bool:
    """Whether two values are surely equal: False also for what cannot be compared."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    try:
        return bool(a == b)
    except Exception:
        return False


def _copied(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception:  # a lock, a stream: then it is compared as the object it is
        return value
