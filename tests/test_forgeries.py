"""Whatever follows from predictions, split and data cannot be forged: every field, systematically.

Each value of a real record is replaced by plausible others, each list and dict loses, doubles or
gains an entry. `store verify --recompute` must contradict all of them but those listed in FREE,
each with the reason why nothing in the store or the data contradicts it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_records import finished
from msgspec import structs

from fusionbench.analysis.against_data import AgainstData
from fusionbench.config.identity import Identity
from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.errors import DataError, RecordError
from fusionbench.records import Predictions, Record, Store, cohort
from fusionbench.records.contradictions import contradictions, part_of
from fusionbench.records.reading import parse_predictions, parse_record

# Dotted names (the parts of a record) that nothing contradicts -> why.
FREE = {
    r"measured(\..*)?": "only the machine that ran knew it; its bounds and form are checked",
    r"environment(\..*)?": "only the machine that ran knew it; its size is checked",
    r"result\.history\[\d+\]\.(?!epoch$).*": "training is not repeated; the watched score is held "
    "against the chosen epoch, undefined and missing numbers are refused",
    r"result\.parameters\..*": "counting them takes the network; they must add up",
    r"result\.contract": "what a check of the plugin said when it ran",
    r"identity\.(method|training)(\..*)?": "another method or recipe with its own run_id; the "
    "leaderboard calls a plugin whose source differs stale",
    r"identity\.data\.(allow_forbidden|calibrate|columns.*|encoding|missing)": "another choice of "
    "inputs with its own run_id; the dataset allows it",
    r"identity\.seed": "another seed with its own run_id: only the seed's training could tell",
}
# Plausible other values, by the type of what is there.
OTHERS: dict[type, tuple[Any, ...]] = {
    bool: (0, 1, "true", None),
    int: (0, -1, 10**9, 1.5, True, "1", None),
    float: (-0.5, 1.5, "0.5", None),
    str: ("", "other", 0, None),
    type(None): (0, 0.5, "", True),
}


def forged(value: Any, name: str = "") -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """(name, what is done, the forged whole) for everything in plain JSON."""
    if isinstance(value, dict):
        for i, (key, inner) in enumerate(value.items()):
            where = f"{name}.{key}" if name else key
            rest = {k: v for k, v in value.items() if k != key}
            yield where, "removed", lambda rest=rest: rest
            if i > 1 and name.endswith("metrics"):
                continue  # alike
            for found, what, make in forged(inner, where):
                yield found, what, lambda key=key, make=make: {**value, key: make()}
        last = next(reversed(value.values()), 0.5)
        yield f"{name}.made-up" if name else "made-up", "added", lambda: {**value, "made-up": last}
        return
    if isinstance(value, list):
        for i, inner in enumerate(value[:2]):
            for found, what, make in forged(inner, f"{name}[{i}]"):
                yield found, what, lambda i=i, make=make: [*value[:i], make(), *value[i + 1 :]]
        entry = value[-1] if value else "made up"
        yield name, "one more", lambda: [*value, entry]
        if value:
            yield name, "one fewer", lambda: value[:-1]
        if len(value) > 1 and value != value[::-1]:
            yield name, "turned round", lambda: value[::-1]
        return
    changed = {bool: lambda: not value, int: lambda: value + 1, float: lambda: value * 1.001}
    if type(value) in changed:
        yield name, "a little", changed[type(value)]
    for other in OTHERS[type(value)]:
        if other != value or type(other) is not type(value):
            yield name, f"{other!r:.20}", lambda other=other: other


@dataclass(frozen=True)
class Made:
    """A real run, and what holds records against its data."""

    record: Record
    predictions: Predictions
    against: AgainstData

    def wrong(self, data: bytes, predictions: Predictions | None = None) -> list[str]:
        """What verify says of these bytes in the place of the record."""
        path = Path("records/x.json")
        try:
            record = parse_record(data, path)
            if record == self.record and predictions is None:
                return ["no forgery: a default was left out"]
            own = predictions or self.predictions
            if predictions is None:
                parse_predictions(own.to_csv().encode(), record, path)
            else:
                raw = own.to_csv().encode()
                record = structs.replace(record, predictions_sha256=hashlib.sha256(raw).hexdigest())
                own = parse_predictions(raw, record, path)
        except RecordError as error:
            return [error.message]
        return contradictions(record, own)[1] or self.against(record, own)


SETTINGS: dict[str, dict[str, Any]] = {
    "network": {
        "fusion": "concat", "backbone": "test_resnet", "weights": "none", "epochs": 2,
        "image_size": 32, "precision": "fp32", "select": "inner-val", "protocol": "holdout",
    },
    "control": {"fusion": "metadata-logistic", "missing": "drop-rows", "protocol": "image-3fold",
                "shuffle_metadata": True},
}  # fmt: skip


@pytest.fixture(scope="module", params=SETTINGS)
def made(request, tiny_card: Path, tmp_path_factory) -> Made:
    from fusionbench.runs.run import run

    store = Store(tmp_path_factory.mktemp("forgeries"))
    execution = Execution(store=store.folder, folds=(1,), device="cpu")
    run(RunConfig.of(dataset=str(tiny_card), **SETTINGS[request.param]), execution)
    (record,) = store
    return Made(record, store.predictions(record), AgainstData(execution, str(tiny_card)))


def test_a_real_record_is_not_contradicted(made: Made) -> None:
    assert contradictions(made.record, made.predictions)[1] == []
    assert made.against(made.record, made.predictions) == []


def test_no_field_can_be_forged(made: Made) -> None:
    whole = json.loads(made.record.to_json())
    let_through, tried = [], 0
    for name, what, make in forged({k: v for k, v in whole.items() if k != "identity"}):
        data = json.dumps({**make(), "identity": whole["identity"]}).encode()
        tried += 1
        if not made.wrong(data) and not any(re.fullmatch(free, name) for free in FREE):
            let_through.append((name, what))
    assert not let_through, let_through
    assert tried > 400


def test_no_part_of_the_identity_can_be_forged(made: Made) -> None:
    """With the run_id that belongs to it, and the cohort too."""
    whole = json.loads(made.record.to_json())
    let_through = []
    for name, what, make in forged(whole["identity"], "identity"):
        try:
            identity = Identity.model_validate(make())
        except ValueError:
            continue
        if identity == made.record.identity:
            continue
        result = deepcopy(whole["result"])
        p, data = made.predictions, identity.data
        ids = {
            part: [i for i, own in zip(p.ids, p.parts, strict=True) if own == part]
            for part in p.parts
        }
        result["cohort"] = cohort(data.fingerprint, data.split_hash, ids)
        text = {**whole, "identity": json.loads(identity.spelled), "run_id": identity.run_id}
        predictions = replace(p, fold=identity.fold)
        try:
            wrong = made.wrong(json.dumps({**text, "result": result}).encode(), predictions)
        except DataError as error:  # other data than those that are here: said, not passed over
            wrong = [error.message]
        if not wrong and not any(re.fullmatch(free, name) for free in FREE):
            let_through.append((name, what))
    assert not let_through, let_through


def rows_changed(p: Predictions) -> dict[str, Predictions]:
    """Predictions that their forger makes consistent with the record."""

    def of(order: list[int], **changes: Any) -> Predictions:
        names = ("ids", "parts", "labels", "groups", "lesions")
        kept = {name: tuple(getattr(p, name)[i] for i in order) for name in names}
        return replace(p, **{**kept, "probabilities": p.probabilities[order], **changes})

    every = list(range(len(p.ids)))
    first = p.classes[(p.classes.index(p.labels[0]) + 1) % len(p.classes)]
    shift = np.zeros(len(p.classes))
    shift[:2] = -1, 1
    shifted = np.roll(p.probabilities, 1, axis=1)
    return {
        "a row is dropped": of(every[1:]),
        "a row is copied": of([0, *every]),
        "a row is copied under another id": of([0, *every], ids=("made-up", *p.ids)),
        "another id": of(every, ids=("made-up", *p.ids[1:])),
        "another label": of(every, labels=(first, *p.labels[1:])),
        "the labels are the predictions": of(
            every, labels=tuple(p.classes[k] for k in p.probabilities.argmax(axis=1))
        ),
        "two labels change places": of(every, labels=p.labels[::-1]),
        "another patient": of(every, groups=("made-up", *p.groups[1:])),
        "another lesion": of(every, lesions=("made-up", *p.lesions[1:])),
        "negative": of(every, probabilities=p.probabilities + shift),
        "not a distribution": of(every, probabilities=p.probabilities * 1.1),
        "classes turned round": of(
            every, classes=p.classes[::-1], probabilities=shifted
        ),
    }  # fmt: skip


@pytest.mark.parametrize("what", rows_changed(Predictions(("a", "b"), ("test",) * 2, 0, ("x", "y"),
                         np.full((2, 2), 0.5), ("x", "y"), ("", ""), ("", ""))))  # fmt: skip
def test_no_prediction_can_be_forged(made: Made, what: str) -> None:
    """The forger computes every number anew: only the data contradict some of them."""
    p, result, data = rows_changed(made.predictions)[what], made.record.result, None
    assert result is not None
    place = {name: k for k, name in enumerate(p.classes)}
    labels, parts = np.array([place[name] for name in p.labels]), {}
    for name, own in result.parts.items():
        rows = np.array([part == name for part in p.parts])
        lesions = None if own.lesions is None else np.array(p.lesions, dtype=object)[rows]
        try:
            parts[name] = part_of(
                labels[rows], p.probabilities[rows], lesions, p.classes, result.temperature
            )
        except ValueError:
            parts[name] = own
    data = made.record.identity.data
    ids = {
        part: [i for i, own in zip(p.ids, p.parts, strict=True) if own == part] for part in parts
    }
    lied = structs.replace(
        result,
        parts=parts,
        classes=p.classes,
        n_test=parts["test"].n,
        cohort=cohort(data.fingerprint, data.split_hash, ids),
    )
    text = Record.of(made.record.identity, lied, made.record.environment, made.record.measured)
    assert made.wrong(text.to_json().encode(), p)


def test_what_is_free_says_why() -> None:
    assert all(len(reason) > 20 for reason in FREE.values())


@pytest.mark.parametrize(
    "change",
    [
        {"result": {"verdict": "x" * 10**6}},
        {"result": {"flags": ["x"] * 10**6}},
        {"result": {"history": [{}] * 10**6}},
        {"result": {"parameters": {f"p{i}": 1 for i in range(10**5)}}},
        {"environment": {"device": "x" * 2 * 10**6}},
        {"environment": {"device": [1] * 10**6}},
        {"environment": {"device": json.loads("[" * 500 + "]" * 500)}},
        {"measured": {"started": "x" * 10**6}},
    ],
    ids=lambda change: str(change)[:40],
)
def test_nothing_in_a_record_is_without_bound(change: dict[str, dict[str, Any]]) -> None:
    whole = json.loads(finished()[0].to_json())
    for section, values in change.items():
        whole[section] |= values
    with pytest.raises(RecordError, match="cannot be trusted"):
        parse_record(json.dumps(whole).encode(), Path("x.json"))
