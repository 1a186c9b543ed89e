"""One truth of a run: a row, its twin and its configuration have one answer each."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_records import identity, record

from fusionbench.analysis.stress.stress_report import Run, reference
from fusionbench.config.identity import Expected, Identity, TrainingIdentity
from fusionbench.config.run_config import SETTINGS, DataChoices, RunConfig, default_of
from fusionbench.leaderboard.gains import image_only_row, shuffled_row
from fusionbench.leaderboard.rows import blocks
from fusionbench.plugin import registry

FOLDS = 2
OF_METADATA = [name for name, setting in SETTINGS.items() if setting.of_metadata]


def of(fusion: str, loss: str, smoothing: float = 0.0, **choices: Any) -> dict[str, Any]:
    """What to give `record` for a row of real plugins with their own settings."""
    names = loss.split("+")
    params = {name: registry.find("losses", name).defaults for name in names}
    if "ce" in params:
        params["ce"] = params["ce"] | {"label_smoothing": smoothing}
    return {
        "fusion": fusion,
        "fusion_params": registry.find("fusions", fusion).defaults,
        "loss": loss,
        "loss_params": params,
        "loss_sources": dict.fromkeys(names, "1" * 16),
        "settings": {"view": "clinical", "columns": ["age"], **choices},
    }


rows = st.builds(
    of,
    st.sampled_from(["none", "concat", "sgmc"]),
    st.sampled_from(["ce", "focal", "ce+self-contrastive"]),
    st.sampled_from([0.0, 0.1]),
    epochs=st.sampled_from([5, 6]),
    recipe=st.sampled_from(["modern", "sgmc-2024"]),
    encoding=st.sampled_from(["onehot", "ordinal"]),
    metadata_dropout=st.sampled_from([0.0, 0.2]),
    shuffle_metadata=st.booleans(),
)


def network(config: dict[str, Any]) -> dict[str, Any]:
    """An independent reading of "the same network": settings but those of metadata."""
    hidden = {"encoding", "metadata_dropout", "shuffle_metadata", "columns", "recipe"}
    return {k: v for k, v in config["settings"].items() if k not in hidden}


def twin_by_hand(own: dict[str, Any], others: list[dict[str, Any]]) -> dict[str, Any] | None:
    alone = [
        other
        for other in others
        if other["fusion"] == "none"
        and not other["settings"]["shuffle_metadata"]
        and network(other) == network(own)
    ]
    same = [o for o in alone if o["loss_params"] == own["loss_params"]]
    plain = [
        o
        for o in alone
        if list(o["loss_params"]) == ["ce"]
        and o["loss_params"]["ce"] == own["loss_params"].get("ce", o["loss_params"]["ce"])
    ]
    fitting = same or plain
    return fitting[0] if len(fitting) == 1 else None


@given(st.lists(rows, min_size=2, max_size=10, unique_by=repr))
@settings(deadline=None, max_examples=120)
def test_the_leaderboard_and_stress_compare_with_the_same_row(configs: list[Any]) -> None:
    records = [
        record({"bacc": 0.5 + 0.01 * i + 0.001 * fold}, fold=fold, result={"folds_expected": FOLDS},
               **config)
        for i, config in enumerate(configs)
        for fold in range(FOLDS)
    ]  # fmt: skip
    (block,) = blocks(records)
    by_key = {identity(**config).row.digest: config for config in configs}
    assert by_key.keys() == {row.key for row in block.rows}
    for row in block.rows:
        config = by_key[row.key]
        twin = image_only_row(row, block.rows)
        if row.shuffled or row.fusion == "none":
            assert twin is None
        else:
            expected = twin_by_hand(config, configs)
            assert (twin and by_key[twin.key]) == expected
        runs = [Run(r.run_id, r.identity.fold, 0, 1, 0.0) for r in records
                if r.identity.row.digest == row.key]  # fmt: skip
        drawn = reference(block, row, runs, "bacc")
        gain = row.gains.image if row.gains is not None else None
        assert (drawn and drawn.key) == (gain and gain.against) == (twin and twin.key)
        shuffled = shuffled_row(row, block.rows)
        if shuffled is not None:
            own = config["settings"] | {"shuffle_metadata": True, "recipe": ""}
            other = by_key[shuffled.key]
            assert other | {"settings": other["settings"] | {"recipe": ""}} == (
                config | {"settings": own}
            )


@given(st.lists(rows, min_size=2, max_size=6, unique_by=repr))
@settings(deadline=None, max_examples=60)
def test_a_configuration_made_from_an_identity_is_matched_by_its_own_runs_only(
    configs: list[Any],
) -> None:
    identities = [identity(**config) for config in configs]
    expected = [Expected.of(one.config()) for one in identities]
    for (i, one), (j, wanted) in itertools.product(enumerate(identities), enumerate(expected)):
        assert one.matches(wanted) == (i == j)


def test_every_setting_of_a_configuration_is_in_the_identity() -> None:
    """A setting is declared once: a new field is in the identity without a further word."""
    in_identity = {*DataChoices.model_fields, *TrainingIdentity.model_fields}
    elsewhere = {"fusion", "backbone", "loss", "params", "reducer", "weights", "seed"}
    assert in_identity >= {*SETTINGS} - elsewhere - {"allow_missing_images"}
    assert len(SETTINGS) == len({*SETTINGS}) > 30


@pytest.mark.parametrize("name", [n for n in SETTINGS if n not in ("params", "columns", "recipe")])
def test_a_setting_that_is_changed_is_changed_back(name: str) -> None:
    config = RunConfig()
    value = default_of(name)
    choices = getattr(SETTINGS[name].field.annotation, "__args__", ())
    if choices:
        other = next(choice for choice in choices if choice != value)
    elif isinstance(value, bool):
        other = not value
    elif name == "freeze":
        other = "backbone"
    else:
        other = value * 0.5 + 0.1 if isinstance(value, float) else value + 2 if value != "" and (
            isinstance(value, int)
        ) else f"{value}x"  # fmt: skip
    changed = config.changed(**{name: other})
    assert changed != config and changed.flat()[name] == other
    assert changed.changed(**{name: value}) == config


def test_the_parts_of_an_identity_that_differ_are_named() -> None:
    one, other = identity(), identity(fold=1, settings={"epochs": 6, "lr": 1e-4, "select": "last"})
    assert list(one.changes(other)) == [("training.epochs", 5, 6), ("fold", 0, 1)]
    assert list(one.changes(Identity.model_validate_json(one.model_dump_json()))) == []


def test_settings_of_metadata_are_those_a_reader_expects() -> None:
    assert set(OF_METADATA) == {
        *("columns", "encoding", "missing", "allow_forbidden", "shuffle_metadata"),
        *("metadata_dropout", "block_dropout"),
    }
