"""Is a store whole? Every record with its predictions and weights, and what lies beside them.

verify(store) -> Verified       every problem, each with its file and what to do; writes nothing
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from fusionbench.errors import DataError, RecordError
from fusionbench.progress import SILENT, Progress
from fusionbench.records.contradictions import contradictions
from fusionbench.records.leftovers import leftovers
from fusionbench.records.predictions import Predictions
from fusionbench.records.reading import (
    CONFLICTS,
    Problem,
    noted,
    read_record,
    unfit,
)
from fusionbench.records.schema import Record
from fusionbench.records.store import KINDS, Store, is_run_name

# What contradicts the data of a run; DataError where they are not at hand.
AgainstData = Callable[[Record, Predictions], list[str]]
SHOWN = 4  # contradictions of a record that are spelled out


@dataclass(frozen=True)
class Verified:
    """What a store holds, and what is wrong with it."""

    records: int  # that can be trusted
    failures: int
    weights: int
    numbers: int  # that were computed again from predictions
    unchecked: dict[str, int]  # why it was not held against its data -> of how many records
    problems: tuple[Problem, ...]
    busy: tuple[str, ...]  # runs that are computed now; what only they can explain is passed over

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(
    store: Store,
    *,
    recompute: bool = False,
    against_data: AgainstData | None = None,
    progress: Progress = SILENT,
) -> Verified:
    """Read every file of the store. `recompute`: everything in a record that follows from its
    predictions and its identity must be so, numbers to contradictions.TOLERANCE; and what follows
    from its data, where `against_data` says that."""
    unchecked: Counter[str] = Counter()
    running = store.busy()
    problems: list[Problem] = []
    records = failures = numbers = 0
    paths = store.files("records")
    with progress.task("reading records", total=len(paths), unit="record") as task:
        for path in paths:
            task.advance()
            with noted(problems, path):
                record = read_record(path)
                with noted(problems, store.beside(path, "predictions")):
                    predictions = store.predictions(record)
                    records += 1
                    if recompute and record.result is not None:
                        count, wrong = contradictions(record, predictions)
                        numbers += count
                        if against_data is not None:
                            try:
                                wrong += against_data(record, predictions)
                            except DataError as error:
                                unchecked[error.message.partition("\n")[0]] += 1
                        if wrong:
                            more = f"; {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
                            text = f"{path} cannot be true: {'; '.join(wrong[:SHOWN])}{more}."
                            problems.append(Problem(path, text, _REDO))
    for path in store.files("failed"):
        with noted(problems, path):
            read_record(path)
            failures += 1
    for path in store.files(CONFLICTS):
        with noted(problems, path):
            run = read_record(path, follow=False).run_id
            raise RecordError(f"{path} is another result of {run}; it is not counted.", _SETTLE)
    for kind, what, remedy in (
        ("weights", "a whole safetensors file", "Delete it."),
        ("checkpoints", "a complete checkpoint", "Delete it: its run will start again."),
    ):
        for path in store.files(kind):
            if path.stem not in running and (reason := unfit(path)):
                problems.append(Problem(path, f"{path} is not {what}: {reason}.", remedy))
    remedy = "`fusionbench store prune --leftovers` removes it."
    problems += [Problem(e.path, f"{e.path} {e.message}.", remedy) for e in leftovers(store)]
    problems += [
        Problem(path, f"{path} is not a file of a store.", "Move it elsewhere.")
        for kind, suffix in KINDS.items()
        if (store.folder / kind).is_dir()
        for path in sorted((store.folder / kind).iterdir())
        if not (path.name[0] == "." and path.suffix == ".tmp")
        and not (path.suffix == suffix and is_run_name(path.stem) and path.is_file())
    ]
    weights = sum(path.stem not in running for path in store.files("weights"))
    busy = tuple(sorted(running))
    return Verified(records, failures, weights, numbers, dict(unchecked), tuple(problems), busy)


_REDO = "Do not trust it: compute the run again with --existing redo."
_SETTLE = (
    "Find out which is right. Delete this file and the .csv beside it, or put both in the place of "
    "the record and its predictions."
)
