"""What an audit finds, as it is written down.

The top level of the JSON is `dataset, protocol, overlap, missingness, proxies, together,
leak_value, confounds, classes, verdict`. Shares are 0..1, errors are standard errors over patients.
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict

VERSION = 5  # of rules and of the JSON's form; part of what a remembered verdict is keyed by


class AuditPart(BaseModel):
    """A part of an audit's JSON."""

    # Not strict: JSON has lists where these have tuples.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Measure(AuditPart):
    """A number held against chance."""

    value: float
    error: float
    p: float  # corrected for how many were looked at together (Holm)
    found: bool  # more than chance, and enough to matter
    strong: bool  # enough to put it into the verdict

    @property
    def stars(self) -> str:
        """* for what is found, ** for what is strong."""
        return "*" * (self.found + self.strong)


class Told(Measure):
    """The AUC of the class that is told best from all others."""

    class_name: str


class Signs(AuditPart):
    """What something tells of the class; None where too few patients are there to say."""

    auc: Measure | None  # malignant against benign
    bacc: Measure | None  # of the classes
    told: Told | None

    @property
    def measures(self) -> list[Measure]:
        """Those that there are."""
        return [measure for measure in (self.auc, self.bacc, self.told) if measure is not None]

    @property
    def telling(self) -> bool:
        """Anything is found."""
        return any(measure.found for measure in self.measures)

    @property
    def strong(self) -> bool:
        return any(measure.strong for measure in self.measures)


class DatasetFacts(AuditPart):
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


class ProtocolFacts(AuditPart):
    name: str
    kind: str
    folds: int
    split_hash: str
    columns: tuple[str, ...]  # the inputs that the verdict is about


class BothSides(AuditPart):
    """What is on both sides of a split."""

    keys: int  # how many patients, lesions, photographs of the evaluated part
    rows: int  # evaluated rows concerned
    share: float  # of the evaluated rows (photographs: of those that are here)
    examples: tuple[str, ...] = ()


class PartOverlap(AuditPart):
    """One fold's evaluated part against what the fold trains on (validation rows included)."""

    fold: int
    part: str  # test, or a further part such as holdout
    rows: int
    photographs: int  # of `rows`, those that are here
    patients: BothSides | None
    # Rows whose patient (or lesion, where the card names no patient) may be in training under
    # another spelling; None where the card names neither.
    respelled: BothSides | None
    lesions: BothSides | None
    identical: BothSides
    near: BothSides  # near-duplicates that are not identical
    altered: BothSides  # mirrored, turned, cut or framed, and none of the above
    # Rows with a copy in training although their patient is not.
    images_of_others: BothSides


class Copies(AuditPart):
    """Two photographs of the dataset that are the same, or nearly."""

    a: str
    b: str
    distance: int  # differing bits of 256; 0 with `identical` False: decoded alike
    identical: bool
    altered: str  # "mirrored or turned", "cut or framed"; "" for near-duplicates
    same_patient: bool
    same_lesion: bool
    same_class: bool


class Overlap(AuditPart):
    near_bits: int  # near-duplicates differ in at most so many bits of 256
    folds: tuple[PartOverlap, ...]
    total: tuple[PartOverlap, ...]  # over all folds, per part; `fold` is -1
    identical_pairs: int  # in the whole dataset
    near_pairs: int
    altered_pairs: int
    copies: tuple[Copies, ...]  # the closest of them
    unnamed: float  # share of the rows whose patient is not known; 1: the card names none
    spellings: tuple[str, ...]  # "P17 = p17", in the whole dataset
    # Rows whose photograph is the same, or nearly, in two views.
    views_alike: tuple[str, ...]


class EmptyCells(Signs):
    """Cells of one column, or of a block of columns, that hold nothing (or an unknown mark)."""

    columns: tuple[str, ...]
    rows: int
    share: float
    malignant_rows: int | None
    by_class: dict[str, int]


class Gaps(AuditPart):
    columns: tuple[EmptyCells, ...]  # only columns that have any
    blocks: tuple[EmptyCells, ...]  # columns that go missing together, largest first
    mask: Signs | None  # all flags together, out of fold; None: they never differ

    @property
    def signs(self) -> list[Signs]:
        return [*self.columns, *self.blocks, *([] if self.mask is None else [self.mask])]


class Missingness(AuditPart):
    chance: float  # balanced accuracy of knowing nothing
    not_recorded: Gaps
    unknown: Gaps  # without blocks
    marks: tuple[str, ...]


class ProxyColumn(Signs):
    """One column, over the rows where it was recorded; out of fold."""

    name: str
    role: str  # as the card has it; "not read" of a column that the card leaves out
    rows: int
    information: float  # share of the class's entropy that it takes away
    # Rows whose value goes with malignant only, or with benign only, as a share; which values.
    certain: float
    certain_values: tuple[str, ...]
    proxy: bool
    why: str


class Proxies(AuditPart):
    columns: tuple[ProxyColumn, ...]
    found: tuple[str, ...]
    unlisted: tuple[str, ...]  # found, and an input or optional on the card
    # Optional on the card or not read by it: tell the class strongly, so that a photograph which
    # shows them (a hospital's lamp) does, too.
    confounds: tuple[str, ...]
    unconfirmed: tuple[str, ...]  # forbidden or proxy on the card, and not found


class JointSigns(Signs):
    """What inputs tell together; each measure is held against what they tell apart."""

    columns: tuple[str, ...]  # none: all inputs
    auc_apart: float | None
    bacc_apart: float | None


class Together(AuditPart):
    pairs: tuple[JointSigns, ...]  # that tell more together than apart
    looked_at: int  # how many pairs there were
    forest: JointSigns  # of all inputs


class FoldScores(AuditPart):
    """A model's balanced accuracy and accuracy, one per fold."""

    bacc: tuple[float, ...]
    acc: tuple[float, ...]


class LeakyModel(AuditPart):
    """A metadata-only model under the protocol, and under the split that keeps patients apart."""

    model: str
    here: FoldScores
    twin: FoldScores

    def gap(self, metric: str) -> float:
        """Mean here minus mean of the twin."""
        return float(np.mean(getattr(self.here, metric)) - np.mean(getattr(self.twin, metric)))


class LeakValue(AuditPart):
    twin: str  # the grouped split that the protocol is compared with; "" where it is its own
    models: tuple[LeakyModel, ...]


class Confound(Signs):
    fact: str
    lesion_too: bool  # partly the lesion's own look; never in the verdict


class Confounds(AuditPart):
    chance: float
    # Whether a row has a photograph here, over all rows; None where all have.
    there: Confound | None
    facts: tuple[Confound, ...]


class FoldClasses(AuditPart):
    fold: int
    part: str
    counts: dict[str, int]


class Smallest(AuditPart):
    """The smallest true difference between two methods that would be found."""

    metric: str
    over_folds: float | None  # corrected resampled t-test; None: a single fold
    pooled: float  # a test of all evaluated rows at once, training taken as given


class Classes(AuditPart):
    folds: tuple[FoldClasses, ...]
    smallest: tuple[Smallest, ...]


class Audit(AuditPart):
    dataset: DatasetFacts
    protocol: ProtocolFacts
    overlap: Overlap
    missingness: Missingness
    proxies: Proxies
    together: Together | None  # None: fewer than two inputs
    leak_value: LeakValue | None
    confounds: Confounds | None
    classes: Classes
    verdict: str
