"""What a run is: every setting that changes its numbers (RunConfig), and where it runs (Execution).

Each setting is declared once, as a field of one of the parts of RunConfig. Options of commands,
`--setting`, table files, `--help` and `fusionbench list settings` are made from these fields.
Nothing here imports torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from fusionbench.config.problems import problems_of
from fusionbench.errors import UsageError, plain
from fusionbench.plugin.registry import key_of, unknown_name

Select = Literal["last", "inner-val", "test-best"]
Precision = Literal["auto", "fp32", "bf16"]
StepPath = Literal["eager", "compiled", "captured", "compiled+captured"]
Step = Literal["auto", "eager", "compiled", "captured", "compiled+captured"]
Existing = Literal["skip", "redo", "fail"]
Encoding = Literal["onehot", "ordinal", "ple", "periodic", "tokens"]
# Encodings that are layers of the network.
LEARNED: tuple[Encoding, ...] = ("periodic", "tokens")
Missing = Literal["zero", "indicator", "impute", "drop-rows"]
Augment = Literal["none", "flip", "mild", "metablock-2021"]
Resize = Literal["squash", "crop"]
Sampler = Literal["shuffle", "class-balanced", "square-root"]
Watch = Literal["bacc", "nll", "balanced-nll"]

# The value of a plugin's setting: text as on the command line, or plain JSON.
Param = bool | int | float | str | list[Any] | None


def _setting(
    default: Any,
    text: str,
    *,
    metavar: str = "",
    in_recipe: bool = False,
    of_metadata: bool = False,
    **limits: Any,
) -> Any:
    """A field that is a setting.

    text         what `--help` and the documentation say of it
    metavar      what stands for its value in `--help`, where its type does not tell
    in_recipe    a recipe states it
    of_metadata  it changes nothing for a method that is given no metadata
    """
    extra: dict[str, Any] = {"metavar": metavar, "in_recipe": in_recipe, "of_metadata": of_metadata}
    return Field(default, description=text, json_schema_extra=extra, **limits)


_stated = partial(_setting, in_recipe=True)


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MethodSettings(_Settings):
    """The fusion or control, and the network it is built into."""

    fusion: str = _setting(
        "sgmc",
        "Fusion method (fusionbench list fusions), or a control that sees no photograph (list "
        "controls).",
    )
    backbone: str = _setting("resnet50", "A timm model (fusionbench list backbones).")
    loss: str = _setting(
        "", "Loss (fusionbench list losses), or several joined by +. Default: the fusion's own."
    )
    params: dict[str, Param] = _setting(
        {},
        "A setting of the method: fusion.NAME, loss.NAME, loss.<loss>.NAME, optimizer.NAME, "
        "schedule.NAME. May be given several times.",
        metavar="KEY=VALUE",
    )
    reducer: int = _stated(
        0,
        "Width of a layer (linear, batch norm, ReLU, dropout) between fusion and classifier; 0: "
        "none.",
        ge=0,
    )
    weights: str = _stated("imagenet", "To start from: imagenet, none, or a file.", metavar="FROM")


class DataChoices(_Settings):
    """What every method, a control as well, is given. Part of a run's identity."""

    dataset: str = _setting(
        "pad-ufes-20", "Dataset (fusionbench list datasets), or a dataset.toml."
    )
    protocol: str = _setting(
        "", "How rows are split (fusionbench list protocols). Default: the dataset's own."
    )
    view: str = _setting("", "Which photograph, where there are several. Default: the first.")
    columns: tuple[str, ...] = _setting(
        (), "Metadata columns. Default: the card's inputs.", metavar="A,B,…", of_metadata=True
    )
    encoding: Encoding = _stated(
        "onehot",
        "How metadata become numbers. onehot: a feature per category, numbers standardised; "
        "ordinal: a code per category; ple: numbers piecewise linear over quantiles; learned with "
        "the network: periodic (of numbers), tokens (a transformer over columns).",
        of_metadata=True,
    )
    missing: Missing = _stated("zero", "What an empty metadata cell becomes.", of_metadata=True)
    allow_forbidden: bool = _setting(
        False, "Let --columns name what gives the label away. Such rows say so.", of_metadata=True
    )
    shuffle_metadata: bool = _setting(
        False,
        "A control: metadata are permuted, so that each patient has another one's. Rows say so.",
        of_metadata=True,
    )
    calibrate: bool = _setting(
        False,
        "Hold out an inner validation part of the training rows, fit a temperature on it, and "
        "report calibration before and after. --select inner-val does so anyhow.",
    )


class DataSettings(DataChoices):
    """The same, and what is decided about photographs that are not there."""

    allow_missing_images: bool = _setting(
        False,
        "Leave out the rows whose photograph is missing or damaged. Such results are never ranked "
        "beside those on the whole dataset.",
    )


class TrainingSettings(_Settings):
    """How a network is trained. A control has none of it."""

    recipe: str = _setting(
        "modern",
        "Training settings by name (fusionbench list recipes). Options given beside it take "
        "precedence; defaults shown here are those of the recipe modern.",
    )
    epochs: int = _stated(30, "Passes over the training rows.", ge=1)
    batch_size: int = _stated(32, "Images per step.", ge=2)
    sampler: Sampler = _stated(
        "shuffle",
        "shuffle: every training row once per epoch. The others draw rows with replacement, so "
        "that all classes come up alike, or in proportion to the square root of their counts. "
        "With a loss that makes up for the counts as well, rarity counts twice.",
    )
    image_size: int = _stated(224, "Side of the square input.", metavar="PIXELS", ge=16, le=2048)
    resize: Resize = _stated("squash", "The whole photograph, or its centre.")
    augment: Augment = _stated("mild", "Training augmentation.")
    optimizer: str = _stated("adamw", "Any of timm's.")
    lr: float = _stated(3e-4, "Peak learning rate.", gt=0)
    weight_decay: float = _stated(0.05, "Weight decay.", ge=0)
    backbone_lr: float = _stated(
        0.0, "Peak learning rate of the backbone; 0: the same as of the rest.", ge=0
    )
    layer_decay: float = _stated(
        1.0,
        "Factor of the backbone's learning rate from each layer to the one before it (timm's "
        "layer-wise decay); 1: none.",
        gt=0,
        le=1,
    )
    freeze: str = _stated(
        "none",
        "What of the backbone is not trained: none, backbone (all of it) or stages:K (up to its "
        "K-th stage). Frozen batch norms keep their statistics.",
        metavar="PART",
        pattern=r"^(none|backbone|stages:[1-9])$",
    )
    schedule: str = _stated(
        "cosine",
        "Of the learning rate: cosine, tanh, step, multistep, poly, plateau, constant or none.",
    )
    warmup_epochs: int = _stated(1, "Epochs of linear warm-up.", ge=0)
    clip_grad: float = _stated(0.0, "Largest gradient norm; 0: no limit.", ge=0)
    ema: float = _stated(
        0.0, "Decay of averaged weights, which are then the result; 0: off.", ge=0, lt=1
    )
    drop_path: float = _stated(0.0, "Stochastic depth of the backbone.", ge=0, lt=1)
    metadata_dropout: float = _stated(
        0.0,
        "In training, the share of metadata cells that are withheld. Each batch draws its own.",
        of_metadata=True,
        ge=0,
        lt=1,
    )
    block_dropout: float = _stated(
        0.0,
        "In training, the share of photographs that lose every column of a block of columns that "
        "go unrecorded together.",
        of_metadata=True,
        ge=0,
        lt=1,
    )
    select: Select = _stated(
        "last",
        "Whose weights are evaluated: the last epoch's, the best on an inner validation part, or "
        "the best on the test part (optimistic, and marked so).",
    )
    watch: Watch = _stated(
        "bacc", "What chooses that epoch: balanced accuracy, log loss, or its mean over classes."
    )
    early_stop: int = _stated(
        0,
        "Epochs without a better watched score (training loss, where --select is last) before "
        "training ends; 0: never.",
        ge=0,
    )
    precision: Precision = _stated(
        "auto", "auto: bf16 on hardware that has it, but for depthwise networks on a CPU."
    )


class RunConfig(_Settings):
    """One method on one dataset under one protocol. Every setting changes the numbers.

    RunConfig.of(fusion="concat", epochs=3) takes settings of all parts by their names.
    """

    method: MethodSettings = MethodSettings()
    data: DataSettings = DataSettings()
    training: TrainingSettings = TrainingSettings()
    seed: int = _setting(
        0, "Of initial weights, batches and augmentation.", metavar="N", ge=0, lt=2**31
    )

    @model_validator(mode="after")
    def _recipe_is_applied(self) -> RunConfig:
        recipe = self.training.recipe
        if key_of(recipe) != TrainingSettings.model_fields["recipe"].default:
            given = {name for part in PARTS for name in getattr(self, part).model_fields_set}
            if {name for name, setting in SETTINGS.items() if setting.in_recipe} - given:
                text = f"the name applies no recipe; use RunConfig.of(recipe={recipe!r}, ...)"
                raise ValueError(text)
        return self

    @classmethod
    def of(cls, *, strict: bool = False, **settings: Any) -> RunConfig:
        """The recipe's settings (`recipe="modern"` where none is named), and over them `settings`,
        by name. Another optimizer or schedule also drops the recipe's parameters of that one.

        `strict`: a text is no number. Raises UsageError for an unknown name or recipe, pydantic's
        ValidationError for a value that a setting cannot have (`problems` lists them).
        """
        from fusionbench.config.recipe import find_recipe  # which checks its files against these

        recipe = find_recipe(settings.get("recipe", default_of("recipe")))
        return cls()._with(recipe.under(settings), strict)

    def changed(self, *, strict: bool = False, **settings: Any) -> RunConfig:
        """The same with other values for some settings, by name. Raises as `of` does, and for
        another recipe."""
        from fusionbench.config.recipe import find_recipe

        recipe = settings.get("recipe", self.training.recipe)
        if key_of(recipe) != key_of(self.training.recipe):
            raise UsageError(
                f"The recipe {find_recipe(recipe).name} changes many settings at once.",
                f"Begin with RunConfig.of(recipe={recipe!r}, ...).",
            )
        return self._with(settings, strict)

    def _with(self, settings: Mapping[str, Any], strict: bool) -> RunConfig:
        whole = self.model_dump()
        for name, value in settings.items():
            if name not in SETTINGS:
                raise UsageError(*unknown_name("setting", name, SETTINGS))
            if re.search("[\ud800-\udfff]", json.dumps(value, default=str, ensure_ascii=False)):
                # A Linux file name in another encoding: no record could hold it.
                raise UsageError(
                    f"{name}: {plain(str(value))} is not valid UTF-8.", "Rename the file or folder."
                )
            part = SETTINGS[name].part
            (whole[part] if part else whole)[name] = value
        # As JSON: there a list is a tuple, even where types are strict.
        return RunConfig.model_validate_json(json.dumps(whole, default=str), strict=strict)

    def flat(self) -> dict[str, Any]:
        """Every setting by its name, as plain JSON."""
        whole = self.model_dump(mode="json")
        return {n: whole[s.part][n] if s.part else whole[n] for n, s in SETTINGS.items()}


@dataclass(frozen=True)
class Setting:
    """A setting of a run, as its field declares it."""

    name: str
    part: str  # "method", "data", "training"; "" for the seed
    field: FieldInfo
    # As `_setting` was told.
    metavar: str
    in_recipe: bool
    of_metadata: bool

    @property
    def reaches_controls(self) -> bool:
        """Whether it changes anything for a method that is no network."""
        return self.part in ("data", "") or self.name in ("fusion", "params", "recipe")

    @property
    def flag(self) -> str:
        return "--set" if self.name == "params" else f"--{self.name.replace('_', '-')}"


PARTS: dict[str, type[BaseModel]] = {
    "method": MethodSettings,
    "data": DataSettings,
    "training": TrainingSettings,
}
SETTINGS: Mapping[str, Setting] = {
    name: Setting(name, part, field, **cast(dict[str, Any], field.json_schema_extra))
    for part, model in (PARTS | {"": RunConfig}).items()
    for name, field in model.model_fields.items()
    if name not in PARTS
}


def default_of(name: str) -> Any:
    """The default of the setting of that name."""
    return SETTINGS[name].field.default


def problems(error: ValidationError) -> list[tuple[str, str]]:
    """(setting, problem) of a RunConfig that cannot be; `params.NAME` for a plugin's setting."""
    found = [(*where.partition("."), text) for where, text in problems_of(error)]
    return [(name if part in PARTS else part + dot + name, text) for part, dot, name, text in found]


def without_effect(settings: Mapping[str, Any]) -> list[str]:
    """Which of these change nothing for a control: names of settings, and keys of `params`."""
    idle = [n for n in settings if n in SETTINGS and not SETTINGS[n].reaches_controls]
    keys = map(str, settings.get("params", ()))
    return idle + [key for key in keys if not key.startswith("fusion.")]


@dataclass(frozen=True)
class Execution:
    """Where and how a run is carried out; none of it changes what is measured."""

    data: Path | None = None
    store: Path = Path("runs")
    plugins: tuple[Path, ...] = ()
    folds: tuple[int, ...] | None = None  # None: all
    device: str = "auto"  # auto, cpu, mps, cuda or cuda:N
    step: Step = "auto"  # how a training step runs (training.step)
    existing: Existing = "skip"
    save_weights: bool = False
    workers: int | None = None  # decoding threads; None: one per core
    # Seconds between two checkpoints of a run, at least; 0: one after every epoch, inf: none; None:
    # as often as takes a small share of the time (training.checkpoints).
    checkpoint_every: float | None = None
    folds_at_once: int = 1  # of a configuration, each in a process of its own; in a sweep, runs

    def __post_init__(self) -> None:
        # Whatever a plugin does to the current folder.
        object.__setattr__(self, "store", Path(self.store).absolute())
