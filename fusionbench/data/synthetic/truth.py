"""The planted truth of the synthetic dataset, and what can be known from which part of it.

Six classes are three families, benign or malignant. A lesion shows two colours, its core's and its
rim's; each stands for a family. One answer (`elevation`) says which of the two counts, another
(`bleed`, repeated by `itch` and `hurt`) whether the lesion is malignant. So

* what the image alone tells: the family, where core and rim agree (`agree` of the lesions);
* what the metadata alone tell: benign or malignant;
* what only both together tell: the family where core and rim differ.

Everything here is drawn from raw 64-bit words with additions, multiplications and comparisons, so
a seed gives the same dataset on every machine and with every version of numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

CLASSES = ("ACK", "BCC", "MEL", "NEV", "SCC", "SEK")
# family -> (benign, malignant); families: keratotic, melanocytic, basaloid.
FAMILIES = (("ACK", "SCC"), ("NEV", "MEL"), ("SEK", "BCC"))
FAMILY = np.array([next(f for f, pair in enumerate(FAMILIES) if c in pair) for c in CLASSES])
MALIGNANT = np.array([any(c == pair[1] for pair in FAMILIES) for c in CLASSES])
PAD_COUNTS = np.array([730, 845, 52, 244, 192, 235])  # in the order of CLASSES
# Of PAD-UFES-20's 1,209 benign rows 804 lack the thirteen columns, of its malignant rows none.
PAD_MISSING = 804 / 1209
MOST_PATIENTS = 100_000  # about 280,000 photographs; each is drawn

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Bound = float | list[float]
Share = Annotated[float, Field(ge=0, le=1)]


class Knobs(BaseModel):
    """What can be turned. The defaults are the committed dataset; its splits fit only those.
    Raises ValidationError.

    patients        number of patients
    noise           share of lesions whose diagnosis is replaced by any of the six
    agree           share of lesions whose core and rim show the same family
    habit           share of a patient's lesions that take the patient's favourite class: makes
                    patients alike, so that a split by image leaks
    imbalance       0: classes equally frequent; 1: as in PAD-UFES-20; geometric in between
    missing         share of lesions that lack the thirteen columns, whatever their class
    missing_block   0: that missingness is independent of the class; 1: as in PAD-UFES-20, only
                    benign lesions lack them, two of three; linear in between
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    patients: Annotated[int, Field(ge=1, le=MOST_PATIENTS)] = 240
    noise: Share = 0.1
    agree: Share = 0.4
    habit: Share = 0.3
    imbalance: Share = 0.0
    missing: Share = 0.2
    missing_block: Share = 0.0

    def prior(self) -> Floats:
        """(6,) probabilities of CLASSES."""
        weights = (PAD_COUNTS / PAD_COUNTS.sum()) ** self.imbalance
        return weights / weights.sum()

    def missing_by_class(self) -> Floats:
        """(6,) probability that a lesion of each class lacks the thirteen columns."""
        d = self.missing_block
        return (1 - d) * self.missing + d * np.where(MALIGNANT, 0.0, PAD_MISSING)


class Stream:
    """Uniform numbers from raw generator words: numpy's distributions may change, these do not."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(list(key)))

    def uniform(self, n: int, low: Bound = 0.0, high: Bound = 1.0) -> Floats:
        """(n,) in [low, high); a list has one bound per number."""
        words = np.asarray(self._bits.random_raw(n), dtype=np.uint64)
        lows, highs = np.array([low, high], dtype=np.float64)
        unit: Floats = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return lows + (highs - lows) * unit

    def chance(self, n: int, p: float | Floats) -> Bools:
        return self.uniform(n) < p

    def pick(self, n: int, weights: Floats | tuple[float, ...]) -> Ints:
        """n indices into `weights`, with those odds."""
        total = np.cumsum(np.asarray(weights, dtype=np.float64))
        index = np.searchsorted(total, self.uniform(n) * total[-1], side="right")
        return np.minimum(index, len(total) - 1).astype(np.int64)

    def shuffled(self, n: int) -> Ints:
        return np.argsort(self.uniform(n), kind="stable").astype(np.int64)


@dataclass(frozen=True)
class Truth:
    """One entry per lesion."""

    patient: Ints  # 0 .. patients - 1, ascending
    label: Ints  # the diagnosis, an index into CLASSES
    planted: Ints  # the class that image and answers show; not `label` where noise struck
    core: Ints  # family shown by the core's colour
    rim: Ints  # family shown by the rim's colour
    core_counts: Bools  # the selector (`elevation`)
    malignant: Bools  # the metadata part (`bleed`)
    missing: Bools  # the thirteen columns are empty

    def __len__(self) -> int:
        return len(self.label)


def sample(knobs: Knobs, lesions: int | None = None) -> Truth:
    """Draw the lesions of all patients, one to three each; or exactly `lesions` from as many
    patients, for a large table without images."""
    draw = Stream(knobs.seed, 1)
    prior = knobs.prior()
    if lesions is None:
        each = 1 + draw.pick(knobs.patients, (0.5, 0.33, 0.17))
        patient = np.repeat(np.arange(knobs.patients, dtype=np.int64), each)
    else:
        patient = np.arange(lesions, dtype=np.int64)
    n = len(patient)
    favourite = draw.pick(int(patient[-1]) + 1, prior)[patient]
    label = np.where(draw.chance(n, knobs.habit), favourite, draw.pick(n, prior))
    planted = np.where(draw.chance(n, knobs.noise), draw.pick(n, (1,) * 6), label)
    family = FAMILY[planted]
    # A decoy is one of the two other families.
    other = (family + 1 + draw.pick(n, (1, 1))) % 3
    decoy = np.where(draw.chance(n, knobs.agree), family, other)
    core_counts = draw.chance(n, 0.5)
    return Truth(
        patient=patient,
        label=label,
        planted=planted,
        core=np.where(core_counts, family, decoy),
        rim=np.where(core_counts, decoy, family),
        core_counts=core_counts,
        malignant=MALIGNANT[planted],
        missing=draw.chance(n, knobs.missing_by_class()[label]),
    )
