"""What a check is, how the checks of a plugin are run, and what every kind of plugin must keep."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError

from fusionbench.config.problems import problems_of
from fusionbench.errors import FusionbenchError
from fusionbench.plugin.fusion import FusionRefused
from fusionbench.progress import Progress

Subject = TypeVar("Subject")
# Name -> check; a text that it returns is shown. It raises Broken, or anything, on a failure.
Checks = dict[str, Callable[[Subject], str | None]]
# A check to be run: its name, the name of its subject, and the check.
Step = tuple[str, str, Callable[[], object]]

MAX_MESSAGE_LINES = 6
TORCH = Path(torch.__file__).parent
# Where one of these does not pass, later checks of the same group would say nothing new.
GATES = ("builds", "shapes", "terms")


@dataclass(frozen=True)
class Check:
    """One finding. `subject` is the backbone (or loss, or batch) on which it was looked at."""

    name: str
    subject: str
    status: Literal["pass", "fail", "skip"]
    detail: str = ""


class Broken(AssertionError):
    """A contract is broken; the message says how."""


def named(*bodies: Callable[[Subject], str | None]) -> Checks[Subject]:
    """Check name -> check: `batch_of_one` is called "batch of one"."""
    return {body.__name__.replace("_", " "): body for body in bodies}


def steps(case: Subject, name: str, checks: Checks[Subject], only: Collection[str]) -> list[Step]:
    """Those of the checks that `only` names, of a subject and its name."""
    return [(key, name, partial(body, case)) for key, body in checks.items() if key in only]


def run_all(
    cls: type, groups: Sequence[Sequence[Step]], progress: Progress, *, thorough: bool = False
) -> list[Check]:
    """Run the checks of a plugin class, group by group; a failure stops none but those of its
    group that need what failed. Only the first "compiled" is run unless `thorough`."""
    checks: list[Check] = []
    compiled = False
    with progress.task(f"checking {cls.__name__}", sum(map(len, groups)), "checks") as task:
        for group in groups:
            closed = ""
            for name, subject, body in group:
                task.advance()
                if closed == "builds" or (name == "compiled" and compiled and not thorough):
                    continue
                skipped = Check(name, subject, "skip", f"It needs {closed}: see there.")
                checks.append(skipped if closed else run(name, subject, body))
                compiled |= name == "compiled" and not closed
                if name in GATES and checks[-1].status != "pass":
                    closed = name
    return checks


def run(name: str, subject: str, body: Callable[[], object]) -> Check:
    """Run one check. An exception in it is a failure with the end of its traceback; a fusion that
    refuses to be built is skipped.

    Random numbers are the same in every check, and the caller's generator is left as it was.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            detail = body()
        return Check(name, subject, "pass", detail if isinstance(detail, str) else "")
    except Exception as error:
        refused = name == "builds" and isinstance(error, FusionRefused)
        return Check(name, subject, "skip" if refused else "fail", explain(error))


def explain(error: Exception) -> str:
    """The error in a few lines: what was raised, and the last places outside torch it came
    through (of a compiler's error: the lines of the code it could not take)."""
    if isinstance(error, FusionbenchError | Broken):
        return str(error)
    message, _, place = f"{type(error).__name__}: {error}".partition("from user code:")
    lines = [line for line in message.splitlines() if line.strip()]
    lines = lines[:MAX_MESSAGE_LINES] + (["…"] if len(lines) > MAX_MESSAGE_LINES else [])
    lines += [line for line in place.split("Set TORCH")[0].splitlines() if line.strip()]
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if TORCH not in Path(f.filename).parents]
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


def check_settings(cls: type) -> None:
    """The signature is the schema of `--set`: `(spec, *, name: type = default, ...)`; a plugin
    without torch takes no `spec`."""
    problems = []
    parameters = list(inspect.signature(cls).parameters.values())
    if issubclass(cls, torch.nn.Module):
        if not parameters or parameters[0].name != "spec":
            problems.append("its first argument must be `spec`")
        parameters = parameters[1:]
    try:
        hints = get_type_hints(cls.__init__)  # type: ignore[misc]
    except Exception as error:
        raise Broken(f"the annotations of __init__ cannot be read: {error}") from error
    for p in parameters:
        if p.kind is not p.KEYWORD_ONLY:
            problems.append(f"`{p}` must be keyword-only: put it behind a `*`")
        elif p.default is p.empty:
            problems.append(f"`{p.name}` has no default")
        elif p.name not in hints:
            problems.append(f"`{p.name}` has no type annotation")
        else:
            config = ConfigDict(arbitrary_types_allowed=True)
            try:
                TypeAdapter(hints[p.name], config=config).validate_python(p.default)
            except ValidationError as error:
                reason = problems_of(error)[0][1]
                problems.append(f"the default of `{p}` does not fit its annotation: {reason}")
    require(not problems, f"{cls.__name__}.__init__: " + "; ".join(problems) + ".")
