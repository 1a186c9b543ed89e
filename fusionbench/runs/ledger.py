"""What has become of each run of a sweep: the same book for one process and for a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from fusionbench.errors import FusionbenchError
from fusionbench.records import Record, Store
from fusionbench.runs.plan import Failed, Job

Mark = tuple[int, int] | None


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep computed now, and what it could not."""

    records: tuple[Record, ...]
    failures: tuple[Failed, ...]
    elsewhere: tuple[str, ...] = ()  # run_ids that another process finished meanwhile


@dataclass
class Ledger:
    """Kept while a sweep goes on."""

    store: Store
    records: list[Record] = field(default_factory=list)
    failures: list[Failed] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    _given_up: set[tuple[int, int]] = field(default_factory=set)
    _failures_before: dict[str, Mark] = field(default_factory=dict)

    def begin(self, jobs: Sequence[Job]) -> None:
        """Note which failures are there, to tell them from those that other processes add."""
        self._failures_before = {job.run_id: _mark(self.store, job.run_id) for job in jobs}

    def given_up(self, job: Job) -> bool:
        """Whether a run of the same row was refused: so would this one be."""
        return (job.row, job.config.seed) in self._given_up

    def still_wanted(self, job: Job) -> bool:
        """Asked with the run's lock held: False where another process has finished or failed it
        since the plan was made, which is noted."""
        found = meanwhile(self.store, job.run_id, self.failure_before(job))
        if found == "done":
            self.elsewhere.append(job.run_id)
        elif found == "failed":
            self.failures.append(failure_of(job, self.store.read(job.run_id)))
        return found is None

    def failure_before(self, job: Job) -> Mark:
        """What tells a failure that was there when the sweep began from a later one."""
        return self._failures_before.get(job.run_id)

    def computed(self, job: Job, record: Record) -> None:
        if record.status == "ok":
            self.records.append(record)
        else:
            self.failures.append(failure_of(job, record))

    def refused(self, job: Job, message: str) -> None:
        """Nothing was trained or recorded. It is said once for the row, which is given up."""
        if not self.given_up(job):
            self._given_up.add((job.row, job.config.seed))
            self.failures.append(Failed(job.label, job.config.seed, None, message))

    def lost(self, job: Job, message: str) -> None:
        """Its process was killed. Nothing is recorded; the next sweep goes on from its
        checkpoint."""
        self.failures.append(Failed(job.label, job.config.seed, job.fold, message))

    def outcome(self) -> SweepOutcome:
        return SweepOutcome(tuple(self.records), tuple(self.failures), tuple(self.elsewhere))


def meanwhile(store: Store, run: str, before: Mark) -> Literal["done", "failed"] | None:
    """Whether another process has finished or failed the run since the plan was made, when its
    failure was `before`. To be asked with the run's lock held."""
    if store.has(run):
        return "done"
    mark = _mark(store, run)
    return "failed" if mark is not None and mark != before else None


def _mark(store: Store, run: str) -> Mark:
    # A failure that is written anew is another file: names are changed, not contents.
    try:
        found = (store.folder / "failed" / f"{run}.json").stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def failure_of(job: Job, record: Record, *, before: bool = False) -> Failed:
    message = record.error.message if record.error else "no result"
    return Failed(job.label, job.config.seed, job.fold, message, record.run_id, before)


def earlier_failures(jobs: Sequence[Job], store: Store) -> list[Failed]:
    """Of runs that failed in an earlier sweep and are not repeated."""
    found = []
    for job in jobs:
        try:
            found.append(failure_of(job, store.read(job.run_id), before=True))
        except FusionbenchError as error:
            found.append(
                Failed(job.label, job.config.seed, job.fold, str(error), job.run_id, before=True)
            )
    return found
