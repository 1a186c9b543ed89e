"""What a run is made on, and the rows of each fold: the part of a run that needs no network.

open_study() resolves data, columns and protocol of a RunConfig. runs.network_study adds a network
to them, runs.control_study a control without images.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
import pandas as pd

from fusionbench.config.identity import (
    DataIdentity,
    Identity,
    MethodIdentity,
    PluginIdentity,
    RowIdentity,
    TrainingIdentity,
    plain_json,
    way_of_shuffling,
)
from fusionbench.config.plugin_settings import plugin_params
from fusionbench.config.run_config import DataSettings, Execution, Param, RunConfig
from fusionbench.config.wording import listed, plural
from fusionbench.data.card import Column
from fusionbench.data.choices import input_columns, named
from fusionbench.data.encoder import MetadataEncoder
from fusionbench.data.locate import find_data, open_card
from fusionbench.data.table import Table, load_table, read_dataset
from fusionbench.errors import DataError, FusionbenchError, PluginError, UsageError, message_of
from fusionbench.plugin import registry
from fusionbench.plugin.containment import contained
from fusionbench.progress import SILENT, Progress
from fusionbench.protocols import Fold, Split, inner_split, split_of
from fusionbench.records import NOT_CHECKED, cohort


@dataclass(frozen=True)
class FoldRows:
    """Positions into the table, after the missing-value policy. `parts` are evaluated."""

    train: np.ndarray
    parts: dict[str, np.ndarray]  # "test" first
    watch: np.ndarray | None = None  # scored after each epoch, to choose one
    inner: np.ndarray | None = None  # neither trained on nor tested: a temperature is fitted here


@dataclass(frozen=True)
class Study:
    """Data, columns and split of a run. Pixels are not touched."""

    config: RunConfig
    table: Table
    columns: tuple[Column, ...]
    protocol: Split
    keep: np.ndarray  # bool, rows that the missing-value policy keeps

    @property
    def view(self) -> str:
        return self.table.views[0]

    @property
    def resolved(self) -> dict[str, Any]:
        """The fields of a Study, for a kind of experiment that adds its own."""
        return {field.name: getattr(self, field.name) for field in fields(Study)}

    @property
    def uses_images(self) -> bool:
        """Whether the method is a network that sees the photographs."""
        return self.method_identity.uses_images

    @property
    def foreign(self) -> bool:
        """Whether it has a plugin that does not come with fusionbench."""
        raise NotImplementedError

    @property
    def takes_recorded(self) -> bool:
        """Whether the method is told, by one feature per column, which cells were recorded."""
        return False

    @property
    def method_identity(self) -> MethodIdentity:
        """What is trained, with every setting of its plugins."""
        raise NotImplementedError

    @property
    def training_identity(self) -> TrainingIdentity | None:
        """How it is trained; None for a method without a network."""
        return None

    @cached_property
    def row_identity(self) -> RowIdentity:
        """All that changes the numbers of the row, and nothing else."""
        own = named(self.config, self.table.card).data.model_dump(exclude={"allow_missing_images"})
        data = DataIdentity(
            **own | {"shuffle_metadata": way_of_shuffling(own["shuffle_metadata"])},
            fingerprint=self.table.fingerprint,
            split_hash=self.protocol.split_hash,
        )
        return RowIdentity(data=data, method=self.method_identity, training=self.training_identity)

    def identity(self, fold: Fold) -> Identity:
        """All that changes the numbers of the fold."""
        return self.row_identity.at(fold.index, self.config.seed)

    def run_id(self, fold: Fold) -> str:
        return self.identity(fold).run_id

    def images(self, workers: int | None, progress: Progress) -> Any:
        """The decoded photographs, for a method that uses them."""
        raise NotImplementedError

    def trainer(self, execution: Execution, progress: Progress = SILENT) -> Trainer:
        """What carries its folds out. Raises UsageError or PluginError for what cannot be built."""
        raise NotImplementedError

    def fold_seed(self, fold: Fold) -> int:
        """What a fold's training draws its random numbers from."""
        return int(np.random.SeedSequence([self.config.seed, fold.index]).generate_state(1)[0])

    def rows(self, fold: Fold) -> FoldRows:
        """Which rows train, are watched and are evaluated. Raises DataError for an empty part."""
        config, table = self.config, self.table
        select = config.training.select if self.uses_images else "last"
        train = self._kept(fold.train)
        parts = {"test": self._kept(fold.test), **{k: self._kept(v) for k, v in fold.extra.items()}}
        inner = watch = None
        if select == "inner-val" or config.data.calibrate:
            if fold.valid is not None:
                inner = self._kept(fold.valid)
            else:
                groups = table.groups if table.card.group else None
                train, inner = inner_split(train, table.labels, groups, config.seed)
        if select == "inner-val":
            watch = inner
        elif select == "test-best":
            watch = parts["test"]
        for name, rows in {"training": train, **parts}.items():
            if not len(rows):
                raise DataError(
                    f"Fold {fold.index} of {self.protocol.spec.name} has no {name} rows left.",
                    "Check the missing images and the --missing policy.",
                )
        return FoldRows(train, parts, watch, inner)

    def metadata(self, fold: Fold, rows: FoldRows) -> pd.DataFrame:
        """One row per row of the table: what the method is given of the patient.

        Under `shuffle_metadata` that is what another patient answered (`swapped`), drawn apart for
        the rows that train (and choose) and for each part that is evaluated.
        """
        if not self.config.data.shuffle_metadata:
            return self.table.metadata
        sides = [np.concatenate([rows.train, *([] if rows.inner is None else [rows.inner])])]
        sides += rows.parts.values()
        rng = np.random.default_rng(np.random.SeedSequence([self.config.seed, fold.index, 20]))
        taken = np.arange(len(self.table))
        for side in sides:
            taken[side] = swapped(side, self.table.groups, rng)
        return self.table.metadata.iloc[taken].reset_index(drop=True)

    def encoder(self, metadata: pd.DataFrame, train: np.ndarray) -> MetadataEncoder:
        """Fitted on the training rows of `metadata`, and on nothing else."""
        encoder = _encoder(self.config.data, self.table, self.columns, self.takes_recorded)
        return encoder.fit(metadata.iloc[train])

    def cohort(self, rows: FoldRows) -> str:
        ids = {name: self.table.ids[part].tolist() for name, part in rows.parts.items()}
        return cohort(self.table.fingerprint, self.protocol.split_hash, ids)

    def check_metadata(self) -> None:
        """Raises UsageError where a method that uses metadata has none to learn from."""
        names, card = [column.name for column in self.columns], self.table.card
        if not self.method_identity.uses_metadata:
            return
        reason = ""
        if not card.columns:
            reason = f"the card of {card.name} has no [[columns]]"
        elif not names:
            others = ", ".join(column.name for column in card.columns)
            reason = f"no column of {card.name} is an input by default; --columns names some of: "
            reason += others
        recorded = self.table.metadata[names].notna().any(axis=1).to_numpy()
        for fold in () if reason else self.protocol.folds:
            rows = self._kept(fold.train)
            where = f"that fold {fold.index} trains on" if recorded.any() else "of the dataset"
            if not len(rows):
                reason = f"no row {where} is left under --missing {self.config.data.missing}"
            elif not recorded[rows].any():
                reason = f"nothing is recorded in {listed(names)} in any row {where}"
            if reason:
                break
        if reason:
            raise UsageError(
                f"{self.method_identity.fusion.name} uses metadata, and {reason}.",
                "Fill in or declare columns (datasets/README.md), or use a method without "
                "metadata, such as --fusion none.",
            )

    def flags(self) -> tuple[str, ...]:
        """What a reader must know about the row."""
        flags = [] if self.uses_images else ["control: no image"]
        if self.protocol.spec.leaks:
            flags.append(f"leaky: {', '.join(self.protocol.spec.leaks)}")
        if self.uses_images and self.config.training.select == "test-best":
            flags.append("optimistic: test-best")
        if not self.table.complete:
            flags.append("images missing")
        for role, title in (("proxy", "label proxies"), ("forbidden", "forbidden inputs")):
            if names := [c.name for c in self.columns if c.role == role]:
                flags.append(f"{title}: {', '.join(names)}")
        if self.config.data.shuffle_metadata:
            flags.append("control: shuffled metadata")
        if dropped := int((~self.keep).sum()):
            flags.append(f"rows dropped: {dropped}")
        return tuple(flags)

    def _kept(self, rows: np.ndarray) -> np.ndarray:
        return rows[self.keep[rows]]


T = TypeVar("T")


@dataclass(frozen=True)
class Trained:
    """What training and evaluating one fold leaves behind, whatever was trained."""

    probabilities: dict[str, np.ndarray]  # evaluated part -> float64 (n, K)
    inner: np.ndarray | None  # the same for FoldRows.inner
    parameters: dict[str, int]
    history: tuple[dict[str, float | None], ...] = ()
    best_epoch: int | None = None
    train_seconds: float = 0.0
    seconds_before: float = 0.0  # of processes that were stopped; this one went on from there
    images_seen: int = 0
    peak_memory: int | None = None
    contract: str = NOT_CHECKED  # what the quick part of it says of the plugins
    weights: Callable[[], bytes] | None = None  # safetensors; before another fold is trained


@dataclass(frozen=True)
class LoadedPlugin(Generic[T]):
    """A plugin whose code was run, with every setting resolved."""

    cls: type[T]
    params: dict[str, Any]
    identity: PluginIdentity
    entry: registry.Entry

    @property
    def foreign(self) -> bool:
        """It does not come with fusionbench."""
        return self.entry.foreign

    def copy(self) -> LoadedPlugin[T]:
        """With the class from another copy of its module: what it keeps there is not shared."""
        return replace(self, cls=registry.class_copy(self.entry, self.cls))

    def build(self, *args: Any) -> T:
        """An instance. Raises UsageError for settings that it refuses, PluginError for a crash."""
        with self.building():
            return self.cls(*args, **self.params)

    @contextmanager
    def building(self) -> Iterator[None]:
        """Errors of the plugin's own code, translated as `build` does."""
        what = f"{registry.KINDS[self.identity.kind].lower()} {self.identity.name}"
        try:
            with contained(self.identity.name) if self.foreign else nullcontext():
                yield
        except FusionbenchError:
            raise
        except ValueError as error:  # how a plugin says that a setting does not fit
            raise UsageError(f"The {what} refuses its settings: {message_of(error)}.") from error
        except Exception as error:
            raise PluginError(
                f"The {what} cannot be built: {type(error).__name__}: {message_of(error)}."
            ) from error


def loaded_plugin(
    entry: registry.Entry, cls: type[T], settings: Mapping[str, Param]
) -> LoadedPlugin[T]:
    """The plugin, whose class registry.load gave, with checked `settings`. Raises UsageError for
    one that it does not have or a value of another type."""
    params = plugin_params(cls, settings, f"{registry.KINDS[entry.kind].lower()} {entry.name}")
    identity = PluginIdentity(
        kind=entry.kind,
        name=entry.name,
        params=plain_json(params),
        source=registry.source_hash(entry),
    )
    return LoadedPlugin(cls, params, identity, entry)


class Trainer(Protocol):
    """What carries out the folds of one configuration, one after the other."""

    @property
    def environment(self) -> dict[str, Any]: ...

    def train(self, fold: Fold, rows: FoldRows, progress: Progress) -> Trained: ...


class Opened:
    """Data and splits read once for many configurations, under one Execution."""

    def __init__(self, execution: Execution, progress: Progress = SILENT) -> None:
        self.execution, self.progress = execution, progress
        self._read: dict[tuple[str | bool, ...], tuple[Table, Split]] = {}

    def of(self, data: DataSettings, *, pictured: bool = True) -> tuple[Table, Split]:
        """As read now, or earlier for a configuration on the same data under the same protocol.

        `pictured=False`: for a method that sees no photograph. It has every row, also where
        photographs are missing, unless those rows are to be left out; the fingerprint says so.
        """
        named = (data.dataset, data.view, data.protocol, data.allow_missing_images)
        key = (*named, pictured or (*named, True) in self._read)
        if key not in self._read:
            card = open_card(data.dataset, plugins=self.execution.plugins)
            root = find_data(card, self.execution.data)
            view = card.view(data.view).name
            needed: Literal["required", "optional"] = "required"
            if not (pictured or data.allow_missing_images):
                reading = read_dataset(card, root, [view])
                if not reading.problems and (missing := len(reading.missing([view]))):
                    needed = "optional"
                    self.progress.note(
                        f"{plural(missing, 'photograph')} missing, which this method does not see: "
                        "all rows are used, and stand apart from those of networks"
                    )
            table = load_table(
                card,
                root,
                view=view,
                allow_missing_images=data.allow_missing_images,
                photographs=needed,
                progress=self.progress,
            )
            split = split_of(table, data.protocol, root=root, progress=self.progress)
            key = (*named, needed == "required")
            self._read[key] = table, split
        return self._read[key]


def open_study(config: RunConfig, opened: Opened, *, pictured: bool = True) -> Study:
    """Resolve and check data, columns and split. Raises UsageError or DataError."""
    data = config.data
    table, protocol = opened.of(data, pictured=pictured)
    columns = input_columns(table.card, data.columns or None, forbidden=data.allow_forbidden)
    keep = _encoder(data, table, columns).keeps(table.metadata)
    return Study(config, table, columns, protocol, keep)


def swapped(rows: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each of `rows` a row of another group, each row once: a permutation of `rows`.

    Groups with equally many rows exchange them in a random circle, so that each receives all rows
    of one other. Groups that are alone with their number of rows share a circle of rows, together
    with as many others as it takes that none has more than half of it. Where one group has more
    than half of all rows this cannot be: then as few rows as possible are used again.
    """
    members: dict[Any, list[int]] = {}
    for row in rows.tolist():
        members.setdefault(groups[row], []).append(row)
    alike: dict[int, list[Any]] = {}  # groups in random order, by their number of rows
    names = list(members)
    for group in (names[i] for i in rng.permutation(len(names))):
        alike.setdefault(len(members[group]), []).append(group)
    odd = [group for same in alike.values() if len(same) == 1 for group in same]
    circles = [same for _, same in sorted(alike.items(), reverse=True) if len(same) > 1]
    most = max((len(members[group]) for group in odd), default=0)
    while circles and sum(len(members[group]) for group in odd) < 2 * most:
        last = circles[0]
        odd += [last.pop() for _ in range(2 if len(last) == 2 else 1)]
        most = max(most, len(members[odd[-1]]))
        circles = circles if last else circles[1:]
    donors: dict[int, int] = {}
    for same in circles:
        for group, other in zip(same, np.roll(same, -1), strict=True):
            donors.update(zip(members[group], members[other], strict=True))
    circle = [row for group in odd for row in members[group]]
    if len(circle) >= 2 * most:
        donors.update(zip(circle, np.roll(circle, -most).tolist(), strict=True))
    else:  # one group has more than half of all rows, or all of them
        large = max(members.values(), key=len)
        others = [row for group, same in members.items() if same is not large for row in same]
        others = others or large
        donors.update(zip(large, itertools.cycle(others), strict=False))
        donors.update(zip(others, large, strict=False))
    return np.array([donors[row] for row in rows.tolist()], dtype=rows.dtype)


def _encoder(
    data: DataSettings, table: Table, columns: tuple[Column, ...], recorded: bool = False
) -> MetadataEncoder:
    return MetadataEncoder(
        columns,
        encoding=data.encoding,
        missing=data.missing,
        unknown=table.card.unknown,
        forbidden=data.allow_forbidden,
        recorded=recorded,
    )
