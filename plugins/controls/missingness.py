"""Missingness only: which answers were not recorded, and which were "unknown"; never what they are.

What this row reaches above chance, a method may have learnt from gaps in the records.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression

from fusionbench.plugin.control import Control, Inputs


class Missingness(Control):
    """Logistic regression on two flags per column: nothing recorded, marked unknown."""

    def __init__(self, *, c: float = 1.0) -> None:
        self.c = c

    def features(self, inputs: Inputs) -> np.ndarray:
        metadata = inputs.metadata
        return np.hstack([metadata.isna(), metadata.isin(inputs.unknown)]).astype(np.float32)

    def estimator(self, seed: int) -> LogisticRegression:
        return LogisticRegression(C=self.c, class_weight="balanced", max_iter=2000)
