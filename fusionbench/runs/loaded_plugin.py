"""A plugin of a run: its class, every setting with its value, and its identity. Without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fusionbench.config.identity import PluginIdentity, plain_json
from fusionbench.config.plugin_settings import plugin_params
from fusionbench.config.run_config import Param
from fusionbench.errors import FusionbenchError, PluginError, UsageError
from fusionbench.plugin import registry

T = TypeVar("T")


@dataclass(frozen=True)
class LoadedPlugin(Generic[T]):
    """A plugin whose code was run, with every setting resolved."""

    cls: type[T]
    params: dict[str, Any]
    identity: PluginIdentity

    def build(self, *args: Any) -> T:
        """An instance. Raises UsageError for settings that it refuses, PluginError for a crash."""
        with self.building():
            return self.cls(*args, **self.params)

    @contextmanager
    def building(self) -> Iterator[None]:
        """Errors of the plugin's own code, translated as `build` does."""
        what = f"{registry.KINDS[self.identity.kind].lower()} {self.identity.name}"
        try:
            yield
        except FusionbenchError:
            raise
        except ValueError as error:  # how a plugin says that a setting does not fit
            raise UsageError(f"The {what} refuses its settings: {error}.") from error
        except Exception as error:
            raise PluginError(
                f"The {what} cannot be built: {type(error).__name__}: {error}."
            ) from error


def load_plugin(
    entry: registry.Entry, base: type[T], settings: Mapping[str, Param]
) -> LoadedPlugin[T]:
    """Run the plugin's code and check `settings`. Raises PluginError, or UsageError for a setting
    that it does not have or a value of another type."""
    cls = registry.load(entry, base)
    params = plugin_params(cls, settings, f"{registry.KINDS[entry.kind].lower()} {entry.name}")
    identity = PluginIdentity(
        kind=entry.kind,
        name=entry.name,
        params=plain_json(params),
        source=registry.source_hash(entry),
    )
    return LoadedPlugin(cls, params, identity)
