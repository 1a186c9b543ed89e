"""What one check is, how it is run, and the checks that fusions and losses share."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from fusionbench.errors import FusionbenchError

MAX_MESSAGE_LINES = 6
TORCH = Path(torch.__file__).parent


@dataclass(frozen=True)
class Check:
    """One finding. `subject` is the backbone (or loss, or batch) on which it was looked at."""

    name: str
    subject: str
    status: Literal["pass", "fail", "skip"]
    detail: str = ""


class Broken(AssertionError):
    """A contract is broken; the message says how."""


def run(name: str, subject: str, body: Callable[[], str | None]) -> Check:
    """Run one check. An exception in it is a failure with the end of its traceback.

    Random numbers are the same in every check, and the caller's generator is left as it was.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            detail = body()
    except Broken as error:
        return Check(name, subject, "fail", str(error))
    except Exception as error:
        return Check(name, subject, "fail", explain(error))
    return Check(name, subject, "pass", detail or "")


def explain(error: Exception) -> str:
    """The error in a few lines: what was raised, and the last places outside torch it came
    through (of a compiler's error: the lines of the code it could not take)."""
    if isinstance(error, FusionbenchError):
        return str(error)
    message, _, place = f"{type(error).__name__}: {error}".partition("from user code:")
    lines = [line for line in message.splitlines() if line.strip()]
    lines = lines[:MAX_MESSAGE_LINES] + (["…"] if len(lines) > MAX_MESSAGE_LINES else [])
    lines += [line for line in place.split("Set TORCH")[0].splitlines() if line.strip()]
    own = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if TORCH not in Path(f.filename).parents
    ]
    lines += [f"  {f.filename}:{f.lineno} in {f.name}: {f.line}" for f in own[-3:]]
    return "\n".join(lines)


def assert_ok(checks: Iterable[Check]) -> None:
    """Raise AssertionError with a readable list where a check failed, or where none passed."""
    checks = list(checks)
    failed = [check for check in checks if check.status == "fail"]
    if failed:
        lines = [f"{len(failed)} of {len(checks)} checks failed:"]
        for check in failed:
            detail = check.detail.replace("\n", "\n      ")
            lines.append(f"  {check.name} [{check.subject}]: {detail}")
        raise AssertionError("\n".join(lines))
    if not any(check.status == "pass" for check in checks):
        raise AssertionError("No check passed: nothing was looked at.")


def require(holds: object, message: str) -> None:
    if not bool(holds):
        raise Broken(message)


def require_close(got: Tensor, want: Tensor, tolerance: float, message: str) -> None:
    """max |got - want| <= tolerance * max |want|, and both finite."""
    got, want = got.detach().float(), want.detach().float()
    require_finite(got, message)
    require_finite(want, message)
    error, size = float((got - want).abs().max()), float(want.abs().max())
    allowed = tolerance * max(size, 1e-6)
    require(
        error <= allowed,
        f"{message}: they differ by {error:.2g}, with values up to {size:.2g}"
        + (f" (allowed: {allowed:.1g})." if tolerance else "."),
    )


def require_finite(value: Tensor, what: str) -> None:
    require(torch.isfinite(value).all(), f"{what}: it has NaN or infinite values.")


def check_settings(cls: type, first: str = "spec") -> None:
    """The signature is the schema of `--set`: `(self, spec, *, name: type = default, ...)`.

    `first`: the argument before the settings; "" where there is none.
    """
    problems = []
    parameters = []
    if cls.__init__ is not object.__init__:  # type: ignore[misc]
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
    if first and (not parameters or parameters[0].name != first):
        problems.append(f"its first argument must be `{first}`")
    try:
        hints = get_type_hints(cls.__init__)  # type: ignore[misc]
    except Exception as error:
        raise Broken(f"the annotations of __init__ cannot be read: {error}") from error
    for p in parameters[1 if first else 0 :]:
        if p.kind is not p.KEYWORD_ONLY:
            problems.append(f"`{p}` must be keyword-only: put it behind a `*`")
        elif p.default is p.empty:
            problems.append(f"`{p.name}` has no default")
        elif p.name not in hints:
            problems.append(f"`{p.name}` has no type annotation")
        elif reason := _misfit(hints[p.name], p.default):
            problems.append(f"the default of `{p}` does not fit its annotation: {reason}")
    if problems:
        raise Broken(f"{cls.__name__}.__init__: " + "; ".join(problems) + ".")


def _misfit(annotation: Any, default: Any) -> str:
    try:
        TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(
            default
        )
    except ValidationError as error:
        return error.errors()[0]["msg"]
    return ""


def nudge(module: nn.Module, step: float = 0.02) -> None:
    """One step against the sign of the gradient, so that a gate that starts at zero opens."""
    with torch.no_grad():
        for p in module.parameters():
            if p.grad is not None:
                p.sub_(step * p.grad.sign())
                p.grad = None


class GradientLog:
    """Which parameters of a module got a gradient in any of several backward passes."""

    def __init__(self, module: nn.Module) -> None:
        self.named = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.reached: set[str] = set()
        self.nonzero: set[str] = set()

    def look(self) -> None:
        for name, p in self.named.items():
            if p.grad is not None:
                require_finite(p.grad, f"the gradient of {name}")
                self.reached.add(name)
                if bool(p.grad.abs().any()):
                    self.nonzero.add(name)

    def require_all(self, prefixes: tuple[str, ...] = ("",)) -> None:
        wanted = [n for n in self.named if n.startswith(prefixes)]
        unreached = [n for n in wanted if n not in self.reached]
        zero = [n for n in wanted if n in self.reached and n not in self.nonzero]
        parts = []
        if unreached:
            parts.append(f"no gradient reaches {some(unreached)}")
        if zero:
            parts.append(f"the gradient is always zero for {some(zero)}")
        require(not parts, "; ".join(parts) + ". Use it, drop it, or set requires_grad=False.")


def some(names: list[str], limit: int = 6) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def loose_tensors(module: nn.Module) -> list[str]:
    """Tensors kept as plain attributes: neither saved, nor moved to a GPU with the model."""
    return [
        f"{name}.{attribute}" if name else attribute
        for name, part in module.named_modules()
        for attribute, value in vars(part).items()
        if isinstance(value, Tensor)
    ]


def through_safetensors(module: nn.Module) -> Mapping[str, Tensor]:
    """The state dict as it comes back from a safetensors file."""
    state = module.state_dict()
    shared: dict[int, str] = {}
    for name, value in state.items():
        if value.numel() and (other := shared.setdefault(value.data_ptr(), name)) != name:
            raise Broken(f"{other} and {name} share memory, which safetensors cannot store.")
    return load_safetensors(save_safetensors({k: v.contiguous() for k, v in state.items()}))


def require_loadable(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """`module.load_state_dict(state)`, with a short message where keys differ."""
    missing, extra = module.load_state_dict(state, strict=False)
    require(
        not missing and not extra,
        f"the saved names do not fit a fresh instance: missing {some(missing) or 'none'}; "
        f"unexpected {some(extra) or 'none'}.",
    )


def scramble(module: nn.Module) -> None:
    """Change every parameter in place."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p) + 0.5)


@contextmanager
def compiled(module: nn.Module):  # type: ignore[no-untyped-def]
    """The module compiled whole: no graph break, no synchronisation with the host."""
    torch._dynamo.reset()
    try:
        yield torch.compile(module, fullgraph=True, backend="aot_eager")
    finally:
        torch._dynamo.reset()
