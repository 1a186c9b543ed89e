"""Where the time of a step goes, operation by operation, subject beside subject."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from fusionbench.bench.results import Operation
from fusionbench.bench.subjects import Subject

# Its profiler otherwise says on the terminal that it starts and stops.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")
# Told one by one; what is left is summed up.
SHOWN = 12
TURNS = 4
REST = "all others"


def operations(
    subjects: Sequence[Subject], steps: int, device: torch.device
) -> tuple[Operation, ...]:
    """The operations in which the subjects differ most, then the rest, in ms per step.

    Of each, only what it takes by itself, not in others that it calls: a column adds up to the
    work of a step. On a GPU, its kernels; on a CPU, PyTorch's operations. Subjects take turns, and
    of each its quickest turn is told. The profiler slows a step; how fast one is, is measured
    without it.
    """
    found: dict[str, dict[str, float]] = {}
    for _ in range(TURNS):
        for subject in subjects:
            turn = _of_one(subject, steps, device)
            known = found.setdefault(subject.name, turn)
            if sum(turn.values()) < sum(known.values()):
                found[subject.name] = turn
    return most_different(found)


def most_different(
    found: Mapping[str, Mapping[str, float]], shown: int = SHOWN
) -> tuple[Operation, ...]:
    """From subject -> operation -> ms: the `shown` whose times lie farthest apart, and the sum of
    what is left. One that a subject does not do takes it 0 ms."""
    names = {name for times in found.values() for name in times}
    rows = [
        Operation(name, {subject: times.get(name, 0.0) for subject, times in found.items()})
        for name in sorted(names)
    ]
    rows.sort(key=lambda row: (-row.spread, -max(row.ms.values())))
    rest = rows[shown:]
    if rest:
        sums = {subject: sum(row.ms[subject] for row in rest) for subject in found}
        rows = [*rows[:shown], Operation(REST, sums)]
    return tuple(rows)


def _of_one(subject: Subject, steps: int, device: torch.device) -> dict[str, float]:
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    subject.run(1)
    with profile(activities=activities) as profiler:
        subject.run(steps)
        if on_gpu:
            torch.cuda.synchronize(device)
    found: dict[str, float] = {}
    for event in profiler.key_averages():
        if on_gpu != (event.device_type == DeviceType.CUDA):
            continue
        microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if microseconds and not event.is_user_annotation:
            found[event.key] = found.get(event.key, 0.0) + microseconds / 1000 / steps
    return found
