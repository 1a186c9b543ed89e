"""A control's experiment: a classifier on metadata, fitted and evaluated fold by fold. No torch.

It stands on the same rows, the same split and the same encoder as the networks it is compared with.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusionbench.config.environment import describe_environment, peak_memory
from fusionbench.config.identity import MethodIdentity
from fusionbench.config.run_config import LEARNED, Execution, RunConfig
from fusionbench.contract.checks import remembered
from fusionbench.contract.control_contract import quick_checks
from fusionbench.errors import UsageError
from fusionbench.plugin import registry
from fusionbench.plugin.control import Control, Inputs
from fusionbench.progress import SILENT, Progress
from fusionbench.protocols import Fold
from fusionbench.runs.study import (
    FoldRows,
    LoadedPlugin,
    Opened,
    Study,
    Trained,
    loaded_plugin,
    open_study,
)


@dataclass(frozen=True)
class ControlStudy(Study):
    """A resolved run of a control plugin."""

    control: LoadedPlugin[Control]

    @property
    def foreign(self) -> bool:
        return self.control.foreign

    @property
    def method_identity(self) -> MethodIdentity:
        return MethodIdentity(
            fusion=self.control.identity,
            uses_images=self.control.cls.uses_images,
            uses_metadata=self.control.cls.uses_metadata,
        )

    def trainer(self, execution: Execution, progress: Progress = SILENT) -> ControlStudy:
        """It fits one classifier per fold itself, and keeps nothing between folds."""
        return self

    @property
    def environment(self) -> dict[str, Any]:
        return describe_environment(precision="fp64", path="scikit-learn")

    def train(self, fold: Fold, rows: FoldRows, progress: Progress) -> Trained:
        """Fit a classifier on the fold and evaluate its parts. Raises what the plugin raises."""
        table, k = self.table, len(self.table.card.classes)
        metadata = self.metadata(fold, rows)
        encoder = self.encoder(metadata, rows.train)
        control = self.control.build()
        given = metadata[[c.name for c in self.columns]]
        inputs = Inputs(encoder.transform(metadata), given, table.card.unknown)
        trained = Inputs(inputs.encoded[rows.train], given.iloc[rows.train], inputs.unknown)
        contract = remembered(
            [self.control.identity],
            [column.name for column in self.columns],
            lambda: quick_checks(self.control.copy(), trained, table.labels[rows.train]),
            progress,
        )
        features = np.asarray(control.features(inputs), dtype=np.float64)
        started = time.perf_counter()
        with progress.task(f"fold {fold.index}", total=1, unit="fit") as task:
            model = control.estimator(self.fold_seed(fold))
            model.fit(features[rows.train], table.labels[rows.train])
            task.advance()
        seconds = time.perf_counter() - started
        known = np.asarray(model.classes_, dtype=int)

        def predict(part: np.ndarray) -> np.ndarray:
            # A class that no training row has gets probability 0.
            out = np.zeros((len(part), k))
            out[:, known] = model.predict_proba(features[part])
            return out

        return Trained(
            probabilities={name: predict(part) for name, part in rows.parts.items()},
            inner=None if rows.inner is None else predict(rows.inner),
            parameters={},
            contract=contract,
            train_seconds=seconds,
            peak_memory=peak_memory(),
        )


def setup(config: RunConfig, opened: Opened) -> ControlStudy:
    """Resolve and check a run of a control. Raises UsageError, DataError or PluginError."""
    if config.data.encoding in LEARNED:
        raise UsageError(
            f"--encoding {config.data.encoding} is learned with a network; "
            f"{config.method.fusion} has none.",
            "Use --encoding onehot, ordinal or ple.",
        )
    entry = registry.find("controls", config.method.fusion, opened.execution.plugins)
    own = {k: v for k, v in config.method.params.items() if k.startswith("fusion.")}
    settings = {key.removeprefix("fusion."): value for key, value in own.items()}
    control = loaded_plugin(entry, registry.load(entry, Control), settings)
    with control.building():
        control.build().estimator(0)
    study = open_study(config.changed(fusion=entry.name, params=own), opened, pictured=False)
    return ControlStudy(**study.resolved, control=control)
