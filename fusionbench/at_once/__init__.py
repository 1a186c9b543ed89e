"""Several folds at a time, each in a process of its own.

    with Workers(work, 4, task, progress, row=..., name=...) as workers:
        while waiting or workers.running:
            while (job := workers.choose(waiting)) is not None:
                waiting.remove(job)
                workers.start(job, order)  # work(order, a Progress) is called in a worker
            for job, result in workers.ended():
                result()  # what it returned, or raises what it raised

Processes and not threads, because PyTorch's default random generators are one per process: folds
that shared one would draw each other's dropout. In a process of its own every fold has the bits
that it has alone, with as many threads.

Each place is a pool of one worker (concurrent.futures.ProcessPoolExecutor). A pool whose worker
dies is broken as a whole; so it is known whose fold is lost, and nobody else's is.
"""

from __future__ import annotations

from fusionbench.at_once.worker import UnexpectedError
from fusionbench.at_once.workers import WorkerLostError, Workers, threads_each

__all__ = ["UnexpectedError", "WorkerLostError", "Workers", "threads_each"]
