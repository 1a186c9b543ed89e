"""A table made of lists, as the command line gives them: every method on every backbone under
every loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fusionbench.config.problems import problems_of
from fusionbench.errors import UsageError
from fusionbench.plugin import registry
from fusionbench.tables import DeclaredTable, TableRow


def grid(
    fusions: Sequence[str],
    backbones: Sequence[str],
    losses: Sequence[str] = (),
    *,
    dataset: str,
    protocol: str = "",
    seeds: Sequence[int] = (0,),
    folds: Sequence[int] = (),
    settings: Mapping[str, Any] | None = None,
    plugins: Sequence[str | Path] = (),
) -> DeclaredTable:
    """A row per method, backbone and loss, method by method; a control is one row, for it has
    neither. `losses` (): each method's own, for which its plugin is loaded. `settings` are
    RunConfig fields of all rows; of its `params`, `fusion.NAME` goes to the methods that have NAME.

    Raises UsageError for an unknown method, a parameter that no row takes, or a value that a table
    cannot hold.
    """
    settings = dict(settings or {})
    params: dict[str, str] = settings.pop("params", {})
    taken: set[str] = set()
    rows: list[TableRow] = []
    for name in dict.fromkeys(registry.key_of(fusion) for fusion in fusions):
        entry = registry.find_method(name, plugins)
        control = not entry.uses_images
        given = {k: v for k, v in params.items() if _takes(entry, k, control)}
        taken |= {*given}
        common: dict[str, Any] = {"fusion": name} | ({"params": given} if given else {})
        if control:
            rows.append(TableRow(label=name, **common))
            continue
        own = list(dict.fromkeys(losses)) or [_own_loss(entry)]
        for backbone, loss in product(dict.fromkeys(backbones), own):
            label = [name, *([backbone] if len(set(backbones)) > 1 else [])]
            label += [loss] if len(own) > 1 else []
            row = common | {"backbone": backbone, "loss": loss}
            rows.append(TableRow(label=", ".join(label), **row))
    if strange := [key for key in params if key not in taken]:
        raise UsageError(
            f"--set {strange[0]}={params[strange[0]]}: no method of the grid takes it.",
            "`fusionbench list fusions` and `list controls` show their settings.",
        )
    try:
        table = DeclaredTable(
            title="Grid",
            dataset=dataset,
            protocol=protocol,
            seeds=tuple(dict.fromkeys(seeds)),
            folds=tuple(dict.fromkeys(folds)),
            settings=settings,
            rows=tuple(rows),
        )
    except ValidationError as error:
        where, text = problems_of(error)[0]
        raise UsageError(f"The grid's {where}: {text}.") from None
    return table.model_copy(update={"path": Path("grid.toml")})


def _takes(entry: registry.Entry, key: str, control: bool) -> bool:
    owner, _, name = key.partition(".")
    if owner != "fusion":
        return not control
    # What an installed package's plugin takes is not known from source text: it says so itself.
    return entry.entry_point is not None or name in {known for known, _ in entry.parameters}


def _own_loss(entry: registry.Entry) -> str:
    from fusionbench.plugin.fusion import Fusion

    return registry.load(entry, Fusion).default_loss
