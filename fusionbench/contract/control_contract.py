"""The contract of a control, on made-up metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from fusionbench.contract.checks import (
    Check,
    Plugin,
    check_settings,
    named,
    require,
    run_all,
    same_random_numbers,
    steps,
)
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


@dataclass(frozen=True)
class ControlCase:
    """A control, and rows for it: made-up ones, or some of a table."""

    cls: type[Control]
    params: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[Inputs, np.ndarray] = field(default_factory=made_up)

    @property
    def inputs(self) -> Inputs:
        return self.rows[0]

    def features(self, inputs: Inputs) -> np.ndarray:
        return np.asarray(self.cls(**self.params).features(inputs))

    def fitted(self, without: int | None = None, seed: int = 0) -> tuple[Any, np.ndarray]:
        """The classifier trained on two thirds of the rows, without those of a class, and its
        probabilities of the other rows."""
        (inputs, labels), control = self.rows, self.cls(**self.params)
        values, train = np.asarray(control.features(inputs)), np.arange(len(labels)) % 3 != 0
        fit = train if without is None else train & (labels != without)
        model = control.estimator(seed)
        model.fit(values[fit], labels[fit])
        return model, np.asarray(model.predict_proba(values[~train]))


def features(case: ControlCase) -> str:
    values, rows = case.features(case.inputs), len(case.inputs.encoded)
    fits = values.ndim == 2 and len(values) == rows
    require(fits, f"features returned {values.shape} for {rows} rows.")
    require(values.shape[1] > 0, "features returned no column.")
    require(np.isfinite(values.astype(float)).all(), "features are not all finite numbers.")
    return f"{values.shape[1]} features"


def in_place(case: ControlCase) -> None:
    inputs = case.inputs
    encoded, recorded = inputs.encoded.copy(), inputs.metadata.copy()
    case.features(inputs)
    same = np.array_equal(encoded, inputs.encoded) and recorded.equals(inputs.metadata)
    require(same, "`features` changes its `inputs` in place: work on a copy.")


def rows_alone(case: ControlCase) -> None:
    inputs, whole = case.inputs, case.features(case.inputs)
    same = np.array_equal(whole, case.features(inputs))
    require(same, "the same rows get other features later: it draws random numbers or keeps state.")
    part = Inputs(inputs.encoded[:7], inputs.metadata.iloc[:7], inputs.unknown)
    same = np.array_equal(whole[:7], case.features(part))
    require(same, "the features of a row depend on the other rows: test rows would leak.")


def probabilities(case: ControlCase) -> None:
    _, values = case.fitted()
    require(values.shape == (40, CLASSES), f"predict_proba returned {values.shape}.")
    require(np.isfinite(values).all() and (values >= 0).all(), "a probability is no number >= 0.")
    require(np.allclose(values.sum(axis=1), 1, atol=1e-6), "probabilities do not sum to 1.")


def repeatable(case: ControlCase) -> None:
    with same_random_numbers(1):
        first = case.fitted(seed=3)[1]
    with same_random_numbers(2):
        same = np.array_equal(first, case.fitted(seed=3)[1])
    require(same, "the same seed gives other probabilities: pass it on as random_state.")


def absent_class(case: ControlCase) -> None:
    model, _ = case.fitted(without=1)
    named_classes = sorted(np.asarray(model.classes_).tolist())
    require(named_classes == [0, 2, 3], "classes_ must name the classes of the training rows.")


CONTROL_CHECKS = named(features, in_place, rows_alone, probabilities, repeatable, absent_class)
QUICK = ("in place", "rows alone")  # no fit, which may take long
SOME = 120  # rows


def quick_checks(control: Plugin, inputs: Inputs, labels: np.ndarray) -> list[Check]:
    """What changes the meaning of the numbers of a row, on some of its rows of every class."""
    order = np.argsort(labels, kind="stable")
    some = order[np.linspace(0, len(order) - 1, min(SOME, len(order))).astype(int)]
    some = np.random.default_rng(0).permutation(some)
    few = Inputs(inputs.encoded[some], inputs.metadata.iloc[some], inputs.unknown)
    case = ControlCase(control.cls, control.params, (few, labels[some]))
    return run_all(control.cls, [steps(case, control.cls.__name__, CONTROL_CHECKS, QUICK)], SILENT)


def check_control(cls: type[Control], *, progress: Progress = SILENT) -> list[Check]:
    """Every check of a control class."""
    checks = steps(ControlCase(cls), cls.__name__, CONTROL_CHECKS, CONTROL_CHECKS)
    settings = ("settings", cls.__name__, partial(check_settings, cls))
    return run_all(cls, [[settings, *checks]], progress)
