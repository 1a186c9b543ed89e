"""Records, predictions and whole stores that others made."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attempts import WORDS, Attempts, changed, mutated, snapshot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_records import failed, finished
from msgspec import structs
from safetensors.numpy import save
from thorough import times

from fusionbench.errors import RecordError
from fusionbench.records import Problem, Record, Store, read_record
from fusionbench.records.leftovers import leftovers, remove
from fusionbench.records.merge import merge
from fusionbench.records.reading import _parse_strictly, parse_record
from fusionbench.records.verify import verify


def whole_record() -> Record:
    return Store("good").write(*finished())


@pytest.mark.hostile("records")
def test_mutated_records(attempts: Attempts) -> None:
    draw = random.Random(1)
    record = whole_record()
    good, path = record.to_json().encode(), Path(f"{record.run_id}.json")
    for _ in range(times(700)):
        path.write_bytes(mutated(draw, good))
        if attempts(lambda: read_record(path), path.name):
            # What is let through is a record of the same run, and says so in plain JSON.
            assert read_record(path).identity.run_id == record.run_id
    attempts.finish(700, refused=500)


@pytest.mark.hostile("records")
def test_the_quick_way_answers_as_the_strict_one(attempts: Attempts) -> None:
    """`parse_record` parses once where it can; what parses twice is the oracle."""
    draw, path = random.Random(5), Path("x.json")
    good = whole_record().to_json().encode()
    values = (b"1", b"null", b'"x"', b'":"', b"{}", b"NaN", b'"\\""', b'"\\u0022\\u0022"')

    def answer(parse: Callable[[bytes, Path], Record], data: bytes) -> str:
        try:
            return parse(data, path).to_json()
        except RecordError as error:
            return str(error)

    for case in range(times(600)):
        data = good
        if case % 2:  # a key that some dict may have already
            at = draw.choice([i for i, byte in enumerate(good) if byte == ord("{")]) + 1
            key = good[at:].split(b'"')[1]
            data = b"%b%b%b:%b,%b" % (
                good[:at], b'"%b"' % key, draw.choice((b"", b" ")), draw.choice(values), good[at:]
            )  # fmt: skip
        if case % 3:
            data = mutated(draw, data)
        assert answer(parse_record, data) == answer(_parse_strictly, data)
        attempts(lambda d=data: parse_record(d, path), path.name)
    attempts.finish(600, refused=400)


@pytest.mark.hostile("records")
def test_records_with_other_values(attempts: Attempts) -> None:
    draw = random.Random(2)
    record = whole_record()
    plain, path = json.loads(record.to_json()), Path(f"{record.run_id}.json")
    for _ in range(times(700)):
        path.write_text(json.dumps(changed(draw, plain)), encoding="utf-8")
        if attempts(lambda: read_record(path), path.name):
            read_record(path).reproducible()
    attempts.finish(700, refused=500)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, "9" * 100_000, '{"schema_version": ' + "9" * 5000 + "}",
     '{"schema_version": ' + "[" * 5000 + "}", '{"schema_version": "\\ud800"}', '"\\ud800"',
     "\ufeff{}",
     '{"schema_version": 1e999}', '{"schema_version": {"a": "' + "b" * 10**6 + '"}}', "null", "0",
     '{"run_id": "../../../x"}', '{"schema_version":1,"schema_version":2}', "{}" * 1000],
    ids=range(15),
)  # fmt: skip
@pytest.mark.hostile("records")
def test_json_that_parsers_choke_on(attempts: Attempts, text: str) -> None:
    path = Path("store/records/x.json").absolute()
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    assert not attempts(lambda: read_record(path), "x.json")
    bad: list[Problem] = []
    assert list(Store("store").records(bad)) == [] and [p.path for p in bad] == [path]
    attempts.finish(1)


IDENTITIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@pytest.mark.hostile("records")
def test_any_json_in_a_record(attempts: Attempts) -> None:
    record = whole_record()
    plain, path = json.loads(record.to_json()), Path(f"{record.run_id}.json")

    @given(st.sampled_from([*plain]), IDENTITIES)
    @settings(
        deadline=None,
        max_examples=times(80),
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    def check(key: str, value: Any) -> None:
        path.write_text(json.dumps(plain | {key: value}), encoding="utf-8")
        attempts(lambda: read_record(path), path.name)

    check()
    attempts.finish(80, refused=30)


@pytest.mark.hostile("predictions")
def test_mutated_predictions_with_a_sha_that_fits(attempts: Attempts) -> None:
    """The sha256 only says that a file is the one that the record names; whoever writes one can
    write the other."""
    draw = random.Random(3)
    made, predictions = finished(n=5)
    store = Store("store")
    record = store.write(made, predictions)
    good, path = predictions.to_csv().encode(), Path(f"store/predictions/{made.run_id}.csv")
    for _ in range(times(500)):
        data = mutated(draw, good)
        path.write_bytes(data)
        lied = structs.replace(record, predictions_sha256=hashlib.sha256(data).hexdigest())
        Path(f"store/records/{made.run_id}.json").write_text(lied.to_json())
        if attempts(lambda: store.predictions(made.run_id), path.name):
            back = store.predictions(made.run_id)
            assert back.probabilities.shape == (5, 3) and np.isfinite(back.probabilities).all()
            # Whatever they hold, it is compared, not trusted.
            verify(store, recompute=True)
    attempts.finish(500, refused=250)


@pytest.mark.hostile("stores")
def test_stores_full_of_anything_are_verified_merged_and_tidied(attempts: Attempts) -> None:
    draw = random.Random(4)
    record, predictions = finished(n=4)
    files = {
        f"records/{record.run_id}.json": Store("good")
        .write(record, predictions)
        .to_json()
        .encode(),
        f"predictions/{record.run_id}.csv": predictions.to_csv().encode(),
        f"weights/{record.run_id}.safetensors": save({"w": np.zeros(2, np.float32)}),
        f"failed/{failed(fold=1).run_id}.json": failed(fold=1).to_json().encode(),
        f"locks/{record.run_id}.lock": b"",
    }
    names = [
        "..",
        "...json",
        "a\nb.json",
        "x.tmp",
        ".x.tmp",
        "é.json",
        "b" * 240 + ".json",
        "-.csv",
    ]
    for case in range(times(150)):
        other = Store(f"other{case}")
        for name, data in files.items():
            path = other.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            match draw.randrange(6):
                case 0:
                    path.symlink_to(draw.choice(["/etc/hostname", "../../outside", "/dev/zero"]))
                case 1:
                    os.mkfifo(path)
                case 2:
                    path.mkdir()
                case 3:
                    path.write_bytes(mutated(draw, data))
                case _:
                    path.write_bytes(data)
            if draw.random() < 0.3:
                odd = path.with_name(draw.choice(names))
                if not odd.exists():
                    odd.write_bytes(draw.choice(WORDS)[:5000])
        if draw.random() < 0.2:
            kind = other.folder / draw.choice(["records", "predictions", "weights", "failed"])
            kind.rename(other.folder / "aside")
            kind.symlink_to(draw.choice([attempts.outside, Path("../good/records").absolute()]))
        before, ours = snapshot_without_pipes(other.folder), Store(f"ours{case}")
        attempts(lambda o=other: verify(o, recompute=True), str(other.folder))
        attempts(lambda o=other, s=ours: merge(s, o), str(other.folder))
        assert snapshot_without_pipes(other.folder) == before
        # What came in is whole.
        assert verify(ours, recompute=True).ok
        attempts(lambda o=other: remove(o, leftovers(o)), str(other.folder))
    attempts.finish(450, refused=0)


def snapshot_without_pipes(folder: Path) -> dict[str, str]:
    """As `snapshot`, without the endless and what would wait."""
    return {
        name: what
        for name, what in snapshot(folder).items()
        if not (folder / name).is_fifo() and what != "link to /dev/zero"
    }
