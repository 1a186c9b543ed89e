"""Checking a plugin file: which kind it is, and its suite."""

from __future__ import annotations

from pathlib import Path

from fusionbench.contract.checks import Check
from fusionbench.contract.control_contract import check_control
from fusionbench.contract.fusion_contract import check_fusion
from fusionbench.contract.loss_contract import check_loss
from fusionbench.errors import PluginError, UsageError
from fusionbench.plugin import registry
from fusionbench.plugin.control import Control
from fusionbench.plugin.fusion import Fusion
from fusionbench.plugin.loss import Loss
from fusionbench.progress import SILENT, Progress

BASES: dict[str, type] = {"fusions": Fusion, "losses": Loss, "controls": Control}


def load_file(path: str | Path) -> tuple[str, type]:
    """The kind (registry.KINDS) and the class of a plugin file.

    Raises UsageError where there is no such file or it is not a plugin's, PluginError where it
    fails to import or claims a name that is taken.
    """
    path = Path(path)
    for kind, base in BASES.items():
        for entry in registry.discover(kind, [path]).values():
            if entry.path == path.resolve():
                if entry.broken:
                    raise PluginError(f"{path} is not a plugin: {entry.broken}")
                return kind, registry.load(entry, base)
    raise UsageError(
        f"{path} is not a plugin file.",
        "It must be a .py file, not called test_* or _*, with one class derived from Fusion, Loss "
        "or Control.",
    )


def check_file(
    path: str | Path, *, thorough: bool = False, progress: Progress = SILENT
) -> list[Check]:
    """Every check of the plugin in a file; see check_fusion, check_loss and check_control.

    A file that fails to import is one failed check. Raises UsageError for a file that is absent
    or no plugin.
    """
    name = Path(path).name
    try:
        kind, cls = load_file(path)
    except PluginError as error:
        return [Check("loads", name, "fail", str(error))]
    loads = Check("loads", name, "pass", f"{registry.KINDS[kind].lower()} {cls.__name__}")
    if kind == "fusions":
        return [loads, *check_fusion(cls, thorough=thorough, progress=progress)]
    check = check_loss if kind == "losses" else check_control
    return [loads, *check(cls, progress=progress)]
