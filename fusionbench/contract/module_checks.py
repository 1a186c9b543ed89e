"""The checks that fusions and losses share: both are modules to train, to save and to compile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from fusionbench.contract.checks import Broken, Checks, named, require, same_random_numbers


class Case(Protocol):
    """A plugin in its surroundings, and batches for it."""

    def module(self, seed: int = 0) -> Any:
        """A new module with random weights."""

    def batch(self, seed: int = 1) -> tuple[Any, Any]:
        """What the module takes."""

    def values(self, module: Any, batch: tuple[Any, Any]) -> dict[str, Tensor]:
        """What the module returns, by name."""

    def objective(self, module: Any, batch: tuple[Any, Any]) -> Tensor:
        """The scalar that training minimises."""


def repeatable(case: Case) -> None:
    module, batch = case.module(), case.batch()
    open_gates(getattr(module, "fusion", module))
    with same_random_numbers():
        before = case.values(module, batch)
    with same_random_numbers(1):
        drawn = case.values(module, batch)
    with same_random_numbers():
        again = case.values(module, batch)
    if all(torch.equal(again[name], before[name]) for name in before):
        where = "" if module.training else "in eval mode "
        message = f"{where}it draws random numbers, so that the same batch gives other values"
        require_same(drawn, before, message)
    # None of this may have an effect: another instance, another batch.
    case.values(case.module(seed=5), case.batch(2))
    case.values(module, case.batch(3))
    after = case.values(module, batch)
    require_same(after, before, "the same batch gives other values later")


@torch.no_grad()
def open_gates(module: nn.Module) -> None:
    """Move every parameter whose numbers are all the same: what a gate that starts at zero hides
    comes to light."""
    for p in module.parameters():
        if p.is_floating_point() and p.numel() and bool((p == p.flatten()[0]).all()):
            p.add_(0.1 * torch.rand_like(p))


def state_dict(case: Case) -> None:
    module, batch = case.module(), case.batch()
    case.objective(module.train(), case.batch(2))  # moves what moves in training
    before = case.values(module.eval(), batch)
    fresh = case.module(seed=9).eval()
    loose = [
        f"{name}.{attribute}" if name else attribute
        for name, part in fresh.named_modules()
        for attribute, value in vars(part).items()
        if isinstance(value, Tensor) and not name.startswith("backbone.")
    ]
    require(
        not loose,
        f"{', '.join(loose)}: tensors that are neither parameter nor buffer are not "
        "saved, nor moved to a GPU. Use register_buffer.",
    )
    missing, extra = fresh.load_state_dict(_through_safetensors(module), strict=False)
    require(
        not missing and not extra,
        f"the saved names do not fit a fresh instance: missing {some(missing) or 'none'}; "
        f"unexpected {some(extra) or 'none'}.",
    )
    message = "after loading the state dict the values are others"
    require_same(case.values(fresh, batch), before, message)


def _through_safetensors(module: nn.Module) -> dict[str, Tensor]:
    """The state dict as it comes back from a safetensors file."""
    state = module.state_dict()
    shared: dict[int, str] = {}
    for name, value in state.items():
        if value.numel() and (other := shared.setdefault(value.data_ptr(), name)) != name:
            raise Broken(f"{other} and {name} share memory, which safetensors cannot store.")
    return load_safetensors(save_safetensors({k: v.contiguous() for k, v in state.items()}))


def bf16_autocast(case: Case) -> None:
    module, batch = case.module(), case.batch()
    want = case.values(module, batch)
    with torch.autocast("cpu", torch.bfloat16):
        got = case.values(module, batch)
    require_same(got, want, "under bf16 autocast the values are far from float32's", 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        objective = case.objective(module.train(), batch)
    objective.backward()
    gradients_of(module)


def compiled(case: Case) -> None:
    """Compiled whole: no graph break, no synchronisation with the host."""
    module, batch = case.module(), case.batch()
    want = case.values(module, batch)
    torch._dynamo.reset()
    try:
        got = case.values(torch.compile(module, fullgraph=True, backend="aot_eager"), batch)
    finally:
        torch._dynamo.reset()
    require_same(got, want, "compiled, the values are others", 1e-3)


SHARED_CHECKS: Checks[Case] = named(repeatable, state_dict, bf16_autocast, compiled)


def trained(case: Case, module: nn.Module, batches: Iterable[Any] = ()) -> dict[str, bool]:
    """Parameter -> whether its gradient was ever other than zero, where a gradient reaches it.

    In training and in eval mode (where BatchNorm hides no bias), with small steps between, so that
    a gate which starts at zero is open by the end.
    """
    reached: dict[str, bool] = {}
    for step, batch in enumerate(batches or map(case.batch, range(4))):
        case.objective(module.train(step % 2 == 0), batch).backward()
        for name, nonzero in gradients_of(module).items():
            reached[name] = reached.get(name, False) or nonzero
        with torch.no_grad():
            for p in module.parameters():
                if p.grad is not None:
                    p.sub_(0.02 * p.grad.sign())
                    p.grad = None
    return reached


def gradients_of(module: nn.Module) -> dict[str, bool]:
    """Parameter -> whether its gradient is not all zero, where it has one. All must be finite."""
    gradients = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    for name, gradient in gradients.items():
        require_finite(gradient, f"the gradient of {name}")
    return {name: bool(gradient.any()) for name, gradient in gradients.items()}


def require_gradients(
    module: nn.Module, reached: Mapping[str, bool], prefixes: tuple[str, ...] = ("",)
) -> None:
    """`reached`: what `trained` returned. Every trainable parameter must be True in it."""
    wanted = [n for n, p in module.named_parameters() if p.requires_grad and n.startswith(prefixes)]
    parts = []
    if unreached := [name for name in wanted if name not in reached]:
        parts.append(f"no gradient reaches {some(unreached)}")
    if zero := [name for name in wanted if reached.get(name) is False]:
        parts.append(f"the gradient is always zero for {some(zero)}")
    require(not parts, "; ".join(parts) + ". Use it, drop it, or set requires_grad=False.")


def require_same(
    got: Mapping[str, Tensor], want: Mapping[str, Tensor], message: str, tolerance: float = 0.0
) -> None:
    """Of each value: max |got - want| <= tolerance * max |want|, and both finite."""
    for name in want:
        pair = torch.stack([got[name].detach().float(), want[name].detach().float()])
        require_finite(pair, f"{message}: {name}")
        error, size = float((pair[0] - pair[1]).abs().max()), float(pair[1].abs().max())
        allowed = tolerance * max(size, 1e-6)
        require(
            error <= allowed,
            f"{message} ({name}: off by {error:.2g}, with values up to {size:.2g}; "
            f"allowed: {allowed:.1g}).",
        )


def require_finite(value: Tensor, what: str) -> None:
    require(torch.isfinite(value).all(), f"{what}: it has NaN or infinite values.")


def some(names: list[str], limit: int = 6) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
