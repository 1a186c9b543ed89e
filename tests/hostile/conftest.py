"""Attempts in a folder of their own, and how many there were, at the end of the run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from attempts import Attempts


@pytest.fixture
def attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property, request
) -> Iterator[Attempts]:
    """The working folder is tmp_path/inside; tmp_path/outside must stay as it is."""
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    made = Attempts(tmp_path / "outside")
    yield made
    kind = request.node.get_closest_marker("hostile").args[0]
    record_property("hostile cases", f"{kind}={made.cases}")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "hostile(kind): counts its cases under this kind of input")


def pytest_terminal_summary(terminalreporter) -> None:
    counts: Counter[str] = Counter()
    for report in terminalreporter.stats.get("", []):
        for name, value in getattr(report, "user_properties", ()):
            if name == "hostile cases" and report.when == "teardown":
                kind, _, cases = value.rpartition("=")
                counts[kind] += int(cases)
    if counts:
        kinds = ", ".join(f"{kind} {n:,}" for kind, n in sorted(counts.items()))
        terminalreporter.write_line(f"hostile cases: {counts.total():,} ({kinds})")


assert os.name == "posix", "the limits of these tests are signals"
