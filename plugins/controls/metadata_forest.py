"""Metadata only: random forest (L. Breiman, Random forests, Machine Learning 45, 2001).

Classes are weighted to count alike, as balanced accuracy does.
"""

from sklearn.ensemble import RandomForestClassifier

from fusionbench.plugin.control import Control


class MetadataForest(Control):
    """Random forest on the encoded metadata."""

    def __init__(self, *, trees: int = 500, min_leaf: int = 2) -> None:
        self.trees, self.min_leaf = trees, min_leaf

    def estimator(self, seed: int) -> RandomForestClassifier:
        return RandomForestClassifier(
            self.trees,
            min_samples_leaf=self.min_leaf,
            class_weight="balanced",
            random_state=seed,
            n_jobs=1,
        )
