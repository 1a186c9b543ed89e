"""What a configuration chooses of a dataset, by the names that the dataset's card gives them."""

from __future__ import annotations

from fusionbench.config.run_config import RunConfig
from fusionbench.data.card import DatasetCard
from fusionbench.data.encoder import input_columns


def named(config: RunConfig, card: DatasetCard) -> RunConfig:
    """The configuration with dataset, protocol, view and columns by their names in the card, where
    it left them to the card's defaults. An identity states them so.

    Raises UsageError for a column that the card does not have or does not allow.
    """
    data = config.data
    columns = input_columns(card, data.columns or None, forbidden=data.allow_forbidden)
    return config.changed(
        dataset=card.name,
        protocol=data.protocol or card.default_protocol or card.protocols[0].name,
        view=data.view or card.views[0].name,
        columns=tuple(column.name for column in columns),
    )
