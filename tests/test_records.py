"""Records that can be trusted: named by what they are, all there or not there, never misread."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_up_records import CLASSES, control, failed, finished, identity, record
from msgspec import structs
from pydantic import ValidationError

from fusionbench.config.identity import Identity, plain_json
from fusionbench.config.run_config import Execution
from fusionbench.errors import FusionbenchError, RecordError
from fusionbench.records import (
    BusyError,
    Predictions,
    Problem,
    Record,
    Store,
    cohort,
    reading,
)
from fusionbench.records.reading import parse_record
from fusionbench.records.schema import decode
from fusionbench.records.verify import verify

# ---- the name of a run


def test_a_run_id_reads_and_is_stable() -> None:
    name = identity().run_id
    assert re.fullmatch(r"synthetic_grouped-5fold_sgmc_resnet18_f0_s0_[0-9a-f]{12}", name)
    # Written down: a change of the spelling would disown every record there is.
    assert name.endswith("_" + PINNED)
    alone = record(**control()).run_id
    assert re.fullmatch(r"synthetic_grouped-5fold_metadata-forest_f0_s0_[0-9a-f]{12}", alone)


PINNED = "b277e5552d38"


def _changed(value: Any) -> Any:
    """Another value of the same type, as far as a JSON value tells its type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value, "other"]
    return {**value, "other": 1} if isinstance(value, dict) else f"{value or ''}other"


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    inner = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        inner = enumerate(value)
    if not inner:
        yield path, value
    for key, item in inner:
        yield from _leaves(item, (*path, key))


def test_every_part_of_the_identity_changes_the_run_id() -> None:
    """Each value of its JSON in turn, choices apart, which have no other value of any name."""
    whole = identity().model_dump(mode="json")
    ids, count = {identity().run_id}, 1
    for path, value in _leaves(whole):
        other = json.loads(json.dumps(whole))
        inner = other
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = _changed(value)
        try:
            ids.add(Identity.model_validate(other).run_id)
            count += 1
        except ValidationError as error:
            limits = ("literal_error", "less_than", "less_than_equal", "string_pattern_mismatch")
            assert error.errors()[0]["type"] in limits
    assert count > 40 and len(ids) == count


def test_an_unknown_or_absent_part_of_an_identity_is_refused() -> None:
    whole = identity().model_dump(mode="json")
    for part in ("data", "method", "fold", "seed"):
        with pytest.raises(ValidationError, match=part):
            Identity.model_validate({k: v for k, v in whole.items() if k != part})
    with pytest.raises(ValidationError, match="colour"):
        Identity.model_validate(whole | {"colour": 1})


@pytest.mark.parametrize("bad", [math.nan, math.inf, Path("x"), {1, 2}, np.float32(1)])
def test_an_identity_is_plain_json(bad: object) -> None:
    with pytest.raises(RecordError, match="plain JSON"):
        plain_json({"x": bad})
    assert plain_json({"x": (1, 2), 3: None}) == {"x": [1, 2], "3": None}


@pytest.mark.parametrize("bad", ["0", 0.5, True, None, -1])
def test_fold_and_seed_are_whole_numbers(bad: object) -> None:
    for key in ("fold", "seed"):
        with pytest.raises(ValidationError, match=key):
            identity(**{key: bad})


@given(st.text(max_size=80), st.text(max_size=80))
@settings(deadline=None, max_examples=100)
def test_any_name_makes_a_safe_file_name(dataset: str, backbone: str) -> None:
    name = identity(dataset=dataset, backbone=backbone).run_id
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) and len(name) < 240


def test_a_hub_name_stays_readable() -> None:
    name = identity(backbone="hf_hub:timm/resnet18.a1_in1k").run_id
    assert "_hf_hub-timm-resnet18.a1_in1k_f0_" in name


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab_é", max_size=4), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), json_values, max_size=4))
@settings(deadline=None, max_examples=100)
def test_an_identity_survives_the_file(values: dict[str, Any]) -> None:
    made = record(fusion_params=values)
    back = decode(made.to_json().encode())
    assert back.identity == made.identity and back.identity.spelled == made.identity.spelled
    assert back.to_json() == made.to_json()


def test_a_cohort_is_what_was_evaluated() -> None:
    base = cohort("data", "split", {"test": ["b", "a"]})
    assert base == cohort("data", "split", {"test": ["a", "b"]})
    others = [
        cohort("other", "split", {"test": ["a", "b"]}),
        cohort("data", "other", {"test": ["a", "b"]}),
        cohort("data", "split", {"test": ["a"]}),
        cohort("data", "split", {"holdout": ["a", "b"]}),
        cohort("data", "split", {"test": ["ab"]}),
    ]
    assert len({base, *others}) == 6


# ---- the file


def plain(p: Predictions) -> tuple[object, ...]:
    """All but the probabilities."""
    return p.ids, p.parts, p.fold, p.labels, p.classes, p.groups, p.lesions


def test_reading_gives_back_what_was_written(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    made, predictions = finished()
    assert not store.has(made.run_id)
    written = store.write(made, predictions)
    assert store.has(made.run_id)
    assert store.read(made.run_id) == written == next(iter(store))
    assert written.predictions_sha256
    assert written == structs.replace(made, predictions_sha256=written.predictions_sha256)
    back = store.predictions(made.run_id)
    assert plain(back) == plain(predictions)
    assert back.probabilities.tobytes() == predictions.probabilities.tobytes()
    assert not [p for p in tmp_path.rglob("*") if p.suffix == ".tmp"]


def test_the_same_run_twice_differs_in_two_lines_only(tmp_path: Path) -> None:
    texts = []
    for name, speed in (("a", 10.0), ("b", 20.0)):
        made, predictions = finished(
            images_per_s=speed, started=f"2025-01-01T00:00:0{speed:.0f}Z", environment={"on": name}
        )
        written = Store(tmp_path / name).write(made, predictions)
        texts.append((tmp_path / name / "records" / f"{made.run_id}.json").read_text())
        texts.append(written.reproducible())
    lines = zip(texts[0].splitlines(), texts[2].splitlines(), strict=True)
    differ = [a.split(":")[0] for a, b in lines if a != b]
    assert differ == ['"environment"', '"measured"']
    assert texts[1] == texts[3]


def test_an_undefined_number_is_null_in_the_file() -> None:
    made = record({"acc": 0.5, "recall/MEL": math.nan}, result={"history": ({"x": math.nan},)})
    assert json.loads(made.to_json())["result"]["history"] == [{"x": None}]
    assert json.loads(made.to_json())["result"]["parts"]["test"]["metrics"]["recall/MEL"] is None
    with pytest.raises(RecordError, match=r"metrics.acc is inf, not a finite number"):
        record({"acc": math.inf})
    with pytest.raises(RecordError, match=r"measured.*not a finite number|durations"):
        record(images_per_s=-math.inf)


@pytest.mark.parametrize(
    "change",
    [
        {"status": "failed"},
        {"result": None},
        {"surprise": 1},
        {"run_id": "../escape"},
        {"run_id": "another"},
    ],
)
def test_a_record_that_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    text = json.dumps(json.loads(record().to_json()) | change)
    with pytest.raises(RecordError, match=r"cannot be trusted: .*(status|unknown|run_id)"):
        parse_record(text.encode(), Path("x.json"))


def test_a_result_must_have_a_test_part() -> None:
    with pytest.raises(ValueError, match="test"):
        record(result={"parts": {}})


def edit(old: str, new: str) -> Any:
    def apply(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "cannot be trusted"),
        (lambda text: "", "cannot be trusted"),
        (lambda text: "[]", "cannot be trusted"),
        (lambda text: "\x00\xff", "cannot be trusted"),
        (edit('"schema_version": 2', '"schema_version": 3'), "schema version 3"),
        (edit('"schema_version": 2', '"schema_version": true'), "schema version true"),
        (edit('"schema_version": 2', '"schema_version": 2.0'), "schema version 2.0"),
        (edit('"schema_version": 2', '"schema_version": "2"'), 'schema version "2"'),
        (edit('"schema_version": 2,', ""), "schema version null"),
        (edit('"images_per_s":100.0', '"images_per_s":1e999'), "1e999 is no finite number"),
        (edit('"python":"3.11"', '"python":-1e999'), "-1e999 is no finite number"),
        (edit('"lr":0.0001', '"lr":0.001'), "run_id does not belong"),
        (edit('"n_train":40', '"n_train":40,"n_extra":1'), "n_extra.*result"),
        (edit('"n_train":40,', ""), "n_train.*result"),
        (edit('"n_train":40', '"n_train":NaN'), "NaN is not JSON"),
        (edit('"n_train":40', '"n_train":1e999'), "cannot be trusted"),
        (edit('"n":12', '"n":0'), r"Expected `int` >= 1 - at `\$.result.parts"),
    ],
)
def test_a_damaged_file_is_named_and_never_counted(
    tmp_path: Path, damage: Any, message: str
) -> None:
    store = Store(tmp_path)
    runs = [store.write(*finished(fold=fold)).run_id for fold in range(3)]
    path = tmp_path / "records" / f"{runs[1]}.json"
    path.write_text(damage(path.read_text()), encoding="latin-1")
    with pytest.raises(RecordError, match=message) as caught:
        store.read(runs[1])
    assert str(path) in caught.value.message and caught.value.remedy
    with pytest.raises(RecordError, match=re.escape(str(path))):
        list(store)
    bad: list[Problem] = []
    assert [r.run_id for r in store.records(bad)] == [runs[0], runs[2]]
    assert [p.path for p in bad] == [path] and bad[0].remedy


SECOND = [
    '"n_train":41,',
    '"n_train" : 41, ',
    '"\\u006e_train":41,',  # the same name
    '"n_train":"\\"",',
    # The record has as many quotes as the text, or a colon stands where a key's would.
    '"n_train":41,"verdict":"\\u0022\\u0022",',
    '"n_train" :41,"verdict":":",',
]


@pytest.mark.parametrize("second", SECOND)
def test_a_key_that_comes_twice_is_refused(second: str) -> None:
    text, path = record().to_json(), Path("x.json")
    assert parse_record(text.encode(), path) == record()
    if "verdict" in second:  # that one once only
        text = text.replace('"verdict":"",', "")
    twice = text.replace('"n_train":', f'{second}"n_train":')
    with pytest.raises(RecordError, match="'n_train' comes twice"):
        parse_record(twice.encode(), path)


@pytest.mark.parametrize(
    "within",
    ['{"a":1,"a":1}', '{"a":{"b":[{"c":"d","c":""}]}}', '{"a":NaN}', '{"a":[-Infinity]}'],
)
def test_nothing_is_overlooked_where_a_value_may_be_anything(within: str) -> None:
    text = record(environment={"x": "here"}).to_json().replace('"here"', within)
    with pytest.raises(RecordError, match=r"comes twice|is not JSON"):
        parse_record(text.encode(), Path("x.json"))


def test_what_is_written_is_read_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed once: reading thousands of records hangs on it."""
    monkeypatch.setattr(reading, "_parse_strictly", lambda *_: pytest.fail("parsed twice"))
    numbers = {"acc": 0.5, "recall/MEL": None, "recall/é\n": 0.25}
    words = {"quote": 'a "b"', "é": "\u2028", "": ["\\", {"x": "{}"}]}
    for made in (
        record(),
        record(numbers, lesions=numbers, holdout=numbers, environment=words, fusion_params=words),
        finished()[0],
    ):
        assert parse_record(made.to_json().encode(), Path("x.json")) == made


def test_a_renamed_file_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = store.write(*finished()).run_id
    path = tmp_path / "records" / f"{run}.json"
    path.rename(path.with_name("other.json"))
    with pytest.raises(RecordError, match=f"Rename it to {run}.json"):
        store.read("other")


def test_changed_predictions_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = store.write(*finished()).run_id
    path = tmp_path / "predictions" / f"{run}.csv"
    path.write_text(path.read_text().replace("PAT_3.png", "PAT_99.png"))
    with pytest.raises(RecordError, match="not the file"):
        store.predictions(run)
    path.unlink()
    with pytest.raises(RecordError, match="not readable"):
        store.predictions(run)


def test_predictions_of_another_run_are_not_taken(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made, predictions = finished()
    for other in (finished(n=11)[1], finished(fold=1)[1]):
        with pytest.raises(RecordError, match="do not belong"):
            store.write(made, other)
    assert not store.has(made.run_id)
    with pytest.raises(RecordError, match="no result"):
        store.write(failed(), predictions)
    with pytest.raises(RecordError, match="did not fail"):
        store.write_failure(made)


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(
    st.lists(
        st.tuples(
            words,
            words,
            words,
            st.sampled_from(["test", "holdout"]),
            st.sampled_from(CLASSES),
            st.lists(st.floats(0, 1), min_size=3, max_size=3),
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 9),
)
@example([('a\r\n,"b"', "p\n", 'p\n|"1"', "test", CLASSES[0], [0.1, 0.2, 0.7])], 3)
@settings(deadline=None, max_examples=150)
def test_predictions_read_back_to_the_bit(rows: list[Any], fold: int) -> None:
    ids, groups, lesions, parts, labels, p = zip(*rows, strict=True)
    made = Predictions(ids, parts, fold, labels, np.array(p), CLASSES, groups, lesions)
    back = Predictions.from_csv(made.to_csv())
    assert plain(back) == (ids, parts, fold, labels, CLASSES, groups, lesions)
    assert back.probabilities.tobytes() == made.probabilities.tobytes()
    assert back.to_csv() == made.to_csv()


def test_predictions_must_fit_together() -> None:
    good = finished()[1]
    for name in ("ids", "parts", "labels", "groups", "lesions"):
        with pytest.raises(ValueError, match="do not fit"):
            replace(good, **{name: getattr(good, name)[1:]})
    with pytest.raises(ValueError, match="not finite"):
        replace(good, probabilities=good.probabilities * np.nan)
    with pytest.raises(ValueError, match="no class"):
        replace(good, labels=("XXX", *good.labels[1:]))


# ---- the folder


def test_a_store_stays_where_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store, execution = Store("store"), Execution(store=Path("store"))
    monkeypatch.chdir("elsewhere")
    store.write(*finished())
    assert execution.store == store.folder == tmp_path / "store"
    assert len(list(store)) == 1 and not list(Path.cwd().iterdir())


@pytest.mark.parametrize("odd", ["file", "link to nothing", "links in a circle", "a file above"])
def test_records_that_cannot_be_read_are_not_an_empty_store(tmp_path: Path, odd: str) -> None:
    store, folder = Store(tmp_path / "store"), tmp_path / "store" / "records"
    (store.folder if odd != "a file above" else tmp_path).mkdir(exist_ok=True)
    match odd:
        case "file":
            folder.write_text("")
        case "a file above":
            store.folder.write_text("")
        case _:
            folder.symlink_to("nothing" if odd == "link to nothing" else "records")
    for read in (lambda: list(store), lambda: store.find("x"), lambda: verify(store)):
        with pytest.raises(RecordError, match="cannot be read: ") as caught:
            read()
        assert str(folder.parent) in caught.value.message and caught.value.remedy
    if odd != "link to nothing":  # where the first record makes the folder
        with pytest.raises(RecordError, match="cannot be read"):
            store.has("a-run")


def test_a_folder_without_permission_is_not_an_empty_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(self: Path, *arguments: object) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    store = Store(tmp_path)
    store.write(*finished())
    monkeypatch.setattr(Path, "iterdir", forbidden)
    monkeypatch.setattr(Path, "stat", forbidden)
    for read in (lambda: list(store), lambda: store.has("a-run")):
        with pytest.raises(RecordError, match="records cannot be read: Permission denied"):
            read()


def test_a_success_removes_the_failure_before_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    bad = store.write_failure(failed())
    assert not store.has(bad.run_id)
    assert list(store) == [] and store.failures() == [bad.run_id]
    assert store.read(bad.run_id).error == bad.error
    assert store.find("sgmc") == bad.run_id
    store.write(*finished())
    assert store.read(bad.run_id).status == "ok"
    assert store.failures() == [] and not list((tmp_path / "failed").iterdir())


def test_redo_replaces_the_result(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = store.write(*finished(seed=0)).run_id
    second, predictions = finished(n=15)
    assert second.run_id == run
    store.write(second, predictions)
    assert store.read(run).result == second.result
    assert len(store.predictions(run).ids) == 15


def test_a_full_disk_leaves_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:  # the predictions fit, the record does not
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    made, predictions = finished()
    with pytest.raises(FusionbenchError, match="No space left") as caught:
        store.write(made, predictions)
    assert str(tmp_path / "store") in caught.value.message and caught.value.remedy
    assert not store.has(made.run_id) and list(store) == []
    assert not list((tmp_path / "store").rglob("*.tmp"))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file")
    with pytest.raises(FusionbenchError, match=re.escape(str(tmp_path / "file"))):
        store.write(*finished())
    with pytest.raises(FusionbenchError, match="cannot be written"), store.lock("a-run"):
        pass


def test_stopped_between_predictions_and_record_the_run_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    run = store.write(*finished(seed=0)).run_id
    made, predictions = finished(n=15)
    monkeypatch.setattr(Record, "to_json", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.write(made, predictions)
    assert not store.has(run)


def test_find_takes_any_telling_part(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RecordError, match="0 of 0 runs"):
        store.find("x")
    runs = [store.write(*finished(fold=f, backbone=b)).run_id for f in (0, 1) for b in ("r", "rx")]
    for run in runs:
        assert store.find(run) == store.find(run[-12:]) == store.find(run[:-6]) == run
    with pytest.raises(RecordError, match="4 of 4 runs"):
        store.find("synthetic")
    with pytest.raises(RecordError, match="0 of 4 runs"):
        store.find("absent")


@pytest.mark.parametrize("name", ["../../etc/passwd", "", ".hidden", "a/b", "a\n"])
def test_a_name_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordError, match="not the name of a run"):
        Store(tmp_path).has(name)


def test_a_missing_record_says_so(tmp_path: Path) -> None:
    assert list(Store(tmp_path / "nowhere")) == []
    with pytest.raises(RecordError, match="no such file"):
        Store(tmp_path / "nowhere").read("some-run")
    assert not (tmp_path / "nowhere").exists()


def test_one_process_computes_a_run_at_a_time(tmp_path: Path) -> None:
    store = Store(tmp_path)
    code = (
        "import sys; from fusionbench.records import BusyError, Store\n"
        "try:\n    with Store(sys.argv[1]).lock('run-a'): print('got')\n"
        "except BusyError: print('busy')"
    )

    def other() -> str:
        command = [sys.executable, "-c", code, str(tmp_path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    with store.lock("run-a"):
        assert other() == "busy"
        start = time.perf_counter()
        with store.lock("run-b"), pytest.raises(BusyError, match="run-a"), store.lock("run-a"):
            pass
        assert time.perf_counter() - start < 2  # it does not wait
    assert other() == "got"


def test_a_lock_under_which_nothing_was_written_leaves_no_folder(tmp_path: Path) -> None:
    store = Store(tmp_path / "new")
    with store.lock("run-a"):
        assert store.busy() == {"run-a"}
    assert not store.folder.exists()
    store.folder.mkdir()  # the user's own folder stays
    with store.lock("run-a"), store.lock("run-b"):
        pass
    assert list(store.folder.iterdir()) == []
    with store.lock(identity().run_id):
        store.write(*finished())
    assert len(list(store)) == 1 and store.busy() == set()


def test_weights_lie_beside_the_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = identity().run_id
    assert store.write_weights(run, b"bytes") == store.path("weights", run)
    assert store.path("weights", run).read_bytes() == b"bytes"
    assert not store.has(run)


def test_stores_merge_by_copying(tmp_path: Path) -> None:
    a, b = Store(tmp_path / "a"), Store(tmp_path / "b")
    first, second = a.write(*finished(fold=0)), b.write(*finished(fold=1))
    for kind in ("records", "predictions"):
        for path in (tmp_path / "b" / kind).iterdir():
            (tmp_path / "a" / kind / path.name).write_bytes(path.read_bytes())
    assert list(a) == [first, second]
    assert a.predictions(second.run_id).fold == 1


def test_reading_is_quick(tmp_path: Path) -> None:
    """A guard against something quadratic, not a timing: 300 records in far under five seconds."""
    history = tuple({"epoch": e, "loss": 1 / e, "lr": 1e-4, "bacc": 0.5} for e in range(1, 51))
    folder = tmp_path / "records"
    folder.mkdir()
    for seed in range(300):
        made = record(seed=seed, result={"history": history})
        (folder / f"{made.run_id}.json").write_text(made.to_json())
    start = time.perf_counter()
    assert len(list(Store(tmp_path))) == 300
    assert time.perf_counter() - start < 5


def test_records_need_no_torch() -> None:
    code = (
        "import sys, fusionbench.records;"
        "bad = {'torch', 'timm', 'sklearn', 'pandas'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
