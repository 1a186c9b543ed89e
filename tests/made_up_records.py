"""Records and predictions for tests: made up, small, deterministic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec import structs

from fusionbench.config.identity import (
    DataIdentity,
    Identity,
    MethodIdentity,
    PluginIdentity,
    TrainingIdentity,
    way_of_shuffling,
)
from fusionbench.metrics.compute import compute, confusion
from fusionbench.records import (
    Failure,
    Level,
    Measured,
    PartResult,
    Predictions,
    Record,
    Result,
    cohort,
)

CLASSES = ("ACK", "BCC", "MEL")


def identity(**changes: Any) -> Identity:
    """A complete identity; keyword arguments replace what their names say. `settings` are settings
    of data and training by name; `backbone=None` makes it that of a method without a network."""
    base: dict[str, Any] = {
        "dataset": "synthetic",
        "data_fingerprint": "d" * 16,
        "protocol": "grouped-5fold",
        "split_hash": "5" * 16,
        "fold": 0,
        "seed": 0,
        "fusion": "sgmc",
        "fusion_params": {"hidden": 256},
        "fusion_source": "f" * 16,
        "backbone": "resnet18",
        "weights": "none",
        "loss": "ce+self-contrastive",
        "loss_params": {"ce": {"class_weights": "none"}, "self-contrastive": {"delta": 0.1}},
        "loss_sources": {"ce": "1" * 16, "self-contrastive": "2" * 16},
        "settings": {"epochs": 5, "lr": 1e-4, "select": "last"},
    }
    assert changes.keys() <= base.keys(), changes.keys() - base.keys()
    flat = base | changes
    network = flat["backbone"] is not None
    settings = {"view": "clinical", "columns": ["age"], **flat["settings"]}
    reducer = settings.pop("reducer", 0)
    settings["shuffle_metadata"] = way_of_shuffling(settings.pop("shuffle_metadata", False))
    training = {k: v for k, v in settings.items() if k in TrainingIdentity.model_fields}
    assert network or not training
    names = flat["loss"].split("+") if network else []
    return Identity(
        data=DataIdentity(
            dataset=flat["dataset"],
            protocol=flat["protocol"],
            fingerprint=flat["data_fingerprint"],
            split_hash=flat["split_hash"],
            **{k: v for k, v in settings.items() if k not in training},
        ),
        method=MethodIdentity(
            fusion=PluginIdentity(
                kind="fusions" if network else "controls",
                name=flat["fusion"],
                params=flat["fusion_params"],
                source=flat["fusion_source"],
            ),
            uses_images=network,
            uses_metadata=flat["fusion"] != "none",
            backbone=flat["backbone"],
            weights=flat["weights"] if network else None,
            reducer=reducer,
            losses=tuple(
                PluginIdentity(
                    kind="losses",
                    name=name,
                    params=flat["loss_params"].get(name, {}),
                    source=flat["loss_sources"].get(name, "1" * 16),
                )
                for name in names
            ),
        ),
        training=TrainingIdentity(**{"optimizer_args": {}, "schedule_args": {}} | training)
        if network
        else None,
        fold=flat["fold"],
        seed=flat["seed"],
    )


def record(
    metrics: Mapping[str, float | None] | None = None,
    *,
    n: int = 10,
    holdout: Mapping[str, float | None] | None = None,
    lesions: Mapping[str, float | None] | None = None,
    images_per_s: float | None = 100.0,
    started: str = "2025-01-01T00:00:00Z",
    environment: Mapping[str, Any] | None = None,
    result: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Record:
    """A finished record; `changes` go into the identity, `result` into the result.

    `lesions`: metrics over half as many lesions as photographs.
    """
    ident = identity(**changes)
    parts = {"test": _part(metrics if metrics is not None else {"acc": 0.5, "bacc": 0.5}, n)}
    if lesions is not None:
        level = Level(n=n // 2, metrics=dict(lesions), confusion=parts["test"].confusion)
        parts["test"] = structs.replace(parts["test"], lesions=level)
    if holdout is not None:
        parts["holdout"] = _part(holdout, n)
    values: dict[str, Any] = {
        "classes": CLASSES,
        "parts": parts,
        "n_train": 40,
        "n_test": n,
        "best_epoch": 5,
        "epochs_run": 5,
        "folds_expected": 5,
        "cohort": cohort(ident.data.fingerprint, ident.data.split_hash, {"test": [f"i{n}"]}),
        "complete_data": True,
        "n_rows_dataset": 50,
        "n_rows_used": 50,
        "parameters": {"backbone": 11_000_000, "fusion": 500_000, "total": 11_500_000},
        "history": ({"epoch": 1, "loss": 1.0},),
    }
    return Record.of(
        ident,
        Result(**{**values, **(result or {})}),
        dict(environment or {"python": "3.11"}),
        Measured(durations={"train": 1.5}, images_per_s=images_per_s, started=started),
    )


# What `identity` takes.
_OF_IDENTITY = {
    "dataset", "data_fingerprint", "protocol", "split_hash", "fold", "seed", "fusion",
    "fusion_params", "fusion_source", "backbone", "weights", "loss", "loss_params", "loss_sources",
    "settings",
}  # fmt: skip


def control(
    name: str = "metadata-forest", settings: Mapping[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """What to give `record` for a method without a network."""
    return {
        "fusion": name,
        "fusion_params": {"trees": 500},
        "backbone": None,
        "settings": dict(settings or {}),
        "images_per_s": None,
        "result": {"parameters": {}, "flags": ("control: no image",)},
        **changes,
    }


def failed(**changes: Any) -> Record:
    ident = identity(**changes)
    error = Failure(type="RunFailedError", message="loss is NaN in epoch 2, step 7")
    return Record.of(ident, error)


def finished(n: int = 12, seed: int = 0, **changes: Any) -> tuple[Record, Predictions]:
    """A record with the predictions that it was computed from."""
    ids = [f"PAT_{i}.png" for i in range(n)]
    ident = identity(**{k: v for k, v in changes.items() if k in _OF_IDENTITY})
    epochs = ident.training.epochs if ident.training else 0
    consistent = {
        "cohort": cohort(ident.data.fingerprint, ident.data.split_hash, {"test": ids}),
        "history": tuple({"epoch": i + 1, "lr": 1e-4, "loss": 1.0} for i in range(epochs)),
        "best_epoch": epochs or None,
        "epochs_run": epochs,
        "n_rows_dataset": max(50, 40 + n),
        "n_rows_used": max(50, 40 + n),
    }
    changes["result"] = consistent | dict(changes.get("result") or {})
    rng = np.random.default_rng(seed)
    y = rng.integers(0, len(CLASSES), n)
    p = rng.dirichlet(np.ones(len(CLASSES)), n)
    made = record(compute(y, p, CLASSES), n=n, **changes)
    table = tuple(tuple(row) for row in confusion(y, p, len(CLASSES)).tolist())
    assert made.result is not None
    part = structs.replace(made.result.parts["test"], confusion=table)
    made = structs.replace(made, result=structs.replace(made.result, parts={"test": part}))
    predictions = Predictions(
        ids=tuple(ids),
        parts=("test",) * n,
        fold=made.identity.fold,
        labels=tuple(CLASSES[c] for c in y),
        probabilities=p,
        classes=CLASSES,
        groups=tuple(f"PAT_{i // 2}" for i in range(n)),
        lesions=tuple(f"PAT_{i // 2}|{i}" for i in range(n)),
    )
    return made, predictions


def _part(metrics: Mapping[str, float | None], n: int) -> PartResult:
    return PartResult(n=n, metrics=dict(metrics), confusion=((n, 0, 0), (0, 0, 0), (0, 0, 0)))
