"""Benchmark of image + patient-metadata fusion for skin-lesion classification.

The names below are loaded when they are first used: `import fusionbench` imports no torch.
"""

from __future__ import annotations

import sys

if sys.argv[:1] == ["-m"] and "fusionbench" in sys.orig_argv and not sys.flags.safe_path:
    # `python -m` puts the current folder first, whose modules are not those that we import. It is
    # last where it holds fusionbench itself.
    _folder = sys.path.pop(0)
    sys.path += [_folder] * __file__.startswith(_folder)

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusionbench.config.run_config import Execution, RunConfig
    from fusionbench.plugin.control import Control, Inputs
    from fusionbench.plugin.fusion import Fusion, Spec
    from fusionbench.plugin.loss import Loss
    from fusionbench.protocols import Split, load_protocol
    from fusionbench.records import Predictions, Record, Store
    from fusionbench.runs.run import run

__version__ = "0.1.0"

_HOME = {
    "Control": "plugin.control",
    "Execution": "config.run_config",
    "Fusion": "plugin.fusion",
    "Inputs": "plugin.control",
    "Loss": "plugin.loss",
    "Predictions": "records",
    "Record": "records",
    "RunConfig": "config.run_config",
    "Spec": "plugin.fusion",
    "Split": "protocols",
    "Store": "records",
    "load_protocol": "protocols",
    "run": "runs.run",
}

__all__ = [
    "Control",
    "Execution",
    "Fusion",
    "Inputs",
    "Loss",
    "Predictions",
    "Record",
    "RunConfig",
    "Spec",
    "Split",
    "Store",
    "load_protocol",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fusionbench' has no attribute {name!r}")
    return getattr(import_module(f"fusionbench.{_HOME[name]}"), name)
