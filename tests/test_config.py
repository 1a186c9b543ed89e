"""Settings as text: what --set takes, what it refuses, and what a run may be configured to be."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, Literal, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fusionbench.cli import run as run_module
from fusionbench.config.plugin_settings import (
    literal_params,
    parse_assignments,
    plugin_params,
    plugin_schema,
    split_params,
)
from fusionbench.config.run_config import (
    SETTINGS,
    RunConfig,
    TrainingSettings,
    default_of,
    problems,
)
from fusionbench.errors import UsageError

modest = settings(deadline=None, max_examples=50)


class Plugin:
    """One setting of every type that plugins use."""

    def __init__(
        self,
        spec: object,
        *,
        hidden: int = 64,
        tau: float = 0.07,
        gated: bool = True,
        note: str = "",
        stages: tuple[int, ...] = (),
        fr: Literal["pixel", "channel", "off"] = "pixel",
        limit: int | None = None,
    ) -> None: ...


DEFAULTS = {
    "hidden": 64, "tau": 0.07, "gated": True, "note": "", "stages": (), "fr": "pixel",
    "limit": None,
}  # fmt: skip


def params(**raw: str) -> dict[str, Any]:
    return plugin_params(Plugin, raw, "fusion plugin")


# ---- KEY=VALUE


def test_assignments_split_at_the_first_equals_sign() -> None:
    items = ["fusion.hidden=256", " loss.a = b=c ", "fusion.note="]
    assert parse_assignments(items) == {
        "fusion.hidden": "256", "loss.a": "b=c", "fusion.note": "",
    }  # fmt: skip
    assert parse_assignments([]) == {}
    assert parse_assignments(["a=1", "a=2"]) == {"a": "2"}  # the last one counts


@pytest.mark.parametrize("item", ["hidden", "", "=3", "  =3"])
def test_what_is_no_assignment_is_refused(item: str) -> None:
    with pytest.raises(UsageError, match="is not of the form KEY=VALUE") as error:
        parse_assignments(["a=1", item])
    assert repr(item) in str(error.value)


@modest
@given(
    st.dictionaries(
        st.text(min_size=1).map(str.strip).filter(lambda k: k and "=" not in k),
        st.text().map(str.strip),
    )
)
def test_assignments_come_back_as_they_were(items: dict[str, str]) -> None:
    assert parse_assignments(f"{k}={v}" for k, v in items.items()) == items


# ---- a plugin's signature is its schema


def test_defaults_where_nothing_is_set() -> None:
    assert params() == DEFAULTS
    assert list(plugin_schema(Plugin)) == list(DEFAULTS)
    assert plugin_schema(object) == {}


@modest
@given(
    hidden=st.integers(),
    tau=st.floats(allow_nan=False, allow_infinity=False),
    gated=st.booleans(),
    note=st.text(),
    stages=st.lists(st.integers()).map(tuple),
    fr=st.sampled_from(["pixel", "channel", "off"]),
    limit=st.integers(),
)
def test_values_come_back_from_their_text_with_their_type(**values: Any) -> None:
    raw = {k: ",".join(map(str, v)) if k == "stages" else str(v) for k, v in values.items()}
    found = params(**raw)
    assert found == values
    assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in values.items()}


@pytest.mark.parametrize("text", ["1,2,4", "1,2,4,", " 1, 2 ,4"])
def test_a_tuple_is_separated_by_commas(text: str) -> None:
    assert params(stages=text)["stages"] == (1, 2, 4)


@pytest.mark.parametrize(
    ("text", "value"), [("off", False), ("no", False), ("0", False), ("True", True), ("on", True)]
)
def test_switches_take_the_usual_words(text: str, value: bool) -> None:
    assert params(gated=text)["gated"] is value


@pytest.mark.parametrize(
    ("key", "text"),
    [("hidden", "many"), ("hidden", "1.5"), ("hidden", ""), ("tau", "warm"), ("gated", "perhaps"),
     ("stages", "1,two"), ("fr", "row"), ("fr", "PIXEL")],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_refused(key: str, text: str) -> None:
    with pytest.raises(UsageError) as error:
        params(**{key: text})
    assert f"--set {key}={text} does not fit fusion plugin: " in str(error.value)
    assert error.value.exit_code == 2


def test_an_unknown_setting_names_the_nearest_one() -> None:
    with pytest.raises(UsageError, match=r"no setting of fusion plugin called 'hiden'.*hidden\?"):
        params(hiden="3")

    class Bare:
        pass

    with pytest.raises(UsageError, match=r"'hidden'. Known: \(none\)"):
        plugin_params(Bare, {"hidden": "3"}, "fusion bare")


# ---- whose setting is it


def test_settings_go_to_their_owner() -> None:
    raw = {
        "fusion.hidden": "1", "loss.tau": "2", "loss.self-contrastive.delta": "3",
        "optimizer.eps": "4", "schedule.k": "5",
    }  # fmt: skip
    assert split_params(raw, ["ce", "self-contrastive"]) == {
        "fusion": {"hidden": "1"},
        "loss": {"tau": "2"},
        "loss.ce": {},
        "loss.self-contrastive": {"delta": "3"},
        "optimizer": {"eps": "4"},
        "schedule": {"k": "5"},
    }


@pytest.mark.parametrize("key", ["hidden", "backbone.x", "loss.focal.x", "fusion.", ".x", "fusion"])
def test_a_setting_of_nobody_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match=r"Keys start with one of: fusion\., .*loss\.ce\."):
        split_params({key: "1"}, ["ce"])


# ---- for a library's factory


@modest
@given(
    st.one_of(
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.booleans(),
        st.lists(st.integers()),
        st.tuples(st.floats(0, 1), st.floats(0, 1)),
    )
)
def test_literals_come_back_from_their_text(value: Any) -> None:
    found = literal_params({"x": str(value)}, "optimizer")["x"]
    assert found == value and type(found) is type(value)


def test_other_literals() -> None:
    raw = {"a": "true", "b": "FALSE", "c": "some text", "d": "None", "e": "1e-8", "f": "x=("}
    assert literal_params(raw, "schedule") == {
        "a": True, "b": False, "c": "some text", "d": None, "e": 1e-8, "f": "x=(",
    }  # fmt: skip
    for text in ("{'a': 1}", "{1, 2}", "b'x'", "1j"):
        with pytest.raises(UsageError, match=r"--set optimizer\.x="):
            literal_params({"x": text}, "optimizer")


# ---- RunConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("batch_size", 1), ("image_size", 15), ("image_size", 4096), ("lr", 0),
     ("lr", float("nan")), ("lr", float("inf")), ("weight_decay", -1), ("warmup_epochs", -1),
     ("clip_grad", -0.1), ("ema", 1), ("ema", -0.1), ("drop_path", 1), ("seed", -1),
     ("seed", 2**31), ("select", "best"), ("precision", "fp16"), ("augment", "heavy"),
     ("encoding", "binary"), ("missing", "drop"), ("resize", "pad"), ("sampler", "even"),
     ],
)  # fmt: skip
def test_values_that_cannot_run_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as error:
        RunConfig.of(**{field: value})
    assert [name for name, _ in problems(error.value)] == [field]


def test_an_unknown_setting_is_refused_with_the_near_one() -> None:
    with pytest.raises(UsageError, match="Did you mean epochs"):
        RunConfig.of(epoch=1)
    with pytest.raises(ValidationError):
        RunConfig(epochs=1)  # type: ignore[call-arg]  # settings of a part go by `of`


@pytest.mark.parametrize("name", ["metablock-2021", "sgmc_2024", "Metablock-2021", "of no file"])
def test_a_recipe_is_applied_or_refused_never_only_named(name: str) -> None:
    """However it is named from Python: a record would state settings that nobody trained with."""
    for training in ({"recipe": name}, {"recipe": name, "epochs": 3}):
        with pytest.raises(ValidationError, match=r"RunConfig\.of"):
            RunConfig(training=training)  # type: ignore[arg-type]
        with pytest.raises(ValidationError, match=r"RunConfig\.of"):
            RunConfig(training=TrainingSettings(**training))  # type: ignore[arg-type]
        with pytest.raises(ValidationError, match=r"RunConfig\.of"):
            RunConfig.model_validate({"training": training})
    with pytest.raises(ValidationError):
        RunConfig(recipe=name)  # type: ignore[call-arg]
    for config in (RunConfig(), RunConfig.of(epochs=3)):
        with pytest.raises(UsageError, match=r"RunConfig\.of|no recipe"):
            config.changed(recipe=name)


def test_a_recipe_that_was_applied_stays() -> None:
    config = RunConfig.of(recipe="metablock-2021", epochs=3)
    assert config.changed(recipe="metablock_2021", lr=0.1).training.batch_size == 30
    with pytest.raises(ValidationError, match=r"RunConfig\.of"):  # it states more than training
        RunConfig(training=config.training)
    assert RunConfig.model_validate(config.model_dump()) == config
    modern = RunConfig(training={"recipe": default_of("recipe"), "epochs": 3})  # type: ignore[arg-type]
    assert modern == RunConfig.of(epochs=3)


def test_the_edges_are_allowed() -> None:
    RunConfig.of(epochs=1, batch_size=2, image_size=16, seed=0, ema=0, drop_path=0.99, lr=1e-12)
    RunConfig.of(image_size=2048, seed=2**31 - 1)


def test_a_configuration_cannot_be_changed_and_survives_json() -> None:
    config = RunConfig.of(fusion="concat", params={"fusion.hidden": "3"}, columns=("age",))
    with pytest.raises(ValidationError):
        config.training.epochs = 3  # type: ignore[misc]
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_options_of_the_command_line_start_from_these_defaults() -> None:
    options = {option.name: option for option in run_module.run_command.params}
    for name, setting in SETTINGS.items():
        if name not in ("params", "columns"):  # given several times, or not at all
            assert options[name].default == setting.field.default, name
            if choices := getattr(options[name].type, "choices", None):
                assert tuple(choices) == get_args(setting.field.annotation)


def test_importing_it_costs_no_torch() -> None:
    code = (
        "import sys, fusionbench.config.identity;"
        "print({'torch', 'numpy', 'pandas'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"
