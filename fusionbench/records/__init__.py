"""One Record = one (method, fold, seed): what ran, what came out, and where it is kept.

    cohort(data_fingerprint, split_hash, {part: ids}) -> str    which photographs were evaluated
    Record, Result, PartResult, Level, Measured, Failure        the file's schema (msgspec)
    Record.of(identity, Result or Failure, environment, measured) -> Record
    Predictions(ids, parts, fold, labels, probabilities, classes, groups, lesions)

    Store(folder)                                               has, write, read, find, lock, ...

Around it: verify.verify, merge.merge, leftovers.leftovers (`fusionbench store`). Where merging
finds other numbers for a run, they are kept in conflicts/, which nothing here counts. The layout,
which can be merged with another folder by copying:

    records/<run_id>.json   predictions/<run_id>.csv   weights/<run_id>.safetensors
    checkpoints/<run_id>.safetensors, of a run that is not done
    failed/<run_id>.json    locks/<run_id>.lock    conflicts/<run_id>.<12 hex>.json, .csv

The JSON is written last, by temporary file and rename: it exists = the run is done. Its sections
stand on one line each. The same command twice gives the same file except the lines `environment`
and `measured`.
"""

from __future__ import annotations

from fusionbench.records.predictions import Predictions
from fusionbench.records.reading import Problem, read_record
from fusionbench.records.schema import (
    NOT_CHECKED,
    SCHEMA_VERSION,
    Failure,
    Level,
    Measured,
    PartResult,
    Record,
    Result,
    cohort,
)
from fusionbench.records.store import BusyError, Store

__all__ = [
    "NOT_CHECKED",
    "SCHEMA_VERSION",
    "BusyError",
    "Failure",
    "Level",
    "Measured",
    "PartResult",
    "Predictions",
    "Problem",
    "Record",
    "Result",
    "Store",
    "cohort",
    "read_record",
]
