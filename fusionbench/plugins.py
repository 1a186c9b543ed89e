"""The built-in plugins, to derive from: `from fusionbench.plugins.fusions.sgmc import SGMC`."""

from fusionbench.plugin.imports import builtin_root

__path__ = [str(builtin_root() / "plugins")]
