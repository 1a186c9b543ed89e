"""What the commands of `fusionbench store` print."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal
from rich.text import Text

from fusionbench.cli import terminal
from fusionbench.config.wording import plural
from fusionbench.errors import RecordError
from fusionbench.records import Store, read_record

if TYPE_CHECKING:
    from fusionbench.records.leftovers import Leftover
    from fusionbench.records.merge import Difference, Merged
    from fusionbench.records.verify import Verified

SHOWN_DIFFERENCES = 5


def print_verified(found: Verified, store: Path) -> None:
    """Problems as one table, then what is there."""
    if found.problems:
        terminal.print_problems(
            {
                "file": p.path.relative_to(store),
                # Without the file's name, which stands beside it.
                "problem": p.message.removeprefix(str(p.path)).lstrip(" ,:"),
                "fix": p.remedy,
            }
            for p in found.problems
        )
    counts = {
        "records": f"{found.records:,} whole",
        "failures": f"{found.failures:,}" if found.failures else "",
        "weights": plural(found.weights, "file") if found.weights else "",
        "recomputed": f"{found.numbers:,} numbers from predictions" if found.numbers else "",
        "running now": ", ".join(found.busy),
        "not checked": "\n".join(
            f"labels, rows, counts, flags and verdict of {plural(count, 'record')}, for want of "
            f"their data: {reason}"
            for reason, count in found.unchecked.items()
        ),
    }
    n = len(found.problems)
    console = terminal.out()
    console.print(terminal.facts(counts))
    console.print(f"[red]{plural(n, 'problem')}.[/]" if n else "[green]Nothing is wrong.[/]")


def print_runs(lines: list[dict[str, Any]]) -> None:
    """A line per run."""
    headings = ("run", "status", "method", "data", "fold", "seed", "size", "date")
    rows = [
        (
            line["run"].rpartition("_")[2],
            Text(line["status"], style="" if line["status"] == "ok" else "red"),
            *(line[name] for name in ("method", "dataset", "fold", "seed")),
            decimal(line["bytes"]),
            line["date"][:10],
        )
        for line in lines
    ]
    console = terminal.out()
    if lines:
        fixed = {*headings} - {"method", "data"}
        console.print(terminal.grid(headings, rows, right=("fold", "seed", "size"), fixed=fixed))
    done = sum(line["status"] == "ok" for line in lines)
    others = len(lines) - done
    console.print(f"{done:,} finished" + (f", {others:,} not" if others else "") + ".")


def lines_of(store: Store) -> list[dict[str, Any]]:
    """What `list` says of each run, by name; failures last."""
    lines = []
    failed = (store.folder / "failed" / f"{run}.json" for run in store.failures())
    for path in [*store.files("records"), *failed]:
        files = (path, store.beside(path, "predictions"), store.beside(path, "weights"))
        line: dict[str, Any] = {
            "run": path.stem, "status": "unreadable", "method": "", "dataset": "", "protocol": "",
            "fold": "", "seed": "", "bytes": sum(p.stat().st_size for p in files if p.is_file()),
            "date": "", "file": str(path),
        }  # fmt: skip
        with suppress(RecordError):  # `verify` says what is wrong with it
            record = read_record(path)
            identity, method = record.identity, record.identity.method
            names = [name for name in (method.fusion.name, method.backbone, method.loss) if name]
            line |= {
                "status": record.status,
                "method": " ".join(names),
                "dataset": identity.data.dataset,
                "protocol": identity.data.protocol,
                "fold": identity.fold,
                "seed": identity.seed,
                "date": record.measured.started,
            }
        lines.append(line)
    return lines


def print_merged(merged: list[Merged], store: Path, dry_run: bool) -> None:
    """What needs a look in full, then how many there were of each kind."""
    console = terminal.out()
    for one in merged:
        if one.ok:
            continue
        more = len(one.differences) - SHOWN_DIFFERENCES
        verb = "would be kept" if dry_run else "kept"
        lines = [
            str(one.source),
            one.detail,
            *map(_difference, one.differences[:SHOWN_DIFFERENCES]),
            f"… and {more:,} more" if more > 0 else "",
            f"{verb}, not counted, as {one.kept_at}" if one.kept_at else "",
        ]
        text = "".join(f"\n  {line}" for line in lines if line)
        console.print(Text.assemble((one.action, "bold red"), f" {one.run}{text}"), soft_wrap=True)
    count: Counter[str] = Counter(one.action for one in merged)
    said = {
        "copied": ("finished run copied", "finished runs copied"),
        "failure": ("failure copied", "failures copied"),
        "same": ("there already", "there already"),
        "superseded": ("failure not needed", "failures not needed"),
        "conflict": ("conflict", "conflicts"),
        "refused": ("refused", "refused"),
        "busy": ("being computed here", "being computed here"),
    }
    parts = [plural(count[action], *text) for action, text in said.items() if count[action]]
    console.print((", ".join(parts) or "Nothing to merge") + ".")
    if dry_run:
        console.print(f"This was a dry run: nothing was written to {store}.", soft_wrap=True)


def _difference(apart: Difference) -> str:
    here, there = apart.here, apart.there
    if isinstance(here, int | float) and isinstance(there, int | float):
        return f"{apart.name}: {here:.6g} here, {there:.6g} there ({there - here:+.3g})"
    words = ["nothing" if value in (None, "") else str(value)[:60] for value in (here, there)]
    return f"{apart.name}: {words[0]} here, {words[1]} there"


def print_leftovers(leftovers: list[Leftover], store: Path) -> None:
    """What would be deleted, one file a line."""
    sizes = [file.path.lstat().st_size for file in leftovers]
    rows = [
        (file.path.relative_to(store), decimal(size), file.message)
        for file, size in zip(leftovers, sizes, strict=True)
    ]
    console = terminal.out()
    headings = ("file", "size", "why")
    console.print(terminal.grid(headings, rows, right=("size",), fixed=("size", "why")))
    console.print(
        f"{plural(len(leftovers), 'file')}, {decimal(sum(sizes))}, in {store}.", soft_wrap=True
    )
