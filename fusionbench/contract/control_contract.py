"""The contract of a control, on made-up metadata."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from fusionbench.contract.checks import Check, check_settings, named, require, run_all, steps
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


def _fitted(
    cls: type[Control], rows: np.ndarray | slice = slice(80), seed: int = 0
) -> tuple[Any, np.ndarray]:
    """The classifier trained on these rows, and its probabilities of the last 40."""
    inputs, labels = made_up()
    control = cls()
    values = np.asarray(control.features(inputs))
    model = control.estimator(seed)
    model.fit(values[rows], labels[rows])
    return model, np.asarray(model.predict_proba(values[80:]))


def features(cls: type[Control]) -> str:
    inputs, _ = made_up()
    encoded, recorded = inputs.encoded.copy(), inputs.metadata.copy()
    values = np.asarray(cls().features(inputs))
    rows = len(encoded)
    fits = values.ndim == 2 and len(values) == rows
    require(fits, f"features returned {values.shape} for {rows} rows.")
    require(values.shape[1] > 0, "features returned no column.")
    require(np.isfinite(values.astype(float)).all(), "features are not all finite numbers.")
    same = np.array_equal(encoded, inputs.encoded) and recorded.equals(inputs.metadata)
    require(same, "features changed what it was given.")
    return f"{values.shape[1]} features"


def rows_alone(cls: type[Control]) -> None:
    inputs, _ = made_up()
    whole = np.asarray(cls().features(inputs))
    part = Inputs(inputs.encoded[:7], inputs.metadata.iloc[:7], inputs.unknown)
    same = np.array_equal(whole[:7], np.asarray(cls().features(part)))
    require(same, "the features of a row depend on the other rows: test rows would leak.")


def probabilities(cls: type[Control]) -> None:
    _, values = _fitted(cls)
    require(values.shape == (40, CLASSES), f"predict_proba returned {values.shape}.")
    require(np.isfinite(values).all() and (values >= 0).all(), "a probability is no number >= 0.")
    require(np.allclose(values.sum(axis=1), 1, atol=1e-6), "probabilities do not sum to 1.")


def repeatable(cls: type[Control]) -> None:
    same = np.array_equal(_fitted(cls, seed=3)[1], _fitted(cls, seed=3)[1])
    require(same, "the same seed gives other probabilities: pass it on as random_state.")


def absent_class(cls: type[Control]) -> None:
    _, labels = made_up()
    model, _ = _fitted(cls, np.flatnonzero(labels != 1))
    named_classes = sorted(np.asarray(model.classes_).tolist())
    require(named_classes == [0, 2, 3], "classes_ must name the classes of the training rows.")


CONTROL_CHECKS = named(features, rows_alone, probabilities, repeatable, absent_class)


def check_control(cls: type[Control], *, progress: Progress = SILENT) -> list[Check]:
    """Every check of a control class."""
    checks = steps(cls, cls.__name__, CONTROL_CHECKS, CONTROL_CHECKS)
    settings = ("settings", cls.__name__, partial(check_settings, cls))
    return run_all(cls, [[settings, *checks]], progress)
