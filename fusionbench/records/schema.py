"""The schema of a record file.

A file's text is what `Record.to_json` gives, to the byte; msgspec checks names, types and bounds
where a file is read and where `Record.of` makes a record, not where a part of one is constructed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec
from msgspec.structs import replace

from fusionbench.config.identity import Identity, canonical_json, leaves
from fusionbench.errors import RecordError

SCHEMA_VERSION = 2
NOT_CHECKED = "not checked"

# What a file may hold: far more than any run leaves, and not without bound.
LONGEST, MOST_BYTES, DEEPEST = 100_000, 1 << 20, 20  # of a text; of identity or environment
Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Text = Annotated[str, msgspec.Meta(max_length=2_000)]
LongText = Annotated[str, msgspec.Meta(max_length=LONGEST)]
Numbers = Annotated[dict[Text, float | None], msgspec.Meta(max_length=20_000)]
_encode = msgspec.json.Encoder().encode


def cohort(data_fingerprint: str, split_hash: str, ids: Mapping[str, Iterable[str]]) -> str:
    """16 hex digits for what was evaluated: the data, the split and the ids of each part.

    Order does not matter. Rows whose folds have different cohorts are never ranked together.
    """
    evaluated = {part: sorted(names) for part, names in ids.items()}
    text = canonical_json([data_fingerprint, split_hash, evaluated])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Level(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Metrics over `n` photographs or lesions, by exact name; null where undefined (NaN given)."""

    n: Positive
    metrics: Numbers
    confusion: tuple[tuple[Count, ...], ...]  # rows true class, columns prediction


class PartResult(Level, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The evaluation of one part, by photograph; and by lesion, its photographs' probabilities
    averaged (None: the dataset names no lesions)."""

    lesions: Level | None = None


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the run found. Nothing in here depends on when or where it ran."""

    classes: tuple[Text, ...]
    parts: Annotated[
        dict[Text, PartResult], msgspec.Meta(max_length=100)
    ]  # "test" always; e.g. "holdout" where the protocol keeps one
    n_train: Positive
    n_test: Positive
    best_epoch: Positive | None  # the epoch whose weights were evaluated, from 1
    epochs_run: Count
    folds_expected: Positive  # of the protocol; fewer are not ranked
    cohort: Text
    complete_data: bool  # False when photographs of the dataset were missing
    n_rows_dataset: Positive  # photographs that the dataset has
    n_rows_used: Positive  # photographs that were there to use
    # Shown on the row: "leaky: patients", "optimistic: test-best", "images missing", ...
    flags: Annotated[tuple[Text, ...], msgspec.Meta(max_length=100)] = ()
    # Of the audit of this data under this protocol: "clean", "leaky: patients 54 %", ...; several
    # are joined by "; ". "": not audited.
    verdict: Text = ""
    # Of the quick part of the plugins' contract: "passed", "failed: batch mates", or this.
    contract: Text = NOT_CHECKED
    # Fitted on inner validation rows: probabilities are softmax(logits / temperature) for the
    # metrics that end in "_scaled". None: there were no such rows.
    temperature: float | None = None
    # backbone, fusion, total; what only the loss owns under "loss"
    parameters: Annotated[dict[Text, Count], msgspec.Meta(max_length=100)]
    # one dict per epoch
    history: Annotated[tuple[Numbers, ...], msgspec.Meta(max_length=LONGEST)] = ()

    def __post_init__(self) -> None:
        if "test" not in self.parts:
            raise ValueError("parts must hold 'test'")

    @property
    def metrics(self) -> Numbers:
        """The metrics of the test part."""
        return self.parts["test"].metrics


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What differs from one run of the same command to the next."""

    # seconds, by phase
    durations: Annotated[dict[Text, Amount], msgspec.Meta(max_length=100)] = {}
    images_per_s: Amount | None = None  # in training
    started: Text = ""  # ISO 8601, UTC
    peak_memory_bytes: Count | None = None


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Why a run has no result."""

    type: Text
    message: LongText
    traceback: LongText = ""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """One (method, fold, seed). See the package's docstring for which lines are reproducible."""

    schema_version: Literal[2] = 2
    run_id: Text
    status: Literal["ok", "failed"]
    identity_text: msgspec.Raw = msgspec.field(name="identity")  # Identity.spelled
    result: Result | None = None
    error: Failure | None = None
    predictions_sha256: Text | None = None  # set by Store.write
    # Library versions, python, platform, device, resolved precision, name of the fast path.
    environment: dict[str, Any] = {}
    measured: Measured = Measured()

    @classmethod
    def of(
        cls,
        identity: Identity,
        outcome: Result | Failure,
        environment: Mapping[str, Any] | None = None,
        measured: Measured | None = None,
    ) -> Record:
        """A record as its file will give it back: null for NaN, 1.0 for 1 where a float belongs.

        Raises RecordError where it does not fit the schema, or a number is infinite.
        """
        record = cls(
            run_id=identity.run_id,
            status="ok" if isinstance(outcome, Result) else "failed",
            identity_text=msgspec.Raw(identity.spelled.encode()),
            result=outcome if isinstance(outcome, Result) else None,
            error=outcome if isinstance(outcome, Failure) else None,
            environment=dict(environment or {}),
            measured=measured or Measured(),
        )
        parts = {"result": outcome, "environment": environment, "measured": measured}
        for name, value in leaves(msgspec.to_builtins(parts)):  # JSON has null for these, too
            if isinstance(value, float) and math.isinf(value):
                raise RecordError(f"{record.run_id}: {name} is {value}, not a finite number.")
        try:
            return decode(record.to_json().encode())
        except msgspec.MsgspecError as error:
            raise RecordError(f"{record.run_id} is not a valid record: {error}.") from None

    def __post_init__(self) -> None:
        if (self.result is None, self.error is None) != (self.status != "ok", self.status == "ok"):
            raise ValueError("a record has a result where its status is ok, and else an error")
        if self.identity.run_id != self.run_id:
            raise ValueError(
                f"run_id does not belong to the identity, which gives {self.identity.run_id}"
            )
        text = _encode(self.environment)
        nests = text.count(b"{") + text.count(b"[")
        if len(text) > MOST_BYTES or (nests > DEEPEST and _is_deep(self.environment, DEEPEST)):
            raise ValueError("environment is larger, or nested deeper, than any that is written")

    @cached_property
    def identity(self) -> Identity:
        """What ran. Raises ValueError for a text that is not the one spelling of an identity."""
        text = bytes(self.identity_text)
        if len(text) > MOST_BYTES:
            raise ValueError(f"identity has {len(text):,} bytes")
        return Identity.read(text.decode())

    def to_json(self) -> str:
        """The file's text: one section a line, floats in their shortest exact form."""
        sections = zip(self.__struct_encode_fields__, self.__struct_fields__, strict=True)
        lines = [f'"{key}": {_encode(getattr(self, name)).decode()}' for key, name in sections]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def reproducible(self) -> str:
        """The file's text without `environment` and `measured`: equal for equal commands."""
        return replace(self, environment={}, measured=Measured()).to_json()


def _is_deep(value: Any, deepest: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(not deepest or _is_deep(one, deepest - 1) for one in inner)


decode = msgspec.json.Decoder(Record).decode
