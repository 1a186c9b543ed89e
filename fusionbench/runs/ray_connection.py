"""Joining Ray, or starting it, and what one run asks of it."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import ByteSize, TypeAdapter, ValidationError

from fusionbench.config.run_config import Execution
from fusionbench.errors import UsageError
from fusionbench.progress import Progress

LOCAL = "ray"
# A cluster of one machine listens on the loopback interface only. By Ray's name this is for desktop
# systems; it does so on each, if it is set before Ray is imported.
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@dataclass(frozen=True)
class Resources:
    """Per run; None leaves the choice to the sweep (fusionbench.runs.ray_engine.wants)."""

    gpus: float | None = None  # 0.25: four runs share one
    cpus: float | None = None
    memory: int | None = None  # bytes of main memory


def parse_size(text: str) -> int:
    """ "8G", "512 MB", "1.5GiB" -> bytes. Raises UsageError."""
    try:
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        size = 0
    if size <= 0:
        raise UsageError(f"{text!r} is no amount of memory.", "Write it as in 8G or 512M.")
    return size


def check_place(address: str, execution: Execution) -> None:
    """Raises UsageError for an address that `connected` cannot take, and for options of this
    machine."""
    if execution.folds_at_once > 1:
        raise UsageError(
            "--folds-at-once is of this machine; Ray itself decides how many runs it computes.",
            "Leave it out, or leave out --on; --gpus-per-run 0.25 lets four runs share a GPU.",
        )
    _host_and_port(address if address != LOCAL else "")


@contextmanager
def connected(address: str, progress: Progress) -> Iterator[Any]:
    """Ray, joined or started: "ray" (the cluster of $RAY_ADDRESS, else one on this machine that
    ends with the sweep), "auto" (the one running on this machine), "HOST:PORT" or "ray://HOST:PORT".

    Yields the module. A connection that this process has already is used, and left as it is. Raises
    UsageError where Ray is not installed or not there.
    """
    joined = address if address != LOCAL else os.environ.get("RAY_ADDRESS", "")
    if not joined:
        os.environ.update(ALONE)
    # Ray tells its makers what it is used for unless told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray: Any = import_module("ray")
    except ImportError:
        raise UsageError(
            "Ray is not installed.", "pip install 'fusionbench[ray]', on every node."
        ) from None
    if ray.is_initialized():
        yield ray
        return
    _reachable(joined)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    progress.note(f"joining Ray at {joined}" if joined else "starting Ray on this machine")
    try:
        # Its workers look for modules in the current folder first: in that of fusionbench instead.
        with chdir(Path(__file__).parents[2]):
            if joined:
                ray.init(address=joined, **quiet)
            else:
                ray.init(address="local", include_dashboard=False, **quiet)
    except (ConnectionError, ValueError, RuntimeError, ImportError) as error:
        reason = first_line(error)
        raise UsageError(
            f"There is no Ray cluster to join at {joined}: {reason}"
            if joined
            else f"Ray does not start here: {reason}",
            "Start one with `ray start --head`, or leave the address to --on ray. Where it asks "
            "for a token: RAY_AUTH_MODE=token, and the cluster's own in RAY_AUTH_TOKEN.",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _host_and_port(address: str) -> tuple[str, int] | None:
    """None where Ray itself finds the cluster. Raises UsageError."""
    found = re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d+)", address)
    if not found and address not in ("", "auto", "local"):
        raise UsageError(
            f"--on {address} is no place.", "It is here, ray, auto, HOST:PORT or ray://HOST:PORT."
        )
    return (found[1], int(found[2])) if found else None


def _reachable(address: str) -> None:
    """Ray takes minutes to notice that nobody is there. Raises UsageError."""
    place = _host_and_port(address)
    if place is None:
        return
    try:
        socket.create_connection(place, timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"There is no Ray cluster to join at {address}: {error}.",
            "`ray start --head` starts one and says its address.",
        ) from None


def first_line(error: Exception) -> str:
    """Ray's messages run over many."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
