"""Does a record say what its data, split and card say? No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace

from fusionbench.analysis.reopen import reopen
from fusionbench.audit.examine import verdict_of
from fusionbench.config.identity import MethodIdentity, TrainingIdentity
from fusionbench.config.run_config import Execution
from fusionbench.data.locate import find_data, open_card
from fusionbench.errors import DataError, FusionbenchError, UsageError
from fusionbench.progress import SILENT, Progress
from fusionbench.records import Predictions, Record
from fusionbench.records.contradictions import apart
from fusionbench.runs.evaluation import of_data, predictions_of
from fusionbench.runs.study import Opened, Study, Trained


@dataclass(frozen=True)
class Reopened(Study):
    """The study of a finished run with the method that its record names."""

    record: Record

    @property
    def method_identity(self) -> MethodIdentity:
        return self.record.identity.method

    @property
    def training_identity(self) -> TrainingIdentity | None:
        return self.record.identity.training


class AgainstData:
    """`AgainstData(execution)(record, predictions)`: what contradicts the data, in words. Raises
    DataError where the data are not at hand. Each dataset is read once."""

    def __init__(self, execution: Execution, dataset: str = "", progress: Progress = SILENT):
        self._execution, self._dataset, self._progress = execution, dataset, progress
        self._opened = Opened(execution, progress)
        self._studies: dict[tuple[str, bool], Study | FusionbenchError] = {}

    def __call__(self, record: Record, predictions: Predictions) -> list[str]:
        result, identity = record.result, record.identity
        assert result is not None
        try:
            study = Reopened(**self._study(record).resolved, record=record)
            if changes := [*study.row_identity.at(0, 0).changes(identity.row.at(0, 0))]:
                return [f"{name} is {here!r} for its data" for name, here, _ in changes]
            folds = {fold.index: fold for fold in study.protocol.folds}
            if identity.fold not in folds:
                return [f"its split has no fold {identity.fold}"]
            fold = folds[identity.fold]
            rows = study.rows(fold)
        except DataError:
            raise
        except (FusionbenchError, AssertionError, ValueError) as error:
            return [f"no run on its data has its settings: {str(error) or type(error).__name__}"]
        card, facts = study.table.card, of_data(study, rows)
        if card.classes != result.classes:
            return [f"the classes of its dataset are {', '.join(card.classes)}"]
        blank = {
            name: np.zeros((len(part), len(card.classes))) for name, part in rows.parts.items()
        }
        expected = _by_photograph(predictions_of(study, fold, rows, Trained(blank, None, {})))
        recorded = _by_photograph(predictions)
        other = {name for name in recorded if recorded[name] != expected.get(name, recorded[name])}
        wrong = [
            f"{what}: {len(names)} photographs, as {min(names)[1]!r}"
            for what, names in (
                ("not evaluated, though in this fold", expected.keys() - recorded.keys()),
                ("evaluated, though not in this fold", recorded.keys() - expected.keys()),
                ("another label, patient or lesion than in the data", other),
            )
            if names
        ]
        if any((part.lesions is not None) != bool(card.lesion) for part in result.parts.values()):
            wrong.append(f"its dataset names {'' if card.lesion else 'no '}lesions")
        facts["verdict"] = verdict_of(
            study.table, study.protocol, study.columns, progress=self._progress
        )
        return wrong + apart(result, replace(result, **facts))

    def _study(self, record: Record) -> Study:
        """Raises DataError where the data are not at hand, UsageError for impossible settings."""
        assert record.result is not None
        key = record.identity.row.digest, record.result.complete_data
        if key not in self._studies:
            try:
                self._studies[key] = self._reopened(record)
            except FusionbenchError as error:
                self._studies[key] = error
        if isinstance(study := self._studies[key], FusionbenchError):
            raise study
        return study

    def _reopened(self, record: Record) -> Study:
        name = record.identity.data.dataset
        try:
            if not self._dataset and "/" in name:  # a path that others chose
                raise UsageError(f"There is no dataset called {name!r}.")
            card = open_card(self._dataset or name, plugins=self._execution.plugins)
            find_data(card, self._execution.data)
        except UsageError as error:
            raise DataError(error.message) from None
        if card.name != name:
            raise DataError(f"{name} is not here: --dataset is the card of {card.name}.")
        return reopen(record, self._execution, self._dataset, self._progress, self._opened)


def _by_photograph(predictions: Predictions) -> dict[tuple[str, str], tuple[str, str, str]]:
    p = predictions
    facts = zip(p.labels, p.groups, p.lesions, strict=True)
    return dict(zip(zip(p.parts, p.ids, strict=True), facts, strict=True))
