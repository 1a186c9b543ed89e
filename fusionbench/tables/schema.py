"""What the file of a declared table may hold, and what a command changes in one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fusionbench.config.run_config import RunConfig
from fusionbench.metrics.names import METRICS, is_known
from fusionbench.plugin.registry import key_of, unknown_name


def _known(name: str) -> str:
    if not is_known(name):
        raise ValueError(" ".join(unknown_name("metric", name, METRICS)))
    return name


MetricName = Annotated[str, AfterValidator(_known)]
Text = Annotated[str, Field(min_length=1)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1)]
Folds = tuple[Annotated[int, Field(ge=0)], ...]


class _TablePart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class TableRow(_TablePart):
    """A label, and RunConfig fields in which the row differs from the table's settings."""

    model_config = ConfigDict(extra="allow")

    label: Text

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class PublishedFilter(_TablePart):
    """Which published rows stand below ours: those that meet every condition that is given."""

    method: tuple[Text, ...] = ()
    backbone: tuple[Text, ...] = ()
    source: tuple[Text, ...] = ()  # a part of the source's text is enough

    def wants(self, method: str, backbone: str, source: str) -> bool:
        methods = {key_of(name) for name in self.method}
        return (
            (not self.method or key_of(method) in methods)
            and (not self.backbone or backbone in self.backbone)
            and (not self.source or any(text in source for text in self.source))
        )


class Small(_TablePart):
    """The version that anyone makes in minutes."""

    note: Text  # what a reader must know; printed with the table
    dataset: Text = "synthetic"
    protocol: str = ""
    seeds: Seeds = (0,)
    folds: Folds = ()
    backbones: dict[str, Text] = {}  # of the table -> of its small version
    settings: dict[str, Any] = {}  # over those of the table and of its rows


class DeclaredTable(_TablePart):
    """One file. Every row is run for every seed on every fold."""

    title: Text
    dataset: Text
    protocol: str = ""  # "": the card's default
    seeds: Seeds = (0,)
    folds: Folds = ()  # (): all of the protocol's
    columns: tuple[MetricName, ...] = ()  # (): those of the papers' tables
    settings: dict[str, Any] = {}
    rows: tuple[TableRow, ...] = Field(min_length=1)
    published: PublishedFilter | None = None  # None: none
    small: Small | None = None
    path: Path = Field(default=Path(), exclude=True)

    @property
    def name(self) -> str:
        return self.path.stem


@dataclass(frozen=True)
class Overrides:
    """What a command changes in a table. All of it wins over what the file says."""

    small: bool = False
    dataset: str = ""
    protocol: str = ""
    seeds: tuple[int, ...] = ()  # (): the table's
    folds: tuple[int, ...] | None = ()  # (): the table's; None: all of the protocol's
    backbones: Mapping[str, str] = field(default_factory=dict)  # old -> new; "": every one -> new
    settings: Mapping[str, Any] = field(default_factory=dict)  # RunConfig fields


@dataclass(frozen=True)
class Declared:
    """One row under one seed."""

    row: int  # position in the table
    label: str
    config: RunConfig
