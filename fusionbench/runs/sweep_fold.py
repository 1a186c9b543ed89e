"""One fold of one run, wherever it is computed: here, or on another machine's worker."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from fusionbench.audit import verdict_of
from fusionbench.config.run_config import Execution
from fusionbench.errors import FusionbenchError
from fusionbench.progress import Progress
from fusionbench.protocols import Fold
from fusionbench.records import BusyError, Predictions, Record, Store
from fusionbench.runs.fold import LastTrainer, Order, Reopened, run_fold
from fusionbench.runs.ledger import Mark, meanwhile
from fusionbench.runs.study import Study

STOPPING = (signal.SIGINT, signal.SIGTERM)


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
    study: Study,
    fold: Fold,
    verdict: str,
    store: Store,
    execution: Execution,
    progress: Progress,
    trainers: LastTrainer | None = None,
) -> Record:
    """Train and evaluate one fold of an opened run; its record, or its failure's, is in `store`.

    `verdict` is the audit's (fusionbench.audit.verdict_of); `trainers` is what the folds of a row
    share. Raises FusionbenchError for a setting that is refused before training: nothing is
    recorded then.
    """
    trainer = (trainers or LastTrainer()).of(study, execution, progress)
    return run_fold(study, trainer, fold, verdict, store, execution, progress)


_reopened = Reopened()  # a worker's


def ordered(given: tuple[Order, Mark], progress: Progress) -> Record | None:
    """What a worker of a sweep on this machine does (runs.process_engine). `Mark`: of the run's
    failure when the sweep began. None where another process has finished or failed it since."""
    order, failure_before = given
    study, fold = _reopened.of(order)
    store = SteadyStore(order.execution.store)
    with store.lock(order.run_id):
        if meanwhile(store, order.run_id, failure_before):
            return None
        return compute(
            *(study, fold, order.verdict, store, order.execution, progress), _reopened.trainers
        )


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
    """Ctrl-C, and what `kill` sends, take effect at the end of the block. Elsewhere than in the
    main thread they cannot be held back, and do not arrive either."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    before = {
        number: signal.signal(number, lambda *arrived: held.append(arrived)) for number in STOPPING
    }
    try:
        yield
    finally:
        for stopping, handler in before.items():
            signal.signal(stopping, handler or signal.SIG_DFL)
    for number, frame in held:
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        else:
            signal.raise_signal(number)  # what it does by default, if anything
