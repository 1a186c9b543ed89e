"""Metadata only: multinomial logistic regression.

Classes are weighted to count alike, as balanced accuracy does.
"""

from sklearn.linear_model import LogisticRegression

from fusionbench.plugin.control import Control


class MetadataLogistic(Control):
    """L2-penalised logistic regression on the encoded metadata; `c` is the inverse strength."""

    def __init__(self, *, c: float = 1.0) -> None:
        self.c = c

    def estimator(self, seed: int) -> LogisticRegression:
        return LogisticRegression(C=self.c, class_weight="balanced", max_iter=2000)
