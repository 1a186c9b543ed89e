"""fusionbench show"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusionbench.cli.options import json_option, store_option

if TYPE_CHECKING:
    from rich.table import Table

    from fusionbench.config.identity import MethodIdentity
    from fusionbench.records import Level, Measured, PartResult, Record, Store


@click.command("show")
@click.argument("run", default="")
@store_option
@json_option
def show_command(run: str, store: Path, as_json: bool) -> None:
    """Show one record, finished or failed; without RUN, which ones there are.

    RUN is a run id, or any part of one that no other has.
    """
    from fusionbench.cli import terminal
    from fusionbench.records import Store

    found = Store(store)
    if not run:
        _print_names(found, as_json)
        return
    record = found.read(found.find(run))
    if as_json:
        terminal.print_json(record.model_dump(mode="json"))
    else:
        _print(record, found)


def _print_names(store: Store, as_json: bool) -> None:
    """One run a line, for grep."""
    from fusionbench.cli import terminal

    done, failed = [r.run_id for r in store.records()], store.failures()
    if as_json:
        terminal.print_json({"finished": done, "failed": failed})
        return
    for name in done:
        click.echo(name)
    for name in failed:
        click.echo(f"{name}  failed")


def _print(record: Record, store: Store) -> None:
    from rich.markup import escape

    from fusionbench.cli import terminal

    console = terminal.out()
    identity, result = record.identity, record.result
    console.print(f"[bold]{escape(record.run_id)}[/]")
    facts: dict[str, object] = {
        "method": _method(identity.method),
        "data": f"{identity.data.dataset} ({identity.data.fingerprint})",
        "protocol": f"{identity.data.protocol}, fold {identity.fold}, seed {identity.seed}",
        "weights": identity.method.weights or "",
        "fusion settings": _pairs(identity.method.fusion.params),
        "loss settings": _pairs({loss.name: loss.params for loss in identity.method.losses}),
        "settings": _pairs(identity.settings()),
        "device": ", ".join(
            str(record.environment[key])
            for key in ("device", "precision")
            if key in record.environment
        ),
        "versions": _pairs(record.environment.get("libraries", {})),
        "measured": _measured(record.measured),
    }
    if result is not None:
        facts["predictions"] = store.folder / "predictions" / f"{record.run_id}.csv"
        if store.weights_path(record.run_id).is_file():
            facts["trained weights"] = store.weights_path(record.run_id)
        facts["rows"] = f"{result.n_train} trained on, {result.n_test} tested"
        if result.best_epoch is not None:
            facts["epoch"] = f"{result.best_epoch} of {result.epochs_run}"
        facts["parameters"] = _pairs(result.parameters)
        facts["audit"] = result.verdict or "not audited"
        facts["remarks"] = "; ".join(result.flags) or "none"
        if result.temperature is not None:
            facts["temperature"] = f"{result.temperature:.4f}, fitted on inner validation rows"
    console.print(terminal.facts(facts))
    if record.error is not None:
        terminal.print_error(f"{record.error.type}: {record.error.message}")
        console.print(escape(record.error.traceback), style="dim")
    if result is None:
        return
    for name, part in result.parts.items():
        counted = f"{part.n:,} photographs"
        if part.lesions is not None:
            counted += f", {part.lesions.n:,} lesions (probabilities averaged over photographs)"
        console.print(f"\n[bold]{escape(name)}[/], {counted}")
        console.print(_overall(part))
        levels: dict[str, Level] = {"photographs": part}
        if part.lesions is not None:
            levels["lesions"] = part.lesions
        for title, level in levels.items():
            console.print(_by_class(title, level, result.classes))
        console.print(_confusion(part, result.classes))


def _method(method: MethodIdentity) -> str:
    if not method.uses_images:
        return f"{method.fusion.name}, a control: no photograph"
    return f"{method.fusion.name} on {method.backbone}, loss {method.loss}"


def _overall(part: PartResult) -> Table:
    """The metrics that are of no single class, by photograph and by lesion."""
    from rich.markup import escape

    levels: list[Level] = [part] if part.lesions is None else [part, part.lesions]
    table = _plain_table(header=len(levels) > 1)
    table.add_column("", style="cyan")
    for title, _ in zip(("photographs", "lesions"), levels, strict=False):
        table.add_column(title, justify="right")
    for metric in part.metrics:
        if "/" not in metric:
            table.add_row(escape(metric), *(_number(level, metric) for level in levels))
    return table


def _by_class(title: str, level: Level, classes: Sequence[str]) -> Table:
    """One line a class: how many there are, and what the families of metrics say of it."""
    from rich.markup import escape

    from fusionbench.metrics.names import PER_CLASS

    families = [f for f in PER_CLASS if any(f"{f}{label}" in level.metrics for label in classes)]
    table = _plain_table(title=f"by class, {title}")
    table.add_column("", style="cyan")
    table.add_column("n", justify="right")
    for family in families:
        heading = family.rstrip("/").replace("sens_at_spec", "sens@")
        table.add_column(escape(heading), justify="right")
    for label, counts in zip(classes, level.confusion, strict=False):
        numbers = (_number(level, f"{family}{label}", digits=3) for family in families)
        table.add_row(escape(label), str(sum(counts)), *numbers)
    return table


def _confusion(part: PartResult, classes: Sequence[str]) -> Table:
    from rich.markup import escape

    table = _plain_table(title="true \\ predicted, photographs")
    table.add_column("", style="cyan")
    for label in classes:
        table.add_column(escape(label), justify="right")
    for label, row in zip(classes, part.confusion, strict=True):
        table.add_row(escape(label), *map(str, row))
    return table


def _plain_table(title: str | None = None, *, header: bool = True) -> Table:
    from rich.table import Table

    return Table(
        title=title,
        title_justify="left",
        title_style="dim",
        box=None,
        show_header=header,
        header_style="",
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )


def _number(level: Level, metric: str, digits: int = 4) -> str:
    if metric not in level.metrics:
        return ""
    value = level.metrics[metric]
    return "-" if value is None else f"{value:.{digits}f}"


def _measured(measured: Measured) -> str:
    from fusionbench.cli.progress import duration

    parts = [f"{name} {duration(seconds)}" for name, seconds in measured.durations.items()]
    if measured.images_per_s is not None:
        parts.append(f"{measured.images_per_s:,.0f} images/s")
    if measured.peak_memory_bytes is not None:
        parts.append(f"peak memory {measured.peak_memory_bytes / 1e6:,.0f} MB")
    return ", ".join([*parts, f"started {measured.started}"] if measured.started else parts)


def _pairs(values: object) -> str:
    if isinstance(values, list | tuple):
        return "[" + ", ".join(map(str, values)) + "]"
    if not isinstance(values, dict):
        return str(values)
    return ", ".join(
        f"{k}={{{_pairs(v)}}}" if isinstance(v, dict) else f"{k}={_pairs(v)}"
        for k, v in values.items()
    )
