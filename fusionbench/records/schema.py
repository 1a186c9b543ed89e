"""The schema of a record file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    model_validator,
)
from pydantic_core import core_schema

from fusionbench.config.identity import Identity, canonical_json

SCHEMA_VERSION = 2


def cohort(data_fingerprint: str, split_hash: str, ids: Mapping[str, Iterable[str]]) -> str:
    """16 hex digits for what was evaluated: the data, the split and the ids of each part.

    Order does not matter. Rows whose folds have different cohorts are never ranked together.
    """
    evaluated = {part: sorted(names) for part, names in ids.items()}
    text = canonical_json([data_fingerprint, split_hash, evaluated])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _null_for_nan(value: Any) -> Any:
    """Dicts of numbers with None for NaN."""
    if isinstance(value, Mapping):
        nan = {k for k, v in value.items() if isinstance(v, float) and math.isnan(v)}
        return {k: None if k in nan else v for k, v in value.items()}
    return [_null_for_nan(item) for item in value] if isinstance(value, list | tuple) else value


class _NullForNan:
    """Annotates dicts of numbers in which NaN may be given and null is kept.

    A file holds nulls already. Nothing is called for it: a function before a validator would have
    all of it made into Python objects first, only to be validated as those.
    """

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        plain = handler(source)
        return core_schema.json_or_python_schema(
            json_schema=plain,
            python_schema=core_schema.no_info_before_validator_function(_null_for_nan, plain),
        )


RunId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=255)]


Numbers = dict[str, float | None]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Level(_Part):
    """Metrics over `n` photographs or lesions, by exact name; null where undefined (NaN given)."""

    n: int = Field(ge=1)
    metrics: Annotated[Numbers, _NullForNan()]
    confusion: tuple[tuple[int, ...], ...]  # rows true class, columns prediction


class PartResult(Level):
    """The evaluation of one part, by photograph; and by lesion, its photographs' probabilities
    averaged (None: the dataset names no lesions)."""

    lesions: Level | None = None


class Result(_Part):
    """What the run found. Nothing in here depends on when or where it ran."""

    classes: tuple[str, ...]
    parts: dict[str, PartResult]  # "test" always; e.g. "holdout" where the protocol keeps one
    n_train: int
    n_test: int
    best_epoch: int | None  # the epoch whose weights were evaluated, from 1
    epochs_run: int
    folds_expected: int = Field(ge=1)  # of the protocol; fewer records than that are not ranked
    cohort: str
    complete_data: bool  # False when photographs of the dataset were missing
    n_rows_dataset: int  # photographs that the dataset has
    n_rows_used: int  # photographs that were there to use
    # Shown on the row: "leaky: patients", "optimistic: test-best", "images missing", ...
    flags: tuple[str, ...] = ()
    # Of the audit of this data under this protocol: "clean", "leaky: patients 54 %", ...; several
    # are joined by "; ". "": not audited.
    verdict: str = ""
    # Fitted on inner validation rows: probabilities are softmax(logits / temperature) for the
    # metrics that end in "_scaled". None: there were no such rows.
    temperature: float | None = None
    parameters: dict[str, int]  # backbone, fusion, total; what only the loss owns under "loss"
    # One dict per epoch.
    history: Annotated[tuple[Numbers, ...], _NullForNan()] = ()

    @model_validator(mode="after")
    def _has_test(self) -> Result:
        if "test" not in self.parts:
            raise ValueError("parts must hold 'test'")
        return self

    @property
    def metrics(self) -> dict[str, float | None]:
        """The metrics of the test part."""
        return self.parts["test"].metrics


class Measured(_Part):
    """What differs from one run of the same command to the next."""

    durations: dict[str, float] = {}  # seconds, by phase
    images_per_s: float | None = None  # in training
    started: str = ""  # ISO 8601, UTC
    peak_memory_bytes: int | None = None


class Failure(_Part):
    """Why a run has no result."""

    type: str
    message: str
    traceback: str = ""


class Record(_Part):
    """One (method, fold, seed). See the module docstring for which lines are reproducible."""

    schema_version: Literal[2] = 2
    run_id: RunId
    status: Literal["ok", "failed"]
    identity: Identity
    result: Result | None = None
    error: Failure | None = None
    predictions_sha256: str | None = None  # set by Store.write
    # Library versions, python, platform, device, resolved precision, name of the fast path.
    environment: dict[str, Any] = {}
    measured: Measured = Measured()

    @model_validator(mode="after")
    def _consistent(self) -> Record:
        if (self.status == "ok") != (self.result is not None):
            raise ValueError("a record has a result exactly when its status is ok")
        if (self.status == "failed") != (self.error is not None):
            raise ValueError("a record has an error exactly when its status is failed")
        if self.identity.run_id != self.run_id:
            raise ValueError(
                f"run_id does not belong to the identity, which gives {self.identity.run_id}"
            )
        return self

    def to_json(self) -> str:
        """The file's text: one section a line, floats in their shortest exact form."""
        sections = self.model_dump(mode="json")
        lines = (
            f"{json.dumps(key)}: {json.dumps(value, allow_nan=False, separators=(',', ':'))}"
            for key, value in sections.items()
        )
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def reproducible(self) -> str:
        """The file's text without `environment` and `measured`: equal for equal commands."""
        return self.model_copy(update={"environment": {}, "measured": Measured()}).to_json()
