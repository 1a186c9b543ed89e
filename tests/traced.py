"""What a CUDA graph does, without a GPU: work is traced to its kernels once, and they are replayed.

As in a graph, what Python decided while the work was recorded stays decided, and reading a tensor's
value in Python cannot be recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from fusionbench.training.capture import WARM_UP, Recorded


class _AsOnAGpu(TorchFunctionMode):
    """On a CPU, one_hot reads its input in order to check it; on a GPU it does not."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is F.one_hot:
            return (args[0].unsqueeze(-1) == torch.arange(args[1])).long()
        return function(*args, **(kwargs or {}))


def traced(work: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Recorded:
    own = tuple(t.clone() for t in inputs)
    for _ in range(WARM_UP):
        work(*own)
    with _AsOnAGpu():
        kernels = make_fx(work)(*own)
    with torch.no_grad():
        outputs = pytree.tree_map(lambda t: t.clone(), kernels(*own))

    def replay() -> None:
        with torch.no_grad():
            fresh = kernels(*own)
            for old, new in zip(*map(pytree.tree_leaves, (outputs, fresh)), strict=True):
                old.copy_(new)

    return Recorded(own, outputs, replay)
