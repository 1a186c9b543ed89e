"""Folds in processes of their own: the same bits, and nothing lost by whatever becomes of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_up_control import Traced
from sklearn.linear_model import LogisticRegression
from work_at_once import work

from fusionbench.cli.run import summary
from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.errors import UsageError
from fusionbench.progress import SILENT, Progress, Task
from fusionbench.records import Store
from fusionbench.runs import carry_out, grid, plan
from fusionbench.runs import process_engine as workers
from fusionbench.runs.fold import open_experiment
from fusionbench.runs.process_engine import Processes, threads_each
from fusionbench.runs.queue import JobLostError
from fusionbench.runs.run import run
from fusionbench.runs.study import Opened
from fusionbench.runs.worker import UnexpectedError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills processes")


@pytest.fixture(autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """A suite that a shell started in the background was told to ignore it, and so are children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # A process that has ended is there until somebody asks what became of it.
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return sys.platform != "linux"


class Told(Progress):
    """Keeps notes, and of every task and part what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    @contextmanager
    def task(self, label: str, total: int, unit: str = "it") -> Iterator[Task]:
        progress = self

        class One(Task):
            done = 0

            def advance(self, steps: int = 1, **info: object) -> None:
                self.done += steps

            @contextmanager
            def part(self, label: str, total: int, unit: str = "it") -> Iterator[Task]:
                with progress.task(label, total, unit) as task:
                    yield task

        task = One()
        yield task
        self.said.append(f"{label}: {task.done}/{total} {unit}")

    def note(self, message: str) -> None:
        self.said.append(message)


class Words(str):
    """Stands for a job. It is its own order; its row is its first letter, its label its last."""

    config = SimpleNamespace(seed=0)
    foreign = property(lambda self: self[0].isupper())
    key = property(lambda self: self[0])
    label = property(lambda self: self[-1])


class Some(Processes):
    """Processes that do what words say."""

    def __init__(self, at_once: int, progress: Progress = SILENT) -> None:
        super().__init__(Execution(folds_at_once=at_once), progress, work=work)

    def order(self, job: Any, *, first: bool) -> str:
        return str(job)


@contextmanager
def some_workers(at_once: int, progress: Progress = SILENT) -> Iterator[Any]:
    some = Some(at_once, progress)
    try:
        yield some
    finally:
        some.stop()


def results(
    orders: Sequence[str], at_once: int, progress: Progress = SILENT
) -> list[tuple[str, Any]]:
    """What became of each, in the order in which they ended."""
    found: list[tuple[str, Any]] = []
    waiting = [Words(order) for order in orders]
    with progress.task("all", total=len(waiting)) as task, some_workers(at_once, progress) as some:
        while len(found) < len(orders):
            while (order := some.choose(waiting)) is not None:
                waiting.remove(order)
                some.start(order)
            found += some.finished(task)
    return found


# ---- the workers themselves


def test_what_becomes_of_one_is_its_own() -> None:
    found = dict(results(["die", "echo a", "refuse", "break", "echo b"], 2))
    assert isinstance(found["die"], JobLostError)
    assert "--folds-at-once" in found["die"].remedy
    refused = found["refuse"]
    assert type(refused) is UsageError and refused.remedy == "Ask something else."
    assert type(found["break"]) is UnexpectedError and str(found["break"]) == "Odd: 1 is not 2"
    assert [found[name][0] for name in ("echo a", "echo b")] == ["echo a", "echo b"]


def test_a_worker_keeps_to_its_row() -> None:
    def ends(*running: str) -> dict[str, int]:
        """Start what is chosen of these, until all have ended; the process of each."""
        found: dict[str, int] = {}
        for order in running:
            some.start(Words(order))
        while len(found) < len(running):
            found |= {order: result[1] for order, result in some.finished(Task())}
        return found

    def choose(*waiting: str) -> str | None:
        return some.choose([Words(order) for order in waiting])

    with some_workers(2) as some:
        assert choose() is None
        assert choose("a 1", "a 2", "b 1") == "a 1"
        first = ends("a 1", "b 1")
        assert first["a 1"] != first["b 1"]
        assert choose("c 1", "b 2", "a 2") == "b 2"
        second = ends("b 2", "a 2")
        assert (second["a 2"], second["b 2"]) == (first["a 1"], first["b 1"])
        # Of rows that nobody works on the first, and in need one that somebody works on.
        some.start(Words("a 3"))
        assert choose("a 4", "c 1", "b 3") == "b 3"
        assert choose("a 4", "c 1") == "c 1"
        assert choose("a 4") == "a 4"
        some.start(Words("a 4"))
        assert choose("a 5") is None


def test_what_workers_say_is_said_here() -> None:
    progress = Told()
    results(["count 1", "count 1", "count 2"], 2, progress)
    assert progress.said.count("1, seed 0: the same for all") == 1
    assert progress.said.count("2, seed 0: the same for all") == 1
    assert progress.said.count("1, seed 0: counting: 4/4 step") == 2
    assert not any("inside" in line for line in progress.said)


def test_the_cores_are_shared_out_unless_somebody_said_how(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert [threads_each(n) for n in (1, 2, 4, 7)] == [6, 3, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert [r[2] for _, r in results(["echo"], 2)] == ["5"]
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [r[2] for _, r in results(["echo"], 2)] == ["3"]


@pytest.mark.parametrize("what", ["sleep", "deaf"])
def test_an_error_here_stops_them(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "PATIENCE", 1.5)
    places = [tmp_path / name for name in ("one", "two")]
    began = time.monotonic()
    with pytest.raises(KeyError), some_workers(2) as some:
        for place in places:
            some.start(Words(f"{what} {place}"))
        wait_for(lambda: all(p.exists() and p.read_text() for p in places))
        processes = [int(place.read_text()) for place in places]
        raise KeyError
    assert time.monotonic() - began < 30
    assert not any(alive(process) for process in processes)
    assert [p.read_text() == "stopped" for p in places] == [what == "sleep"] * 2


# ---- folds of a run


@pytest.fixture
def traced(tmp_path: Path, tiny_card: Path) -> Traced:
    return Traced(tmp_path, tiny_card)


def test_every_fold_has_the_bits_that_it_has_alone(
    quick: RunConfig, here: Execution, tmp_path: Path
) -> None:
    # Every random number there is: starting weights, order, augmentation, dropout, drop path.
    config = quick.changed(augment="mild", reducer=16, drop_path=0.2, epochs=1)
    one, two = replace(here, folds=None), replace(here, store=tmp_path / "two", folds=(2, 0, 1))
    alone = run(config, one)
    both = run(config, replace(two, folds_at_once=2, save_weights=True))
    assert both.failures == ()
    assert [r.identity.fold for r in both.records] == [2, 0, 1]
    ours = {r.run_id: r for r in both.records}
    for record in alone.records:
        assert ours[record.run_id].reproducible() == record.reproducible()
        assert ours[record.run_id].environment["threads"] == record.environment["threads"] == 1
        first, second = (
            (e.store / "predictions" / f"{record.run_id}.csv").read_bytes() for e in (one, two)
        )
        assert first == second
        assert Store(two.store).path("weights", record.run_id).is_file()
    # And then there is nothing left to do.
    progress = Told()
    assert run(config, replace(two, folds_at_once=2), progress).records == both.records
    assert sum("is in the store already" in line for line in progress.said) == 3


DIES = '''
"""Dies of fold 1, where the file is there that it is told of."""
import os, signal
from pathlib import Path
from sklearn.dummy import DummyClassifier
from fusionbench.plugin.control import Control

class Dies(Control):
    def __init__(self, *, seed: int = 0, marker: str = "", how: str = ""):
        self.arguments = seed, marker, how

    def estimator(self, seed):
        return _Dies(self.arguments, seed)

class _Dies(DummyClassifier):
    def __init__(self, arguments, seed):
        super().__init__()
        self.arguments, self.seed = arguments, seed

    def fit(self, x, y):
        unlucky, marker, how = self.arguments
        if self.seed == unlucky and Path(marker).exists():
            if how == "raise":
                raise OSError("the disk is on fire")
            if how != "kill":
                exec(how, globals())
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fit(x, y)
'''


def unlucky(tmp_path: Path, card: Path, how: str) -> tuple[RunConfig, Execution, Path]:
    plugin, marker = tmp_path / "dies.py", tmp_path / "marker"
    plugin.write_text(DIES, encoding="utf-8")
    marker.touch()
    here = Execution(store=tmp_path / "store", plugins=(plugin,), folds_at_once=2)
    config = RunConfig.of(fusion="dies", dataset=str(card))
    study = open_experiment(config, Opened(here))
    seed = study.fold_seed(study.protocol.folds[1])
    params = {"fusion.seed": str(seed), "fusion.marker": str(marker), "fusion.how": how}
    return config.changed(params=params), here, marker


def test_a_fold_whose_process_is_killed_is_lost_and_the_others_are_not(
    tmp_path: Path, tiny_card: Path
) -> None:
    config, here, marker = unlucky(tmp_path, tiny_card, "kill")
    outcome = run(config, here)
    assert [r.identity.fold for r in outcome.records] == [0, 2]
    (lost,) = outcome.failures
    assert lost.fold == 1 and lost.run_id == "" and "--folds-at-once" in lost.message
    (told,) = summary(outcome)["failures"]
    assert (told["fold"], told["run_id"]) == (1, None)
    run_id, store = outcome.plan.jobs[1].run_id, Store(here.store)
    assert store.failures() == [] and not store.has(run_id)
    # A sweep does not take it for a failure of what the run_id stands for.
    table = grid(["dies"], ["-"], dataset=str(tiny_card), plugins=here.plugins,
                 settings={"params": config.method.params})  # fmt: skip
    (job,) = plan(table, here).todo()
    assert job.run_id == run_id and plan(table, here).failed == ()
    swept = carry_out(plan(table, here), here)
    assert [(f.fold, f.run_id) for f in swept.failures] == [(1, "")]
    marker.unlink()
    assert len(run(config, replace(here, folds_at_once=1)).records) == 3


def test_a_fold_that_fails_is_recorded_and_the_others_are_done(
    tmp_path: Path, tiny_card: Path
) -> None:
    config, here, _ = unlucky(tmp_path, tiny_card, "raise")
    outcome = run(config, here)
    assert [r.identity.fold for r in outcome.records] == [0, 2]
    (failure,) = outcome.failures
    assert (failure.fold, failure.message) == (1, "the disk is on fire")
    assert Store(here.store).failures() == [failure.run_id]


MUTE = """
class Mute(Exception):
    def __str__(self):
        raise KeyError
    __repr__ = __str__
raise Mute
"""


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("import sys; sys.exit(0)", "SystemExit 0"),
        ("os._exit(0)", "Its code ended the process in the middle of training (exit code 0). "
         "A plugin must not call os._exit."),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise BaseException('odd')", "BaseException odd"),
        (MUTE, "(its message cannot be read)"),
        ("raise ValueError('a\\ud800b\\0c\\x1b[2J' + 'x' * 10**7)", r"a\ud800b\x00c\x1b[2Jxxx"),
    ],
)  # fmt: skip
def test_however_a_plugin_ends_it_is_a_failed_fold(
    tmp_path: Path, tiny_card: Path, how: str, message: str, foreign_plugins: None
) -> None:
    config, here, _ = unlucky(tmp_path, tiny_card, how)
    here = replace(here, folds_at_once=1, folds=(1,))
    outcome = run(config, here)
    (failure,) = outcome.failures
    assert failure.message[: len(message)] == message and len(failure.message) < 1100
    assert failure.refusal is None
    record = Store(here.store).read(failure.run_id)
    assert record.error is not None and record.error.message == failure.message


CHANGES = '''
"""Changes what it can of the process: at import, when it is built and when it is fitted."""
import locale, os, random, sys, warnings
import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from fusionbench.plugin.control import Control

def change():
    print("printed")
    LogisticRegression.predict_proba = lambda self, x: np.full((len(x), len(self.classes_)), 0.2)
    np.log = np.exp
    os.chdir("/")
    os.environ["FUSIONBENCH_CACHE"] = "/nowhere"
    warnings.simplefilter("error")
    np.seterr(all="raise")
    sys.stdout = None

change()

class Changes(Control):
    def __init__(self):
        change()

    def estimator(self, seed):
        return Changing()

class Changing(DummyClassifier):
    def fit(self, x, y):
        change()
        return super().fit(x, y)
'''


def test_what_a_plugin_does_to_the_process_reaches_no_other_row(
    tmp_path: Path, tiny_card: Path, foreign_plugins: None, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "changes.py").write_text(CHANGES, encoding="utf-8")
    here = Execution(store=tmp_path / "store", plugins=(tmp_path / "changes.py",))
    alone = replace(here, store=tmp_path / "alone", folds=(0,))
    (expected,) = run(
        RunConfig.of(fusion="metadata-logistic", dataset=str(tiny_card)), alone
    ).records
    before = Path.cwd(), dict(os.environ), list(warnings.filters), np.geterr(), sys.stdout
    table = grid(
        ["changes", "metadata-logistic"], ["-"], folds=(0,), dataset=str(tiny_card),
        plugins=here.plugins,
    )  # fmt: skip
    kept, log = LogisticRegression.predict_proba, np.log
    try:
        outcome = carry_out(plan(table, here), here)
        assert LogisticRegression.predict_proba is not kept  # which nothing can undo
    finally:
        LogisticRegression.predict_proba, np.log = kept, log
    assert before == (
        Path.cwd(),
        dict(os.environ),
        list(warnings.filters),
        np.geterr(),
        sys.stdout,
    )
    assert outcome.failures == () and len(outcome.records) == 2
    (found,) = (r for r in outcome.records if r.run_id == expected.run_id)
    assert found.reproducible() == expected.reproducible()
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("existing", ["skip", "redo"])
def test_a_fold_that_another_process_computes_is_waited_for(
    tmp_path: Path, tiny_card: Path, existing: Any
) -> None:
    config, here, marker = unlucky(tmp_path, tiny_card, "raise")
    marker.unlink()
    here = replace(here, folds_at_once=1, existing=existing)
    store = Store(here.store)
    if existing == "redo":
        run(config, here)
    study = open_experiment(config, Opened(here))
    lock = store.lock(study.run_id(study.protocol.folds[0]))
    lock.__enter__()

    class Other(Told):
        """The other process: it does the fold while this one waits."""

        def note(self, message: str) -> None:
            super().note(message)
            if "waiting for 1 folds that another process" in message:
                lock.__exit__(None, None, None)
                theirs.extend(run(config, replace(here, folds=(0,))).records)

    theirs: list[Any] = []
    ours = run(config, here, Other()).records
    assert ours[0] == theirs[0] and len(ours) == 3
    with pytest.raises(UsageError, match="already"):
        run(config, replace(here, existing="fail"))


# ---- a command that is stopped


@contextmanager
def started(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a session of its own, as on a terminal; ended with the block at the latest."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fusionbench", *words, "--folds-at-once", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def living(session: int) -> list[int]:
    """Processes of the session, which bears the number of its first process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, _, own = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(own) == session and state != "Z":
                found.append(int(folder.name))
    return found


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="looks for processes in /proc"
)


@needs_proc
def test_ctrl_c_leaves_checkpoints_and_no_process(quick: RunConfig, tmp_path: Path) -> None:
    words = [
        "run", "--dataset", quick.data.dataset, "--fusion", "concat", "--backbone", "test_resnet",
        "--weights", "none", "--epochs", "400", "--batch-size", "16", "--image-size", "32",
        "--augment", "flip", "--precision", "fp32", "--fold", "0,1", "--device", "cpu",
        "--store", str(tmp_path), "--checkpoint-every", "0",
    ]  # fmt: skip
    kept = (tmp_path / "checkpoints").glob
    with started(*words) as process:
        wait_for(lambda: len(list(kept("[!.]*"))) == 2 or process.poll() is not None)
        assert process.poll() is None, process.communicate()[1]
        assert len(living(process.pid)) >= 3
        os.killpg(process.pid, signal.SIGINT)  # every process on a terminal hears it
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in err, err
    assert "Traceback" not in err
    wait_for(lambda: not living(process.pid), 20)
    assert {p.suffix for p in kept("*")} == {".pt"} and len(list(kept("*"))) == 2
    assert not list((tmp_path / "failed").glob("*")) and Store(tmp_path).busy() == set()

    # Each fold goes on from there, here with as many threads.
    class Enough(BaseException):
        pass

    class Until(Told):
        def note(self, message: str) -> None:
            super().note(message)
            if "after epoch" in message or "from the beginning" in message:
                raise Enough

    for fold in (0, 1):
        progress = Until()
        with pytest.raises(Enough):
            config = quick.changed(epochs=400)
            run(config, Execution(store=tmp_path, device="cpu", folds=(fold,)), progress)
        assert progress.said[-1].startswith(f"fold {fold} goes on after epoch")


@needs_proc
@pytest.mark.parametrize(
    ("stop", "seconds"), [(signal.SIGINT, 60), (signal.SIGKILL, 60), (signal.SIGKILL, -60)]
)
def test_workers_end_with_who_started_them(
    stop: signal.Signals, seconds: float, traced: Traced
) -> None:
    """Though nobody told them: the signal is for one process."""
    store = traced.folder / "store"
    path = traced.table(1, seconds=seconds)
    words = ["sweep", str(path), "--plugins", str(traced.plugin), "--store", str(store)]
    with started(*words) as process:
        wait_for(lambda: len(traced.lines("start")) == 2 or process.poll() is not None)
        assert process.poll() is None, process.communicate()[1]
        process.send_signal(stop)
        _, err = process.communicate(timeout=30)
    wait_for(lambda: not living(process.pid), 20)
    assert traced.lines("end") == [] and Store(store).busy() == set()
    assert not list((store / "failed").glob("*"))
    if stop == signal.SIGINT:
        assert process.returncode == 130 and "0 of 3 runs are done and kept" in err, err


def test_nothing_in_the_current_folder_is_run(tmp_path: Path, tiny_card: Path) -> None:
    for name in ("signal", "multiprocessing", "torch", "numpy", "sklearn", "enum", "typing"):
        path = tmp_path / (f"{name}.py" if name != "numpy" else "numpy/__init__.py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})", encoding="utf-8")
    root = Path(__file__).parents[1]
    words = ["run", "--fusion", "metadata-logistic", "--dataset", str(tiny_card), "--fold", "0,1"]
    process = subprocess.run(
        [sys.executable, "-m", "fusionbench", *words, "--folds-at-once", "2", "--store", "s"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert not (tmp_path / "ran").exists()
    assert len(list((tmp_path / "s/records").iterdir())) == 2


# ---- runs of a sweep


def test_a_sweep_is_the_same_several_at_a_time(tmp_path: Path, traced: Traced) -> None:
    here = Execution(store=tmp_path / "store", plugins=(traced.plugin,))
    table = traced.read(3, failing=1)
    alone = carry_out(plan(table, here), here)
    traced.log.write_text("", encoding="utf-8")
    there = replace(here, store=tmp_path / "there", folds_at_once=2)
    progress = Told()
    found = plan(table, there)
    with Store(there.store).lock(found.jobs[0].run_id):
        # Whoever holds it lets it go when the others are done, and has not computed it.
        blocked = carry_out(replace(found, jobs=found.jobs[1:]), there, progress)
    both = carry_out(plan(table, there), there, progress)
    records = [*blocked.records, *both.records]
    assert {r.run_id: r.reproducible() for r in records} == {
        r.run_id: r.reproducible() for r in alone.records
    }
    assert [(f.label, f.message) for f in blocked.failures] == [
        (f.label, f.message) for f in alone.failures
    ]
    assert set(traced.count("start").values()) == {1} and len(traced.count("start")) == 9
    assert {int(pid) for _, pid in traced.lines("start")}.isdisjoint({os.getpid()})
    assert "runs: 8/8 run" in progress.said and "runs: 1/1 run" in progress.said
    assert any(line.startswith("row 0, seed 0: fold ") for line in progress.said)


def test_a_sweep_passes_over_what_another_process_computes(tmp_path: Path, traced: Traced) -> None:
    there = Execution(store=tmp_path / "store", plugins=(traced.plugin,), folds_at_once=2)
    found = plan(traced.read(1), there)
    lock = Store(there.store).lock(found.jobs[0].run_id)
    lock.__enter__()

    class Release(Told):
        def note(self, message: str) -> None:
            super().note(message)
            if "waiting for 1 runs" in message:
                lock.__exit__(None, None, None)

    progress = Release()
    outcome = carry_out(found, there, progress)
    # Which is last depends on the workers; the one that was held has been computed, and once.
    assert {r.run_id for r in outcome.records} == {job.run_id for job in found.jobs}
    assert len(outcome.records) == 3 and outcome.failures == ()
    assert set(traced.count("start").values()) == {1} and len(traced.count("start")) == 3
    assert sum("waiting" in line for line in progress.said) == 1


def test_on_ray_it_is_refused(tmp_path: Path, traced: Traced) -> None:
    here = Execution(store=tmp_path / "store", plugins=(traced.plugin,), folds_at_once=2)
    with pytest.raises(UsageError, match="Ray itself decides"):
        carry_out(plan(traced.read(1), here), here, on="ray")
