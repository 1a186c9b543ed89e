"""What a control plugin derives from: a method that never sees the photograph.

A table without such rows cannot say what the photograph, or the fusion, is worth. A control is
registered, run and tabulated like any fusion (`--fusion NAME`), and needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Inputs:
    """What a control may look at: n samples, one row each.

    encoded    float32 (n, M), as fusion methods get it; encoder fitted on the training rows
    metadata   the input columns as recorded: text or float64, None or NaN where nothing was
    unknown    marks in it that mean "asked, not known"
    """

    encoded: np.ndarray
    metadata: pd.DataFrame
    unknown: tuple[str, ...] = ()


class Control:
    """A classifier on metadata alone: override `estimator`, and `features` if need be.

    Its `__init__` takes hyper-parameters as keyword arguments with defaults: the signature is the
    schema of `--set fusion.NAME=VALUE`.
    """

    uses_images: ClassVar[bool] = False
    uses_metadata: ClassVar[bool] = True

    def features(self, inputs: Inputs) -> np.ndarray:
        """(n, F) finite numbers for the estimator; by default the encoded metadata."""
        return inputs.encoded

    def estimator(self, seed: int) -> Any:
        """A new scikit-learn classifier with `fit` and `predict_proba`, random only by `seed`."""
        raise NotImplementedError
