"""Checking a plugin by its file or name: which kind it is, and its suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    entry = find_plugin(Path(path))
    return entry.kind, registry.load(entry, BASES[entry.kind])


def find_plugin(named: str | Path, plugins: Sequence[Path] = ()) -> registry.Entry:
    """The plugin of a file, or of a name: `sgmc`, `loss:focal`. Raises UsageError where there is
    none, PluginError where two claim one name."""
    path = Path(named)
    if path.exists() or path.suffix or path.name != str(named):
        return _of_file(path, plugins)
    text = str(named)
    before, _, name = text.rpartition(":")
    kinds = {base.lower(): kind for kind, base in registry.KINDS.items()}
    if before and before not in kinds:
        raise UsageError(*registry.unknown_name("kind of plugin", before, kinds))
    entries = [
        entry
        for kind in ([kinds[before]] if before else kinds.values())
        for entry in registry.discover(kind, plugins).values()
    ]
    claims = [entry for entry in entries if entry.name == registry.key_of(name)]
    if not claims:
        what = f"file or {before or 'plugin'}"
        raise UsageError(*registry.unknown_name(what, name, [entry.name for entry in entries]))
    if len(claims) > 1:
        ways = " or ".join(f"{registry.KINDS[e.kind].lower()}:{e.name}" for e in claims)
        raise UsageError(f"Several plugins are called {name!r}.", f"Say which: {ways}.")
    return claims[0]


def _of_file(path: Path, plugins: Sequence[Path]) -> registry.Entry:
    for kind in BASES if path.exists() or path.is_symlink() else ():
        for entry in registry.discover(kind, [path, *plugins]).values():
            if entry.path == path.resolve():
                return entry
    raise UsageError(
        f"{path} is not a plugin file.",
        "It must be a .py file, not called test_* or _*, with one class derived from Fusion, Loss "
        "or Control.",
    )


def check_file(
    path: str | Path,
    *,
    plugins: Sequence[Path] = (),
    thorough: bool = False,
    progress: Progress = SILENT,
) -> list[Check]:
    """Every check of the plugin in a file, or of that name (`find_plugin`); see check_fusion,
    check_loss and check_control.

    A file that fails to import is one failed check. Raises UsageError for a file that is absent
    or no plugin, and for a name that is not known.
    """
    try:
        entry = find_plugin(path, plugins)
        kind = entry.kind
        cls: type[Any] = registry.load(entry, BASES[kind])
    except PluginError as error:
        return [Check("loads", Path(path).name, "fail", str(error))]
    loads = Check("loads", entry.name, "pass", f"{registry.KINDS[kind].lower()} {cls.__name__}")
    if kind == "fusions":
        return [loads, *check_fusion(cls, thorough=thorough, progress=progress)]
    check = check_loss if kind == "losses" else check_control
    return [loads, *check(cls, progress=progress)]
