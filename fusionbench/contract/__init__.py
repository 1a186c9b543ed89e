"""The contracts that every plugin keeps, for anyone's plugin: the code behind `fusionbench check`.

In a test of your own:

    from fusionbench.contract import assert_ok, check_file
    assert_ok(check_file("my_fusion.py"))
"""

from fusionbench.contract.checks import Check, assert_ok
from fusionbench.contract.control_contract import check_control
from fusionbench.contract.fusion_contract import check_fusion
from fusionbench.contract.loss_contract import check_loss
from fusionbench.contract.plugin_files import check_file

__all__ = ["Check", "assert_ok", "check_control", "check_file", "check_fusion", "check_loss"]
