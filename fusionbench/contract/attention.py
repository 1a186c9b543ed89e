"""Two mistakes of attention that stand in public code: over the batch, and over a single key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

OVER_BATCH = (
    "nn.MultiheadAttention was given (B, E) tensors, which it reads as one sequence: it attends "
    "over the batch. Give it (B, L, E) and batch_first=True."
)
ONE_KEY = (
    "attention over a single key: its softmax is always 1, so the query has no influence. Give it "
    "several tokens, such as one per metadata column."
)


class WatchAttention(TorchFunctionMode):
    """While it is active, `over_batch` and `one_key` become true where torch's functions are called
    so."""

    def __init__(self) -> None:
        super().__init__()
        self.over_batch = self.one_key = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            key: Tensor = args[1] if len(args) > 1 else kwargs["key"]
            self.over_batch |= key.ndim == 2
            self.one_key |= key.ndim == 3 and key.shape[0] == 1
        elif func is F.scaled_dot_product_attention:
            key = args[1] if len(args) > 1 else kwargs["key"]
            self.one_key |= key.shape[-2] == 1
        elif func in (torch.softmax, F.softmax, Tensor.softmax):
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            self.one_key |= dim is not None and args[0].shape[dim] == 1
        return func(*args, **kwargs)
