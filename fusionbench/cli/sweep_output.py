"""What fusionbench sweep says: the plan, what to expect, failures, and the table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusionbench.config.run_config import Execution

if TYPE_CHECKING:
    from fusionbench.runs import Forecast, Job, Plan, SweepOutcome
    from fusionbench.tables import Overrides, Table


def summary(
    name: str, found: Plan, outcome: SweepOutcome, expected: Forecast | None = None
) -> dict[str, Any]:
    """What --json prints. A run's state: done (earlier), finished (now), elsewhere (meanwhile, by
    another process), failed (now or earlier) or missing."""
    finished = {record.run_id for record in outcome.records}
    failed = {failure.run_id for failure in outcome.failures}

    def state(job: Job) -> str:
        for value, runs in (
            *(("finished", finished), ("elsewhere", {*outcome.elsewhere}), ("failed", failed)),
        ):
            if job.run_id in runs:
                return value
        return job.state

    return {
        "table": name,
        "expected": None
        if expected is None
        else {
            "seconds": expected.seconds,
            "runs_unknown": expected.unknown,
            "bytes": expected.record_bytes + expected.weight_bytes,
        },
        "runs": [
            {
                "label": job.label,
                "fold": job.fold,
                "seed": job.config.seed,
                "run_id": job.run_id,
                "state": state(job),
            }
            for job in found.jobs
        ],
        "failures": [
            {
                "label": failure.label,
                "fold": failure.fold,
                "seed": failure.seed,
                "message": failure.message,
                "run_id": failure.run_id or None,
                "earlier": failure.before,
            }
            for failure in outcome.failures
        ],
    }


def print_plan(found: Plan, expected: Forecast, retry_failed: bool) -> None:
    """Rows x folds: what is there, and what would run; how long, and how much disk."""
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    from fusionbench.cli import terminal

    folds = sorted({job.fold for job in found.jobs})
    several = len({job.config.seed for job in found.jobs}) > 1
    grid = Grid(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    grid.add_column("Row", overflow="fold")
    grid.add_column("Method", overflow="fold")
    if several:
        grid.add_column("seed", justify="right")
    for k in folds:
        grid.add_column(f"fold {k}", justify="right", no_wrap=True)
    shown = {"done": "done", "failed": "retry" if retry_failed else "failed", "missing": "to run"}
    rows: dict[tuple[int, int], dict[int, str]] = {}
    first: dict[tuple[int, int], Job] = {}
    for job in found.jobs:
        key = (job.row, job.config.seed)
        rows.setdefault(key, {})[job.fold] = shown[job.state]
        first.setdefault(key, job)
    for key in sorted(rows):
        identity = first[key].study.method_identity
        names = (identity.fusion.name, identity.backbone, identity.loss)
        method = ", ".join(name for name in names if name)
        seed = [str(first[key].config.seed)] if several else []
        cells = [rows[key].get(k, "") for k in folds]
        grid.add_row(Text(first[key].label), Text(method), *seed, *cells)
    out = terminal.out()
    out.print(grid)
    done, failed = (sum(j.state == state for j in found.jobs) for state in ("done", "failed"))
    todo = len(found.todo(retry_failed=retry_failed))
    counts = [f"{done} done", *([f"{failed} failed before"] if failed else []), f"{todo} to run"]
    out.print(f"{len(found.jobs)} runs: {', '.join(counts)}.")
    if text := expectation(expected):
        out.print(text)


def expectation(expected: Forecast) -> str:
    """As in "About 3 h 20 min of computing (from 12 like runs; unknown for 2), 4 MB on disk …"."""
    from fusionbench.cli.progress import duration

    if not (expected.seconds or expected.unknown):
        return ""
    unknown = f"unknown for {expected.unknown} runs"
    if expected.seconds:
        basis = f"from {expected.sources} like runs"
        time = f"About {duration(expected.seconds)} of computing"
        time += f" ({basis}; {unknown})" if expected.unknown else f" ({basis})"
    else:
        time = "How long is unknown: nothing like it was run into this store"
    disk = f"{size_of(expected.record_bytes)} of records"
    if expected.weight_bytes:
        disk += f", {size_of(expected.weight_bytes)} of weights"
    if expected.unknown_weights:
        disk += f", weights of {expected.unknown_weights} runs"
    if expected.free_bytes is not None:
        disk += f"; {size_of(expected.free_bytes)} are free"
    short = expected.free_bytes is not None and expected.free_bytes < (
        expected.record_bytes + expected.weight_bytes
    )
    return f"{time}. Disk: {disk}{': NOT ENOUGH' if short else ''}."


def size_of(count: int) -> str:
    """Bytes as a person says them: 940 kB, 3.2 MB, 41 GB."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if count >= factor:
            return f"{count / factor:.{0 if count >= 10 * factor else 1}f} {unit}"
    return f"{max(round(count / 1000), 1 if count else 0)} kB"


def print_failures(outcome: SweepOutcome, store: Path) -> None:
    """Every failure of now on a line; those of earlier sweeps in one."""
    from fusionbench.cli import terminal

    for failure in outcome.failures:
        where = f" fold {failure.fold}," if failure.fold is not None else ""
        look = f"(fusionbench show {failure.run_id} --store {store})" if failure.run_id else ""
        earlier = "failed before: " if failure.before else ""
        terminal.print_error(
            f"{failure.label},{where} seed {failure.seed}: {earlier}{failure.message}", look
        )
    if any(failure.before for failure in outcome.failures):
        terminal.err().print("Runs that failed before were left; --retry-failed repeats them.")


def print_table(declared: Table, overrides: Overrides, execution: Execution) -> None:
    from fusionbench.cli.leaderboard import print_blocks
    from fusionbench.records import Store

    records = Store(execution.store).records([])
    print_blocks(records, execution.plugins, declared, overrides)
