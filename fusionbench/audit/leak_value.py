"""What a leak is worth: metadata-only models under the protocol and under its grouped twin.

A model that never sees the photograph has nothing to gain from a split that parts patients, unless
the same patients are on both sides. The twin has the same number of folds and the same sizes, and
keeps every patient on one side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fusionbench.audit.findings import FoldScores, LeakValue, LeakyModel
from fusionbench.data.card import Column, ProtocolSpec
from fusionbench.data.encoder import MetadataEncoder
from fusionbench.data.table import Table
from fusionbench.errors import DataError
from fusionbench.plugin import registry
from fusionbench.plugin.control import Control
from fusionbench.progress import Progress
from fusionbench.protocols import Fold, Split, make_split, overlap, split_of

MODELS = ("metadata-logistic", "metadata-forest", "metadata-boosting")


def estimators(seed: int) -> dict[str, Any]:
    """New metadata-only classifiers, by the names of the controls (plugins/controls) they are."""
    return {
        name: registry.load(registry.find("controls", name), Control)().estimator(seed)
        for name in MODELS
    }


def find_leak_value(
    table: Table, protocol: Split, columns: Sequence[Column], progress: Progress
) -> LeakValue | None:
    """The models' scores under both splits. None without input columns, or where no twin can be
    made (too few patients of a class)."""
    if not columns:
        return None
    twin = grouped_twin(table, protocol)
    if twin is None:
        return None
    name, folds = twin
    splits = [protocol.folds, folds] if name else [protocol.folds]
    classifiers, models = estimators(0), []
    fits = len(classifiers) * sum(map(len, splits))
    with progress.task("metadata-only models", total=fits, unit="fit") as task:
        for model, classifier in classifiers.items():
            scores = []
            for split in splits:
                pairs = []
                for fold in split:
                    pairs.append(_evaluate(classifier, table, fold, columns))
                    task.advance(model=model)
                bacc, acc = zip(*pairs, strict=True)
                scores.append(FoldScores(bacc=bacc, acc=acc))
            models.append(LeakyModel(model=model, here=scores[0], twin=scores[-1]))
    return LeakValue(twin=name, models=tuple(models))


def grouped_twin(table: Table, protocol: Split) -> tuple[str, tuple[Fold, ...]] | None:
    """Name and folds of the same kind of split with patients kept apart: the card's own where it
    has one of as many folds, else made by the same recipe. The name is "" where the protocol's own
    folds keep them apart. None where the patients are too few."""
    if not table.card.group or not any(overlap(protocol, table.groups)):
        return "", protocol.folds
    spec = protocol.spec
    # As in the protocol, the last part of such a split is held out and trains nothing.
    held_out = spec.kind == "kfold-holdout"
    parts = len(protocol.folds) + held_out
    if spec.kind == "fixed":
        parts = max(2, round(len(table) / max(len(protocol.folds[0].test), 1)))
    name, ids = f"{spec.name}, by patient", table.ids.tolist()
    try:
        for other in table.card.protocols if spec.kind == "image-kfold" else ():
            if other.kind == "grouped-kfold" and other.folds == parts:
                return other.name, split_of(table, other.name).folds
        grouped = ProtocolSpec(
            name=name, kind="grouped-kfold", folds=parts, seed=spec.seed, file="-"
        )
        part_of = make_split(grouped, ids, table.labels, table.groups)
    except DataError:
        return None
    part = np.array([int(part_of[i]) for i in ids])
    used = parts - held_out
    return name, tuple(
        Fold(k, np.flatnonzero((part != k) & (part < used)), np.flatnonzero(part == k))
        for k in range(used)
    )


def _evaluate(
    model: Any, table: Table, fold: Fold, columns: Sequence[Column]
) -> tuple[float, float]:
    """(balanced accuracy, accuracy) of the test part; the encoder is fitted on training rows."""
    from sklearn.metrics import accuracy_score, recall_score

    frame, y = table.metadata, table.labels
    encoder = MetadataEncoder(
        columns, missing="indicator", unknown=table.card.unknown, forbidden=True
    ).fit(frame.iloc[fold.train])
    model.fit(encoder.transform(frame.iloc[fold.train]), y[fold.train])
    truth, told = y[fold.test], model.predict(encoder.transform(frame.iloc[fold.test]))
    bacc = recall_score(truth, told, labels=np.unique(truth), average="macro")
    return float(bacc), float(accuracy_score(truth, told))
