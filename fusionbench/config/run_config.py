"""What a run is: every setting that changes its numbers (RunConfig), and where it runs (Execution).

`--set` values are checked against a plugin's own signature, so a plugin's keyword arguments are its
schema. Nothing here imports torch.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from fusionbench.errors import UsageError
from fusionbench.plugin.registry import unknown_name

Select = Literal["last", "inner-val", "test-best"]
Precision = Literal["auto", "fp32", "bf16"]
Device = Literal["auto", "cpu", "cuda"]
StepPath = Literal["eager", "compiled", "captured", "compiled+captured"]
Step = Literal["auto", "eager", "compiled", "captured", "compiled+captured"]
Existing = Literal["skip", "redo", "fail"]
Encoding = Literal["onehot", "ordinal"]
Missing = Literal["zero", "indicator", "impute", "drop-rows"]
Augment = Literal["none", "flip", "mild", "metablock-2021"]
Resize = Literal["squash", "crop"]
Sampler = Literal["shuffle", "class-balanced", "square-root"]
Watch = Literal["bacc", "nll", "balanced-nll"]

# Fields of RunConfig that came after the first records. At its default such a field is no part of
# a run's identity, so that records written before it keep their run_id and are found again.
ADDED_LATER = (
    *("sampler", "recipe", "reducer", "watch", "early_stop"),
    *("allow_forbidden", "shuffle_metadata", "metadata_dropout", "block_dropout", "calibrate"),
)


class RunConfig(BaseModel):
    """One method on one dataset under one protocol. Every field changes the numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    fusion: str = "sgmc"
    backbone: str = "resnet50"
    loss: str = ""  # "": the fusion's own default; losses are joined by "+"
    reducer: int = Field(0, ge=0)  # width of the layer between fusion and head; 0: none
    params: dict[str, str] = {}  # raw --set values: "fusion.hidden" -> "256"

    dataset: str = "pad-ufes-20"
    protocol: str = ""  # "": the card's default
    view: str = ""  # "": the card's first
    columns: tuple[str, ...] = ()  # metadata columns; (): the card's inputs
    encoding: Encoding = "onehot"
    missing: Missing = "zero"
    allow_forbidden: bool = False  # columns that give the label away, if `columns` names them
    # A control: every patient's metadata is another one's, within the training and the test rows.
    shuffle_metadata: bool = False
    resize: Resize = "squash"
    allow_missing_images: bool = False

    # Where the settings below came from. A name only: config.recipe.configure applies one.
    recipe: str = "modern"
    seed: int = Field(0, ge=0, lt=2**31)
    epochs: int = Field(30, ge=1)
    batch_size: int = Field(32, ge=2)
    sampler: Sampler = "shuffle"
    image_size: int = Field(224, ge=16, le=2048)
    augment: Augment = "mild"
    weights: str = "imagenet"  # imagenet | none | a file
    optimizer: str = "adamw"
    lr: float = Field(3e-4, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    schedule: str = "cosine"
    warmup_epochs: int = Field(1, ge=0)
    clip_grad: float = Field(0.0, ge=0)  # 0: off
    ema: float = Field(0.0, ge=0, lt=1)  # decay of averaged weights; 0: off
    drop_path: float = Field(0.0, ge=0, lt=1)
    # Probability, in training, that a cell, or all columns of a block that goes unrecorded
    # together, is withheld.
    metadata_dropout: float = Field(0.0, ge=0, lt=1)
    block_dropout: float = Field(0.0, ge=0, lt=1)
    select: Select = "last"
    watch: Watch = "bacc"  # what is scored after each epoch on the part that `select` names
    early_stop: int = Field(0, ge=0)  # epochs without improvement before training ends; 0: off
    # Hold out an inner validation part (as `select = "inner-val"` does anyhow) and fit a
    # temperature on it.
    calibrate: bool = False
    precision: Precision = "auto"


@dataclass(frozen=True)
class Execution:
    """Where and how a run is carried out; none of it changes what is measured."""

    data: Path | None = None
    store: Path = Path("runs")
    plugins: tuple[Path, ...] = ()
    folds: tuple[int, ...] | None = None  # None: all
    device: Device = "auto"
    step: Step = "auto"  # how a training step runs (fusionbench.training.step)
    existing: Existing = "skip"
    save_weights: bool = False
    workers: int | None = None  # decoding threads; None: one per core
    # Seconds between two checkpoints of a run, at least; 0: one after every epoch, inf: none; None:
    # as often as takes a small share of the time (fusionbench.training.checkpoints).
    checkpoint_every: float | None = None
    folds_at_once: int = 1  # of a configuration, each in a process of its own; in a sweep, runs


def parse_assignments(items: Iterable[str]) -> dict[str, str]:
    """`KEY=VALUE` items -> dict. Raises UsageError for one that is not of that form."""
    parsed: dict[str, str] = {}
    for item in items:
        key, found, value = item.partition("=")
        if not found or not key.strip():
            raise UsageError(
                f"--set {item!r} is not of the form KEY=VALUE.", "As in fusion.fr=off."
            )
        parsed[key.strip()] = value.strip()
    return parsed


def plugin_params(cls: type, raw: Mapping[str, str], where: str) -> dict[str, Any]:
    """All keyword arguments of a plugin: its defaults, overridden by `raw` text, checked by type.

    `where` names the plugin in messages ("fusion sgmc"). Raises UsageError.
    """
    schema = plugin_schema(cls)
    unknown = [key for key in raw if key not in schema]
    if unknown:
        raise UsageError(*unknown_name(f"setting of {where}", unknown[0], schema or ["(none)"]))
    values = {key: default for key, (_, default) in schema.items()}
    for key, text in raw.items():
        annotation = schema[key][0]
        try:
            values[key] = TypeAdapter(_from_text(annotation)).validate_python(text)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise UsageError(f"--set {key}={text} does not fit {where}: {reason}.") from None
    return values


def plugin_schema(cls: type) -> dict[str, tuple[Any, Any]]:
    """Keyword argument -> (annotation, default) of a plugin's `__init__`."""
    init = cls.__init__  # type: ignore[misc]
    if init is object.__init__:
        return {}
    hints = get_type_hints(init)
    return {
        p.name: (hints.get(p.name, type(p.default)), p.default)
        for p in inspect.signature(init).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }


def split_params(raw: Mapping[str, str], loss_names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Raw `--set` keys by owner: "fusion", "optimizer", "schedule", "loss" and "loss.<name>"."""
    owners: dict[str, dict[str, str]] = {"fusion": {}, "optimizer": {}, "schedule": {}, "loss": {}}
    owners.update({f"loss.{name}": {} for name in loss_names})
    for key, value in raw.items():
        owner, _, name = key.rpartition(".")
        if owner not in owners or not name:
            raise UsageError(
                f"--set {key}={value}: nothing here is called {owner or key!r}.",
                f"Keys start with one of: {', '.join(f'{o}.' for o in owners)}",
            )
        owners[owner][name] = value
    return owners


def literal_params(raw: Mapping[str, str], where: str) -> dict[str, Any]:
    """Text values for a library's factory (optimiser, schedule): numbers, booleans, lists, text."""
    values: dict[str, Any] = {}
    for key, text in raw.items():
        try:
            values[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[key] = {"true": True, "false": False}.get(text.lower(), text)
        if isinstance(values[key], dict | bytes | complex | set):
            raise UsageError(f"--set {where}.{key}={text} is no number, text, boolean or list.")
    return values


def _from_text(annotation: Any) -> Any:
    """The annotation, taking comma-separated text for a tuple: stages=1,2,4."""
    if get_origin(annotation) is tuple and get_args(annotation):
        split = BeforeValidator(
            lambda v: [part for part in v.split(",") if part] if isinstance(v, str) else v
        )
        return Annotated[annotation, split]
    return annotation
