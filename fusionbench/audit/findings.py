"""What an audit finds, as it is written down.

The top level of the JSON is `dataset, protocol, overlap, missingness, proxies, leak_value,
confounds, classes, verdict`. Shares are 0..1, errors are standard errors over patients.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from fusionbench.errors import DataError

VERSION = 1  # of rules and of the JSON's form; part of what a remembered verdict is keyed by


class _Part(BaseModel):
    # Not strict: JSON has lists where these have tuples.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Measure(_Part):
    """A number held against chance."""

    value: float
    error: float
    p: float  # corrected for how many were looked at together (Holm)
    found: bool  # more than chance, and enough to matter
    strong: bool  # enough to put it into the verdict


class Told(_Part):
    """The class that is told best from all others."""

    class_name: str
    auc: Measure


class DatasetFacts(_Part):
    name: str
    title: str
    fingerprint: str
    audit_version: int
    rows: int
    patients: int | None  # None: the card names no patient
    lesions: int | None
    views: tuple[str, ...]
    photographs: int  # rows whose photographs are here
    classes: dict[str, int]
    malignant: tuple[str, ...]
    libraries: dict[str, str]


class ProtocolFacts(_Part):
    name: str
    kind: str
    folds: int
    split_hash: str
    note: str
    card_leaks: tuple[str, ...]
    columns: tuple[str, ...]  # the inputs that the verdict is about


class Shared(_Part):
    """What is on both sides of a split."""

    keys: int  # how many patients, lesions, photographs of the evaluated part
    rows: int  # evaluated rows concerned
    share: float  # of the evaluated rows (photographs: of those that are here)
    examples: tuple[str, ...] = ()


class PartOverlap(_Part):
    """One fold's evaluated part against what the fold trains on (validation rows included)."""

    fold: int
    part: str  # test, or a further part such as holdout
    train: int
    rows: int
    photographs: int  # of `rows`, those that are here
    patients: Shared | None
    lesions: Shared | None
    identical: Shared
    near: Shared  # near-duplicates that are not identical
    # Rows with a copy in training although their patient is not.
    images_of_others: Shared


class Copies(_Part):
    """Two photographs of the dataset that are the same, or nearly."""

    a: str
    b: str
    distance: int  # differing bits of 256; 0 with `identical` False: decoded alike
    identical: bool
    same_patient: bool
    same_lesion: bool
    same_class: bool


class Overlap(_Part):
    near_bits: int  # near-duplicates differ in at most so many bits of 256
    folds: tuple[PartOverlap, ...]
    total: tuple[PartOverlap, ...]  # over all folds, per part; `fold` is -1
    identical_pairs: int  # in the whole dataset
    near_pairs: int
    copies: tuple[Copies, ...]  # the closest of them


class Gap(_Part):
    """Cells of one column, or of a block of columns, that hold nothing (or an unknown mark)."""

    columns: tuple[str, ...]
    rows: int
    share: float
    malignant_rows: int | None
    by_class: dict[str, int]
    auc: Measure | None  # of the flag, malignant against benign
    bacc: Measure | None  # of the flag alone, for the classes
    told: Told | None


class Gaps(_Part):
    columns: tuple[Gap, ...]  # only columns that have any
    patterns: int  # different combinations
    mask_auc: Measure | None  # all flags together, out of fold
    mask_bacc: Measure | None
    mask_told: Told | None


class Missingness(_Part):
    chance: float  # balanced accuracy of knowing nothing
    blocks: tuple[Gap, ...]  # columns that go missing together, largest first
    not_recorded: Gaps
    unknown: Gaps
    marks: tuple[str, ...]


class ProxyColumn(_Part):
    """One column, over the rows where it was recorded; out of fold."""

    name: str
    role: str  # as the card has it
    rows: int
    auc: Measure | None
    bacc: Measure | None
    told: Told | None
    information: float  # share of the class's entropy that it takes away
    # Rows whose value goes with malignant only, or with benign only, as a share; which values.
    certain: float
    certain_values: tuple[str, ...]
    proxy: bool
    why: str


class Proxies(_Part):
    columns: tuple[ProxyColumn, ...]
    found: tuple[str, ...]
    unlisted: tuple[str, ...]  # found, and an input or optional on the card
    unconfirmed: tuple[str, ...]  # forbidden or proxy on the card, and not found


class Scores(_Part):
    bacc: tuple[float, ...]  # per fold
    acc: tuple[float, ...]
    bacc_mean: float
    bacc_std: float | None  # sample standard deviation over folds; None: one fold
    acc_mean: float
    acc_std: float | None


class ModelGap(_Part):
    model: str
    here: Scores
    twin: Scores
    bacc_gap: float  # here minus twin
    bacc_gap_std: float | None  # root of the sum of both variances over folds
    acc_gap: float
    acc_gap_std: float | None


class LeakValue(_Part):
    twin: str  # the grouped split that the protocol is compared with; "" where it is its own
    models: tuple[ModelGap, ...]
    note: str


class Confound(_Part):
    fact: str
    auc: Measure | None
    bacc: Measure | None
    told: Told | None
    lesion_too: bool  # partly the lesion's own look; never in the verdict


class Confounds(_Part):
    photographs: int
    rows: int
    chance: float
    # Whether a row has a photograph here, over all rows; None where all have.
    there: Confound | None
    facts: tuple[Confound, ...]


class FoldClasses(_Part):
    fold: int
    part: str
    counts: dict[str, int]
    rarest: str
    rarest_rows: int


class Smallest(_Part):
    """The smallest true difference between two methods that would be found."""

    metric: str
    fold_sd: float  # assumed, of the difference within one fold
    over_folds: float | None  # corrected resampled t-test; None: a single fold
    pooled: float  # a test of all evaluated rows at once, training taken as given


class Classes(_Part):
    folds: tuple[FoldClasses, ...]
    smallest: tuple[Smallest, ...]
    assumptions: str


class Audit(_Part):
    dataset: DatasetFacts
    protocol: ProtocolFacts
    overlap: Overlap
    missingness: Missingness
    proxies: Proxies
    leak_value: LeakValue | None
    confounds: Confounds | None
    classes: Classes
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def read_audit(path: Path) -> Audit:
    """Raises DataError where the file is no audit of this version."""
    try:
        return Audit.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "(file)"
        raise DataError(
            f"{path} is not an audit as this version writes it: {where}: {first['msg']}.",
            "Write it anew with `fusionbench audit`.",
        ) from None
