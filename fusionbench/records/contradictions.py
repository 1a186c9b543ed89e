"""What a result must be, given what the run was and what it predicted.

part_of(...) -> PartResult              every number of an evaluated part
contradictions(record, predictions)     what in a record cannot be true, in words
apart(recorded, computed)               where two results differ, in words
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import asdict, replace
from numpy.typing import NDArray

from fusionbench.config.identity import Identity, leaves
from fusionbench.metrics.calibration import COLDEST, HOTTEST, scaled
from fusionbench.metrics.compute import compute, confusion
from fusionbench.metrics.lesions import by_lesion
from fusionbench.records.predictions import Predictions
from fusionbench.records.schema import Level, PartResult, Record, Result, cohort

# How far a number may be from the one that its predictions give.
TOLERANCE = 1e-12


def part_of(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    lesions: NDArray[Any] | None,
    classes: tuple[str, ...],
    temperature: float | None,
) -> PartResult:
    """What (n,) classes and (n, K) probabilities give, by lesion too where their (n,) names are
    given. Raises ValueError as fusionbench.metrics.compute.compute does."""
    of_lesions = None
    if lesions is not None:
        own, averaged, _ = by_lesion(labels, probabilities, lesions)
        of_lesions = _level(own, averaged, classes, temperature)
    whole = _level(labels, probabilities, classes, temperature)
    return PartResult(**asdict(whole), lesions=of_lesions)


def _level(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    classes: tuple[str, ...],
    temperature: float | None,
) -> Level:
    metrics: dict[str, float | None] = dict(compute(labels, probabilities, classes))
    if temperature is not None:
        metrics |= scaled(labels, probabilities, temperature)
    counts = confusion(labels, probabilities, len(classes))
    return Level(n=len(labels), metrics=metrics, confusion=tuple(map(tuple, counts.tolist())))


def contradictions(record: Record, predictions: Predictions) -> tuple[int, list[str]]:
    """How many values were computed again, and what is wrong: first the impossible, then what
    differs."""
    result = record.result
    assert result is not None
    wrong = list(_impossible(record, result, predictions))
    try:
        computed = _computed(record.identity, result, predictions)
    except ValueError as error:  # probabilities that do not sum to one, say
        return 0, [*wrong, str(error).rstrip(".")]
    return len([*leaves(_plain(computed))]), [*wrong, *apart(result, computed)]


def apart(recorded: Result, computed: Result) -> list[str]:
    """`test bacc 0.9 in the record, 0.5 computed`"""
    here, there = (dict(leaves(_plain(result))) for result in (recorded, computed))
    texts = []
    for name in dict.fromkeys((*there, *here)):
        one, other = here.get(name), there.get(name)
        if name not in there:
            texts.append(f"{short(name)} does not belong there")
        elif name not in here:
            texts.append(f"{short(name)} is missing")
        elif not _same(one, other):
            texts.append(f"{short(name)} {_text(one)} in the record, {_text(other)} computed")
    return texts


def short(name: str) -> str:
    """`parts.test.lesions.metrics.acc` as `test by lesion acc`."""
    words = name.removeprefix("parts.").replace(".lesions", " by lesion")
    return words.replace(".metrics.", " ", 1).replace(".", " ", 1)


def _plain(result: Result) -> Any:
    return msgspec.to_builtins(result)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) or isinstance(other, float):  # what is undefined is null in a file
        one, other = (math.nan if x is None else x for x in (one, other))
        if math.isnan(one) or math.isnan(other):
            return math.isnan(one) and math.isnan(other)
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(one == other)


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value)[:80]


def _computed(identity: Identity, result: Result, predictions: Predictions) -> Result:
    """The result as identity and predictions give it; what they do not tell is as recorded."""
    place = {name: k for k, name in enumerate(predictions.classes)}
    labels = np.array([place[name] for name in predictions.labels], dtype=np.int64)
    ids, lesions, names = (
        np.array(values, dtype=object)
        for values in (predictions.ids, predictions.lesions, predictions.parts)
    )
    parts, evaluated = {}, {}
    for name, own in result.parts.items():
        rows = names == name
        evaluated[name] = ids[rows].tolist()
        parts[name] = part_of(
            labels[rows],
            predictions.probabilities[rows],
            None if own.lesions is None else lesions[rows],
            result.classes,
            result.temperature,
        )
    data, training = identity.data, identity.training
    best = None
    if training is not None:
        best = len(result.history)
        if training.select != "last":
            sign = 1 if training.watch == "bacc" else -1
            scores = [sign * _number(entry.get("watched")) for entry in result.history]
            best = 1 + max(range(len(scores)), key=scores.__getitem__, default=0)
    return replace(
        result,
        parts=parts,
        n_test=len(evaluated["test"]),
        cohort=cohort(data.fingerprint, data.split_hash, evaluated),
        best_epoch=best,
        epochs_run=len(result.history),
        flags=_flags(identity, result),
    )


def _number(value: float | None) -> float:
    return -math.inf if value is None else value


def _flags(identity: Identity, result: Result) -> tuple[str, ...]:
    """The flags with those that follow from the identity as they must be."""
    training = identity.training
    certain = {
        "control: no image": not identity.method.uses_images,
        "optimistic: test-best": training is not None and training.select == "test-best",
        "images missing": not result.complete_data,
        "control: shuffled metadata": identity.data.shuffle_metadata,
    }
    kept = tuple(flag for flag in result.flags if certain.get(flag, True))
    return kept + tuple(f for f, holds in certain.items() if holds and f not in kept)


def _impossible(record: Record, result: Result, predictions: Predictions) -> Iterator[str]:
    """What no run can have left, whatever it was."""
    identity, history = record.identity, result.history
    training, data = identity.training, identity.data
    if len(set(predictions.ids)) < len(predictions.ids):
        yield f"{len(predictions.ids) - len(set(predictions.ids))} ids come twice"
    if len(set(result.classes)) < max(2, len(result.classes)):
        yield "its classes are not two different ones or more"
    if not result.n_train + len(predictions.ids) <= result.n_rows_used <= result.n_rows_dataset:
        yield (
            f"{result.n_train} training and {len(predictions.ids)} evaluated rows of "
            f"{result.n_rows_used} used of {result.n_rows_dataset}"
        )
    if identity.fold >= result.folds_expected:
        yield f"fold {identity.fold} of {result.folds_expected} folds"
    inner = data.calibrate or (training is not None and training.select == "inner-val")
    if (result.temperature is not None) != inner:
        yield "a temperature belongs to runs with inner validation rows, and to no other"
    if result.temperature is not None and not COLDEST <= result.temperature <= HOTTEST:
        yield f"the temperature {result.temperature} is not between {COLDEST} and {HOTTEST}"
    if record.measured.started:
        try:
            datetime.fromisoformat(record.measured.started)
        except ValueError:
            yield f"it started at {record.measured.started[:40]!r}, which is no time"
    if training is None:
        if history or result.parameters or record.measured.images_per_s is not None:
            yield "a method without a network has no epochs, parameters and images per second"
        return
    short_of = training.early_stop == 0 and len(history) < training.epochs
    if not 1 <= len(history) <= training.epochs or short_of:
        yield f"{len(history)} epochs are recorded of {training.epochs}"
    if [entry.get("epoch") for entry in history] != [*range(1, len(history) + 1)]:
        yield "the epochs of its history are not 1, 2, 3 and so on"
    wanted = {"epoch", "lr", "loss"} | ({"watched"} if training.select != "last" else set())
    if any(not wanted <= entry.keys() or entry.keys() != history[0].keys() for entry in history):
        yield f"an epoch of its history lacks one of {', '.join(sorted(wanted))}"
    if any(entry.get(name, 0) is None for entry in history for name in wanted):
        yield f"an epoch of its history leaves one of {', '.join(sorted(wanted))} undefined"
    if any(_number(entry.get("lr")) < 0 for entry in history):
        yield "a learning rate of its history is below 0"
    sizes = result.parameters
    whole = sizes.get("backbone", -1) + sizes.get("fusion", -1)
    if sizes.keys() - {"loss"} != {"backbone", "fusion", "total"} or not (
        max(sizes["backbone"], sizes["fusion"]) <= sizes["total"] <= whole
    ):
        yield "its counts of parameters do not add up"
