"""What a configuration chooses of a dataset, by the names that the dataset's card gives them."""

from __future__ import annotations

from collections.abc import Sequence

from fusionbench.config.run_config import RunConfig
from fusionbench.data.card import Column, DatasetCard
from fusionbench.errors import UsageError


def named(config: RunConfig, card: DatasetCard) -> RunConfig:
    """The configuration with dataset, protocol, view and columns by their names in the card, where
    it left them to the card's defaults. An identity states them so.

    Raises UsageError for a column that the card does not have or does not allow.
    """
    data = config.data
    columns = input_columns(card, data.columns or None, forbidden=data.allow_forbidden)
    return config.changed(
        dataset=card.name,
        protocol=data.protocol or card.protocol().name,
        view=data.view or card.view().name,
        columns=tuple(column.name for column in columns),
    )


def input_columns(
    card: DatasetCard, names: Sequence[str] | None = None, *, forbidden: bool = False
) -> tuple[Column, ...]:
    """The card's default inputs, or the named columns in the card's order.

    Raises UsageError for a name that the card does not have, and for a forbidden one unless
    `forbidden` says that those may be named.
    """
    if names is None:
        return tuple(c for c in card.columns if c.role == "input")
    known = {c.name: c for c in card.columns}
    for name in names:
        if name not in known:
            raise UsageError(
                f"{card.name} has no column {name!r}.", f"It has: {', '.join(known) or 'none'}."
            )
        if not forbidden:
            refuse_forbidden(known[name])
    return tuple(c for c in card.columns if c.name in names)


def refuse_forbidden(column: Column) -> None:
    """Raises UsageError for a column that gives the label away."""
    if column.role == "forbidden":
        why = f": {column.note}" if column.note else ""
        raise UsageError(
            f"The column {column.name!r} may not be an input{why}.",
            "--allow-forbidden uses it all the same, and the row says so.",
        )
