"""What papers report: leaderboards/published.csv and published_changes.csv, read strictly.

    load(path=None) -> list[PublishedRow]       one per method, backbone, protocol and source
    load_changes(path=None) -> list[Change]     ablations: differences that a paper reports

These numbers were not measured here. A row keeps its protocol in the source's own terms, and each
value says how it came to us (`grade`). leaderboards/README.md describes the columns.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from fusionbench.config.problems import bad_file, problems_of
from fusionbench.errors import DataError
from fusionbench.metrics.names import describe
from fusionbench.plugin.registry import builtin_root
from fusionbench.tables.schema import MetricName

Grade = Literal["paper", "secondary", "seed"]
GRADES: dict[Grade, str] = {
    "paper": "read in the paper's own text",
    "secondary": "read in a copy of the abstract or in the authors' repository",
    "seed": "taken over from a list, not yet read at its source",
}

# A cell that may be empty.
_EMPTY = BeforeValidator(lambda cell: cell or None)


class PublishedNumber(BaseModel):
    """What both files say in every line."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: str = Field(min_length=1)
    backbone: str = Field(min_length=1)  # "-" where there is none, or the source does not say
    dataset: str = Field(min_length=1)
    metric: MetricName
    source: str = Field(min_length=1)
    url: str = Field(pattern=r"^https?://[^\s/]+\.[^\s]+$")
    grade: Grade
    note: str

    @model_validator(mode="after")
    def _fractions(self) -> PublishedNumber:
        if describe(self.metric).percent:
            for name in ("value", "std", "delta"):
                number = getattr(self, name, None)
                if number is not None and abs(number) > 1:
                    raise ValueError(
                        f"{name} {number:g} is no fraction (write 0.833 for 83.3 % or points)"
                    )
        return self


class PublishedCells(PublishedNumber):
    """One line of published.csv."""

    protocol: str = Field(min_length=1)
    samples: Annotated[Annotated[int, Field(ge=1)] | None, _EMPTY]
    value: float = Field(ge=0)
    std: Annotated[Annotated[float, Field(ge=0)] | None, _EMPTY]


class Change(PublishedNumber):
    """A difference that a source reports: the metric with `change` minus without it."""

    change: str = Field(min_length=1)
    delta: float


@dataclass(frozen=True)
class Value:
    """One published number, as a fraction where our metric of that name is one."""

    value: float
    std: float | None
    grade: Grade
    note: str  # what was read, what is taken for granted


@dataclass(frozen=True)
class PublishedRow:
    """What one source reports for one method on one backbone under one protocol. Where it stands
    below ours it has either its differences to ours, or the reason why there are none."""

    method: str
    backbone: str
    dataset: str
    protocol: str  # in the source's terms; one of our protocols' names only where it is that one
    samples: int | None
    source: str
    url: str
    values: Mapping[str, Value]  # by exact metric name
    delta: Mapping[str, float] = field(default_factory=dict)  # ours minus published, by metric
    against: str = ""  # key of our row; "" where there is no difference
    reason: str = ""  # "" where there is one


def load(path: Path | None = None) -> list[PublishedRow]:
    """The published rows of a file, in its order; by default those that come with fusionbench.

    Raises DataError that lists every bad line: an unknown metric or grade, a value that is no
    fraction, an empty source, the same number twice.
    """
    path = path or builtin_root() / "leaderboards" / "published.csv"
    same_row = ("method", "backbone", "dataset", "protocol", "samples", "source", "url")
    rows: dict[tuple[Any, ...], dict[str, Value]] = {}
    for cells in _read(path, PublishedCells, (*same_row, "metric")):
        values = rows.setdefault(tuple(getattr(cells, name) for name in same_row), {})
        values[cells.metric] = Value(cells.value, cells.std, cells.grade, cells.note)
    return [
        PublishedRow(**dict(zip(same_row, row, strict=True)), values=values)
        for row, values in rows.items()
    ]


def load_changes(path: Path | None = None) -> list[Change]:
    """The published differences of a file, in its order. Raises DataError as `load` does."""
    path = path or builtin_root() / "leaderboards" / "published_changes.csv"
    once = ("method", "backbone", "dataset", "change", "metric", "source", "url")
    return _read(path, Change, once)


Number = TypeVar("Number", bound=PublishedNumber)


def _read(path: Path, model: type[Number], once: tuple[str, ...]) -> list[Number]:
    """Every line as `model`; no two of them alike in the columns `once`."""
    remedy = "leaderboards/README.md describes the columns."
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            lines = [(reader.line_num, raw) for raw in reader]
            names = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as csv: {error}.", remedy) from None
    if sorted(names) != sorted(model.model_fields):
        columns = ", ".join(model.model_fields)
        raise bad_file(path, [("header", f"its columns must be {columns}, each once")], remedy)
    numbers: dict[tuple[object, ...], tuple[int, Number]] = {}
    problems: list[tuple[str, str]] = []
    for line, raw in lines:
        # A line that is too short or too long has None among its cells or keys.
        if None in raw or None in raw.values():
            problems.append((f"line {line}", f"has not {len(names)} cells"))
            continue
        try:
            number = model.model_validate({name: cell.strip() for name, cell in raw.items()})
        except ValidationError as error:
            problems += [
                (f"line {line} {field}".rstrip(), text) for field, text in problems_of(error)
            ]
            continue
        first, _ = numbers.setdefault(tuple(getattr(number, n) for n in once), (line, number))
        if first != line:
            problems.append((f"line {line}", f"repeats the number of line {first}"))
    if problems:
        raise bad_file(path, problems, remedy)
    return [number for _, number in numbers.values()]
