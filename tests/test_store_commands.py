"""Stores are checked, merged and tidied without losing a run or counting one that is not whole."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_records import failed, finished
from msgspec import structs
from safetensors.numpy import save

from fusionbench.errors import FusionbenchError, RecordError, UsageError
from fusionbench.records import BusyError, Level, Record, Store
from fusionbench.records.leftovers import leftovers, remove
from fusionbench.records.merge import compare, merge
from fusionbench.records.verify import Verified, verify

WEIGHTS = save({"w": np.arange(6, dtype=np.float32)})


def filled(folder: Path, folds: int = 3, **changes: Any) -> Store:
    store = Store(folder)
    for fold in range(folds):
        store.write(*finished(fold=fold, **changes))
    return store


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def checked(store: Store) -> Verified:
    return verify(store, recompute=True)


def with_metrics(record: Record, **changes: float) -> Record:
    assert record.result is not None
    part = record.result.parts["test"]
    part = structs.replace(part, metrics=part.metrics | changes)
    result = structs.replace(record.result, parts=record.result.parts | {"test": part})
    return structs.replace(record, result=result)


# ---- verify


def test_a_whole_store_has_no_problems_and_is_not_written_to(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.write_failure(failed(fold=4))
    store.write_weights(next(iter(store)).run_id, WEIGHTS)
    before = tree(tmp_path)
    found = checked(store)
    assert found.ok and found.problems == ()
    assert (found.records, found.failures, found.weights, found.busy) == (3, 1, 1, ())
    assert found.numbers >= 3 * 14
    assert tree(tmp_path) == before
    assert verify(Store(tmp_path / "nowhere")).ok


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def version_99(path: Path) -> None:
    path.write_text(path.read_text().replace('"schema_version": 2', '"schema_version": 99'))


def twice(path: Path) -> None:
    path.write_text(
        path.read_text().replace('"status": "ok"', '"status": "failed",\n"status": "ok"')
    )


def not_json(path: Path) -> None:
    path.write_text(path.read_text().replace('"python":"3.11"', '"python":NaN'))


def a_failure(path: Path) -> None:
    path.write_text(failed(fold=0).to_json())


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("kind", "damage", "message"),
    [
        ("records", cut, "cannot be trusted"),
        ("records", version_99, "has schema version 99; this fusionbench reads 2"),
        ("records", twice, "the key 'status' comes twice"),
        ("records", not_json, "NaN is not JSON"),
        ("records", a_failure, "does not belong in records/: its status is failed"),
        ("records", a_folder, "is not a plain file"),
        ("records", a_pipe, "is not a plain file"),
        ("predictions", cut, "is not the file that its record was written with"),
        ("predictions", Path.unlink, "there is no such file"),
        ("predictions", a_pipe, "is not a plain file"),
        ("weights", cut, "is not a whole safetensors file"),
        ("failed", cut, "cannot be trusted"),
    ],
)
def test_each_damaged_file_is_one_named_problem_and_never_counted(
    tmp_path: Path, kind: str, damage: Callable[[Path], None], message: str
) -> None:
    store = filled(tmp_path)
    run = next(iter(store)).run_id
    store.write_weights(run, WEIGHTS)
    bad = store.write_failure(failed(fold=4)).run_id
    path = next(p for p in store.files(kind) if p.stem in (run, bad))
    damage(path)
    found = verify(store)
    mine = [p for p in found.problems if p.path == path]
    # A pipe or a folder is no file of a store as well.
    assert mine and message in mine[0].message and str(path) in mine[0].message
    assert mine[0].remedy
    assert {p.path for p in found.problems} == {path}
    if kind == "records":
        assert run not in [r.run_id for r in store.records([])] and found.records == 2


def test_numbers_that_the_predictions_do_not_give_are_found(tmp_path: Path) -> None:
    made, predictions = finished()
    assert made.result is not None
    part = made.result.parts["test"]
    averaged = Level(n=3, metrics={"acc": 0.123}, confusion=part.confusion)
    lied = with_metrics(made, acc=made.result.metrics["acc"] + 1e-9)  # type: ignore[operator]
    assert lied.result is not None
    part = structs.replace(lied.result.parts["test"], lesions=averaged)
    result = structs.replace(lied.result, parts={"test": part})
    store = Store(tmp_path)
    store.write(structs.replace(lied, result=result), predictions)
    assert verify(store).ok  # nothing is computed unless asked for
    (problem,) = checked(store).problems
    for text in ("test acc 0.", "test by lesion n 3 in the record, 12 computed", "more."):
        assert text in problem.message


def test_a_confusion_that_is_not_that_of_the_predictions_is_found(tmp_path: Path) -> None:
    made, predictions = finished()
    assert made.result is not None
    rows = [list(row) for row in made.result.parts["test"].confusion]
    rows[0][0], rows[0][1] = rows[0][1] + 1, rows[0][0]
    part = structs.replace(made.result.parts["test"], confusion=tuple(map(tuple, rows)))
    result = structs.replace(made.result, parts={"test": part})
    Store(tmp_path).write(structs.replace(made, result=result), predictions)
    (problem,) = checked(Store(tmp_path)).problems
    assert "test confusion[0][0] " in problem.message


def test_predictions_of_other_rows_are_refused_though_their_sha_fits(tmp_path: Path) -> None:
    store = Store(tmp_path)
    written = store.write(*finished())
    other = finished(n=11)[1].to_csv().encode()
    import hashlib

    lied = structs.replace(written, predictions_sha256=hashlib.sha256(other).hexdigest())
    (tmp_path / f"predictions/{written.run_id}.csv").write_bytes(other)
    (tmp_path / f"records/{written.run_id}.json").write_text(lied.to_json())
    with pytest.raises(RecordError, match="does not belong to its record"):
        store.predictions(written.run_id)


# ---- leftovers


def littered(folder: Path) -> tuple[Store, dict[str, str]]:
    """A store after crashes: file -> why it can go."""
    store = filled(folder)
    run = next(iter(store)).run_id
    gone = finished(seed=9)[0].run_id.replace("f0", "f9")
    store.write_failure(failed(fold=0))  # as if killed before it was removed: there is a success
    files = {
        "records/.0123456789abcdef.tmp": "was left half written",
        "predictions/.fedcba9876543210.tmp": "was left half written",
        f"predictions/{gone}.csv": "belongs to no record",
        f"weights/{gone}.safetensors": "belongs to no record",
        f"conflicts/{run}.0123456789ab.csv": "belongs to no record",
        f"locks/{gone}.lock": "is the lock of a process that has ended",
        f"failed/{run}.json": "is the failure of a run that succeeded since",
    }
    for name in files:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_bytes(b"half")
    return store, files


def test_leftovers_are_named_and_go_and_nothing_else(tmp_path: Path) -> None:
    whole = tree(filled(tmp_path / "whole").folder)
    store, files = littered(tmp_path / "store")
    found = leftovers(store)
    assert {str(f.path.relative_to(store.folder)): f.message for f in found} == files
    problems = [p for p in verify(store).problems if "prune --leftovers" in p.remedy]
    assert {p.path for p in problems} == {f.path for f in found}
    assert sorted(remove(store, found)) == sorted(f.path for f in found)
    assert tree(store.folder) == whole
    assert verify(store).ok and leftovers(store) == []


def test_files_of_a_run_at_work_are_nobodys_leftovers(tmp_path: Path) -> None:
    store, files = littered(tmp_path)
    gone = next(name for name in files if name.startswith("locks/"))
    run = Path(gone).stem
    before = leftovers(store)
    with store.lock(run):
        assert store.busy() == {run} == set(verify(store).busy)
        found = leftovers(store)
        assert {f.message for f in found} == {
            "belongs to no record",
            "is the failure of a run that succeeded since",
        }
        assert run not in {f.run for f in found}
        # What was found before the run began is not taken from it either.
        taken = remove(store, [f for f in before if f.run == run])
        assert taken == []
    assert store.busy() == set()


def test_an_orphan_that_got_its_record_meanwhile_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made, predictions = finished()
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / f"{made.run_id}.csv").write_text("half")
    found = leftovers(store)
    store.write(made, predictions)
    assert [f.message for f in found] == ["belongs to no record"] and remove(store, found) == []
    assert checked(store).ok


def test_failures_and_weights_go_on_request_and_records_never(tmp_path: Path) -> None:
    store = filled(tmp_path)
    run = next(iter(store)).run_id
    store.write_weights(run, WEIGHTS)
    bad, later = (store.write_failure(failed(fold=k)).run_id for k in (7, 8))
    version_99(tmp_path / "failed" / f"{later}.json")
    records = {k: v for k, v in tree(tmp_path).items() if k.startswith(("records", "predictions"))}
    assert [f.run for f in leftovers(store, "failures")] == [
        bad
    ]  # one of a later version is not ours
    assert [f.run for f in leftovers(store, "weights")] == [run]
    remove(store, [*leftovers(store, "failures"), *leftovers(store, "weights")])
    assert tree(tmp_path) == records | {
        f"failed/{later}.json": (tmp_path / f"failed/{later}.json").read_bytes()
    }


def test_nothing_behind_a_link_is_deleted(tmp_path: Path) -> None:
    elsewhere = filled(tmp_path / "elsewhere", folds=1)
    elsewhere.write_weights(next(iter(elsewhere)).run_id, WEIGHTS)
    elsewhere.write_failure(failed(fold=5))
    (elsewhere.folder / "predictions" / ".0123456789abcdef.tmp").write_text("half")
    (elsewhere.folder / "predictions" / "orphan.csv").write_text("half")
    before = tree(elsewhere.folder)
    store = Store(tmp_path / "store")
    store.folder.mkdir()
    for kind in ("predictions", "weights", "failed", "conflicts"):
        (store.folder / kind).symlink_to(elsewhere.folder / kind)
    assert leftovers(store) == leftovers(store, "failures") == leftovers(store, "weights") == []
    # A file that is a link goes itself.
    other = Store(tmp_path / "other")
    (other.folder / "weights").mkdir(parents=True)
    link = other.folder / "weights" / "gone.safetensors"
    link.symlink_to(next((elsewhere.folder / "weights").iterdir()))
    assert remove(other, leftovers(other)) == [link]
    assert not link.is_symlink() and tree(elsewhere.folder) == before


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    store, _ = littered(tmp_path)
    before = [(f.path, f.message) for f in leftovers(store)]
    for path in tmp_path.rglob("*"):
        os.utime(path, (4e9, 4e9))  # the year 2096
    assert [(f.path, f.message) for f in leftovers(store)] == before
    assert len(list(store)) == 3 and verify(store).records == 3


# ---- merge


def actions(found: list[Any]) -> dict[str, str]:
    return {one.run.rpartition("_")[0].rpartition("_f")[2]: one.action for one in found}


def test_merge_copies_what_is_not_here_and_keeps_what_is_the_same_once(tmp_path: Path) -> None:
    store = filled(tmp_path / "a", folds=2)
    other = filled(tmp_path / "b", folds=4, environment={"on": "another machine"})
    other.write_weights(next(iter(other)).run_id, WEIGHTS)
    before = tree(store.folder)
    dry = merge(store, other, dry_run=True)
    assert tree(store.folder) == before
    found = merge(store, other)
    assert [(m.run, m.action, m.detail) for m in dry] == [
        (m.run, m.action, m.detail) for m in found
    ]
    assert [m.action for m in found] == ["same", "same", "copied", "copied"]
    assert found[0].detail == "its weights are new here" and all(m.ok for m in found)
    after = tree(store.folder)
    assert {name: after[name] for name in before} == before  # ours are as they were
    theirs = tree(other.folder)
    for name in set(after) - set(before):
        assert after[name] == theirs[name]
    assert len(after) == 4 * 2 + 1 and checked(store).ok
    assert [m.action for m in merge(store, other)] == ["same"] * 4


def test_other_numbers_are_a_conflict_of_which_both_are_kept_and_one_is_counted(
    tmp_path: Path,
) -> None:
    store, other = filled(tmp_path / "a", folds=2), Store(tmp_path / "b")
    made, predictions = finished(fold=0, seed=5)  # other predictions of the same run
    theirs = other.write(made, predictions)
    other.write_weights(made.run_id, WEIGHTS)
    mine = store.read(made.run_id)
    before = tree(store.folder)
    (dry,) = merge(store, other, dry_run=True)
    assert dry.action == "conflict" and tree(store.folder) == before
    (found,) = merge(store, other)
    assert not found.ok and found.kept_at is not None and found.kept_at.is_file()
    # Every number that differs is named, metrics first and as they stand in the record.
    assert mine.result is not None and theirs.result is not None
    ours = mine.result.metrics
    apart = [name for name, value in theirs.result.metrics.items() if value != ours[name]]
    assert len(apart) > 5
    assert [d.name for d in found.differences][: len(apart)] == apart
    first = found.differences[0]
    assert (first.here, first.there) == (
        ours[first.name],
        theirs.result.metrics[first.name],
    )
    # Ours is untouched and the only one that is counted.
    after = tree(store.folder)
    assert {name: after[name] for name in before} == before
    new = set(after) - set(before)
    stem = f"conflicts/{found.kept_at.stem}"
    assert new == {f"{stem}.json", f"{stem}.csv", f"{stem}.safetensors"}
    assert after[f"{stem}.json"] == theirs.to_json().encode()
    assert store.read(made.run_id) == mine and len(list(store)) == 2
    # verify says so until it is settled; merging again adds nothing.
    (problem,) = checked(store).problems
    assert problem.path == found.kept_at and "it is not counted" in problem.message
    assert merge(store, other)[0].action == "conflict" and tree(store.folder) == after
    # A conflict travels on with its store.
    third = filled(tmp_path / "c", folds=1)
    assert actions(merge(third, store)) == {"0_s0": "conflict", "1_s0": "copied"}
    assert tree(third.folder)[f"{stem}.csv"] == after[f"{stem}.csv"]


def test_a_success_beats_a_failure_either_way(tmp_path: Path) -> None:
    a, b = Store(tmp_path / "a"), Store(tmp_path / "b")
    a.write_failure(failed(fold=0))
    b.write(*finished(fold=0))
    b.write_failure(failed(fold=1))
    a.write(*finished(fold=1))
    b.write_failure(failed(fold=2))
    a.write_failure(failed(fold=3))
    b.write_failure(failed(fold=3))
    found = merge(a, b)
    assert actions(found) == {
        "0_s0": "copied",
        "1_s0": "superseded",
        "2_s0": "failure",
        "3_s0": "superseded",
    }
    assert found[0].detail == "here it had failed" and all(m.ok for m in found)
    assert len(list(a)) == 2 and len(a.failures()) == 2
    assert checked(a).ok


def test_compare_names_what_differs() -> None:
    made = finished()[0]
    assert compare(made, made) == ()
    (one,) = compare(made, with_metrics(made, acc=0.25))
    assert (one.name, one.there) == ("acc", 0.25)
    assert made.result is not None
    flagged = structs.replace(made, result=structs.replace(made.result, flags=("leaky",)))
    (one,) = compare(made, flagged)
    assert (one.name, one.here, one.there) == ("flags[0]", None, "leaky")


def test_merge_refuses_itself_and_what_is_no_store(tmp_path: Path) -> None:
    store = filled(tmp_path / "a", folds=1)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for same in (tmp_path / "a", tmp_path / "link"):
        with pytest.raises(UsageError, match="is the store itself"):
            merge(store, Store(same))
    for nothing in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="is no store"):
            merge(store, Store(nothing))


def test_a_record_here_that_cannot_be_read_is_not_written_over(tmp_path: Path) -> None:
    store, other = filled(tmp_path / "a", folds=2), filled(tmp_path / "b", folds=2)
    path = store.files("records")[0]
    version_99(path)
    before = tree(store.folder)
    found = merge(store, other)
    assert [m.action for m in found] == ["refused", "same"]
    assert str(path) in found[0].detail and "schema version 99" in found[0].detail
    assert tree(store.folder) == before


HOSTILE: dict[str, Callable[[Store, Path], None]] = {}


def hostile(change: Callable[[Store, Path], None]) -> Callable[[Store, Path], None]:
    HOSTILE[change.__name__] = change
    return change


@hostile
def a_run_id_that_climbs(other: Store, record: Path) -> None:
    text = record.read_text().replace(f'"run_id": "{record.stem}"', '"run_id": "../../escaped"')
    record.write_text(text)


@hostile
def a_record_that_is_a_link(other: Store, record: Path) -> None:
    aside = other.folder / "aside.json"
    record.rename(aside)
    record.symlink_to(aside)


@hostile
def records_that_are_a_link(other: Store, record: Path) -> None:
    (other.folder / "records").rename(other.folder / "aside")
    (other.folder / "records").symlink_to(other.folder / "aside")


@hostile
def predictions_that_are_a_link(other: Store, record: Path) -> None:
    path = other.folder / "predictions" / f"{record.stem}.csv"
    path.rename(other.folder / "aside.csv")
    path.symlink_to(other.folder / "aside.csv")


@hostile
def predictions_of_another_run(other: Store, record: Path) -> None:
    (other.folder / "predictions" / f"{record.stem}.csv").write_text(finished(n=3)[1].to_csv())


@hostile
def weights_whose_folder_is_a_link(other: Store, record: Path) -> None:
    other.write_weights(record.stem, WEIGHTS)
    (other.folder / "weights").rename(other.folder / "aside")
    (other.folder / "weights").symlink_to(other.folder / "aside")


@hostile
def no_predictions(other: Store, record: Path) -> None:
    (other.folder / "predictions" / f"{record.stem}.csv").unlink()


@hostile
def a_pipe_for_a_record(other: Store, record: Path) -> None:
    a_pipe(record)


@hostile
def weights_that_hold_pickled_code(other: Store, record: Path) -> None:
    other.write_weights(record.stem, b"\x80\x04cposix\nsystem\n(Vtouch escaped\ntR.")


@hostile
def weights_that_are_a_link_to_a_secret(other: Store, record: Path) -> None:
    (other.folder / "weights").mkdir()
    other.path("weights", record.stem).symlink_to("/etc/hostname")


@hostile
def a_failure_called_a_success(other: Store, record: Path) -> None:
    bad = failed(fold=0)
    record.write_text(bad.to_json())


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_store_brings_nothing_in(tmp_path: Path, name: str) -> None:
    store = filled(tmp_path / "inside" / "a", folds=0)
    other = filled(tmp_path / "b", folds=1)
    HOSTILE[name](other, other.files("records")[0])
    before = tree(tmp_path) if name != "a_pipe_for_a_record" else {}
    found = merge(store, other)
    assert [m.action for m in found] == ["refused"] and not found[0].ok
    assert str(other.folder) in found[0].detail
    assert not tree(tmp_path / "inside")
    assert not before or tree(tmp_path) == before


def test_killed_in_the_middle_a_merge_has_written_whole_runs_only(tmp_path: Path) -> None:
    """A real SIGKILL at each of the first writes; the same command then goes on."""
    other = filled(tmp_path / "b", folds=3)
    other.write_weights(other.files("records")[1].stem, WEIGHTS)
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from fusionbench.records import Store\n"
        "from fusionbench.records.merge import merge\n"
        "left = int(sys.argv[3])\n"
        "real = Path.replace\n"
        "def replace(self, target):\n"
        "    global left\n"
        "    left -= 1\n"
        "    if left < 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(self, target)\n"
        "Path.replace = replace\n"
        "merge(Store(sys.argv[1]), Store(sys.argv[2]))\n"
    )
    for writes in range(4):
        store = Store(tmp_path / f"a{writes}")
        command = [sys.executable, "-c", code, str(store.folder), str(other.folder), str(writes)]
        assert subprocess.run(command).returncode == -signal.SIGKILL
        # Of the files of fold 0 and 1 (predictions, record; weights, predictions) so many are in.
        assert len(list(store)) == writes // 2
        for problem in verify(store).problems:
            assert "prune --leftovers" in problem.remedy
        assert [m.action for m in merge(store, other)].count("copied") == 3 - writes // 2
        remove(store, leftovers(store))
        assert tree(store.folder) == tree(other.folder)


def test_a_run_at_work_here_is_left_to_its_process(tmp_path: Path) -> None:
    store, other = Store(tmp_path / "a"), filled(tmp_path / "b", folds=2)
    run = other.files("records")[0].stem
    with store.lock(run):
        found = merge(store, other)
    assert [m.action for m in found] == ["busy", "copied"] and not found[0].ok
    assert [r.run_id for r in store] == [found[1].run]


# ---- disks


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("nth", range(1, 5))
def test_a_disk_that_fills_up_leaves_whole_runs_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, nth: int
) -> None:
    store, other = Store(tmp_path / "a"), filled(tmp_path / "b", folds=2)
    owner: Any = os if call == "fsync" else Path
    real, calls = getattr(owner, call), []

    def full(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) >= nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(owner, call, full)
    with pytest.raises(FusionbenchError, match="No space left") as caught:
        merge(store, other)
    assert str(store.folder) in caught.value.message and caught.value.remedy
    monkeypatch.undo()
    assert len(list(store)) == (nth - 1) // 2
    assert not list(store.folder.rglob("*.tmp"))
    merge(store, other)
    assert tree(store.folder) == tree(other.folder)


def test_a_file_that_the_kernel_cuts_off_is_no_record(tmp_path: Path) -> None:
    """A real limit on the size of a file: the record does not fit, its predictions do."""
    made, predictions = finished()
    limit = len(predictions.to_csv()) + 10
    assert len(made.to_json()) > limit
    code = (
        "import resource, sys\n"
        "from made_up_records import finished\n"
        "from fusionbench.errors import FusionbenchError\n"
        "from fusionbench.records import Store\n"
        "made = finished()\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "try:\n    Store(sys.argv[1]).write(*made)\n"
        "except FusionbenchError as error:\n    print(error.message)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert f"The store {tmp_path / 'store'} cannot be written: File too large." in ran.stdout
    store = Store(tmp_path / "store")
    assert list(store) == [] and not store.has(made.run_id)
    assert [f.message for f in leftovers(store)] == ["belongs to no record"]


def test_a_store_that_may_only_be_read_is_read(tmp_path: Path) -> None:
    store, _ = littered(tmp_path / "store")
    for path in sorted(store.folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    store.folder.chmod(0o555)
    other = filled(tmp_path / "b", folds=4)
    try:
        assert len(list(store)) == 3 and verify(store).records == 3
        assert [f.message for f in leftovers(store)].count("belongs to no record") == 3
        if os.geteuid() == 0:
            pytest.skip("permissions do not bind the superuser; the reading was checked")
        with pytest.raises(FusionbenchError, match="cannot be written: Permission denied"):
            merge(store, other)
    finally:
        for path in (store.folder, *store.folder.rglob("*")):
            path.chmod(0o755)
    assert len(list(store)) == 3


# ---- processes


def python(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def test_the_lock_of_a_killed_process_is_free_and_its_trace_is_a_leftover(tmp_path: Path) -> None:
    store = Store(tmp_path)
    holder = python(
        "import sys, time; from fusionbench.records import Store\n"
        "with Store(sys.argv[1]).lock('a-run'):\n    print('held', flush=True); time.sleep(60)",
        tmp_path,
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(BusyError), store.lock("a-run"):
        pass
    assert store.busy() == {"a-run"} and leftovers(store) == []
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert store.busy() == set()
    assert [f.message for f in leftovers(store)] == ["is the lock of a process that has ended"]
    (problem,) = verify(store).problems
    assert problem.path.name == "a-run.lock"
    with store.lock("a-run"):
        assert store.busy() == {"a-run"}
    assert verify(store).ok  # a lock that was given back leaves no file


def test_processes_that_want_the_same_runs_never_both_compute_one(tmp_path: Path) -> None:
    """Four processes sweep the same 25 runs; each notes what it computed inside the lock, with
    `verify` looking on all the while, and a lock file that comes and goes."""
    code = """
import os, sys, time
from pathlib import Path
from fusionbench.records import BusyError, Store
folder, start = Path(sys.argv[1]), float(sys.argv[2])
store = Store(folder)
time.sleep(max(0, start - time.time()))
for k in range(25):
    run = f"run-{k}"
    done = folder / "records" / f"{run}.json"
    try:
        with store.lock(run):
            if done.exists():
                continue
            # Fails where two are inside at once.
            inside = os.open(folder / f"inside-{k}", os.O_CREAT | os.O_EXCL)
            time.sleep(0.002)
            with (folder / "computed").open("a") as log:
                log.write(run + "\\n")
            done.write_text("{}")
            os.close(inside)
            os.unlink(folder / f"inside-{k}")
    except BusyError:
        pass
print("done")
"""
    (tmp_path / "records").mkdir()
    sweeps = [python(code, tmp_path, time.time() + 1.5) for _ in range(4)]
    while any(sweep.poll() is None for sweep in sweeps):
        Store(tmp_path).busy()
        time.sleep(0.01)
    assert [sweep.communicate()[0] for sweep in sweeps] == ["done\n"] * 4
    computed = (tmp_path / "computed").read_text().split()
    assert sorted(computed) == sorted(f"run-{k}" for k in range(25))
    assert not list((tmp_path / "locks").iterdir())


def test_json_of_a_record_stays_what_was_written(tmp_path: Path) -> None:
    """Merging copies bytes: what a later version adds to `environment` is not lost."""
    other = Store(tmp_path / "b")
    written = other.write(*finished(environment={"new": {"deep": [1, None, "é"]}}))
    store = Store(tmp_path / "a")
    merge(store, other)
    assert json.loads((store.folder / f"records/{written.run_id}.json").read_text()) == json.loads(
        written.to_json()
    )
