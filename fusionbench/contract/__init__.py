"""The contracts that every plugin keeps, for anyone's plugin: the code behind `fusionbench check`.

In a test of your own:

    from fusionbench.contract import assert_ok, check_file
    assert_ok(check_file("my_fusion.py"))

The names below are loaded when they are first used: a control is checked without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusionbench.contract.checks import Check, assert_ok
    from fusionbench.contract.control_contract import check_control
    from fusionbench.contract.fusion_contract import check_fusion
    from fusionbench.contract.loss_contract import check_loss
    from fusionbench.contract.plugin_files import check_file

__all__ = ["Check", "assert_ok", "check_control", "check_file", "check_fusion", "check_loss"]

_HOME = {
    "Check": "checks",
    "assert_ok": "checks",
    "check_control": "control_contract",
    "check_file": "plugin_files",
    "check_fusion": "fusion_contract",
    "check_loss": "loss_contract",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
