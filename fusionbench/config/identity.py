"""The identity of a run: everything that changes its numbers, resolved, and the name that follows.

    identity = Identity(data=..., method=..., training=..., fold=0, seed=0)
    identity.run_id                     readable names + 12 hex digits of the whole identity
    identity.row                        the same without fold and seed: a row of the leaderboard
    identity.spelled, Identity.read(text)       its one text, which record files hold, and back
    identity.config()                   RunConfig and settings of plugins that it was made from
    identity.matches(Expected.of(config, plugins))      is it a run of this configuration?
    row.shuffled_twin()                 the row on other patients' metadata
    row.image_only_twin(rows)           the same network without metadata, among `rows`

Everything that asks "is this record that row's?", "which row is its twin?" or "what was this run
made of?" asks here. The fields of a part of RunConfig are fields of the identity too, so that a
new setting is in the identity without a further word. Paths, devices and numbers of workers are
not in it. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from fusionbench.config.plugin_settings import literal_params, split_params
from fusionbench.config.recipe import OWNERS, own_params
from fusionbench.config.run_config import (
    SETTINGS,
    DataChoices,
    Param,
    RunConfig,
    TrainingSettings,
)
from fusionbench.errors import RecordError
from fusionbench.files import sha256_of
from fusionbench.plugin import registry
from fusionbench.plugin.registry import key_of

T = TypeVar("T")
# Image-only rows under this loss are compared with methods whose loss no image-only row has.
PLAIN_LOSS = "ce"

_DATA = set(DataChoices.model_fields)

# Encoders that are made once: json.dumps with arguments makes one at every call.
_PLAIN = json.JSONEncoder(allow_nan=False)
_SPELLED = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain_json(value: T) -> T:
    """The value as a file gives it back: lists for tuples, text for keys. Raises RecordError."""
    try:
        plain: T = json.loads(_PLAIN.encode(value))
    except (TypeError, ValueError) as error:
        raise RecordError(
            f"An identity must be plain JSON without NaN: {error}.",
            "Use text, whole numbers, finite floats, lists and dicts only.",
        ) from None
    return plain


def canonical_json(value: object) -> str:
    """The one spelling of plain JSON: sorted keys, shortest floats, no NaN. Raises RecordError."""
    return _SPELLED.encode(plain_json(value))


def leaves(value: Any, name: str = "", *, lists: bool = True) -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything in plain JSON. `lists=False`: a list is one value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}" if name else str(key), lists=lists)
    elif lists and isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from leaves(inner, f"{name}[{i}]")
    else:
        yield name, value


def flat_text(value: Any, name: str = "") -> dict[str, str]:
    """Dotted name -> text, other values than text as JSON."""
    pairs = leaves(value, name, lists=False)
    return {key: one if isinstance(one, str) else canonical_json(one) for key, one in pairs}


def changes(one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, value here, value there) of the leaves in which two values of plain JSON
    differ; None where one has none."""
    here, there = dict(leaves(one)), dict(leaves(other))
    for name in dict.fromkeys((*here, *there)):
        if here.get(name) != there.get(name):
            yield name, here.get(name), there.get(name)


class _IdentityPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PluginIdentity(_IdentityPart):
    """A plugin: its kind (registry.KINDS), every setting with its value, a digest of its source."""

    kind: str
    name: str
    params: dict[str, Any] = {}  # plain JSON
    source: str


class MethodIdentity(_IdentityPart):
    """What is trained. Without a network there are no backbone, weights and losses."""

    fusion: PluginIdentity
    uses_images: bool
    uses_metadata: bool
    backbone: str | None = None
    weights: str | None = None  # "none", or where the starting weights are from, with a digest
    reducer: int = 0
    losses: tuple[PluginIdentity, ...] = ()

    @property
    def loss(self) -> str | None:
        """The losses' names, joined by "+"."""
        return "+".join(loss.name for loss in self.losses) or None

    @property
    def plugins(self) -> tuple[PluginIdentity, ...]:
        return (self.fusion, *self.losses)


def way_of_shuffling(on: bool) -> bool | Literal["permutation"]:
    """What an identity says of shuffle_metadata: how it is done (runs.study.swapped), for another
    way is another row."""
    return "permutation" if on else False


class DataIdentity(DataChoices):
    """The data that the method sees. Protocol, view and columns are named."""

    # true: as an earlier version did it.
    shuffle_metadata: bool | Literal["permutation"] = False  # type: ignore[assignment]
    fingerprint: str
    split_hash: str


class TrainingIdentity(TrainingSettings):
    """How the network is trained."""

    optimizer_args: dict[str, Any]  # plain JSON
    schedule_args: dict[str, Any]


class RowIdentity(_IdentityPart):
    """What all folds and seeds of a row of the leaderboard share."""

    data: DataIdentity
    method: MethodIdentity
    training: TrainingIdentity | None = None  # None: a method without a network

    def at(self, fold: int, seed: int) -> Identity:
        """One fold of the row under one seed."""
        identity = Identity(
            data=self.data, method=self.method, training=self.training, fold=fold, seed=seed
        )
        identity.__dict__["row"] = self
        return identity

    @cached_property
    def digest(self) -> str:
        """12 hex digits of the whole."""
        return hashlib.sha256(self.spelled.encode()).hexdigest()[:12]

    @cached_property
    def spelled(self) -> str:
        """Its canonical JSON."""
        return _SPELLED.encode(self.model_dump(mode="json"))

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """Name -> value of every setting of data and training, and the reducer of a network."""
        values = self.data.model_dump(mode="json", include=_DATA)
        if self.training is not None:
            values |= {"reducer": self.method.reducer} | self.training.model_dump(mode="json")
        return values

    def shuffled_twin(self) -> RowIdentity:
        """The same method where every patient's metadata is another patient's."""
        data = self.data.model_copy(update={"shuffle_metadata": way_of_shuffling(True)})
        return RowIdentity(data=data, method=self.method, training=self.training)

    def same_runs(self, other: RowIdentity) -> bool:
        """Whether both give the same numbers. The name of the recipe changes none."""
        return self._but_recipe == other._but_recipe

    def image_only_twin(
        self, rows: Sequence[T], identity_of: Callable[[T], RowIdentity]
    ) -> T | None:
        """Among `rows` the same network without metadata, on the same data.

        It has the same losses with the same settings; or else plain cross-entropy, with the
        settings that cross-entropy has in this row. None where no row fits, where two fit equally
        well, and for a method without a network.
        """
        if self.training is None:
            return None
        alone = [
            (row, {loss.name: loss.params for loss in other.method.losses})
            for row in rows
            if (other := identity_of(row)).method.uses_images
            and not other.method.uses_metadata
            and not other.data.shuffle_metadata
            and other.network == self.network
        ]
        own = {loss.name: loss.params for loss in self.method.losses}
        twins = [row for row, losses in alone if losses == own] or [
            row
            for row, losses in alone
            if losses == {PLAIN_LOSS: own.get(PLAIN_LOSS, losses.get(PLAIN_LOSS))}
        ]
        return twins[0] if len(twins) == 1 else None

    @cached_property
    def _but_recipe(self) -> str:
        return _SPELLED.encode(self.model_dump(mode="json", exclude={"training": {"recipe"}}))

    @cached_property
    def network(self) -> str:
        """As text, what a row shares with its image-only twin, but for the losses."""
        settings = {
            name: value
            for name, value in self.settings.items()
            if name != "recipe" and not (name in SETTINGS and SETTINGS[name].of_metadata)
        }
        data, method = self.data, self.method
        return _SPELLED.encode(
            [data.fingerprint, data.split_hash, method.backbone, method.weights, settings]
        )


class Identity(RowIdentity):
    """What one fold of a row under one seed is."""

    fold: Annotated[int, Field(strict=True, ge=0)]
    seed: Annotated[int, Field(strict=True, ge=0)]

    @cached_property
    def row(self) -> RowIdentity:
        return RowIdentity(data=self.data, method=self.method, training=self.training)

    @cached_property
    def spelled(self) -> str:
        """The row's canonical JSON with fold and seed behind it."""
        return f'{self.row.spelled[:-1]},"fold":{self.fold},"seed":{self.seed}}}'

    @classmethod
    def read(cls, text: str) -> Identity:
        """The identity whose `spelled` this text is. Raises ValueError where it is no such text.

        Thousands of records share few rows: each row is checked once.
        """
        parts = re.fullmatch(r'(\{.*),"fold":(0|[1-9][0-9]*),"seed":(0|[1-9][0-9]*)\}', text)
        if parts is None:
            raise ValueError("an identity in another spelling")
        identity = copy(_first_fold(parts[1] + "}"))
        identity.__dict__.update(fold=int(parts[2]), seed=int(parts[3]), spelled=text)
        return identity

    @cached_property
    def run_id(self) -> str:
        """`<dataset>_<protocol>_<fusion>_<backbone>_f<fold>_s<seed>_<12 hex>`, safe as a file name.

        The digits are the start of the sha256 of `spelled`.
        """
        method = self.method
        names = [self.data.dataset, self.data.protocol, method.fusion.name, method.backbone]
        slugs = [_slug(name) for name in names if name is not None]
        return "_".join([*slugs, f"f{self.fold}", f"s{self.seed}", self.digest])

    def config(self, **settings: Any) -> RunConfig:
        """The configuration that it was made from; `settings` replace some of them, by name.

        A file of starting weights is known by its digest only: `weights` then is "file:<digest>".
        """
        method, training = self.method, self.training
        params: dict[str, Param] = {}
        for plugin in method.plugins:
            owner = "fusion" if plugin is method.fusion else f"loss.{plugin.name}"
            params |= {f"{owner}.{name}": value for name, value in plugin.params.items()}
        values = {**self.settings, "fusion": method.fusion.name, "seed": self.seed}
        values["shuffle_metadata"] = bool(self.data.shuffle_metadata)
        if training is not None:
            assert method.backbone is not None and method.weights is not None
            for owner in OWNERS:
                arguments = values.pop(f"{owner}_args")
                params |= {f"{owner}.{name}": value for name, value in arguments.items()}
            start = method.weights
            values |= {
                "backbone": method.backbone,
                "loss": method.loss,
                "weights": start if start.startswith("file:") else start.partition(":")[0],
            }
        return RunConfig.of(**(values | {"params": params} | settings))

    def matches(self, expected: Expected) -> bool:
        """Whether it is a run of that configuration, whatever the fold.

        A plugin's source does not count: a run of an earlier one is that row's, and stale. A method
        without a network has no backbone, weights, losses and settings of training.
        """
        method, losses = self.method, self.method.losses
        return (
            self.seed == expected.config.seed
            and expected.fusion.fits(method.fusion)
            and method.backbone in (None, expected.config.method.backbone)
            and (method.weights is None or expected.starts_from(method.weights))
            and len(losses) == len(expected.losses)
            and all(e.fits(loss) for e, loss in zip(expected.losses, losses, strict=True))
            and all(expected.settings[n] == value for n, value in self.row.settings.items())
        )

    def changes(self, other: Identity) -> Iterator[tuple[str, Any, Any]]:
        """(dotted name, own value, the other's value) of everything in which they differ."""
        return changes(self.model_dump(mode="json"), other.model_dump(mode="json"))


@dataclass(frozen=True)
class ExpectedPlugin:
    """A plugin of a configuration as its source text tells, without loading it."""

    kind: str
    name: str
    defaults: Mapping[str, Any]
    params: Mapping[str, Param]

    def fits(self, plugin: PluginIdentity) -> bool:
        """Whether the plugin's settings are these defaults, overridden by these params."""
        expected = {**self.defaults, **self.params}
        return (
            (plugin.kind, plugin.name) == (self.kind, self.name)
            and self.params.keys() <= plugin.params.keys()
            and all(_says(expected.get(n, value), value) for n, value in plugin.params.items())
        )


@dataclass(frozen=True)
class Expected:
    """What the runs of a configuration must be, known without data and without loading plugins."""

    config: RunConfig  # protocol, view and columns by their names, as data.choices.named gives them
    weights: str  # as _expected_weights gives them
    fusion: ExpectedPlugin
    losses: tuple[ExpectedPlugin, ...]
    settings: Mapping[str, Any]  # as RowIdentity.settings

    def starts_from(self, recorded: str) -> bool:
        """Whether an identity has these starting weights; it holds the start of a digest."""
        return recorded.partition(":")[0] == self.weights or self.weights.startswith(recorded)

    @classmethod
    def of(cls, config: RunConfig, plugins: Sequence[str | Path] = ()) -> Expected:
        """Raises UsageError for a name that is not known.

        A fusion's default loss stands in its code: `config.method.loss` must name one.
        """
        entry = registry.find_method(config.method.fusion, plugins)
        names = [key_of(n) for n in config.method.loss.split("+")] if entry.uses_images else []
        params = own_params(config, names)
        if not entry.uses_images:  # no other setting reaches it
            params = {k: v for k, v in params.items() if k.startswith("fusion.")}
        owned = split_params(params, names)
        losses = []
        for loss in (registry.find("losses", name, plugins) for name in names):
            shared = {k: v for k, v in owned["loss"].items() if k in loss.defaults}
            own = shared | owned[f"loss.{loss.name}"]
            losses.append(ExpectedPlugin(loss.kind, loss.name, loss.defaults, own))
        config = config.changed(recipe=key_of(config.training.recipe))
        shuffled = way_of_shuffling(config.data.shuffle_metadata)
        arguments = {f"{o}_args": plain_json(literal_params(owned[o], o)) for o in OWNERS}
        return cls(
            config,
            _expected_weights(config.method.weights),
            ExpectedPlugin(entry.kind, entry.name, entry.defaults, owned["fusion"]),
            tuple(losses),
            config.flat() | arguments | {"shuffle_metadata": shuffled},
        )


def _says(param: Any, value: Any) -> bool:
    """Whether a default, or `--set NAME=param`, gives this value of plain JSON, whose own type
    tells how text reads."""
    if isinstance(value, list | tuple):
        parts = [part for part in param.split(",") if part] if isinstance(param, str) else param
        return (
            isinstance(parts, list | tuple)
            and len(parts) == len(value)
            and all(map(_says, parts, value))
        )
    if isinstance(param, str) and not isinstance(value, str):
        try:
            param = _reader(type(value)).validate_python(param)
        except ValidationError:
            return False
    return bool(param == value) and isinstance(param, bool) == isinstance(value, bool)


_reader: Callable[[type], TypeAdapter[Any]] = lru_cache(TypeAdapter)


def _expected_weights(weights: str) -> str:
    """ "none", "imagenet", or "file:" and the digest of a file: its content counts. "file" where
    the file is not at hand: a run from any file may then be the one."""
    if weights in ("none", "imagenet"):
        return weights
    path = Path(weights)
    return f"file:{sha256_of(path)}" if path.is_file() else "file"


@lru_cache(maxsize=4096)
def _first_fold(row: str) -> Identity:
    """Of the row with that text; its `row` is known, and shared by its copies."""
    of_row = RowIdentity.model_validate_json(row)
    if of_row.spelled != row:
        raise ValueError("an identity in another spelling")
    return of_row.at(0, 0)


@lru_cache(maxsize=256)
def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:48].strip("._-") or "x"
