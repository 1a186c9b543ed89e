"""What is kept with the results: the machine as the benchmarks had it."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import torch

from fusionbench.config.environment import cpu_name


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    gpus = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    machine_info["measured_on"] = {
        "Machine": "; ".join([cpu_name(), *gpus]),
        "CPU threads": str(torch.get_num_threads()),
        "Software": ", ".join(
            f"{name} {importlib.metadata.version(name)}"
            for name in ("fusionbench", "torch", "timm", "numpy")
        ),
    }
