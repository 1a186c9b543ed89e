"""How much a column of codes says about a label, and whether that is more than chance.

Everything here is counting: no solver, no random number, no version of a library changes it, so
that a verdict is the same on every machine.

* A code (an answer, a pattern of gaps, a bin of a number) is scored by P(code | class), counted on
  four fifths of the patients and applied to the rest. Choosing the class of largest P(code | class)
  is the best rule for balanced accuracy; log P(code | malignant) - log P(code | benign) is the best
  score for an AUC.
* Chance needs no simulation: a code that says nothing is chosen as often in every class, so its
  recalls add up to 1 and balanced accuracy is 1/K; the AUC is 1/2. Counting out of fold keeps what
  was learnt by heart from looking like more.
* Rows of one patient are not independent. Errors are taken over patients: every row's share in the
  estimate is summed within its patient, and the sums' spread is the error (for the AUC: Obuchowski,
  Nonparametric analysis of clustered ROC curve data, Biometrics 53 (1997) 567-578,
  https://doi.org/10.2307/2533958).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from fusionbench.data.table import Table

FOLDS = 5
# A class (or side) of fewer patients is left out: its error cannot be told.
MIN_PATIENTS = 10
BINS = 10  # of a number with more values than that, at its quantiles
# Weight, in rows, of the code's share among all classes within its share of one class.
_PRIOR = 2.0


@dataclass(frozen=True)
class Labels:
    """What the codes are held against, row by row."""

    y: np.ndarray  # (n,) int64
    classes: tuple[str, ...]
    malignant: np.ndarray | None  # (n,) bool; None: the card names no malignant class
    patient: np.ndarray  # (n,) int64, 0 .. patients - 1
    fold: np.ndarray  # (n,) int64, 0 .. FOLDS - 1; a patient is in one

    def __len__(self) -> int:
        return len(self.y)

    @property
    def chance(self) -> float:
        """Balanced accuracy of knowing nothing, over the classes that are looked at."""
        return 1 / max(len(enough(self)), 1)

    def take(self, rows: np.ndarray) -> Labels:
        """Those rows (a mask), the patients renumbered, the folds as they are."""
        return replace(
            self,
            y=self.y[rows],
            malignant=None if self.malignant is None else self.malignant[rows],
            patient=np.unique(self.patient[rows], return_inverse=True)[1],
            fold=self.fold[rows],
        )


@dataclass(frozen=True)
class Estimate:
    """A number with the error over patients, and the probability of that much by chance."""

    value: float
    error: float
    p: float
    chance: float  # its value where nothing is known
    part: np.ndarray = field(repr=False)  # each row's share in what the error is made of
    patient: np.ndarray = field(repr=False)  # of each of these rows
    fewest: int  # patients of the smallest class


# "auc" (malignant against benign), "bacc" (the classes) and "auc/<class>" (against the rest).
# Only those that enough patients are there for.
Looks = dict[str, Estimate]


def labels_of(table: Table) -> Labels:
    """Labels, patients and five folds of patients, dealt in the order of a hash of their keys."""
    keys, patient = np.unique(table.groups, return_inverse=True)
    order = sorted(range(len(keys)), key=lambda i: hashlib.sha256(str(keys[i]).encode()).digest())
    fold_of = np.empty(len(keys), dtype=np.int64)
    fold_of[order] = np.arange(len(keys)) % FOLDS
    malignant = None
    if table.card.label.malignant:
        malignant = np.isin(np.array(table.card.classes)[table.labels], table.card.label.malignant)
    return Labels(table.labels, table.card.classes, malignant, patient, fold_of[patient])


def codes_of(cells: pd.Series, *, numeric: bool) -> np.ndarray:
    """(n,) int64: equal cells, equal codes; nothing recorded is code 0. Numbers of
    more than BINS values are cut at their quantiles (labels play no part in that)."""
    recorded = cells.notna().to_numpy(dtype=bool)
    codes = np.zeros(len(cells), dtype=np.int64)
    known = cells[recorded]
    values = known.to_numpy(dtype=np.float64) if numeric else known.astype(str).to_numpy(dtype=str)
    if numeric and len(np.unique(values)) > BINS:
        edges = np.unique(np.quantile(values, np.arange(1, BINS) / BINS))
        codes[recorded] = 1 + np.searchsorted(edges, values, side="right")
    else:
        codes[recorded] = 1 + np.unique(values, return_inverse=True)[1]
    return codes


def patterns(flags: np.ndarray) -> np.ndarray:
    """(n,) int64: rows of `flags` (n, m) that are equal have equal codes."""
    return np.unique(flags, axis=0, return_inverse=True)[1].reshape(-1)


def log_shares(codes: np.ndarray, target: np.ndarray, k: int, fold: np.ndarray) -> np.ndarray:
    """(n, k) log P(code | target), each row from the rows of the other folds."""
    values, code = np.unique(codes, return_inverse=True)
    counts = np.zeros((FOLDS, len(values), k))
    np.add.at(counts, (fold, code, target), 1.0)
    rest = counts.sum(axis=0) - counts  # (folds, codes, k)
    overall = rest.sum(axis=2, keepdims=True)
    overall = overall / np.maximum(overall.sum(axis=1, keepdims=True), 1.0)
    share = (rest + _PRIOR * overall) / (rest.sum(axis=1, keepdims=True) + _PRIOR)
    # A code that no other fold has says nothing: equal for every target.
    logs = np.log(np.where(overall > 0, share, 1.0))
    return np.asarray(logs[fold, code])


def look(
    codes: Sequence[np.ndarray], labels: Labels, *, flag: bool = False, each: bool = True
) -> Looks:
    """What codes (n,) say, taken as independent given the class: see Looks. `each`: of every class.

    A `flag` of 0 and 1 is a score as it is; nothing is learnt, and it may go with either side.
    """

    def score(side: Labels) -> np.ndarray:
        every = codes[0] if flag else np.sum([malignancy_score(c, side) for c in codes], axis=0)
        return np.asarray(every, dtype=np.float64)

    by_class = np.sum([class_scores(c, labels) for c in codes], axis=0)
    return looks_of(score, by_class, labels, one_sided=not flag, each=each)


def looks_of(
    score: Callable[[Labels], np.ndarray],
    by_class: np.ndarray,
    labels: Labels,
    *,
    one_sided: bool = True,
    each: bool = True,
) -> Looks:
    """What scores say: `score` (n,) of a side, `by_class` (n, K)."""
    sides = {} if labels.malignant is None else {"auc": labels}
    if each and len(labels.classes) > 2:  # of two, each says the same as malignancy
        for k in enough(labels).tolist():
            sides[f"auc/{labels.classes[k]}"] = replace(labels, malignant=labels.y == k)
    looks = {kind: auc(score(side), side, one_sided=one_sided) for kind, side in sides.items()}
    looks["bacc"] = balanced_accuracy(by_class, labels)
    return {kind: estimate for kind, estimate in looks.items() if estimate is not None}


def beyond(more: Estimate, known: Estimate) -> Estimate:
    """What one estimate is beyond another of the same rows, whose value takes chance's place."""
    part = more.part - known.part
    return _tested(more.value, known.value, part, more.patient, more.fewest, True)


def balanced_accuracy(scores: np.ndarray, labels: Labels) -> Estimate | None:
    """Mean recall of choosing the class of highest score; (n, K) scores, ties shared equally.
    p: one-sided, of more than 1/K. None where fewer than two classes have patients enough."""
    kept = enough(labels)
    if len(kept) < 2:
        return None
    rows = np.isin(labels.y, kept)
    scores, y = scores[rows][:, kept], np.searchsorted(kept, labels.y[rows])
    best = np.isclose(scores, scores.max(axis=1, keepdims=True), rtol=0, atol=1e-9)
    hit = best[np.arange(len(y)), y] / best.sum(axis=1)
    sizes = np.bincount(y, minlength=len(kept))
    recall = np.bincount(y, hit, minlength=len(kept)) / sizes
    value = float(recall.mean())
    part = (hit - recall[y]) / (sizes[y] * len(kept))
    fewest = int(_patients(labels.y, labels, len(labels.classes))[kept].min())
    return _tested(value, 1 / len(kept), part, labels.patient[rows], fewest, True)


def auc(score: np.ndarray, labels: Labels, *, one_sided: bool = False) -> Estimate | None:
    """AUC of a score (n,) for malignant against benign; equal scores count half. p: of being off
    1/2, or above it. None where there is no such label or a side has too few patients."""
    positive = labels.malignant
    if positive is None or (fewest := int(_patients(positive, labels, 2).min())) < MIN_PATIENTS:
        return None
    from scipy.stats import rankdata

    ranks = rankdata(score)
    n1, n0 = int(positive.sum()), int((~positive).sum())
    placed = np.empty(len(score))
    placed[positive] = (ranks[positive] - rankdata(score[positive])) / n0
    placed[~positive] = 1 - (ranks[~positive] - rankdata(score[~positive])) / n1
    value = float(placed[positive].mean())
    part = (placed - value) / np.where(positive, n1, n0)
    return _tested(value, 0.5, part, labels.patient, fewest, one_sided)


def malignancy_score(codes: np.ndarray, labels: Labels) -> np.ndarray:
    """(n,) log P(code | malignant) - log P(code | benign), out of fold."""
    assert labels.malignant is not None
    logs = log_shares(codes, labels.malignant.astype(np.int64), 2, labels.fold)
    return np.asarray(logs[:, 1] - logs[:, 0])


def class_scores(codes: np.ndarray, labels: Labels) -> np.ndarray:
    """(n, K) log P(code | class), out of fold."""
    return log_shares(codes, labels.y, len(labels.classes), labels.fold)


def information(codes: np.ndarray, labels: Labels) -> float:
    """Share of the class's entropy that the code takes away, out of fold: normalised mutual
    information that cannot grow by learning rows by heart. 0 or less: it tells nothing."""
    k = len(labels.classes)
    rest = np.bincount(labels.y, minlength=k) - np.array(
        [np.bincount(labels.y[labels.fold == f], minlength=k) for f in range(FOLDS)]
    )
    prior = np.log((rest + 1) / (rest.sum(axis=1, keepdims=True) + k))[labels.fold]
    joint = prior + class_scores(codes, labels)
    posterior = joint - np.log(np.exp(joint).sum(axis=1, keepdims=True))
    rows = np.arange(len(labels))
    entropy = -float(prior[rows, labels.y].mean())
    gain = float((posterior - prior)[rows, labels.y].mean())
    return gain / entropy if entropy > 0 else 0.0


def enough(labels: Labels) -> np.ndarray:
    """Classes of at least MIN_PATIENTS patients, ascending."""
    return np.flatnonzero(_patients(labels.y, labels, len(labels.classes)) >= MIN_PATIENTS)


def _patients(target: np.ndarray, labels: Labels, k: int) -> np.ndarray:
    """(k,) patients with a row of each target 0..k-1; `target` is (n,)."""
    pairs = np.unique(np.column_stack([target, labels.patient]), axis=0)
    return np.bincount(pairs[:, 0], minlength=k)


def _tested(
    value: float, chance: float, part: np.ndarray, patient: np.ndarray, fewest: int, one_sided: bool
) -> Estimate:
    """`fewest`: patients of the smallest class; the error is known no better than from those."""
    from scipy.stats import t

    present = np.unique(patient, return_inverse=True)[1]
    sums = np.bincount(present, part)
    n = len(sums)
    error = math.sqrt(n / (n - 1) * float(sums @ sums))
    # What is chosen out of fold depends on the other folds, which the rows' own spread does not
    # show. As in the corrected resampled t-test, 1/J becomes 1/J + n_test/n_train.
    if one_sided:
        error *= math.sqrt(1 + FOLDS / (FOLDS - 1))
    off = value - chance
    if abs(off) < 1e-12:
        p = 1.0
    elif error == 0:  # no exception at all
        p = 1.0 if one_sided and off < 0 else 0.0
    elif one_sided:
        p = float(t.sf(off / error, fewest - 1))
    else:
        p = 2 * float(t.sf(abs(off) / error, fewest - 1))
    return Estimate(value, error, p, chance, part, patient, fewest)
