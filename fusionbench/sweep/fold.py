"""One fold of one run, wherever it is computed: here, or on another machine's worker."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from fusionbench.audit import verdict_of
from fusionbench.config import Execution
from fusionbench.errors import FusionbenchError
from fusionbench.progress import Progress
from fusionbench.protocols import Fold
from fusionbench.records import BusyError, Predictions, Record, Store
from fusionbench.run import carrier, run_fold
from fusionbench.study import Study


class StoreUnwritableError(FusionbenchError):
    """The store takes no files: no other run could be kept either."""


class SteadyStore(Store):
    """A store that finishes the write at hand when somebody presses Ctrl-C."""

    def write(self, record: Record, predictions: Predictions) -> Record:
        with _steady(), _unwritable():
            return super().write(record, predictions)

    def write_failure(self, record: Record) -> Record:
        with _steady(), _unwritable():
            return super().write_failure(record)

    def write_weights(self, run: str, data: bytes) -> Path:
        with _steady(), _unwritable():
            return super().write_weights(run, data)

    @contextmanager
    def lock(self, run: str) -> Iterator[None]:
        entered = False
        try:
            with super().lock(run):
                entered = True
                yield
        except FusionbenchError as error:
            if entered or isinstance(error, BusyError):
                raise
            raise StoreUnwritableError(error.message, error.remedy) from error


def compute(
    study: Study, fold: Fold, verdict: str, store: Store, execution: Execution, progress: Progress
) -> Record:
    """Train and evaluate one fold of an opened run; its record, or its failure's, is in `store`.

    `verdict` is the audit's (fusionbench.audit.verdict_of). Raises FusionbenchError for a setting
    that is refused before training: nothing is recorded then.
    """
    trainer = carrier(study.config, execution).trainer(study, execution, progress)
    return run_fold(study, trainer, fold, verdict, store, execution, progress)


class Verdicts:
    """The audit's verdict on each data, split and columns of a sweep, asked for once."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], str] = {}

    def of(self, study: Study, progress: Progress) -> str:
        key = (
            *(study.table.fingerprint, study.protocol.spec.name, study.protocol.split_hash),
            *(column.name for column in study.columns),
        )
        if key not in self._known:
            self._known[key] = verdict_of(
                study.table, study.protocol, study.columns, progress=progress
            )
        return self._known[key]


@contextmanager
def _unwritable() -> Iterator[None]:
    try:
        yield
    except FusionbenchError as error:
        raise StoreUnwritableError(error.message, error.remedy) from error


@contextmanager
def _steady() -> Iterator[None]:
    """Ctrl-C takes effect at the end of the block. Elsewhere than in the main thread it cannot be
    held back, and does not arrive either."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[FrameType | None] = []
    before = signal.signal(signal.SIGINT, lambda _, frame: pressed.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
    if pressed and callable(before):
        before(signal.SIGINT, pressed[0])
