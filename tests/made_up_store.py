"""A store of made-up records in the size that real ones have: for what must stay quick on many.

    python tests/made_up_store.py FOLDER [ROWS [SEEDS]]     200 rows x 5 folds x 10 seeds

Every method runs on every backbone under several rates, in every fold and under every seed. The
numbers are drawn: each row has a level of its own, each fold and each run a little noise.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from made_up_records import identity
from msgspec import structs

from fusionbench.records import Level, Measured, PartResult, Record, Result

FUSIONS = ("none", "concat", "metanet", "metablock", "sgmc")
BACKBONES = (
    "resnet18", "resnet34", "resnet50", "resnet101", "densenet121", "convnext_tiny",
    "efficientnet_b0", "mobilenetv3_large_100", "vgg16", "vit_tiny_patch16_224",
)  # fmt: skip
CLASSES = ("ACK", "BCC", "MEL", "NEV", "SCC", "SEK")
COLUMNS = [f"characteristic_{i}" for i in range(21)]
FOLDS, EPOCHS = 5, 30
WHOLE = ("acc", "bacc", "precision_weighted", "precision_macro", "f1_weighted", "f1_macro",
         "auc_ovr_macro", "auc_ovr_weighted", "nll", "brier", "ece")  # fmt: skip
OF_A_CLASS = ("recall", "precision", "f1", "auc", "sens_at_spec80", "sens_at_spec90",
              "sens_at_spec95")  # fmt: skip
METRICS = (*WHOLE, *(f"{name}/{label}" for name in OF_A_CLASS for label in CLASSES))
ROWS, SEEDS = 200, 10


def fill(folder: Path, rows: int = ROWS, seeds: int = SEEDS) -> int:
    """Write rows x FOLDS x seeds records into `folder`/records; returns how many."""
    (folder / "records").mkdir(parents=True)
    generator = np.random.default_rng(0)
    rates = -(-rows // (len(FUSIONS) * len(BACKBONES)))
    configurations = list(product(range(rates), BACKBONES, FUSIONS))[:rows]
    count = 0
    for rate, backbone, fusion in configurations:
        level = generator.uniform(0.4, 0.8)
        for fold, seed in product(range(FOLDS), range(seeds)):
            made = _record(
                generator, level, fold=fold, seed=seed, fusion=fusion, backbone=backbone,
                settings=_settings(1e-3 / (rate + 1)),
            )  # fmt: skip
            path = folder / "records" / f"{made.run_id}.json"
            path.write_text(made.to_json(), encoding="utf-8")
            count += 1
    return count


def _record(generator: np.random.Generator, level: float, **changes: Any) -> Record:
    named = identity(protocol="grouped-5fold", **changes)
    history = tuple(
        {"epoch": float(epoch + 1), **dict(zip(("lr", "loss", "ce", "self-contrastive", "val_bacc"),
                                               row, strict=True))}
        for epoch, row in enumerate(generator.uniform(0, 2, (EPOCHS, 5)).tolist())
    )  # fmt: skip
    photographs, lesions = (_level(generator, level, n) for n in (460, 328))
    return Record.of(
        named,
        Result(
            classes=CLASSES,
            parts={"test": PartResult(**structs.asdict(photographs), lesions=lesions)},
            n_train=1838,
            n_test=460,
            best_epoch=EPOCHS,
            epochs_run=EPOCHS,
            folds_expected=FOLDS,
            cohort=f"{named.fold:016x}",
            complete_data=True,
            n_rows_dataset=2298,
            n_rows_used=2298,
            verdict="clean",
            parameters={"backbone": 11_000_000, "fusion": 500_000, "total": 11_500_000},
            history=history,
        ),
        {
            "fusionbench": "0.1.0",
            "python": "3.11.7",
            "libraries": dict.fromkeys(
                ("torch", "torchvision", "timm", "numpy", "pandas", "scikit-learn", "pillow"),
                "1.2.3",
            ),
            "platform": "Linux-x86_64-with-glibc",
            "device": "cuda",
            "device_type": "cuda",
            "cpus": 16,
            "threads": 1,
            "precision": "bf16",
            "path": "captured",
        },
        Measured(
            durations={"train": generator.uniform(10, 99), "total": generator.uniform(99, 200)},
            images_per_s=generator.uniform(1000, 3000),
            started="2025-01-01T00:00:00+00:00",
            peak_memory_bytes=2_273_705_984,
        ),
    )


def _level(generator: np.random.Generator, level: float, n: int) -> Level:
    numbers = (level + generator.normal(0, 0.02, len(METRICS))).tolist()
    table = generator.multinomial(n // len(CLASSES), [1 / len(CLASSES)] * len(CLASSES), 6)
    return Level(
        n=n,
        metrics=dict(zip(METRICS, numbers, strict=True)),
        confusion=tuple(map(tuple, table.tolist())),
    )


def _settings(lr: float) -> dict[str, Any]:
    """As many as a run has."""
    return {
        "view": "clinical", "columns": COLUMNS, "encoding": "onehot", "missing": "zero",
        "resize": "squash", "epochs": EPOCHS, "batch_size": 32, "image_size": 224,
        "augment": "mild", "optimizer": "adamw", "lr": lr, "weight_decay": 0.05,
        "schedule": "cosine", "warmup_epochs": 1, "clip_grad": 0.0, "ema": 0.0, "drop_path": 0.0,
        "select": "last", "precision": "bf16", "optimizer_args": {}, "schedule_args": {},
    }  # fmt: skip


if __name__ == "__main__":
    where, *numbers = sys.argv[1:]
    print(f"{fill(Path(where), *map(int, numbers)):,} records in {where}")
