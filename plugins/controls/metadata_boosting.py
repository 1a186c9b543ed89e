"""Metadata only: gradient boosting on histograms, after G. Ke et al., LightGBM, NeurIPS 2017.

Classes are weighted to count alike, as balanced accuracy does.
"""

from sklearn.ensemble import HistGradientBoostingClassifier

from fusionbench.plugin.control import Control


class MetadataBoosting(Control):
    """Histogram gradient boosting on the encoded metadata."""

    def __init__(self, *, rounds: int = 100, lr: float = 0.1, leaves: int = 15) -> None:
        self.rounds, self.lr, self.leaves = rounds, lr, leaves

    def estimator(self, seed: int) -> HistGradientBoostingClassifier:
        return HistGradientBoostingClassifier(
            learning_rate=self.lr,
            max_iter=self.rounds,
            max_leaf_nodes=self.leaves,
            class_weight="balanced",
            early_stopping=False,
            random_state=seed,
        )
