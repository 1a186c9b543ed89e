"""The schema of a record file, and the identity that names it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationInfo,
    model_validator,
)
from pydantic_core import core_schema

from fusionbench.errors import RecordError

SCHEMA_VERSION = 1

# What every identity states. `fold` and `seed` tell the runs of one configuration apart; all the
# rest is the configuration. Never in it: paths, devices, numbers of workers.
IDENTITY_KEYS = (
    "dataset",
    "data_fingerprint",
    "protocol",
    "split_hash",
    "fold",
    "seed",
    "fusion",
    "fusion_params",
    "fusion_source",
    "backbone",
    "weights",
    "loss",
    "loss_params",
    "loss_sources",
    "settings",
)


# An encoder each: json.dumps with arguments makes a new one at every call.
_PLAIN = json.JSONEncoder(allow_nan=False)
_SPELLED = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(value: object, *, from_file: bool = False) -> str:
    """The one spelling of a value: sorted keys, shortest floats, no NaN. Raises RecordError.

    `from_file`: it was parsed from JSON just now, and is plain already.
    """
    try:
        # Twice, so that what a file gives back (lists for tuples, text for keys) spells the same.
        plain = value if from_file else json.loads(_PLAIN.encode(value))
        return _SPELLED.encode(plain)
    except (TypeError, ValueError) as error:
        raise RecordError(
            f"An identity must be plain JSON without NaN: {error}.",
            "Use text, whole numbers, finite floats, lists and dicts only.",
        ) from None


def run_id(identity: Mapping[str, Any], *, from_file: bool = False) -> str:
    """`<dataset>_<protocol>_<fusion>_<backbone>_f<fold>_s<seed>_<12 hex>`, safe as a file name.

    The digits are the start of the sha256 of the canonical JSON of the whole identity.
    `from_file`: as for canonical_json.
    Raises RecordError where a key of IDENTITY_KEYS is absent or a value is not plain JSON.
    """
    missing = [key for key in IDENTITY_KEYS if key not in identity]
    if missing:
        raise RecordError(f"The identity lacks {', '.join(missing)}.")
    if not all(type(identity[key]) is int for key in ("fold", "seed")):
        raise RecordError("The identity's fold and seed must be whole numbers.")
    spelled = canonical_json(dict(identity), from_file=from_file)
    digest = hashlib.sha256(spelled.encode()).hexdigest()[:12]
    names = [_slug(str(identity[key])) for key in ("dataset", "protocol", "fusion", "backbone")]
    return "_".join([*names, f"f{identity['fold']}", f"s{identity['seed']}", digest])


def cohort(data_fingerprint: str, split_hash: str, ids: Mapping[str, Iterable[str]]) -> str:
    """16 hex digits for what was evaluated: the data, the split and the ids of each part.

    Order does not matter. Rows whose folds have different cohorts are never ranked together.
    """
    evaluated = {part: sorted(names) for part, names in ids.items()}
    text = canonical_json([data_fingerprint, split_hash, evaluated])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@lru_cache(maxsize=256)
def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:48].strip("._-") or "x"


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

    schema_version: Literal[1] = 1
    run_id: RunId
    status: Literal["ok", "failed"]
    identity: dict[str, Any]
    result: Result | None = None
    error: Failure | None = None
    predictions_sha256: str | None = None  # set by Store.write
    # Library versions, python, platform, device, resolved precision, name of the fast path.
    environment: dict[str, Any] = {}
    measured: Measured = Measured()

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Record:
        if (self.status == "ok") != (self.result is not None):
            raise ValueError("a record has a result exactly when its status is ok")
        if (self.status == "failed") != (self.error is not None):
            raise ValueError("a record has an error exactly when its status is failed")
        try:
            expected = run_id(self.identity, from_file=info.mode == "json")
        except RecordError as error:
            raise ValueError(str(error)) from None
        if expected != self.run_id:
            raise ValueError(f"run_id does not belong to the identity, which gives {expected}")
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
