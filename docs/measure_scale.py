"""Measures what docs/scale.md says and writes docs/scale-measured.md.

    python docs/measure_scale.py            all of it: about a quarter of an hour on two idle cores
    python docs/measure_scale.py --quick    smaller numbers, to see that it works; writes nothing

Planning and reading are the real code on made records. The cluster is real Ray with the sweep's
own driver, but tasks that sleep for a stated time instead of training, and more logical CPUs than
the machine has.
"""

from __future__ import annotations

import argparse
import json
import pickle
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import structs

from fusionbench.config.identity import Identity
from fusionbench.config.run_config import Execution
from fusionbench.leaderboard import blocks
from fusionbench.progress import SILENT
from fusionbench.records import Record, Store
from fusionbench.runs import Resources, carry_out, forecast, grid, plan
from fusionbench.runs import plan as plan_function
from fusionbench.runs.fold import Computed
from fusionbench.runs.plan import Job, Plan, seen
from fusionbench.runs.queue import Queue
from fusionbench.runs.ray_engine import OnRay
from fusionbench.runs.study import Opened
from fusionbench.tables import expand

OUT = Path(__file__).with_name("scale-measured.md")
PLANNING = sys.modules[plan_function.__module__]
METHODS = ["none", "concat", "metanet", "metablock", "sgmc"]
BACKBONES = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "densenet121",
             "convnext_tiny", "efficientnet_b0", "vit_small_patch16_224", "vgg16"]  # fmt: skip
MEAN, SPREAD = 8.0, 0.5  # seconds that a stub "trains", and the share by which it varies


def rows_of(count: int, seeds: int, dataset: str = "synthetic") -> list[Any]:
    """So many rows under so many seeds: methods by backbones, then again with another rate."""
    found: list[Any] = []
    each = len(METHODS) * len(BACKBONES)
    for k in range(-(-count // each)):
        table = grid(METHODS, BACKBONES, ["ce"], dataset=dataset, seeds=range(seeds),
                     settings={"weights": "none", "lr": 1e-3 * (k + 1)})  # fmt: skip
        found += [replace(one, row=one.row + k * each) for one in expand(table)]
    return [one for one in found if one.row < count]


def planning(folder: Path, rows: int, seeds: int, *, shared: bool) -> dict[str, float]:
    """Seconds and memory of a plan. `shared`: with every row opened at no cost, as the first."""
    declared = rows_of(rows, seeds)
    here = Execution(store=folder / "empty")
    opened, expand_table = PLANNING.open_experiment, PLANNING.expand
    first = opened(declared[0].config, Opened(here))
    if shared:
        PLANNING.open_experiment = lambda config, *_: replace(first, config=config)
    table = grid(METHODS, BACKBONES, ["ce"], dataset=declared[0].config.data.dataset)
    PLANNING.expand = lambda *_, **__: declared
    before, started = memory(), time.perf_counter()
    try:
        found = plan_function(table, here)
    finally:
        PLANNING.open_experiment, PLANNING.expand = opened, expand_table
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    forecast(found.todo(), Store(here.store))
    return {"runs": len(found.jobs), "rows": rows, "seconds": seconds,
            "forecast": time.perf_counter() - started, "mb": memory() - before}  # fmt: skip


def reading(folder: Path, template: Record, count: int) -> dict[str, float]:
    """Seconds to make, and to read, a store of so many records; a look at each, and its size."""
    store = Store(folder / f"store-{count}")
    (store.folder / "records").mkdir(parents=True)
    names = []
    for record in variants(template, count):
        names.append(record.run_id)
        path = store.folder / "records" / f"{record.run_id}.json"
        path.write_text(record.to_json(), encoding="utf-8")
    size = sum(p.stat().st_size for p in store.files("records"))
    before, started = memory(), time.perf_counter()
    (block,) = blocks(store.records())
    seconds = time.perf_counter() - started
    assert block.rows[0].runs_done == count
    held = memory() - before
    del block
    started = time.perf_counter()
    assert all(store.has(name) for name in names)
    looked = time.perf_counter() - started
    return {"records": count, "seconds": seconds, "mb": held, "disk": size / 1e6, "has": looked}


def variants(template: Record, count: int) -> Iterator[Record]:
    """Records like the template, each of another seed, valid in every respect."""
    for seed in range(count):
        identity = Identity(**(template.identity.model_dump() | {"seed": seed}))
        text = msgspec.Raw(identity.spelled.encode())
        yield structs.replace(template, run_id=identity.run_id, identity_text=text)


def one_run(folder: Path) -> tuple[Job, Computed]:
    """A real run of a control, and what a worker would send of it."""
    here = Execution(store=folder / "one", device="cpu")
    table = grid(["metadata-logistic"], ["resnet18"], dataset="synthetic", folds=[0])
    todo = plan(table, here)
    (record,) = carry_out(todo, here).records
    return todo.jobs[0], Computed(record, Store(here.store).predictions(record.run_id))


class Simulated(OnRay):
    """The engine with tasks that sleep, and a real run's result for each answer."""

    seconds: dict[str, float]
    answers: dict[str, Computed]

    def start(self, job: Job) -> None:
        size = len(pickle.dumps(self.answers[job.run_id]))
        ref = self._task.options(num_cpus=1).remote(self.seconds[job.run_id], size)
        self._out[ref] = job

    def _result(self, job: Job, ref: Any) -> Computed:
        self.ray.get(ref)
        return self.answers[job.run_id]

    def _running(self) -> str:
        return ""


def train(seconds: float, size: int) -> bytes:
    """What a worker does in the simulation; its answer has a real one's size."""
    time.sleep(seconds)
    return bytes(size)


def cluster(folder: Path, workers: int, each: int) -> dict[str, float]:
    """Efficiency of `workers` logical workers on `each` runs apiece."""
    import logging

    import ray

    job, answer = one_run(folder)
    ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False,
             logging_level=logging.ERROR, object_store_memory=200_000_000)  # fmt: skip
    try:
        # Worker processes are there before the clock starts, as on a cluster that is up.
        ray.get([ray.remote(num_cpus=1)(train).remote(10.0 + workers, 1) for _ in range(workers)])
        count = workers * each
        durations = np.random.default_rng(0).uniform(1 - SPREAD, 1 + SPREAD, count) * MEAN
        store = Store(folder / f"cluster-{workers}")
        engine = Simulated(ray, Execution(), SILENT, Resources(cpus=1), task=train)  # type: ignore[arg-type]
        engine.seconds, engine.answers = {}, {}
        jobs = []
        for record, seconds in zip(variants(answer.record, count), durations, strict=True):
            engine.seconds[record.run_id] = float(seconds)
            engine.answers[record.run_id] = replace(answer, record=record)
            jobs.append(replace(job, run_id=record.run_id, before=seen(store, record.run_id)))
        spent, started = time.process_time(), time.perf_counter()
        Queue(Plan(tuple(jobs)), jobs, store, SILENT).work_off(engine)
        took = time.perf_counter() - started
        assert len(list(store)) == count
        return {"workers": workers, "runs": count, "seconds": took,
                "efficiency": float(durations.sum()) / (workers * took),
                "driver_ms": 1000 * (time.process_time() - spent) / count}  # fmt: skip
    finally:
        ray.shutdown()


def memory() -> float:
    """MB of main memory that this process holds now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


@contextmanager
def said(what: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    sys.stderr.write(f"{what}: {time.perf_counter() - started:.0f} s\n")


def alone(quick: bool, *arguments: str) -> dict[str, float]:
    """One measurement in a process of its own, so that memory is its own too."""
    words = [sys.executable, __file__, "--one", *arguments, *(["--quick"] if quick else [])]
    with said(" ".join(arguments)):
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(what: str, number: int, second: int = 0) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="scale-") as text:
        folder = Path(text)
        if what == "plan":
            return planning(folder, number, second, shared=False)
        if what == "plan-opened":
            return planning(folder, number, second, shared=True)
        if what == "read":
            return reading(folder, one_run(folder)[1].record, number)
        return cluster(folder, number, second)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        what, *numbers = given.one
        print(json.dumps(measure(what, *map(int, numbers))))
        return
    less = 50 if given.quick else 1
    plans = [alone(given.quick, "plan", str(200 // less), "5"),
             alone(given.quick, "plan-opened", str(200 // less), "5"),
             alone(given.quick, "plan-opened", str(4000 // less), "5")]  # fmt: skip
    reads = [alone(given.quick, "read", str(n // less)) for n in (5_000, 100_000)]
    sizes = ((1, 2), (4, 2)) if given.quick else ((1, 8), (8, 8), (64, 8))
    efforts = [alone(given.quick, "cluster", str(n), str(each)) for n, each in sizes]
    text = report(plans, reads, efforts)
    if given.quick:
        print(text)
    else:
        OUT.write_text(text, encoding="utf-8")


def report(
    plans: list[dict[str, float]], reads: list[dict[str, float]], efforts: list[dict[str, float]]
) -> str:
    import os

    lines = [
        "<!-- Generated by docs/measure_scale.py; not to be edited. -->",
        f"Measured on {os.cpu_count()} cores ({platform.machine()}, Python "
        f"{platform.python_version()}), with other work going on beside.",
        "",
        "| Plan | Rows | Runs | Seconds | Forecast, seconds | Memory, MB |",
        "|:--|--:|--:|--:|--:|--:|",
    ]
    for name, p in zip(
        ("as it is", "rows opened at no cost", "rows opened at no cost"), plans, strict=True
    ):
        lines.append(
            f"| {name} | {p['rows']:,} | {p['runs']:,} | {p['seconds']:.1f} | "
            f"{p['forecast']:.1f} | {p['mb']:,.0f} |"
        )
    lines += [
        "",
        "| Records in the store | MB on disk | Rows from all of them, seconds | Memory, MB | "
        "Ask of each whether it is there, seconds |",
        "|--:|--:|--:|--:|--:|",
    ]
    for r in reads:
        lines.append(
            f"| {r['records']:,} | {r['disk']:,.0f} | {r['seconds']:.1f} | {r['mb']:,.0f} | "
            f"{r['has']:.1f} |"
        )
    lines += [
        "",
        f"Ray with stubs that sleep {MEAN * (1 - SPREAD):g} to {MEAN * (1 + SPREAD):g} s; "
        f"logical workers, all on these {os.cpu_count()} cores:",
        "",
        "| Workers | Runs | Seconds | Efficiency | Driver, ms of CPU per run |",
        "|--:|--:|--:|--:|--:|",
    ]
    for e in efforts:
        lines.append(
            f"| {e['workers']} | {e['runs']} | {e['seconds']:.1f} | {e['efficiency']:.0%} | "
            f"{e['driver_ms']:.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
