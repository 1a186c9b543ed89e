"""The command line, called in this process: what it prints and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fusionbench.cli import main


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout as one JSON value; fails where anything else is there."""
        return json.loads(self.out)


Cli = Callable[..., Answer]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`cli("list", "fusions")`: at 100 columns, no terminal."""
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("FUSIONBENCH_DATA", "FUSIONBENCH_PLUGINS", "FUSIONBENCH_STORE"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return Answer(int(ended.value.code or 0), out, err)

    return call


@pytest.fixture
def tiny_run(tiny_card: Path, tmp_path: Path) -> list[str]:
    """`run` on the tiny dataset, three folds, about a second, into tmp_path/store."""
    text = (
        f"run --fusion concat --dataset {tiny_card} --backbone test_resnet --weights none "
        f"--epochs 1 --image-size 32 --precision fp32 --device cpu --store {tmp_path / 'store'}"
    )
    return text.split(" ")
