"""The contract of a control, on made-up metadata."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from fusionbench.contract.checks import Check, check_settings, require, run
from fusionbench.data.card import Column
from fusionbench.data.encoder import MetadataEncoder
from fusionbench.plugin.control import Control, Inputs
from fusionbench.progress import SILENT, Progress

CLASSES = 4
COLUMNS = (
    Column(name="age", kind="numeric"),
    Column(name="itch", kind="boolean"),
    Column(name="region", kind="categorical", values=("ARM", "FACE", "NOSE")),
)


def made_up(n: int = 120, seed: int = 0) -> tuple[Inputs, np.ndarray]:
    """n rows with gaps and unknown marks, and labels that depend on them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    frame = pd.DataFrame(
        {
            "age": np.where(rng.random(n) < 0.2, np.nan, 30 + 10 * labels + rng.normal(0, 8, n)),
            "itch": rng.choice(np.array(["True", "False", "UNK", None], dtype=object), n),
            "region": np.array(["ARM", "FACE", "NOSE", None], dtype=object)[labels],
        }
    )
    encoder = MetadataEncoder(COLUMNS).fit(frame)
    return Inputs(encoder.transform(frame), frame, ("UNK",)), labels


def _fitted(make: Callable[[], Control], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of rows that were not trained on, and the features of all rows."""
    inputs, labels = made_up()
    control = make()
    features = np.asarray(control.features(inputs))
    model = control.estimator(seed)
    model.fit(features[:80], labels[:80])
    return np.asarray(model.predict_proba(features[80:])), features


def _features(make: Callable[[], Control]) -> str:
    inputs, _ = made_up()
    before = (inputs.encoded.copy(), inputs.metadata.copy())
    features = np.asarray(make().features(inputs))
    require(features.ndim == 2 and len(features) == len(inputs.encoded),
            f"features returned {features.shape} for {len(inputs.encoded)} rows.")  # fmt: skip
    require(features.shape[1] > 0, "features returned no column.")
    require(np.isfinite(features.astype(float)).all(), "features are not all finite numbers.")
    same = np.array_equal(before[0], inputs.encoded) and before[1].equals(inputs.metadata)
    require(same, "features changed what it was given.")
    return f"{features.shape[1]} features"


def _rows_alone(make: Callable[[], Control]) -> None:
    inputs, _ = made_up()
    whole = np.asarray(make().features(inputs))
    part = Inputs(inputs.encoded[:7], inputs.metadata.iloc[:7], inputs.unknown)
    require(np.array_equal(whole[:7], np.asarray(make().features(part))),
            "the features of a row depend on the other rows: test rows would leak.")  # fmt: skip


def _probabilities(make: Callable[[], Control]) -> None:
    found, _ = _fitted(make)
    require(found.shape == (40, CLASSES), f"predict_proba returned {found.shape}.")
    require(np.isfinite(found).all() and (found >= 0).all(), "a probability is no number >= 0.")
    require(np.allclose(found.sum(axis=1), 1, atol=1e-6), "probabilities do not sum to 1.")


def _repeatable(make: Callable[[], Control]) -> None:
    require(np.array_equal(_fitted(make, 3)[0], _fitted(make, 3)[0]),
            "the same seed gives other probabilities: pass it on as random_state.")  # fmt: skip


def _absent_class(make: Callable[[], Control]) -> None:
    inputs, labels = made_up()
    control = make()
    features = np.asarray(control.features(inputs))
    kept = np.flatnonzero(labels != 1)
    model = control.estimator(0)
    model.fit(features[kept], labels[kept])
    require(sorted(np.asarray(model.classes_).tolist()) == [0, 2, 3],
            "classes_ must name the classes of the training rows.")  # fmt: skip


CONTROL_CHECKS: dict[str, Callable[[Callable[[], Control]], str | None]] = {
    "features": _features,
    "rows-alone": _rows_alone,
    "probabilities": _probabilities,
    "repeatable": _repeatable,
    "absent-class": _absent_class,
}


def check_control(
    cls: type[Control],
    *,
    params: Mapping[str, Any] | None = None,
    only: Collection[str] = (),
    progress: Progress = SILENT,
) -> list[Check]:
    """Every check of a control class: its settings, features, probabilities, and that they are
    repeatable. `params`: its keyword arguments; `only`: names of checks."""

    def make() -> Control:
        return cls(**dict(params or {}))

    found = [run("settings", cls.__name__, lambda: check_settings(cls, first=""))]
    with progress.task("checks", total=len(CONTROL_CHECKS), unit="check") as task:
        for name, check in CONTROL_CHECKS.items():
            if not only or name in only:
                found.append(run(name, cls.__name__, lambda check=check: check(make)))  # type: ignore[misc]
            task.advance()
    return found
