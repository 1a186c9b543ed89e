"""fusionbench show"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusionbench.cli.options import json_option, store_option

if TYPE_CHECKING:
    from fusionbench.records import Measured, Record, Store


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
    from rich.table import Table

    from fusionbench.cli import terminal

    console = terminal.out()
    identity, result = record.identity, record.result
    console.print(f"[bold]{escape(record.run_id)}[/]")
    facts = {
        "method": f"{identity['fusion']} on {identity['backbone']}, loss {identity['loss']}",
        "data": f"{identity['dataset']} ({identity['data_fingerprint']})",
        "protocol": f"{identity['protocol']}, fold {identity['fold']}, seed {identity['seed']}",
        "weights": identity["weights"],
        "fusion settings": _pairs(identity["fusion_params"]),
        "loss settings": _pairs(identity["loss_params"]),
        "settings": _pairs(identity["settings"]),
        "device": f"{record.environment.get('device')}, {record.environment.get('precision')}",
        "versions": _pairs(record.environment.get("libraries", {})),
        "measured": _measured(record.measured),
    }
    if result is not None:
        facts["predictions"] = store.folder / "predictions" / f"{record.run_id}.csv"
        if store.weights_path(record.run_id).is_file():
            facts["trained weights"] = store.weights_path(record.run_id)
        facts["rows"] = f"{result.n_train} trained on, {result.n_test} tested"
        facts["epoch"] = f"{result.best_epoch} of {result.epochs_run}"
        facts["parameters"] = _pairs(result.parameters)
        facts["remarks"] = "; ".join(result.flags) or "none"
    console.print(terminal.facts(facts))
    if record.error is not None:
        terminal.print_error(f"{record.error.type}: {record.error.message}")
        console.print(escape(record.error.traceback), style="dim")
    if result is None:
        return
    for name, part in result.parts.items():
        console.print(f"\n[bold]{escape(name)}[/], {part.n} photographs")
        numbers = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        numbers.add_column(style="cyan")
        numbers.add_column(justify="right")
        for metric, value in part.metrics.items():
            numbers.add_row(escape(metric), "undefined" if value is None else f"{value:.4f}")
        console.print(numbers)
        confusion = Table(title="true \\ predicted", title_justify="left", title_style="dim",
                          box=None, pad_edge=False)  # fmt: skip
        confusion.add_column("")
        for label in result.classes:
            confusion.add_column(escape(label), justify="right")
        for label, row in zip(result.classes, part.confusion, strict=True):
            confusion.add_row(escape(label), *map(str, row))
        console.print(confusion)


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
