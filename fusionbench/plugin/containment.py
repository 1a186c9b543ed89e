"""Running a plugin's code in a process that goes on: it cannot end it, and leaves it as it was."""

from __future__ import annotations

import locale
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from fusionbench.errors import PluginError, message_of


@contextmanager
def contained(plugin: str) -> Iterator[None]:
    """Run code of a plugin in the block. What it prints goes to standard error. The current folder,
    the environment, streams, locale and the settings of torch and numpy are restored afterwards.

    Raises PluginError where the plugin tries to end the process by SystemExit, os._exit or a
    KeyboardInterrupt that is not the user's. Functions that it replaces in other modules stay
    replaced: what must not depend on them runs in another process.
    """
    settings = [(read, write, read()) for read, write in _settings()]
    process, leave, heard = os.getpid(), os._exit, list[int]()
    handler = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()

    def refuse(status: int) -> NoReturn:
        if os.getpid() != process:  # a child that the plugin has forked
            leave(status)
        raise SystemExit(status)

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        if callable(handler):
            handler(number, frame)

    if listens := in_main and callable(handler):
        signal.signal(signal.SIGINT, hear)
    os._exit = refuse
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (SystemExit, KeyboardInterrupt) as error:
        if heard or type(error) not in (SystemExit, KeyboardInterrupt):
            raise
        what = f"{type(error).__name__} {message_of(error)}".strip()
        raise PluginError(f"The plugin {plugin} tries to end the process: {what}.") from error
    finally:
        os._exit = leave
        if listens:
            signal.signal(signal.SIGINT, handler)
        for read, write, before in settings:
            with suppress(Exception):
                if read() != before:
                    write(before)


def _settings() -> list[tuple[Callable[[], Any], Callable[[Any], object]]]:
    """How each setting of the process is read and written."""

    def set_environment(values: dict[str, str]) -> None:
        os.environ.clear()
        os.environ.update(values)

    def set_streams(streams: tuple[Any, Any, Any]) -> None:
        sys.stdin, sys.stdout, sys.stderr = streams

    def set_filters(filters: list[Any]) -> None:
        warnings.filters[:] = filters  # type: ignore[index]

    settings: list[tuple[Callable[[], Any], Callable[[Any], object]]] = [
        (_folder, os.chdir),
        (lambda: dict(os.environ), set_environment),
        (lambda: (sys.stdin, sys.stdout, sys.stderr), set_streams),
        (lambda: list(warnings.filters), set_filters),
        (lambda: locale.setlocale(locale.LC_ALL), lambda v: locale.setlocale(locale.LC_ALL, v)),
    ]
    if numpy := sys.modules.get("numpy"):
        settings.append((numpy.geterr, lambda v: numpy.seterr(**v)))
    if torch := sys.modules.get("torch"):
        settings += [
            (torch.get_default_dtype, torch.set_default_dtype),
            (torch.get_default_device, torch.set_default_device),
            (torch.get_num_threads, torch.set_num_threads),
            (torch.is_grad_enabled, torch.set_grad_enabled),
            (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
            (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
        ]
    return settings


def _folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it was deleted
        return "."
