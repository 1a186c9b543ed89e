"""A sweep on a real Ray cluster: two nodes, in processes of their own, on this machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_up_control import Traced

from fusionbench.config.run_config import Execution
from fusionbench.errors import UsageError
from fusionbench.progress import SILENT, Progress, Task
from fusionbench.records import Store
from fusionbench.runs import Resources, carry_out, grid, plan
from fusionbench.runs.ray_connection import ALONE, connected
from fusionbench.runs.ray_engine import wants

needs_ray = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("ray") is None,
    reason="Ray is not installed: pip install 'fusionbench[ray]'",
)
# One cluster for all of them where pytest-xdist keeps groups together (--dist loadgroup), else one
# for each of its workers that gets any.
pytestmark = pytest.mark.xdist_group("ray")
ONE = Resources(cpus=1)

SCALE = '''
"""Learned scaling of the image features."""
import torch
from fusionbench.plugin.fusion import Fusion
class Scale(Fusion):
    def __init__(self, spec, *, first: float = 1.0):
        super().__init__(spec)
        self.scale = torch.nn.Parameter(torch.full((spec.width,), first))
    def fuse(self, image, meta):
        return image * self.scale
'''


@contextmanager
def environment(own: dict[str, str]) -> Iterator[None]:
    """What nodes that are started inside inherit."""
    before = dict(os.environ)
    os.environ.update(own)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two nodes of one CPU each, whose workers know neither the tests' cache nor their data."""
    nowhere = tmp_path_factory.mktemp("nowhere")
    own = {"FUSIONBENCH_CACHE": str(nowhere / "cache"), "FUSIONBENCH_DATA": str(nowhere),
           "FUSIONBENCH_PLUGINS": str(nowhere / "none.py"), "OMP_NUM_THREADS": "1",
           "RAY_USAGE_STATS_ENABLED": "0", **ALONE}  # fmt: skip
    size = {"num_cpus": 1, "object_store_memory": 80_000_000}
    with environment(own):
        import ray
        from ray.cluster_utils import Cluster

        nodes = Cluster(initialize_head=True, head_node_args=size | {"include_dashboard": False})

    def add() -> Any:
        with environment(own):
            return nodes.add_node(**size)

    try:
        second = add()
        ray.init(address=nodes.address, log_to_driver=False, logging_level="error")
        yield SimpleNamespace(nodes=nodes, second=second, add=add, nowhere=nowhere)
    finally:
        ray.shutdown()
        nodes.shutdown()


@pytest.fixture
def traced(tmp_path: Path, tiny_card: Path) -> Traced:
    return Traced(tmp_path, tiny_card)


def reproducible(store: Path) -> dict[str, tuple[str, bytes]]:
    """run_id -> record without what differs from run to run, and predictions."""
    folder = Store(store)
    return {
        record.run_id: (
            record.reproducible(),
            (store / "predictions" / f"{record.run_id}.csv").read_bytes(),
        )
        for record in folder
    }


class Told(Progress):
    """Keeps what the task of all runs is told."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.running: list[str] = []

    @contextmanager
    def task(self, label: str, total: int, unit: str = "it") -> Iterator[Task]:
        whole = self

        class One(Task):
            def advance(self, steps: int = 1, **info: object) -> None:
                if label == "runs":
                    whole.steps.append(steps)
                    whole.running.append(str(info.get("running", "")))

        yield One()


@needs_ray
def test_records_equal_those_of_one_process_bit_for_bit(
    cluster: Any, tmp_path: Path, tiny_card: Path
) -> None:
    plugin = tmp_path / "scale.py"
    plugin.write_text(SCALE, encoding="utf-8")
    import torch
    from timm import create_model

    torch.manual_seed(0)
    start = tmp_path / "start.pth"
    torch.save(create_model("test_resnet", num_classes=0).state_dict(), start)
    settings = {"weights": str(start), "epochs": 3, "image_size": 32, "batch_size": 16,
                "precision": "fp32", "augment": "mild"}  # fmt: skip
    table = grid(
        ["scale", "sgmc", "metadata-logistic"], ["test_resnet"], dataset=str(tiny_card),
        folds=[0, 2], settings=settings, plugins=[plugin],
    )  # fmt: skip
    here = Execution(
        store=tmp_path / "here", plugins=(plugin,), device="cpu", save_weights=True, workers=1
    )
    there = replace(here, store=tmp_path / "there")
    assert not carry_out(plan(table, here), here).failures
    progress = Told()
    outcome = carry_out(plan(table, there), there, progress, on="ray", resources=ONE)
    assert outcome.failures == () and len(outcome.records) == 6
    ours, theirs = reproducible(here.store), reproducible(there.store)
    assert len(ours) == 6 and ours == theirs
    for path in (here.store / "weights").iterdir():
        assert path.read_bytes() == (there.store / "weights" / path.name).read_bytes()
    assert len(list((there.store / "weights").iterdir())) == 4
    assert plan(table, there).todo() == ()
    # How far each of them was, in the one line of the whole.
    assert sum(progress.steps) == 6
    assert re.search(r"(scale|sgmc) f[02] \d+%", " ".join(progress.running)), progress.running
    # Nothing was looked for, drawn or decoded on the nodes: it all came with the runs.
    files = [path for path in cluster.nowhere.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} <= {"contracts"}


@needs_ray
def test_a_plugin_that_raises_on_a_worker_is_reported_as_it_is_here(
    cluster: Any, traced: Traced, tmp_path: Path
) -> None:
    here = Execution(store=tmp_path / "here", plugins=(traced.plugin,))
    there = replace(here, store=tmp_path / "there")
    table = traced.read(2, folds="0, 1", failing=1)
    one = carry_out(plan(table, here), here)
    other = carry_out(plan(table, there), there, on="ray", resources=ONE)
    assert [r.run_id for r in one.records] == sorted(r.run_id for r in other.records)
    assert {*one.failures} == {*other.failures} and len(one.failures) == 2
    for failure in other.failures:
        ours, theirs = (Store(s).read(failure.run_id).error for s in (here.store, there.store))
        assert ours is not None and theirs is not None
        assert (ours.type, ours.message) == (theirs.type, theirs.message)
        assert "raise OSError(fails)" in theirs.traceback
        # It ran from what was shipped, not from the file here.
        assert str(traced.plugin) in ours.traceback and str(traced.plugin) not in theirs.traceback


@needs_ray
def test_a_worker_that_is_killed_loses_nothing(
    cluster: Any, traced: Traced, tmp_path: Path
) -> None:
    here = Execution(store=tmp_path / "store", plugins=(traced.plugin,))
    killed: list[str] = []

    def kill() -> None:
        if wait_for(lambda: len(traced.lines("start")) >= 2):
            run, process = traced.lines("start")[-1]
            os.kill(int(process), signal.SIGKILL)
            killed.append(run)

    outcome = while_running(kill, traced, here, rows=4, seconds=1.0)
    assert killed and outcome.failures == () and len(outcome.records) == 4
    assert_each_ended_once(traced, here, 4, redone={*killed})


@needs_ray
def test_a_node_that_is_killed_loses_nothing(cluster: Any, traced: Traced, tmp_path: Path) -> None:
    here = Execution(store=tmp_path / "store", plugins=(traced.plugin,))
    killed: list[str] = []
    alive: list[int] = []

    def kill() -> None:
        # Once some are done and both nodes are at work again, pull one's plug.
        if wait_for(lambda: len(traced.lines("end")) >= 2 and running(traced) >= 2):
            cluster.nodes.remove_node(cluster.second, allow_graceful=False)
            starts = {int(process): run for run, process in traced.lines("start")}
            ended = traced.count("end")
            time.sleep(0.3)
            alive.extend(p for p in starts if Path(f"/proc/{p}").exists())
            killed.extend(r for p, r in starts.items() if p not in alive and not ended[r])

    try:
        outcome = while_running(kill, traced, here, rows=5, seconds=1.5)
    finally:
        cluster.second = cluster.add()
    assert outcome.failures == () and len(outcome.records) == 5
    assert_each_ended_once(traced, here, 5, redone=None)
    assert sum(traced.count("start").values()) == 6  # one run was on it


@needs_ray
def test_two_sweeps_on_one_store_and_one_cluster(
    cluster: Any, traced: Traced, tmp_path: Path
) -> None:
    """One on the cluster, one in this process, begun while the first is under way."""
    here = Execution(store=tmp_path / "store", plugins=(traced.plugin,))
    found = plan(traced.read(8, folds="0", seconds=0.4), here)
    outcomes = {}

    def elsewhere() -> None:
        wait_for(lambda: traced.lines("start"))
        outcomes["here"] = carry_out(found, here)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    outcomes["ray"] = carry_out(found, here, on="ray", resources=ONE)
    thread.join(60)
    done = [{r.run_id for r in outcome.records} for outcome in outcomes.values()]
    assert not done[0] & done[1] and len(done[0] | done[1]) == 8
    assert set(traced.count("end").values()) == {1} and len(traced.count("end")) == 8


LISTENING = "0A"
LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")


@needs_ray
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc/net")
def test_a_cluster_of_one_machine_listens_on_loopback_only(cluster: Any) -> None:
    """Started with what `connected` sets before it starts one."""
    sockets = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            command = (link.parents[1] / "cmdline").read_bytes()
            if b"session_" in command or b"ray::" in command or link.parts[2] == str(os.getpid()):
                sockets.add(str(link.readlink()))
    lines = [line.split() for name in ("tcp", "tcp6")
             for line in Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]]  # fmt: skip
    hosts = [line[1].partition(":")[0] for line in lines
             if line[3] == LISTENING and f"socket:[{line[9]}]" in sockets]  # fmt: skip
    assert len(hosts) > 3 and set(hosts) <= {*LOOPBACK}


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(UsageError, match=r"pip install 'fusionbench\[ray\]'"),
        connected("ray", SILENT),
    ):
        pass


@needs_ray
@pytest.mark.parametrize(
    ("where", "message"),
    [("127.0.0.1:1", "refused"), ("ray://127.0.0.1:1", "refused"), ("raay", "is no place"),
     ("host:99999999", "no Ray cluster to join"), ("ray:///", "is no place")],
)  # fmt: skip
def test_where_no_cluster_is_it_says_so_at_once(
    where: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **k: pytest.fail("tried to join"))
    with pytest.raises(UsageError, match=message), connected(where, SILENT):
        pass


def test_what_a_run_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusionbench.runs.ray_engine.own_threads", lambda: 3)
    network: Any = SimpleNamespace(study=SimpleNamespace(uses_images=True))
    control: Any = SimpleNamespace(study=SimpleNamespace(uses_images=False))
    own, quarter = Resources(), Resources(gpus=0.25, cpus=2, memory=8 << 30)

    def asked(*arguments: Any) -> tuple[float, ...]:
        return tuple(wants(*arguments).values())

    assert asked(network, own, "auto", False) == (3, 0)  # as many cores as threads here
    assert asked(network, own, "auto", True) == (1, 1)
    assert asked(network, own, "cuda", False) == (1, 1)  # until a node with a GPU joins
    assert asked(network, own, "cpu", True) == (3, 0)
    assert asked(control, own, "auto", True) == (3, 0)
    assert asked(network, quarter, "auto", False) == (2, 0.25, 8 << 30)
    assert asked(control, quarter, "auto", True) == (2, 0, 8 << 30)


# How the tests above see what happens


def wait_for(condition: Any, seconds: float = 40.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def running(traced: Traced) -> int:
    return sum((traced.count("start") - traced.count("end")).values())


def while_running(act: Any, traced: Traced, here: Execution, *, rows: int, seconds: float) -> Any:
    """The outcome of a sweep on the cluster, during which `act` is called in another thread."""
    found = plan(traced.read(rows, folds="0", seconds=seconds), here)
    thread = threading.Thread(target=act)
    thread.start()
    try:
        return carry_out(found, here, on="ray", resources=ONE)
    finally:
        thread.join(60)


def assert_each_ended_once(
    traced: Traced, here: Execution, runs: int, redone: set[str] | None
) -> None:
    """Every run was computed to its end exactly once, and is there."""
    ended, started = traced.count("end"), traced.count("start")
    assert len(ended) == runs and set(ended.values()) == {1}
    if redone is not None:
        assert {run for run, times in started.items() if times > 1} == redone
    store = Store(here.store)
    assert len(list(store)) == runs and store.failures() == []


SLURM = """#!/bin/bash
case "$(basename "$0")" in
  scontrol) printf 'node-a\\nnode-b\\n' ;;
  srun) printf '%s\\n' "$@"; echo "$RAY_AUTH_MODE ${#RAY_AUTH_TOKEN}" ;;
esac
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_slurm_script_asks_for_what_it_says(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "docs" / "sweep.sbatch"
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    for name in ("srun", "scontrol"):
        (tmp_path / name).write_text(SLURM)
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    given = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_CPUS_PER_TASK": "8", "SLURM_GPUS_PER_TASK": "4", "TABLE": "sgmc-losses",
    }  # fmt: skip
    ran = subprocess.run(
        ["bash", script, "--gpus-per-run", "0.5"], env=given, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    *words, token = ran.stdout.splitlines()
    assert words == [
        "--nodes=2", "--ntasks=2", "ray", "symmetric-run", "--address", "node-a:6379",
        "--min-nodes", "2", "--num-cpus", "8", "--num-gpus", "4", "--",
        "fusionbench", "sweep", "sgmc-losses", "--store", f"{tmp_path}/runs", "--on", "auto",
        "--gpus-per-run", "0.5",
    ]  # fmt: skip
    assert token == "token 64"
    # What it calls is there, under the options that it is called with.
    from click.testing import CliRunner

    from fusionbench.cli.sweep import sweep_command

    shown = CliRunner().invoke(sweep_command, ["--help"]).output
    assert all(word in shown for word in ("--store", "--on", "--gpus-per-run"))


def test_its_workers_import_nothing_from_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ray puts the folder that it is started from first on their path."""
    started: list[Path] = []
    ray = SimpleNamespace(
        is_initialized=lambda: False,
        init=lambda **_: started.append(Path.cwd()),
        shutdown=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    with connected("ray", SILENT):
        assert Path.cwd() == tmp_path
    assert started == [Path(__file__).parents[1]]
