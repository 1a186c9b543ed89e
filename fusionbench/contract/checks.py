"""What a check is, how the checks of a plugin are run, and what every kind of plugin must keep.

Nothing here imports torch: controls need none.
"""

from __future__ import annotations

import hashlib
import inspect
import random
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, get_type_hints

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from fusionbench import __version__
from fusionbench.config.environment import describe_environment
from fusionbench.config.identity import PluginIdentity, canonical_json
from fusionbench.config.problems import problems_of
from fusionbench.errors import FusionbenchError, FusionRefused
from fusionbench.files import Memory, cache_folder
from fusionbench.plugin.containment import contained
from fusionbench.plugin.control import Control
from fusionbench.progress import Progress
from fusionbench.records import NOT_CHECKED

Subject = TypeVar("Subject")
# Name -> check; a text that it returns is shown. It raises Broken, or anything, on a failure.
Checks = dict[str, Callable[[Subject], str | None]]
# A check to be run: its name, the name of its subject, and the check.
Step = tuple[str, str, Callable[[], object]]

MAX_MESSAGE_LINES = 6
_answers: dict[str, str] = {}  # of this process, also where the cache folder cannot be written
# Where one of these does not pass, later checks of the same group would say nothing new.
GATES = ("builds", "shapes", "terms", "in place", "repeatable")


@dataclass(frozen=True)
class Check:
    """One finding. `subject` is the backbone (or loss, or batch) on which it was looked at."""

    name: str
    subject: str
    status: Literal["pass", "fail", "skip"]
    detail: str = ""


class Plugin(Protocol):
    """A plugin class, and the settings that a row builds it with."""

    @property
    def cls(self) -> type[Any]: ...

    @property
    def params(self) -> dict[str, Any]: ...


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
    """Run one check. An exception in it, sys.exit too, is a failure with the end of its traceback;
    a fusion that refuses to be built is skipped. The process stays as it was."""
    try:
        with contained(f"checked on {subject}"), same_random_numbers():
            detail = body()
        return Check(name, subject, "pass", detail if isinstance(detail, str) else "")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        refused = name == "builds" and isinstance(error, FusionRefused)
        return Check(name, subject, "skip" if refused else "fail", explain(error))


@contextmanager
def same_random_numbers(seed: int = 0) -> Iterator[None]:
    """The generators of torch (on the CPU), numpy and Python start from `seed` in the block, and go
    on behind it as if nothing had been drawn."""
    python, legacy = random.getstate(), np.random.get_state()
    with ExitStack() as restored:
        restored.callback(random.setstate, python)
        restored.callback(np.random.set_state, legacy)
        if torch := sys.modules.get("torch"):
            restored.enter_context(torch.random.fork_rng(devices=[]))
            torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        yield


def explain(error: BaseException) -> str:
    """The error in a few lines: what was raised, and the last places outside torch it came
    through (of a compiler's error: the lines of the code it could not take)."""
    if isinstance(error, FusionbenchError | Broken):
        return str(error)
    message, _, place = f"{type(error).__name__}: {error}".partition("from user code:")
    lines = [line for line in message.splitlines() if line.strip()]
    lines = lines[:MAX_MESSAGE_LINES] + (["…"] if len(lines) > MAX_MESSAGE_LINES else [])
    lines += [line for line in place.split("Set TORCH")[0].splitlines() if line.strip()]
    frames = traceback.extract_tb(error.__traceback__)
    torch = Path(getattr(sys.modules.get("torch"), "__file__", "")).parent
    own = [f for f in frames if torch not in Path(f.filename).parents]
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
    if not issubclass(cls, Control):
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


def remembered(
    plugins: Sequence[PluginIdentity],
    built_for: object,
    quick: Callable[[], list[Check]],
    progress: Progress,
) -> str:
    """`passed`, `failed: batch mates` or NOT_CHECKED: what the checks of `quick` say together.

    They are run once for these plugins, this plain JSON that they are built for, and these versions
    of the libraries; the answer is kept in the cache folder. A failure is said once per process.
    """
    identities = [plugin.model_dump(mode="json") for plugin in plugins]
    versions = [__version__, describe_environment()["libraries"]]
    text = canonical_json([versions, identities, built_for])
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    if key in _answers:
        return _answers[key]
    memory = Memory(cache_folder() / "contracts" / "contracts.json", str)
    answer, more = memory.read().get(key, ""), ""
    if not answer:
        checks = quick()
        if any(check.name == "builds" and check.status != "pass" for check in checks):
            return NOT_CHECKED  # the run says why it is refused
        answer = "passed"
        if failed := [check for check in checks if check.status == "fail"]:
            answer = f"failed: {', '.join(dict.fromkeys(check.name for check in failed))}"
            more = f" It breaks {failed[0].name!r}: {failed[0].detail}"
        memory.add({key: answer}, progress)
    _answers[key] = answer
    if answer != "passed":
        progress.note(
            f"{plugins[0].name} does not keep its contract ({answer}).{more} The run goes on, and "
            "its row says so; `fusionbench check` makes every check."
        )
    return answer
