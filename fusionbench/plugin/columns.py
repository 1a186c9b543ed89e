"""What a plugin is told of the metadata columns. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MetadataColumn:
    """One characteristic, and where it stands among the M metadata features.

    kind      "numeric", "boolean" or "categorical"
    features  positions of its features: one per value under one-hot encoding, else one
    values    what these features stand for, in their order; () for numbers and ordinal codes
    missing   position of the feature that is 1 where nothing was recorded, or None
    recorded  position of the feature that is 1 where something was recorded; None unless the
              method says `takes_recorded`
    """

    name: str
    kind: str
    features: tuple[int, ...]
    values: tuple[str, ...] = ()
    missing: int | None = None
    recorded: int | None = None
