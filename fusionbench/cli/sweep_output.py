"""What fusionbench run and sweep say: the plan, what to expect, and failures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusionbench.config.wording import duration, method_name, plural

if TYPE_CHECKING:
    from fusionbench.runs import Forecast, Outcome, Plan


def summary(name: str, outcome: Outcome, expected: Forecast) -> dict[str, Any]:
    """What --json prints. A run's state: done (earlier), finished (now), elsewhere (meanwhile, by
    another process), failed (now or earlier) or missing."""
    states = {job.run_id: str(job.state) for job in outcome.plan.jobs}
    states |= {failure.run_id: "failed" for failure in outcome.failures}
    states |= dict.fromkeys(outcome.elsewhere, "elsewhere")
    states |= {record.run_id: "finished" for record in outcome.records}
    return {
        "table": name,
        "expected": asdict(expected),
        "runs": [
            {
                "label": job.label,
                "fold": job.fold,
                "seed": job.config.seed,
                "run_id": job.run_id,
                "state": states[job.run_id],
            }
            for job in outcome.plan.jobs
        ],
        "failures": failures_of(outcome),
    }


def failures_of(outcome: Outcome) -> list[dict[str, Any]]:
    """The same for run and sweep. `fold` null: all of the row; `run_id` null: nothing is recorded,
    because the row was refused or the process that computed the fold was killed."""
    names = ("label", "fold", "seed", "message", "before")
    return [
        {name: getattr(failure, name) for name in names} | {"run_id": failure.run_id or None}
        for failure in outcome.failures
    ]


def print_plan(planned: Plan, expected: Forecast, retry_failed: bool) -> None:
    """Rows x folds: what is there, and what would run; how long, and how much disk."""
    from fusionbench.cli import terminal

    folds = [f"fold {k}" for k in sorted({job.fold for job in planned.jobs})]
    several = len({job.config.seed for job in planned.jobs}) > 1
    headings = ["Row", "Method", *(["seed"] if several else []), *folds]
    shown = {"done": "done", "failed": "retry" if retry_failed else "failed", "missing": "to run"}
    rows: dict[tuple[int, int], dict[str, object]] = {}
    for job in sorted(planned.jobs, key=lambda job: job.key):
        identity = job.study.method_identity
        method = method_name(identity.fusion.name, identity.backbone, identity.loss)
        first = {"Row": job.label, "Method": method, "seed": job.config.seed}
        rows.setdefault(job.key, first)[f"fold {job.fold}"] = shown[job.state]
    cells = [[row.get(heading, "") for heading in headings] for row in rows.values()]
    out = terminal.out()
    out.print(terminal.grid(headings, cells, right=headings[2:], fixed=folds))
    done, failed = (sum(j.state == state for j in planned.jobs) for state in ("done", "failed"))
    todo = len(planned.todo(retry_failed=retry_failed))
    counts = [f"{done} done", *([f"{failed} failed before"] if failed else []), f"{todo} to run"]
    out.print(f"{plural(len(planned.jobs), 'run')}: {', '.join(counts)}.")
    if text := expectation(expected):
        out.print(text)


def expectation(expected: Forecast) -> str:
    """As in "About 3 h 20 min of computing (from 12 like runs; unknown for 2). Disk: …"."""
    from rich.filesize import decimal

    if not (expected.seconds or expected.unknown):
        return ""
    unknown = f"unknown for {plural(expected.unknown, 'run')}"
    if expected.seconds:
        basis = f"from {plural(expected.sources, 'like run')}"
        time = f"About {duration(expected.seconds)} of computing"
        time += f" ({basis}; {unknown})" if expected.unknown else f" ({basis})"
    else:
        time = "How long is unknown: nothing like it was run into this store"
    if not expected.weight_bytes:
        return f"{time}."
    disk = f"{decimal(expected.weight_bytes)} of weights"
    if expected.free_bytes is None:
        return f"{time}. Disk: {disk}."
    short = ": NOT ENOUGH" if expected.free_bytes < expected.weight_bytes else ""
    return f"{time}. Disk: {disk}; {decimal(expected.free_bytes)} are free{short}."


def print_failures(outcome: Outcome, store: Path) -> None:
    """Every failure on a line, and how to look at it."""
    from fusionbench.cli import terminal

    for failure in outcome.failures:
        fold = "" if failure.fold is None else f"fold {failure.fold}"
        seed = f"seed {failure.seed}" if failure.label else ""
        where = ", ".join(part for part in (failure.label, fold, seed) if part)
        ended = "failed before: " if failure.before else "failed: " if failure.run_id else ""
        look = f"(fusionbench show {failure.run_id} --store {store})" if failure.run_id else ""
        terminal.print_error(f"{where}: {ended}{failure.message}", look)
    if any(failure.before for failure in outcome.failures):
        terminal.err().print("Runs that failed before were left; --retry-failed repeats them.")
