"""The leaderboard of ten thousand runs, as a user starts it: `make bench`. Never gates a test run.

A process of its own each time, so that wall time and memory are all that the command takes, its
start included. pytest-benchmark prints the wall time; peak memory is among its `extra_info`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_store import fill

# The command, and what it used: the most memory at once, and torch or not.
PROBE = """
import json, sys
from pathlib import Path
from fusionbench.cli import main
code = 0
try:
    main()
except SystemExit as stop:
    code = stop.code or 0
# Not getrusage's: on Linux that begins with what the process held that started this one.
status = Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
peak = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)  # KiB
used = {"code": code, "peak_mib": peak / 1024, "torch": "torch" in sys.modules}
print(json.dumps(used), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path_factory.mktemp("ten-thousand")
    if request.config.getoption("benchmark_enable"):
        assert fill(folder) == 10_000
    else:  # only that it works
        assert fill(folder, rows=5, seeds=2) == 50
    return folder


@pytest.mark.benchmark(group="leaderboard of 10,000 records")
@pytest.mark.parametrize("format_", ["terminal", "markdown"])
def test_leaderboard(benchmark, store: Path, format_: str) -> None:
    command = [sys.executable, "-c", PROBE, "leaderboard", "--store", str(store)]

    def show() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, "--format", format_],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "COLUMNS": "120"},
        )

    ran = benchmark.pedantic(show, rounds=5, warmup_rounds=1)
    used = json.loads(ran.stderr.splitlines()[-1])
    assert (used["code"], used["torch"]) == (0, False)
    assert "metablock" in ran.stdout and "n=" not in ran.stdout
    benchmark.extra_info["peak memory, MiB"] = round(used["peak_mib"])
