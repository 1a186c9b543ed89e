"""Subjects in turn, round by round, so that a change of clock or load meets all of them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from fusionbench.bench.results import Line, Ratio, Split
from fusionbench.bench.subjects import Subject
from fusionbench.errors import RunFailedError
from fusionbench.progress import Task

# Steps before anything is timed, beside those in which a step is compiled and recorded.
WARM_UP = 2
# Rounds in which the parts of a step are timed, at most.
SPLIT_ROUNDS = 3

Clock = Callable[[], float]


@dataclass(frozen=True)
class Warm:
    """A subject that is ready to be timed, and the bytes of device memory it took to get there;
    None on a CPU, where the system only knows of a whole process."""

    subject: Subject
    peak_memory: int | None


def warm_up(make: Callable[[], Subject], device: torch.device) -> Warm:
    """Build a subject and train it for a few steps. Raises RunFailedError where memory does not
    suffice."""
    on_gpu = device.type == "cuda"
    before = 0
    if on_gpu:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    try:
        subject = make()
        subject.run(WARM_UP)
    except torch.OutOfMemoryError as error:
        raise RunFailedError(
            f"Out of memory on {device.type}: all subjects are held at once.",
            "Use a smaller --batch-size or --image-size, or fewer methods at a time.",
        ) from error
    if not on_gpu:
        return Warm(subject, None)
    torch.cuda.synchronize(device)
    return Warm(subject, torch.cuda.max_memory_allocated(device) - before)


def measure(
    warm: Sequence[Warm],
    steps: int,
    rounds: int,
    batch_size: int,
    device: torch.device,
    *,
    against: Mapping[str, Sequence[str]],
    task: Task,
) -> list[Line]:
    """Every subject `rounds` times for `steps` steps, in a rotated order, then the parts of its
    step. `against`: names of the subjects that each one (by name) is held to. `task` advances by
    one for each subject and round, and for each split."""
    subjects = {one.subject.name: one.subject for one in warm}
    seconds = interleaved(
        {name: _rounds_of(subject, steps) for name, subject in subjects.items()},
        rounds,
        device,
        task,
    )
    images = steps * batch_size
    speeds = {name: tuple(images / s for s in found) for name, found in seconds.items()}
    return [
        Line(
            name=one.subject.name,
            kind=one.subject.kind,
            loss=one.subject.loss_name,
            precision=one.subject.precision,
            path=one.subject.path,
            images_per_s=median(speeds[one.subject.name]),
            ms_per_step=1000 * median(seconds[one.subject.name]) / steps,
            rounds=speeds[one.subject.name],
            split=split(one.subject, steps, min(rounds, SPLIT_ROUNDS), device, task),
            ratios={
                base: ratio(speeds[one.subject.name], speeds[base])
                for base in against.get(one.subject.name, ())
            },
            peak_memory=one.peak_memory,
        )
        for one in warm
    ]


def ratio(mine: Sequence[float], other: Sequence[float]) -> Ratio:
    """Of speeds in the same rounds, pair by pair."""
    pairs = [a / b for a, b in zip(mine, other, strict=True)]
    return Ratio(median(pairs), min(pairs), max(pairs))


def split(subject: Subject, steps: int, rounds: int, device: torch.device, task: Task) -> Split:
    """Where the time of a step goes, in milliseconds.

    Data are the feed, augmentation and normalisation. Each part is timed by itself, and what holds
    another loses it: forward what "inputs" took, backward what "forward" took. On a GPU parts
    overlap in training, and may sum to more than a step takes.
    """
    parts = subject.parts()
    seconds = interleaved(
        {name: _repeated(part, steps) for name, part in parts.items()}, rounds, device, Task()
    )
    task.advance()
    ms = {name: 1000 * median(found) / steps for name, found in seconds.items()}
    inputs = ms.get("inputs", 0.0)
    return Split(
        data=ms.get("feed", 0.0) + inputs,
        forward=ms["forward"] - inputs,
        backward=ms["whole"] - ms["forward"],
        optimizer=ms["optimizer"],
    )


def interleaved(
    work: Mapping[str, Callable[[], None]],
    rounds: int,
    device: torch.device,
    task: Task,
    clock: Clock = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each piece of work in each round. A round runs all of them once; the next begins
    with another one. Work on a GPU is waited for."""
    names = list(work)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for k in range(rounds):
        first = k % len(names)
        for name in names[first:] + names[:first]:
            _wait_for(device)
            started = clock()
            work[name]()
            _wait_for(device)
            seconds[name].append(clock() - started)
            task.advance()
    return seconds


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _rounds_of(subject: Subject, steps: int) -> Callable[[], None]:
    return lambda: subject.run(steps)


def _repeated(part: Callable[[], None], steps: int) -> Callable[[], None]:
    def work() -> None:
        for _ in range(steps):
            part()

    return work
