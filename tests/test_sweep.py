"""A sweep runs what its table lacks, in order, whatever fails on the way and whoever else does."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_control import Traced

from fusionbench.cli.setting_options import parse_setting
from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.errors import DataError, FusionbenchError, UsageError
from fusionbench.progress import Progress, Task
from fusionbench.records import Store
from fusionbench.runs import Job, Outcome, carry_out, forecast, grid, plan
from fusionbench.runs.fold import Computed, Order
from fusionbench.runs.ray_connection import parse_size
from fusionbench.runs.run import run
from fusionbench.tables import DeclaredTable, Overrides, expand, read_table


@pytest.fixture(autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """A suite that a shell started in the background was told to ignore it, and so are children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


EXPLODES = '''
"""Loses its mind at once."""
from fusionbench.plugin.fusion import Fusion
class Explodes(Fusion):
    def fuse(self, image, meta):
        return image * (float("nan") if self.training else 1.0)
'''

ROWS = """
title = "Tiny"
dataset = "{card}"

[settings]
backbone = "test_resnet"
loss = "ce"
weights = "none"
epochs = 1
batch_size = 16
image_size = 32
precision = "fp32"

[[rows]]
label = "plain"
fusion = "none"
"""
CONCAT = '[[rows]]\nlabel = "both"\nfusion = "concat"\n'
EXPLODING = '[[rows]]\nlabel = "bad"\nfusion = "explodes"\n'
# Its width of 96 is no multiple of 64: refused when the model is built.
REFUSED = '[[rows]]\nlabel = "unfit"\nfusion = "metanet"\n'


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "explodes.py"
    path.write_text(EXPLODES, encoding="utf-8")
    return path


@pytest.fixture
def here(tmp_path: Path, plugin: Path) -> Execution:
    return Execution(store=tmp_path / "store", device="cpu", plugins=(plugin,))


@pytest.fixture
def traced(tmp_path: Path, tiny_card: Path) -> Traced:
    return Traced(tmp_path, tiny_card)


def table(folder: Path, card: Path, *rows: str, top: str = "") -> DeclaredTable:
    path = folder / "tiny.toml"
    path.write_text(top + ROWS.format(card=card) + "".join(rows), encoding="utf-8")
    return read_table(path, plugins=[folder / "explodes.py"])


def test_it_runs_what_is_missing_and_then_nothing(
    tmp_path: Path, tiny_card: Path, here: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = table(tmp_path, tiny_card, CONCAT)
    found = plan(tiny, here)
    assert not here.store.exists()  # planning computes and writes nothing
    assert [(j.fold, j.label) for j in found.jobs] == [
        (k, label) for label in ("plain", "both") for k in range(3)
    ]
    # Two of the six by another route, to be left alone.
    run(found.jobs[3].config, replace(here, folds=(0, 2)))
    found = plan(tiny, here)
    assert [(j.fold, j.label) for j in found.jobs if j.state == "done"] == [
        (0, "both"),
        (2, "both"),
    ]
    before = {p: p.stat().st_mtime_ns for p in (here.store / "records").iterdir()}

    outcome = carry_out(found, here)
    assert outcome.failures == ()
    assert [r.run_id for r in outcome.records] == [j.run_id for j in found.todo()]
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert {r.run_id for r in Store(here.store).records()} == {j.run_id for j in found.jobs}

    monkeypatch.setattr(
        "fusionbench.runs.network_trainer.fit", lambda *a, **k: pytest.fail("trained again")
    )
    again = plan(tiny, here)
    assert again.todo() == () and len(again.jobs) == 6
    assert carry_out(again, here) == Outcome(again)


def test_a_row_opened_once_gives_the_records_of_runs_opened_one_by_one(
    tmp_path: Path, tiny_card: Path, here: Execution
) -> None:
    """Two seeds: the second is derived from the first's opened run."""
    tiny = table(tmp_path, tiny_card, CONCAT, top="seeds = [3, 4]\nfolds = [1, 2]\n")
    found = plan(tiny, here)
    assert [(j.config.seed, j.fold, j.label) for j in found.jobs] == [
        (seed, k, label) for seed in (3, 4) for label in ("plain", "both") for k in (1, 2)
    ]
    assert len({id(job.study.table) for job in found.jobs}) == 1
    outcome = carry_out(found, here)
    other = Execution(store=tmp_path / "other", device="cpu", folds=(1, 2))
    for one in expand(tiny):
        for record in run(one.config, other).records:
            ours = Store(here.store).read(record.run_id)
            assert ours.reproducible() == record.reproducible()
    assert len(outcome.records) == len(list(Store(other.store))) == 8


def test_a_failing_row_is_recorded_and_left_until_told_otherwise(
    tmp_path: Path, tiny_card: Path, here: Execution
) -> None:
    tiny = table(tmp_path, tiny_card, EXPLODING, REFUSED, CONCAT, top="folds = [0, 1]\n")
    outcome = carry_out(plan(tiny, here), here)
    done = [(r.identity.fold, r.identity.method.fusion.name) for r in outcome.records]
    assert done == [(0, "none"), (1, "none"), (0, "concat"), (1, "concat")]
    bad = [f for f in outcome.failures if f.label == "bad"]
    assert [f.fold for f in bad] == [0, 1] and not any(f.before for f in bad)
    for failure in bad:
        assert "not finite" in failure.message
        kept = Store(here.store).read(failure.run_id)
        assert kept.status == "failed" and kept.error is not None
        assert "Traceback" in kept.error.traceback
    # Refused before training: once for the row, without a record.
    (unfit,) = [f for f in outcome.failures if f.label == "unfit"]
    assert (unfit.fold, unfit.run_id) == (None, "") and "no multiple of 64" in unfit.message

    # A recorded failure is listed and not repeated; what was only refused is asked again.
    again = plan(tiny, here)
    assert {j.label for j in again.todo()} == {"unfit"}
    assert {j.label for j in again.failed} == {"bad"}
    files = {p: p.stat().st_mtime_ns for p in (here.store / "failed").iterdir()}
    outcome = carry_out(again, here)
    assert [(f.label, f.fold, f.before) for f in outcome.failures] == [
        ("bad", 0, True), ("bad", 1, True), ("unfit", None, False),
    ]  # fmt: skip
    assert {p: p.stat().st_mtime_ns for p in files} == files
    outcome = carry_out(again, here, retry_failed=True)
    assert {(f.label, f.before) for f in outcome.failures} == {("bad", False), ("unfit", False)}
    assert all(p.stat().st_mtime_ns > before for p, before in files.items())


def test_a_failure_that_is_mended_is_done(tmp_path: Path, tiny_card: Path, traced: Traced) -> None:
    """What made it fail lies outside of the run's identity: a folder that was not there."""
    here = Execution(store=tmp_path / "store", plugins=(traced.plugin,))
    text = traced.table(1).read_text("utf-8").replace("log.txt", "later/log.txt")
    (tmp_path / "traced.toml").write_text(text, encoding="utf-8")
    tiny = read_table(tmp_path / "traced.toml", plugins=here.plugins)
    assert len(carry_out(plan(tiny, here), here).failures) == 3
    (tmp_path / "later").mkdir()
    assert len(carry_out(plan(tiny, here), here).failures) == 3
    outcome = carry_out(plan(tiny, here), here, retry_failed=True)
    assert len(outcome.records) == 3 and outcome.failures == ()
    assert Store(here.store).failures() == []


def test_an_unexpected_error_stops_one_row_only(
    tmp_path: Path, tiny_card: Path, here: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []

    def stub(study, trainer, fold, verdict, execution, progress):
        config = study.config
        order.append((fold.index, config.method.fusion, config.seed))
        if config.method.fusion == "none":
            raise RuntimeError("a bug")
        if config.seed == 5 and fold.index == 1:
            raise KeyboardInterrupt
        return Small()

    tiny = table(tmp_path, tiny_card, CONCAT, top="folds = [0, 1]\nseeds = [7, 5]\n")
    found = plan(tiny, here)
    monkeypatch.setattr("fusionbench.runs.queue.run_fold", stub)
    with pytest.raises(KeyboardInterrupt):  # a person's wish to stop is no failure of a run
        carry_out(found, here)
    assert order == [
        (0, "none", 7), (0, "concat", 7), (1, "concat", 7),
        (0, "none", 5), (0, "concat", 5), (1, "concat", 5),
    ]  # fmt: skip


class Small(Computed):
    """Stands for a record that is not looked at."""

    def __init__(self) -> None: ...

    def keep(self, store: Store) -> Small:
        return self

    status = "ok"


def test_what_cannot_run_is_in_the_plan(tmp_path: Path, tiny_card: Path, here: Execution) -> None:
    tiny = table(tmp_path, tiny_card, CONCAT)
    absent = Overrides(settings={"weights": str(tmp_path / "no.safetensors")})
    found = plan(tiny, here, absent)
    assert found.jobs == ()
    assert [f.label for f in found.refused] == ["plain", "both"]
    assert all("no.safetensors" in f.message for f in found.refused)
    with pytest.raises(DataError):  # the data itself: no row could run
        plan(tiny, Execution(store=here.store, data=tmp_path), Overrides(dataset="derm7pt"))


def test_a_store_that_takes_nothing_ends_the_sweep_at_once(tmp_path: Path, traced: Traced) -> None:
    """Every other run would be computed for nothing."""
    here = Execution(store=tmp_path / "store", plugins=(traced.plugin,))
    found = plan(traced.read(3), here)
    here.store.mkdir()
    (here.store / "predictions").write_text("in the way of the folder")
    with pytest.raises(FusionbenchError, match="cannot be written"):
        carry_out(found, here)
    assert sum(traced.count("end").values()) == 1


# Several at once


def sweep(traced: Traced, path: Path, *more: str) -> subprocess.Popen[str]:
    words = ["sweep", str(path), "--plugins", str(traced.plugin), "--store",
             str(traced.folder / "store"), "--json", *more]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "fusionbench", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_two_processes_share_a_table_and_compute_nothing_twice(traced: Traced) -> None:
    path = traced.table(10, seconds=0.1)
    both = [sweep(traced, path) for _ in range(2)]
    ended = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    started, done = traced.count("start"), traced.count("end")
    assert len(done) == 30 and set(done.values()) == {1} and started == done
    store = Store(traced.folder / "store")
    assert len(list(store)) == 30 and store.failures() == []
    assert not list((traced.folder / "store").rglob("*.tmp"))
    # Each ended knowing of every run: those of its own, and those of the other.
    states = [json.loads(out)["runs"] for out, _ in ended]
    for runs in states:
        assert {r["state"] for r in runs} <= {"finished", "elsewhere", "done"}
    mine = [{r["run_id"] for r in runs if r["state"] == "finished"} for runs in states]
    assert not mine[0] & mine[1] and len(mine[0] | mine[1]) == 30


class Meanwhile(Progress):
    """Does something once, when it is told of a task or a note that contains a text."""

    def __init__(self, text: str, act: Callable[[], object]) -> None:
        self.text, self.act, self.acted = text, act, False

    @contextmanager
    def task(self, label: str, total: int, unit: str = "it") -> Iterator[Task]:
        self.note(label)
        yield Task()

    def note(self, message: str) -> None:
        if self.text in message and not self.acted:
            self.acted = True
            self.act()


def test_what_another_process_was_computing_when_it_died_is_computed_here(traced: Traced) -> None:
    path = traced.table(1, folds="0", seconds=3.0)
    other = sweep(traced, path)
    wait_for(lambda: traced.lines("start"))
    here = Execution(store=traced.folder / "store", plugins=(traced.plugin,))
    found = plan(read_table(path, plugins=here.plugins), here)

    def kill() -> None:
        other.kill()
        other.communicate()

    progress = Meanwhile("waiting for 1 runs", kill)
    outcome = carry_out(found, here, progress)
    assert progress.acted and len(outcome.records) == 1 and outcome.failures == ()
    assert sum(traced.count("start").values()) == 2 and set(traced.count("end").values()) == {1}


@pytest.mark.parametrize("failing", [0, -1])
def test_what_another_process_did_meanwhile_is_not_repeated_here(
    traced: Traced, failing: int
) -> None:
    here = Execution(store=traced.folder / "store", plugins=(traced.plugin,))
    tiny = traced.read(1, failing=failing)
    if failing == 0:
        carry_out(plan(tiny, here), here)  # an earlier failure, repeated by both
    found = plan(tiny, here)
    assert len(found.failed) == (3 if failing == 0 else 0)
    traced.log.write_text("", encoding="utf-8")

    def other() -> None:
        carry_out(plan(tiny, here), here, retry_failed=True)

    outcome = carry_out(found, here, Meanwhile("runs", other), retry_failed=True)
    assert outcome.records == () and sum(traced.count("start").values()) == 3
    if failing == 0:
        assert [(f.fold, f.before) for f in outcome.failures] == [(k, False) for k in range(3)]
    else:
        assert list(outcome.elsewhere) == [job.run_id for job in found.jobs]


def test_interrupted_it_says_how_to_go_on_and_goes_on(traced: Traced) -> None:
    path = traced.table(6, folds="0", seconds=0.3)
    process = sweep(traced, path)
    wait_for(lambda: len(traced.lines("end")) == 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "of 6 runs are done and kept" in err and "the same command goes on" in err
    kept = len(list(Store(traced.folder / "store")))
    assert 1 <= kept < 6
    again = sweep(traced, path)
    again.communicate(timeout=60)
    assert again.returncode == 0
    assert set(traced.count("end").values()) <= {1, 2} and len(traced.count("end")) == 6
    # What was kept was not computed again: of the six at most the interrupted one was.
    assert sum(traced.count("end").values()) <= 7


def test_ctrl_c_waits_for_the_write_at_hand(
    tmp_path: Path, traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Execution(store=tmp_path / "store", plugins=(traced.plugin,))
    found = plan(traced.read(2), here)
    write, calls = Store.write_file, []

    def pressed(self, path: Path, data: bytes) -> None:
        calls.append(path)
        os.kill(os.getpid(), signal.SIGINT)  # before the first byte of either file
        time.sleep(0.01)
        write(self, path, data)

    monkeypatch.setattr(Store, "write_file", pressed)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        carry_out(found, here)
    assert len(calls) == 2  # predictions and record
    (record,) = Store(here.store)
    assert Store(here.store).predictions(record.run_id).fold == 0
    assert signal.getsignal(signal.SIGINT) is before


# Grids, forecasts, sizes


def test_a_grid_is_the_table_that_one_would_have_written(tmp_path: Path, tiny_card: Path) -> None:
    made = grid(
        ["none", "CONCAT", "metadata-logistic"], ["resnet18", "test_resnet"], ["ce", "focal"],
        dataset=str(tiny_card), seeds=[1, 0], folds=[2],
        settings={"epochs": 3, "augment": "flip", "columns": ("age", "itch"),
                  "params": {"fusion.c": "0.5", "loss.label_smoothing": "0.1"}},
    )  # fmt: skip
    configs = {(d.label, d.config.seed): d.config for d in expand(made)}
    assert len(configs) == 2 * (2 * 2 * 2 + 1)
    assert configs["concat, test_resnet, focal", 1] == RunConfig.of(
        fusion="concat", backbone="test_resnet", loss="focal", dataset=str(tiny_card), seed=1,
        epochs=3, augment="flip", columns=("age", "itch"),
        params={"loss.label_smoothing": "0.1"},
    )  # fmt: skip
    assert configs["metadata-logistic", 0].data.columns == ("age", "itch")
    assert configs["metadata-logistic", 0].method.params == {"fusion.c": "0.5"}
    assert made.folds == (2,) and made.seeds == (1, 0)
    # Without losses each method has its own.
    own = grid(["none", "sgmc"], ["resnet18"], dataset=str(tiny_card))
    assert [d.config.method.loss for d in expand(own)] == ["ce", "ce+self-contrastive"]
    assert [row.label for row in own.rows] == ["none", "sgmc"]
    with pytest.raises(UsageError, match="Did you mean concat"):
        grid(["conct"], ["resnet18"], dataset=str(tiny_card))
    with pytest.raises(UsageError, match="seeds"):
        grid(["none"], ["resnet18"], ["ce"], dataset=str(tiny_card), seeds=[-1])


def test_settings_have_the_type_of_their_field() -> None:
    assert parse_setting("augment=flip") == ("augment", "flip")
    assert parse_setting("warmup-epochs = 2") == ("warmup_epochs", 2)
    assert parse_setting("calibrate=true") == ("calibrate", True)
    assert parse_setting("columns=age, itch") == ("columns", ("age", "itch"))
    for text, message in (
        ("augmnt=flip", "Did you mean augment"),
        ("augment", "NAME=VALUE"),
        ("augment=wild", "must be"),
        ("fusion=sgmc", "no setting called"),
    ):
        with pytest.raises(UsageError, match=message):
            parse_setting(text)


def test_the_forecast_scales_what_was_measured(
    tmp_path: Path, tiny_card: Path, here: Execution
) -> None:
    tiny = table(tmp_path, tiny_card, CONCAT, top="folds = [0, 1]\n")
    store = Store(here.store)
    blind = forecast(plan(tiny, here).todo(), store)
    assert (blind.seconds, blind.unknown, blind.sources, blind.weight_bytes) == (0, 4, 0, 0)

    (first, *_) = plan(tiny, here).jobs
    (record,) = run(first.config, replace(here, folds=(0,))).records
    took = record.measured.durations["total"]
    longer = Overrides(settings={"epochs": 7})
    known = forecast(plan(tiny, here, longer).todo(), store, save_weights=True)
    assert known.seconds == pytest.approx(2 * 7 * took)  # "plain" on two folds; "both" is unknown
    assert (known.unknown, known.sources) == (2, 1)
    assert record.result is not None
    assert known.weight_bytes == 2 * 4 * record.result.parameters["total"]
    # Another image size is another run.
    small = forecast(plan(tiny, here, Overrides(settings={"image_size": 48})).todo(), store)
    assert (small.seconds, small.unknown) == (0, 4)


def test_amounts_of_memory() -> None:
    assert [parse_size(t) for t in ("8G", "512 MB", "1.5GiB", "77")] == [
        8 * 10**9, 512 * 10**6, 3 << 29, 77,
    ]  # fmt: skip
    for text in ("", "many", "0", "-1G", "8 Gb2"):
        with pytest.raises(UsageError):
            parse_size(text)


def test_folders_of_plugins_keep_their_shape(tmp_path: Path) -> None:
    from fusionbench.plugin import registry
    from fusionbench.runs.ray_worker import plugin_sources, unfold

    source = "from fusionbench.plugin.fusion import Fusion\nclass A(Fusion):\n    pass\n"
    mine = tmp_path / "mine"
    for name in ("fusions/one.py", "two.py", "data/big.py", "notes.txt"):
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text(source, encoding="utf-8")
    alone = tmp_path / "beside" / "three.py"
    alone.parent.mkdir()
    alone.write_text(source, encoding="utf-8")
    empty = tmp_path / "empty"
    empty.mkdir()
    there = unfold(plugin_sources([mine, alone, empty]), tmp_path / "node")
    assert {str(p.relative_to(tmp_path / "node")) for p in (tmp_path / "node").rglob("*.py")} == {
        f"0/{tmp_path.name}/mine/two.py",
        f"0/{tmp_path.name}/mine/fusions/one.py",
        "1/beside/three.py",
    }
    names = {n for n, e in registry.discover("fusions", there).items() if e.origin != "built-in"}
    assert names == {"one", "two", "three"}
    assert plugin_sources([]) == () and unfold((), tmp_path) == ()


class Deaf:
    """A board that is told how far a run is."""

    def __getattr__(self, name: str) -> Deaf:
        return self

    def __call__(self, *arguments: object) -> None: ...


def test_what_a_worker_sends_back_is_what_the_run_would_have_written(
    tmp_path: Path, traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened from what was shipped, without the dataset's files: the same bytes."""
    from fusionbench.runs import fold, ray_worker

    here = Execution(store=tmp_path / "store", plugins=(traced.plugin,))
    found = plan(traced.read(2, folds="0", failing=1), here)
    carry_out(found, here)
    other = Store(tmp_path / "other")

    def sent(job: Job, sources: ray_worker.Sources) -> Computed | Exception:
        config = job.config.changed(dataset="not here")
        order = Order(config, replace(here, plugins=()), job.fold, job.run_id, "clean")
        data = job.study.table, job.study.protocol
        return ray_worker.work(order, 1, data, sources, None, None, Deaf())

    sources = ray_worker.plugin_sources(here.plugins)
    for job in found.jobs:
        result = sent(job, sources)
        assert isinstance(result, Computed)
        pickle.loads(pickle.dumps(result)).keep(other)
    (good, bad) = (job.run_id for job in found.jobs)
    ours = Store(here.store)
    one, two = (store.read(good).reproducible() for store in (ours, other))
    assert one.replace(ours.read(good).result.verdict, "clean") == two  # type: ignore[union-attr]
    one, two = (s.folder / "predictions" / f"{good}.csv" for s in (ours, other))
    assert one.read_bytes() == two.read_bytes()
    failed = other.read(bad)
    assert failed.error is not None and failed.error.message == "the disk is on fire"
    assert str(traced.plugin) not in failed.error.traceback

    # A plugin that is another one there is refused, and so is another fusionbench.
    ((name, ((inside, source),)),) = sources
    refusal = sent(found.jobs[0], ((name, ((inside, source + b"# changed\n"),)),))
    assert isinstance(refusal, UsageError) and "source of a plugin" in refusal.message
    monkeypatch.setattr(fold, "__version__", "0.0")
    refusal = sent(found.jobs[0], sources)
    assert isinstance(refusal, UsageError) and "has fusionbench 0.0" in refusal.message
