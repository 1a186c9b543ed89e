"""How splits are made: the recipes behind the committed files, and a fold's inner validation.

scikit-learn's grouped split can change from one version to the next, which is why its outcome is
written down and the file decides.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from fusionbench.data.card import ProtocolSpec
from fusionbench.errors import DataError

Ints = NDArray[np.int64]
Values = Sequence[Any] | NDArray[Any]  # one entry per row: class names or numbers, group keys
INNER = 5  # parts that training rows are cut into, one of which validates


def make_split(
    spec: ProtocolSpec,
    ids: Sequence[str],
    labels: Values,
    groups: Values | None,
    classes: Sequence[str] = (),
) -> dict[str, str]:
    """id -> part by the protocol's recipe, for rows in the order of the metadata file.

    grouped-kfold: StratifiedGroupKFold, shuffled. image-kfold: StratifiedKFold, shuffled.
    kfold-holdout: StratifiedKFold into folds + 1 parts, the last kept; the rest cut again into
    `folds` with the same seed (the recipe published with MetaBlock, Pacheco & Krohling 2021,
    https://github.com/paaatcha/MetaBlock). Raises DataError for a class too small to go round, by
    its name where labels are positions in `classes`.
    """
    y = np.asarray(labels)
    rows = np.arange(len(y))
    names = dict(enumerate(classes))
    part = np.full(len(y), "", dtype=object)
    if spec.kind == "fixed":
        raise DataError(f"The split {spec.name} is published, not made.", f"Expected: {spec.file}.")
    if spec.kind == "grouped-kfold":
        keys = rows if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
        _check_sizes(spec, y, keys, spec.folds, "groups", names)
        cut = StratifiedGroupKFold(spec.folds, shuffle=True, random_state=spec.seed)
        for k, (_, test) in enumerate(cut.split(rows, y, keys)):
            part[test] = str(k)
    else:
        rest = rows
        if spec.kind == "kfold-holdout":
            _check_sizes(spec, y, rows, spec.folds + 1, "rows", names)
            rest, kept = list(_stratified(spec.folds + 1, spec.seed, y))[-1]
            part[kept] = "holdout"
        _check_sizes(spec, y[rest], rest, spec.folds, "rows", names)
        for k, (_, test) in enumerate(_stratified(spec.folds, spec.seed, y[rest])):
            part[rest[test]] = str(k)
    return {str(i): str(p) for i, p in zip(ids, part, strict=True)}


def inner_split(train: Ints, labels: Values, groups: Values | None, seed: int) -> tuple[Ints, Ints]:
    """(fit, valid) positions out of `train`: stratified, and no group in both where there are
    groups. `labels` and `groups` are those of the whole table.

    `valid` is the first part of INNER that leaves every class something to fit.
    Raises DataError where the training rows are too few to be cut.
    """
    train = np.asarray(train, dtype=np.int64)
    y = np.asarray(labels)[train]
    keys = np.arange(len(train)) if groups is None else np.asarray(groups)[train]
    keys = np.unique(keys, return_inverse=True)[1]
    if (n := len(np.unique(keys))) < INNER:
        raise DataError(
            f"{n} groups of training rows cannot be cut into {INNER} for an inner validation.",
            "Use --select last.",
        )
    with warnings.catch_warnings():
        # A class with fewer members than parts is missing from some; that is checked below.
        warnings.simplefilter("ignore", UserWarning)
        cut: Any = StratifiedGroupKFold(INNER, shuffle=True, random_state=seed)
        try:
            pairs = list(cut.split(train, y, keys))
        except ValueError as error:
            raise DataError(
                f"The training rows cannot be cut for an inner validation: {error}",
                "Use --select last.",
            ) from error
    classes = len(np.unique(y))
    fit, valid = next((p for p in pairs if len(np.unique(y[p[0]])) == classes), pairs[0])
    return np.sort(train[fit]), np.sort(train[valid])


def _stratified(folds: int, seed: int, y: NDArray[Any]) -> Iterable[tuple[Ints, Ints]]:
    return StratifiedKFold(folds, shuffle=True, random_state=seed).split(np.zeros(len(y)), y)


def _check_sizes(
    spec: ProtocolSpec, y: NDArray[Any], keys: Ints, parts: int, what: str, names: dict[Any, str]
) -> None:
    sizes = {names.get(c, str(c)): len(np.unique(keys[y == c])) for c in np.unique(y)}
    small = [f"{c} ({n})" for c, n in sizes.items() if n < parts]
    if small:
        few = ", ".join(small)
        raise DataError(
            f"{spec.name} needs {parts} {what} of every class; too few of class {few}.",
            "Declare a protocol with fewer folds, or merge classes in the card.",
        )
