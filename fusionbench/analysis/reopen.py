"""From a record back to what its run was made on: data, columns and split. No torch."""

from __future__ import annotations

from pydantic import ValidationError

from fusionbench.config.run_config import Execution
from fusionbench.data.locate import open_card
from fusionbench.errors import DataError, RecordError, UsageError
from fusionbench.progress import SILENT, Progress
from fusionbench.records import Record
from fusionbench.runs.study import Opened, Study, open_study


def reopen(
    record: Record,
    execution: Execution,
    dataset: str = "",
    progress: Progress = SILENT,
    opened: Opened | None = None,
) -> Study:
    """The study of a finished run, on the data that it was made on, which `opened` may hold.

    `dataset`: path of the card, where the record's dataset is not known here by name. Raises
    UsageError for another dataset's card, DataError where the data are not here or have another
    fingerprint, RecordError for settings that this version does not have.
    """
    run, on, result = record.run_id, record.identity.data, record.result
    assert result is not None
    try:
        card = open_card(dataset or on.dataset, plugins=execution.plugins)
    except UsageError as error:
        if dataset:
            raise
        raise UsageError(
            f"{run} is on a dataset that is not known here by name. {error.message}",
            "Name its card with --dataset path/to/dataset.toml.",
        ) from None
    if card.name != on.dataset:
        raise UsageError(f"{run} is on {on.dataset}; that is the card of {card.name}.")
    try:
        config = record.identity.config(
            dataset=dataset or on.dataset, allow_missing_images=not result.complete_data
        )
    except ValidationError as error:
        where = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
        raise RecordError(
            f"This fusionbench does not have the settings of {run}: {where}.",
            "Use the version that made it.",
        ) from None
    pictured = record.identity.method.uses_images
    study = open_study(config, opened or Opened(execution, progress), pictured=pictured)
    if (here := study.table.fingerprint) != on.fingerprint:
        raise DataError(
            f"The data of {card.name} here is not what the run was made on: fingerprint {here}, "
            f"the run's is {on.fingerprint} ({result.n_rows_used:,} photographs; "
            f"{len(study.table):,} are here).",
            "Name the folder of the run's data with --data, or its card with --dataset.",
        )
    return study
