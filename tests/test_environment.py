"""What is said of the machine."""

from __future__ import annotations

import os

import pytest

from fusionbench.config.environment import describe_environment, usable_cores


@pytest.fixture
def many_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 256)


def system(folder, groups, files):
    """A root folder with the control groups that a process is in, and their files."""
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


V1 = "9:name=systemd:/\n4:memory:/x\n2:cpu,cpuacct:/docker/a1\n"
QUOTAS = {
    "no control groups": (64, "", {}),
    "no limit": (64, "0::/\n", {"cpu.max": "max 100000\n"}),
    "a container": (4, "0::/\n", {"cpu.max": "400000 100000\n"}),
    "a part of a core": (1, "0::/\n", {"cpu.max": "10000 100000\n"}),
    "a core and a part": (2, "0::/\n", {"cpu.max": "150000 100000\n"}),
    "more than there is": (64, "0::/\n", {"cpu.max": "9900000 100000\n"}),
    "of the group itself": (3, "0::/a.slice/b.scope\n", {"a.slice/b.scope/cpu.max": "300 100"}),
    "of a group above": (
        2,
        "0::/a.slice/b.scope\n",
        {"a.slice/cpu.max": "200 100", "a.slice/b.scope/cpu.max": "max 100"},
    ),
    "of another group": (64, "0::/a\n", {"b/cpu.max": "100 100"}),
    "version 1": (
        6,
        V1,
        {
            "cpu/docker/a1/cpu.cfs_quota_us": "600000\n",
            "cpu/docker/a1/cpu.cfs_period_us": "100000\n",
        },
    ),
    "version 1, seen from inside": (
        5,
        V1,
        {"cpu/cpu.cfs_quota_us": "500000\n", "cpu/cpu.cfs_period_us": "100000\n"},
    ),
    "version 1 without a limit": (
        64,
        V1,
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
    ),
    "other words": (64, "0::/\nxx\n:\n", {"cpu.max": "?"}),
}


@pytest.mark.parametrize("kind", QUOTAS)
def test_cores_are_those_that_the_control_groups_allow(kind, tmp_path, many_cores):
    cores, groups, files = QUOTAS[kind]
    files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    assert usable_cores(system(tmp_path, groups, files)) == cores


def test_cores_are_those_of_the_affinity_where_there_is_one(monkeypatch, tmp_path, many_cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 7}, raising=False)
    assert usable_cores(tmp_path) == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores(tmp_path) == 256
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path) == 1


def test_a_record_tells_the_cores_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1000)
    assert describe_environment()["cpus"] == usable_cores() < 1000
