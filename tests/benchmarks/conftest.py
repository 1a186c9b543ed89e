"""What is kept with the results: the machine as the benchmarks had it."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import torch

from fusionbench.bench.machine import describe_machine


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    names = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    machines = [describe_machine(torch.device(name)) for name in names]
    machine_info["measured_on"] = {
        "Machine": "; ".join(machine.name for machine in machines),
        "CPU threads": str(machines[0].threads),
        "Software": ", ".join(
            f"{name} {importlib.metadata.version(name)}"
            for name in ("fusionbench", "torch", "timm", "numpy")
        ),
    }
