"""An engine: a Ray cluster, one task per fold of a run, on whatever nodes Ray has.

Ray schedules, retries after the loss of a worker or node, scales, and keeps what travels in its
object store. What is here: what a run needs, and how many are given out. The driver alone writes,
so that no shared file system is needed, and the queue holds the lock of every run that is out.

https://docs.ray.io/en/latest/ray-core/tasks.html
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from fusionbench.config.run_config import Execution
from fusionbench.progress import Progress, Task
from fusionbench.runs.fold import Computed, Order, failed, verdict
from fusionbench.runs.plan import Job
from fusionbench.runs.queue import EngineLostError
from fusionbench.runs.ray_connection import Resources, first_line
from fusionbench.runs.ray_worker import Board, plugin_sources, starting_weights, work
from fusionbench.runs.worker import own_threads

# How often Ray repeats a run whose worker or node was lost.
RETRIES = 3
# Given out beyond what fits now, so that no node waits for the driver and an autoscaler sees that
# more is to do; and at most, since each is a lock held open.
AHEAD, MOST = 8, 400
LOOK = 0.5  # seconds between two looks at progress
SHOWN = 3  # runs named in the progress line
ASKED = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}  # Ray's two names of each


def wants(job: Job, resources: Resources, device: str, gpus_there: bool) -> dict[str, float]:
    """Ray's num_cpus, num_gpus and memory for a run: by default one GPU for a network, where there
    are any or --device cuda asks for one, and as many CPUs as this process has threads."""
    gpus = 0.0
    if job.study.uses_images and device != "cpu":
        by_default = float(gpus_there or device.startswith("cuda"))
        gpus = by_default if resources.gpus is None else resources.gpus
    cpus = resources.cpus if resources.cpus is not None else 1 if gpus else own_threads()
    asked = {"num_cpus": float(cpus), "num_gpus": gpus}
    return asked | ({"memory": resources.memory} if resources.memory else {})


@contextmanager
def _lost_alike() -> Iterator[None]:
    from ray.exceptions import RayError

    try:
        yield
    except (RayError, ConnectionError) as error:
        raise EngineLostError(
            f"The Ray cluster is lost: {first_line(error)}",
            "Finished runs are kept; the same command resumes the others.",
        ) from error


class OnRay:
    """`task`: what each worker does; another one than `work` only measures the engine."""

    def __init__(
        self,
        ray: Any,
        execution: Execution,
        progress: Progress,
        resources: Resources,
        task: Callable[..., Computed | Exception] = work,
    ) -> None:
        self.ray, self.execution = ray, execution
        self.progress, self.resources = progress, resources
        self._task = ray.remote(max_retries=RETRIES)(task)
        # A worker ends with its run where that had a plugin that does not come with fusionbench.
        self._task_alone = ray.remote(max_retries=RETRIES, max_calls=1)(task)
        self._board = ray.remote(num_cpus=0, max_restarts=-1)(Board).remote()
        self._out: dict[Any, Job] = {}
        self._shipped: dict[tuple[object, ...], Any] = {}
        self._told: set[int] = set()  # rows whose broken contract was named
        self._warned = False

    @_lost_alike()
    def choose(self, waiting: Sequence[Job]) -> Job | None:
        return waiting[0] if waiting and len(self._out) < self._window(waiting[0]) else None

    @_lost_alike()
    def start(self, job: Job) -> None:
        study, asked = job.study, self._wants(job, self.ray.cluster_resources())
        method = study.config.method
        execution = replace(
            self.execution,
            data=None,
            plugins=(),  # their source travels
            # Of Ray's workers, those without a GPU of their own may still see one; the others see
            # those that Ray gives them, counted from 0.
            device=self.execution.device.partition(":")[0] if asked["num_gpus"] else "cpu",
        )
        found = verdict(study, self.progress)
        order = Order(job.config, execution, job.fold, job.run_id, found)
        data = (study.table.fingerprint, *study.table.views, study.protocol.split_hash)
        start = (method.weights, method.backbone, study.uses_images)
        plugins = self.execution.plugins
        remote = self._task_alone if job.foreign else self._task
        ref = remote.options(**asked).remote(
            order,
            max(1, int(asked["num_cpus"])),
            self._once(("data", *data), lambda: (study.table, study.protocol)),
            self._once(("plugins",), lambda: plugin_sources(plugins)),
            self._pixels(study),
            self._once(("weights", *start), lambda: starting_weights(study)),
            self._board,
        )
        self._out[ref] = job

    def finished(self, task: Task) -> Iterator[tuple[Job, Computed | Exception]]:
        if not self._out:
            time.sleep(LOOK)
            return
        with _lost_alike():
            ready, _ = self.ray.wait([*self._out], num_returns=1, timeout=LOOK)
            if ready:  # whatever else has come meanwhile
                ready, _ = self.ray.wait([*self._out], num_returns=len(self._out), timeout=0)
        for ref in ready:
            job = self._out[ref]
            result = self._result(job, ref)
            del self._out[ref]
            self._tell(job, result)
            yield job, result
        if running := self._running():
            task.advance(0, running=running)

    def stop(self) -> None:
        for ref in self._out:
            with suppress(Exception):  # a cluster that is gone has nothing left to stop
                self.ray.cancel(ref)

    def _tell(self, job: Job, result: Computed | Exception) -> None:
        """What the worker's own notes, which do not come here, say of the contract."""
        found = result.record.result if isinstance(result, Computed) else None
        if found and found.contract.startswith("failed") and job.row not in self._told:
            self._told.add(job.row)
            name = job.study.config.method.fusion
            self.progress.note(f"{name} does not keep its contract ({found.contract})")

    @_lost_alike()
    def _result(self, job: Job, ref: Any) -> Computed | Exception:
        from ray import exceptions

        try:
            result: Computed | Exception = self.ray.get(ref)
        except exceptions.RayTaskError as error:  # a mistake of ours: others are returned
            return getattr(error, "cause", None) or error
        except (
            *(exceptions.WorkerCrashedError, exceptions.NodeDiedError),
            *(exceptions.OutOfMemoryError, exceptions.ObjectLostError),
        ) as error:  # again and again, or killed for its memory
            message = f"Ray could not finish it: {first_line(error)}"
            return failed(job.study, job.split, error, {}, message)
        return result

    def _pixels(self, study: Any) -> Any:
        if not study.uses_images:
            return None
        training = study.config.training

        def decoded() -> Any:
            images = study.images(self.execution.workers, self.progress)
            self.progress.note(f"shipping {images.nbytes / 1e6:,.0f} MB of photographs")
            return images.numpy()

        form = (study.table.fingerprint, study.view, training.image_size, training.resize)
        return self._once(("pixels", *form), decoded)

    def _once(self, key: tuple[object, ...], make: Callable[[], object]) -> Any:
        """In Ray's object store: every node that needs it fetches it once, and its workers read
        arrays there without a copy."""
        if key not in self._shipped:
            self._shipped[key] = self.ray.put(make())
        return self._shipped[key]

    def _wants(self, job: Job, there: dict[str, float]) -> dict[str, float]:
        return wants(job, self.resources, self.execution.device, there.get("GPU", 0) > 0)

    def _window(self, job: Job) -> int:
        """How many runs to have given out, by what the next one asks for."""
        there = self.ray.cluster_resources()
        asked = self._wants(job, there)
        fits = [there.get(ASKED[k], 0) // amount for k, amount in asked.items() if amount]
        slots = int(min(fits, default=1))
        if not slots and not self._warned:
            self._warned = True
            text = ", ".join(f"{k.removeprefix('num_')} {v:g}" for k, v in asked.items() if v)
            self.progress.note(f"Ray has no room for one run ({text}): waiting for a node that has")
        return min(2 * slots + AHEAD, MOST)

    def _running(self) -> str:
        jobs = {job.run_id: job for job in self._out.values()}
        try:
            shares = self.ray.get(self._board.read.remote([*jobs]), timeout=LOOK)
        except Exception:  # a board that is lost with its node costs no run
            return ""
        texts = [f"{jobs[run].label} f{jobs[run].fold} {at:.0%}" for run, at in shares.items()]
        more = len(texts) - SHOWN
        return "; ".join(texts[:SHOWN]) + (f"; and {more} more" if more > 0 else "")
