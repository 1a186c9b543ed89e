"""A sweep on Ray: one task per fold of a run, on whatever nodes Ray has.

Ray schedules, retries after the loss of a worker or node, and scales. What is here: which runs it
is given, in which order, what they need, and what becomes of their answers. The driver alone
writes, so that no shared file system is needed; it holds the lock of every run that it has given
out, so that other sweeps on the store leave them alone.

https://docs.ray.io/en/latest/ray-core/tasks.html
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from fusionbench.config.run_config import Execution
from fusionbench.errors import FusionbenchError
from fusionbench.progress import Progress, Task
from fusionbench.records import BusyError, Failure, Record
from fusionbench.runs import shipping
from fusionbench.runs.ledger import Ledger
from fusionbench.runs.plan import Job
from fusionbench.runs.ray_connection import connected, first_line
from fusionbench.runs.ray_worker import Board, own_threads, work
from fusionbench.runs.resources import Resources
from fusionbench.runs.shipping import Delivery, Order, Shared
from fusionbench.runs.sweep_fold import SteadyStore, Verdicts

# How often Ray computes a run anew whose worker or node was lost.
RETRIES = 3
# Given out beyond what fits now, so that no node waits for the driver and an autoscaler sees that
# more is to do; and at most, since each is a lock held open.
AHEAD, MOST = 8, 400
LOOK, RECOUNT = 0.5, 5.0  # seconds between two looks at progress, and at the size of the cluster
SHOWN = 3  # runs named in the progress line

Ref = Any


def on_ray(
    todo: Sequence[Job],
    store: SteadyStore,
    execution: Execution,
    ledger: Ledger,
    progress: Progress,
    address: str,
    resources: Resources,
) -> None:
    """Compute the runs on the cluster at `address`; the ledger then says what became of them."""
    with connected(address, progress) as (ray, outlives):
        sweep = _Sweep(ray, store, execution, ledger, progress, resources)
        try:
            with progress.task("runs", total=len(todo), unit="run") as task:
                sweep.carry_out(list(todo), task)
        finally:
            sweep.let_go(cancel=outlives)


def wants(job: Job, resources: Resources, device: str, gpus_there: bool) -> dict[str, float]:
    """Ray's num_cpus, num_gpus and memory for a run: by default one GPU for a network, where there
    are any or --device cuda asks for one, and as many CPUs as this process has threads."""
    network = job.study.uses_images
    gpus = 0.0
    if network and device != "cpu":
        gpus = (
            resources.gpus if resources.gpus is not None else float(gpus_there or device == "cuda")
        )
    cpus = resources.cpus if resources.cpus is not None else 1 if gpus else own_threads()
    asked = {"num_cpus": float(cpus), "num_gpus": gpus}
    return asked | ({"memory": resources.memory} if resources.memory else {})


class _Sweep:
    """The runs that are given out, and the objects that were shipped for them."""

    def __init__(
        self,
        ray: Any,
        store: SteadyStore,
        execution: Execution,
        ledger: Ledger,
        progress: Progress,
        resources: Resources,
        task: Callable[..., Delivery] = work,
    ) -> None:
        self.ray, self.store, self.execution = ray, store, execution
        self.ledger, self.progress, self.resources = ledger, progress, resources
        self.remote = ray.remote(max_retries=RETRIES)(task)
        self.board = ray.remote(num_cpus=0, max_restarts=-1)(Board).remote()
        self.out: dict[Ref, tuple[Job, ExitStack]] = {}  # with the lock of each
        self.verdicts = Verdicts()
        self._shipped: dict[tuple[object, ...], Ref] = {}
        self._counted = -RECOUNT
        self._there: dict[str, float] = {}
        self._warned = False

    def carry_out(self, todo: list[Job], task: Task) -> None:
        from ray.exceptions import RayError

        waiting, busy = list(reversed(todo)), list[Job]()
        looked = 0.0
        try:
            while waiting or busy or self.out:
                while waiting and len(self.out) < self._window(waiting[-1]):
                    if not self._give_out(job := waiting.pop(), task):
                        busy.append(job)
                if busy and not waiting and time.monotonic() - looked > 1.0:
                    looked = time.monotonic()
                    busy = [job for job in busy if not self._give_out(job, task)]
                self._take_in(task)
        except (RayError, ConnectionError) as error:
            raise FusionbenchError(
                f"The Ray cluster is lost: {first_line(error)}",
                "Finished runs are kept; the same command goes on from there.",
            ) from error

    def let_go(self, *, cancel: bool) -> None:
        """Give the locks of unfinished runs back. Ray ends them with the connection; `cancel`: now,
        because that stays."""
        for ref, (_, lock) in self.out.items():
            lock.close()
            if cancel:
                with suppress(Exception):  # a cluster that is gone has nothing left to stop
                    self.ray.cancel(ref)
        self.out.clear()

    def _give_out(self, job: Job, task: Task) -> bool:
        """Whether nothing is left to decide about it. False: another process computes it."""
        if self.ledger.given_up(job):
            task.advance()
            return True
        lock = ExitStack()
        try:
            lock.enter_context(self.store.lock(job.run_id))
        except BusyError:
            return False
        with lock:
            if not self.ledger.still_wanted(job):
                task.advance()
                return True
            try:
                ref = self._submit(job)
            except Exception as error:
                expected = isinstance(error, FusionbenchError)
                text = str(error) if expected else f"{type(error).__name__}: {error}"
                self.ledger.refused(job, text)
                task.advance()
                return True
            self.out[ref] = (job, lock.pop_all())
        return True

    def _take_in(self, task: Task) -> None:
        """Wait a moment for answers, and keep those that have come."""
        if not self.out:
            time.sleep(LOOK)
            return
        refs = list(self.out)
        ready, _ = self.ray.wait(refs, num_returns=1, timeout=LOOK)
        if ready:  # whatever else has come meanwhile
            ready, _ = self.ray.wait(refs, num_returns=len(refs), timeout=0)
        for ref in ready:
            job, lock = self.out[ref]
            with lock:
                self._keep(job, ref)
                del self.out[ref]
            task.advance()
        if running := self._running():
            task.advance(0, running=running)

    def _keep(self, job: Job, ref: Ref) -> None:
        from ray import exceptions as lost

        try:
            delivery: Delivery = self.ray.get(ref)
        except lost.RayTaskError as error:  # a mistake of ours: what a run raises comes as a record
            cause = getattr(error, "cause", None) or error
            self.ledger.refused(job, f"{type(cause).__name__}: {cause}")
        except (
            *(lost.WorkerCrashedError, lost.NodeDiedError),
            *(lost.OutOfMemoryError, lost.ObjectLostError),
        ) as error:
            self.ledger.computed(job, self.store.write_failure(_lost(job, error)))
        else:
            if delivery.refused:
                self.ledger.refused(job, delivery.refused)
            else:
                self.ledger.computed(job, shipping.stored(delivery, self.store))

    def _submit(self, job: Job) -> Ref:
        study, progress = job.study, self.progress
        verdict = self.verdicts.of(study, progress)
        asked = wants(job, self.resources, self.execution.device, self._count("GPU") > 0)
        order = Order(
            run_id=job.run_id,
            fold=job.fold,
            verdict=verdict,
            # Of Ray's workers, those without a GPU of their own may still see one.
            device=self.execution.device if asked["num_gpus"] else "cpu",
            step=self.execution.step,
            save_weights=self.execution.save_weights,
            threads=max(1, int(asked["num_cpus"])),
        )
        data = (study.table.fingerprint, *study.table.views, study.protocol.split_hash)
        return self.remote.options(**asked).remote(
            order,
            self._once(("row", job.row, study.config.seed), lambda: shipping.pack(study)),
            self._once(("data", *data), lambda: Shared(study.table, study.protocol)),
            self._once(("plugins",), lambda: shipping.plugin_files(self.execution.plugins)),
            self._pixels(job),
            self._weights(job),
            self.board,
        )

    def _pixels(self, job: Job) -> Ref | None:
        study: Any = job.study
        if not study.uses_images:
            return None
        key = ("pixels", study.table.fingerprint, study.view, *_form(job))

        def decoded() -> np.ndarray:
            images = study.images(self.execution.workers, self.progress)
            self.progress.note(f"shipping {images.nbytes / 1e6:,.0f} MB of photographs")
            return np.asarray(images.numpy())

        return self._once(key, decoded)

    def _weights(self, job: Job) -> Ref | None:
        path = shipping.starting_weights(job.study)
        if path is None:
            return None
        return self._once(("weights", str(path)), lambda: (path.name, path.read_bytes()))

    def _once(self, key: tuple[object, ...], make: Callable[[], object]) -> Ref:
        """In Ray's object store: every node that needs it fetches it once, and its workers read
        arrays there without a copy."""
        if key not in self._shipped:
            self._shipped[key] = self.ray.put(make())
        return self._shipped[key]

    def _count(self, kind: str) -> float:
        if time.monotonic() - self._counted > RECOUNT:
            self._counted = time.monotonic()
            self._there = self.ray.cluster_resources()
        return self._there.get(kind, 0.0)

    def _window(self, job: Job) -> int:
        """How many runs to have given out, by what the next one asks for."""
        asked = wants(job, self.resources, self.execution.device, self._count("GPU") > 0)
        fits = [
            self._count(kind) // asked[name]
            for name, kind in (("num_cpus", "CPU"), ("num_gpus", "GPU"), ("memory", "memory"))
            if asked.get(name)
        ]
        slots = int(min(fits, default=1))
        if not slots and not self._warned:
            self._warned = True
            text = ", ".join(f"{k.removeprefix('num_')} {v:g}" for k, v in asked.items() if v)
            self.progress.note(f"Ray has no room for one run ({text}): waiting for a node that has")
        return min(2 * slots + AHEAD, MOST)

    def _running(self) -> str:
        jobs = {job.run_id: job for job, _ in self.out.values()}
        try:
            said = self.ray.get(self.board.read.remote(list(jobs)), timeout=LOOK)
        except Exception:  # a board that is lost with its node costs nobody a run
            return ""
        texts = [f"{jobs[r].label} f{jobs[r].fold} {share:.0%}" for r, share in said.items()]
        more = len(texts) - SHOWN
        return "; ".join(texts[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _form(job: Job) -> tuple[object, ...]:
    """What decides the pixels besides the photographs."""
    training = job.study.config.training
    return training.image_size, training.resize


def _lost(job: Job, error: Exception) -> Record:
    """The failure of a run whose workers were lost again and again, or killed for their memory."""
    return Record.of(
        job.study.identity(job.split),
        Failure(
            type=type(error).__name__,
            message=f"Ray could not finish it: {first_line(error)}",
            traceback="".join(traceback.format_exception(error)),
        ),
    )
