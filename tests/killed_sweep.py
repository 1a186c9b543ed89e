"""Run by test_resume.py in a process of its own: a real sweep, killed over and over.

    python killed_sweep.py TABLE FOLDER KILLS SEED

Writes FOLDER/whole, an undisturbed sweep's store, FOLDER/killed-0, -1, ..., and FOLDER/log, one
line per event: "<seconds> <round> <child> <event> <run> <epoch>". Prints how many children were
killed. PyTorch is imported once; each child is a fork, which a kill -9 ends.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusionbench.config.run_config import Execution
from fusionbench.runs import carry_out, plan
from fusionbench.runs import network_trainer as network
from fusionbench.tables import read_table
from fusionbench.training import checkpoints
from fusionbench.training import loop as train


def sweep(table: Path, execution: Execution, log: Path, name: str) -> None:
    """What the command `fusionbench sweep` does, with a line per epoch begun and kept."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    keep, train_epoch = checkpoints.Keeper.keep, train.train_epoch
    now: list[str] = []

    def said(event: str, epoch: int) -> None:
        line = f"{time.monotonic()} {name} {event} {now[0]} {epoch}\n"
        os.write(descriptor, line.encode())

    class Keeper(checkpoints.Keeper):
        def find(self) -> Any:
            now[:] = [self.run]
            return super().find()

        def keep(self, state: checkpoints.State) -> None:
            keep(self, state)
            said("kept", state.epoch)

    def epoch(*arguments: Any, **named: Any) -> Any:
        said("began", named["epoch"])
        return train_epoch(*arguments, **named)

    network.Keeper, train.train_epoch = Keeper, epoch  # type: ignore[misc]
    execution = replace(execution, checkpoint_every=0)  # after every epoch, however short
    outcome = carry_out(plan(read_table(table), execution), execution)
    assert not outcome.failures, outcome.failures


def child(*arguments: Any) -> int:
    pid = os.fork()
    if not pid:
        code = 1
        try:
            sweep(*arguments)
            code = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return pid


def main(table: Path, folder: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    log = folder / "log"
    whole = Execution(store=folder / "whole", device="cpu")
    began = time.monotonic()
    _, status = os.waitpid(child(table, whole, folder / "log-whole", "whole 0"), 0)
    assert status == 0, status
    times = [float(line.split()[0]) for line in (folder / "log-whole").read_text().splitlines()]
    start, epoch = times[0] - began, times[3] - times[1]
    log.touch()
    killed = rounds = children = 0
    # Where a round is done before the last kill, the next one begins with an empty store.
    while killed < kills:
        execution = replace(whole, store=folder / f"killed-{rounds}")
        done = False
        while not done:
            size, pid = log.stat().st_size, child(table, execution, log, f"{rounds} {children}")
            children += 1
            # One in five is killed before its first epoch, the others up to three epochs later.
            early = rng.random() < 0.2
            left = rng.uniform(0, start if early else 3 * epoch)
            while not done and (killed >= kills or left > 0):
                before = time.monotonic()
                time.sleep(0.002)
                found, status = os.waitpid(pid, os.WNOHANG)
                done = found == pid
                if early or log.stat().st_size > size:
                    left -= time.monotonic() - before
            if done:
                assert status == 0, status
            else:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                killed += 1
        rounds += 1
    print(killed)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
