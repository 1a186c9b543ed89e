"""Whole runs, as a user starts them: `make bench`. Never gates a test run.

A process of its own each time, so its start and its imports count, as do checkpoints, evaluation
and records. Two folds less one fold is what a further fold takes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """Carries out SGMC on the drawn photographs, which are decoded already; forgets the result."""
    store = tmp_path_factory.mktemp("folds") / "store"
    command = [
        *(sys.executable, "-m", "fusionbench", "run", "--dataset", "synthetic"),
        *("--fusion", "sgmc", "--backbone", "resnet18", "--weights", "none"),
        *("--image-size", "64", "--epochs", "1", "--store", str(store)),
    ]

    def carry_out(*options: str) -> None:
        shutil.rmtree(store, ignore_errors=True)
        subprocess.run([*command, *options], check=True, capture_output=True)

    carry_out("--fold", "0")
    return carry_out


@pytest.mark.benchmark(group="`fusionbench run`, SGMC, ResNet-18, 64 px, one epoch")
@pytest.mark.parametrize(
    "options",
    [("--fold", "0"), ("--fold", "0,1"), (), ("--folds-at-once", "2")],
    ids=["one fold", "two folds", "five folds", "five folds, two at a time"],
)
def test_folds(benchmark, run: Callable[..., None], options: tuple[str, ...]) -> None:
    benchmark.pedantic(run, options, rounds=1)
