"""A dataset is a card: `datasets/<name>/dataset.toml` says everything the code needs to know.

A user's own dataset is a csv, a folder of images and such a card; no code. The two public datasets
and the synthetic one are described the same way, so nothing below knows a dataset by name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from fusionbench.config.problems import bad_file, problems_of, read_toml
from fusionbench.config.wording import listed
from fusionbench.data.paths import is_file, unsafe_path
from fusionbench.errors import UsageError
from fusionbench.plugin.registry import unknown_name


def _inside(path: str) -> str:
    if path not in (".", "./") and (reason := unsafe_path(path)):
        raise ValueError(reason)
    return path


def _plain(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise ValueError(f"must be lower-case letters, digits, '.', '_' and '-', not {name!r}")
    return name


Text = Annotated[str, Field(min_length=1)]
Inside = Annotated[str, AfterValidator(_inside)]  # a relative path that stays in its folder


class _CardPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSource(_CardPart):
    """Where the data comes from. Shown to a user whose data folder is empty."""

    url: str = ""
    doi: str = ""
    licence: str = ""
    citation: str = ""
    obtain: str = ""  # how to get it and what to put where, in a few lines


class Files(_CardPart):
    """Files of the dataset, relative to its data folder."""

    metadata: Inside
    # Folders that are searched for images, recursively, in this order.
    images: tuple[Inside, ...] = ("images",)
    # Data may sit one or two folders deeper (archives, mirrors); these names are tried as roots.
    roots: tuple[str, ...] = ()


class View(_CardPart):
    """One photograph per sample: a csv column that names its file."""

    name: Text
    column: Text


class Label(_CardPart):
    """The csv column with the diagnosis, and the classes it is mapped to."""

    column: Text
    classes: tuple[str, ...] = Field(min_length=2)
    # class -> patterns of raw labels ("* nevus"), in which * is any text and ? one character; a raw
    # label that is a class name needs none. A label that fits no class, or several, is an error.
    patterns: dict[str, tuple[str, ...]] = {}
    # Raw labels, letter by letter ("": an empty cell), whose rows are left out of the dataset.
    ignore: tuple[str, ...] = ()
    # Classes that count as malignant: for audits and for "melanoma sensitivity".
    malignant: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _known(self) -> Label:
        unknown = (set(self.patterns) | set(self.malignant)) - set(self.classes)
        if unknown:
            raise ValueError(f"patterns or malignant name no class: {', '.join(sorted(unknown))}")
        if twice := _twice(self.classes):
            raise ValueError(f"classes has {twice} twice")
        patterns = {pattern for patterns in self.patterns.values() for pattern in patterns}
        if both := sorted(set(self.ignore) & {*self.classes, *patterns}):
            raise ValueError(f"ignored, and of a class: {', '.join(both)}")
        return self

    def classes_of(self, raw: str) -> tuple[str, ...]:
        """The classes that a raw label may mean; one, where the card says clearly which.

        A label that is a class name, or letter by letter a pattern, means that class alone.
        """
        if raw in self.classes:
            return (raw,)

        def fit(fits: Callable[[str], bool]) -> tuple[str, ...]:
            return tuple(c for c in self.classes if any(map(fits, self.patterns.get(c, ()))))

        return fit(raw.__eq__) or fit(lambda p: fnmatchcase(raw, p.replace("[", "[[]")))

    def class_of(self, raw: str) -> str | None:
        """The class of a raw label; None where no class fits, or several do."""
        classes = self.classes_of(raw)
        return classes[0] if len(classes) == 1 else None


class Column(_CardPart):
    """One metadata characteristic."""

    name: Text
    kind: Literal["categorical", "boolean", "numeric"]
    # Allowed raw values of a categorical column; empty: whatever the file holds.
    values: tuple[str, ...] = ()
    # Spellings that mean the same: {"BRASIL" = "BRAZIL"}.
    aliases: dict[str, str] = {}
    minimum: float | None = None
    maximum: float | None = None
    # input: used by default. optional: available by name. proxy: the clinician's reading, nearly
    # the label; by name only, and the row says so. forbidden: gives the label away.
    role: Literal["input", "optional", "proxy", "forbidden"] = "input"
    note: str = ""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Column:
        bounds = [bound for bound in (self.minimum, self.maximum) if bound is not None]
        if self.kind != "numeric" and bounds:
            raise ValueError(f"{self.name}: minimum and maximum are for numeric columns")
        if self.kind == "numeric" and self.values:
            raise ValueError(f"{self.name}: values are for categorical columns")
        if len(bounds) > 1 and bounds[0] > bounds[1]:
            raise ValueError(f"{self.name}: minimum {bounds[0]:g} is above maximum {bounds[1]:g}")
        if twice := _twice(self.values):
            raise ValueError(f"{self.name}: values has {twice} twice")
        return self


class Subgroup(_CardPart):
    """Groups of samples by one column, within which a finished run is looked at again.

    The groups are the column's values; bands of a numeric one, by their lower bounds; or values
    under a common name. Results do not depend on it: only what is reported of them.
    """

    name: Text
    column: Text
    bands: tuple[float, ...] = ()
    merge: dict[Text, tuple[str, ...]] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Subgroup:
        if any(b <= a for a, b in pairwise(self.bands)):
            raise ValueError("bands must rise")
        merged = [value for values in self.merge.values() for value in values]
        if repeated := sorted({v for v in merged if merged.count(v) > 1}):
            raise ValueError(f"merged twice: {', '.join(repeated)}")
        return self

    def group_of(self, value: str | float) -> str:
        """What the group of a recorded value is called: '30 to <50', 'trunk', 'FEMALE', '3'."""
        if isinstance(value, str):
            return next((name for name, values in self.merge.items() if value in values), value)
        below = [b for b in self.bands if b <= value]
        above = [b for b in self.bands if b > value]
        if not self.bands:
            return f"{value:g}"
        if not below:
            return f"under {above[0]:g}"
        return f"{below[-1]:g} to <{above[0]:g}" if above else f"{below[-1]:g} and over"


class ProtocolSpec(_CardPart):
    """How rows are split. The committed file decides; the recipe says how it was made."""

    name: Annotated[Inside, Field(pattern="^[^/]+$")]  # becomes part of a file's name
    # grouped-kfold: StratifiedGroupKFold by the group key. image-kfold: StratifiedKFold by row.
    # kfold-holdout: StratifiedKFold into folds+1 parts, the last kept as a separate test part.
    # fixed: train / valid / test as published.
    kind: Literal["grouped-kfold", "image-kfold", "kfold-holdout", "fixed"]
    folds: Annotated[int, Field(ge=1, le=1000)] = 5
    seed: int = 0
    # Relative to the card's folder, e.g. splits/grouped-5fold.csv; written where it is not there.
    file: Inside = ""
    sha256: str = ""  # of the file; checked on reading
    # Instead of a file of ours: part -> csv in the user's own data folder whose `index_column`
    # holds 0-based row positions of the metadata file.
    index_files: dict[Literal["train", "valid", "test"], Inside] = {}
    index_column: str = "indexes"
    # Some rows of the table are in no part, or rows of the file not in the table.
    partial: bool = False
    # Known leaks, shown on every row: ("patients",) where a patient may be on both sides.
    leaks: tuple[str, ...] = ()
    note: str = ""

    @field_validator("index_files", mode="before")
    @classmethod
    def _valid(cls, files: object) -> object:
        """`val` and `validation` are the part `valid`."""
        if not isinstance(files, dict):
            return files
        names = {"val": "valid", "validation": "valid"}
        return {names.get(part, part): name for part, name in files.items()}

    @property
    def published(self) -> bool:
        """Whether its files come from elsewhere, so that they cannot be made again."""
        return bool(self.index_files or self.sha256) or self.kind == "fixed"

    @property
    def fold_count(self) -> int:
        """How many folds it has."""
        return 1 if self.kind == "fixed" else self.folds

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of parts that a split file may give to a row."""
        if self.kind == "fixed":
            return ("train", "valid", "test")
        holdout = ("holdout",) if self.kind == "kfold-holdout" else ()
        return (*map(str, range(self.folds)), *holdout)

    @model_validator(mode="after")
    def _has_source(self) -> ProtocolSpec:
        if bool(self.file) == bool(self.index_files):
            raise ValueError("a protocol names either `file` or `index_files`")
        if self.index_files and (
            self.kind != "fixed" or not {"train", "test"} <= set(self.index_files)
        ):
            raise ValueError("index_files go with kind 'fixed' and name at least train and test")
        if self.kind != "fixed" and self.folds < 2:
            raise ValueError("folds must be at least 2")
        return self


Part = TypeVar("Part", View, ProtocolSpec)


class Expect(_CardPart):
    """What the complete, published dataset looks like; `data verify` compares."""

    rows: Annotated[int, Field(ge=0)] | None = None
    groups: Annotated[int, Field(ge=0)] | None = None
    classes: dict[str, int] = {}


class DatasetCard(_CardPart):
    """`dataset.toml`, checked. `folder` is where it was read from (not part of the file)."""

    name: Annotated[str, AfterValidator(_plain)]
    title: Text
    description: str = ""
    source: DataSource = DataSource()
    files: Files
    views: tuple[View, ...] = Field(min_length=1)  # the first is the default
    # The csv column that names a sample; by default that of the first view.
    id: str = ""
    label: Label
    # Columns that together identify the patient: what a grouped split keeps together.
    # Empty: every row is its own group.
    group: tuple[Text, ...] = ()
    # Where a cell of `group` is empty: "" refuses the row, "own" reads it as a group by itself.
    group_missing: Literal["", "own"] = ""
    # Columns that together identify a lesion (several photographs of one lesion).
    lesion: tuple[Text, ...] = ()
    # Texts that mean "asked, not known": a value of its own. An empty cell is "not recorded".
    unknown: tuple[str, ...] = ("UNK",)
    columns: tuple[Column, ...] = ()
    # Further csv columns that may be there and are not read.
    ignore: tuple[str, ...] = ()
    subgroups: tuple[Subgroup, ...] = ()
    # By default five folds by patient, where `group` is given, and five by image.
    protocols: tuple[ProtocolSpec, ...] = Field(default=(), validate_default=True)
    default_protocol: str = ""
    expect: Expect = Expect()
    # A generator that writes the dataset on first use, instead of a download.
    generator: Literal["", "synthetic"] = ""
    # What the generator is told; see its documentation.
    generator_options: dict[str, int | float] = {}
    folder: Path = Field(default=Path(), exclude=True)

    @field_validator("protocols")
    @classmethod
    def _usual_ones(
        cls, protocols: tuple[ProtocolSpec, ...], info: ValidationInfo
    ) -> tuple[ProtocolSpec, ...]:
        if protocols:
            return protocols
        leaks = ("patients",) if info.data.get("group") else ()
        by_group = ProtocolSpec(
            name="grouped-5fold", kind="grouped-kfold", file="splits/grouped-5fold.csv"
        )
        by_image = ProtocolSpec(
            name="image-5fold", kind="image-kfold", file="splits/image-5fold.csv", leaks=leaks
        )
        return (by_group, by_image) if leaks else (by_image,)

    @model_validator(mode="after")
    def _consistent(self) -> DatasetCard:
        for what in ("columns", "views", "subgroups", "protocols"):
            if twice := _twice(part.name for part in getattr(self, what)):
                raise ValueError(f"{what}: the name {twice} is there twice")
        metadata = {c.name for c in self.columns}
        if self.label.column in metadata:
            raise ValueError(f"the label column {self.label.column!r} is also a metadata column")
        for name in (self.id_column, *(view.column for view in self.views)):
            if name in metadata:
                raise ValueError(f"columns: {name!r} names a sample or its photograph, no metadata")
        if both := sorted(metadata & {*self.ignore}):
            raise ValueError(f"ignored, and among the columns: {', '.join(both)}")
        if unknown := sorted({*self.expect.classes} - {*self.classes}):
            raise ValueError(f"expect.classes names no class: {', '.join(unknown)}")
        known = {p.name for p in self.protocols}
        if self.default_protocol and self.default_protocol not in known:
            raise ValueError(f"default_protocol {self.default_protocol!r} is not declared")
        for subgroup in self.subgroups:
            self._check_subgroup(subgroup)
        return self

    def _check_subgroup(self, subgroup: Subgroup) -> None:
        column = next((c for c in self.columns if c.name == subgroup.column), None)
        where = f"subgroup {subgroup.name!r}"
        if column is None:
            raise ValueError(f"{where}: the card has no column {subgroup.column!r}")
        if subgroup.bands and column.kind != "numeric":
            raise ValueError(f"{where}: bands need a numeric column, {column.name} is none")
        if subgroup.merge and column.kind == "numeric":
            raise ValueError(f"{where}: merge is for values; {column.name} is numeric: use bands")
        merged = {value for values in subgroup.merge.values() for value in values}
        if column.values and (unknown := sorted(merged - set(column.values))):
            raise ValueError(f"{where}: no values of {column.name}: {', '.join(unknown)}")

    @property
    def id_column(self) -> str:
        return self.id or self.views[0].column

    @property
    def classes(self) -> tuple[str, ...]:
        return self.label.classes

    def protocol(self, name: str = "") -> ProtocolSpec:
        """The protocol of that name; "": the default, else the first. Raises UsageError."""
        name = name or self.default_protocol or self.protocols[0].name
        return _named(f"protocol of {self.name}", self.protocols, name)

    def view(self, name: str = "") -> View:
        """The view of that name; "": the first. Raises UsageError."""
        return _named(f"view of {self.name}", self.views, name or self.views[0].name)


def _twice(names: Iterable[str]) -> str:
    """The names that come twice, quoted."""
    return listed(repr(name) for name, n in Counter(names).items() if n > 1)


def _named(what: str, parts: tuple[Part, ...], name: str) -> Part:
    by_name = {part.name: part for part in parts}
    if name not in by_name:
        raise UsageError(*unknown_name(what, name, by_name))
    return by_name[name]


def read_card(path: Path) -> DatasetCard:
    """Read and check a `dataset.toml`.

    Raises UsageError where there is none, DataError naming the file and every field that does not
    fit.
    """
    if not is_file(path):
        raise UsageError(f"There is no dataset card at {path}.", "See datasets/README.md.")
    try:
        return DatasetCard.model_validate({**read_toml(path), "folder": path.resolve().parent})
    except ValidationError as error:
        raise bad_file(
            path, problems_of(error, DatasetCard), "See datasets/README.md for the format."
        ) from None
