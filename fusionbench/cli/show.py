"""fusionbench show"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.filesize import decimal

from fusionbench.cli.options import json_option, store_option
from fusionbench.config.identity import leaves
from fusionbench.config.wording import duration

if TYPE_CHECKING:
    from rich.table import Table

    from fusionbench.config.identity import MethodIdentity
    from fusionbench.leaderboard.block import Block, PartStats, Row
    from fusionbench.records import Level, Measured, PartResult, Record, Store


@click.command("show")
@click.argument("run", default="")
@store_option
@json_option
def show_command(run: str, store: Path, as_json: bool) -> None:
    """Show a row or one record; without RUN, which records there are (as `store list`).

    RUN is a run id, or any part of one that no other has: one fold, finished or failed. A method
    (sgmc), a method on a backbone (sgmc@resnet50) or a key of `compare` is a row: mean ± standard
    deviation over its runs, for each class too, the confusion matrix of all, and a line a fold.
    """
    from fusionbench.cli import store_output, terminal
    from fusionbench.cli.reading import existing

    found = existing(store)
    if not run:
        lines = store_output.lines_of(found)
        terminal.print_json(lines) if as_json else store_output.print_runs(lines)
        return
    if (row := _row(found, run)) is not None:
        _print_row(*row, found, as_json)
        return
    record = found.read(found.find(run))
    if as_json:
        terminal.print_json(json.loads(record.to_json()))
    else:
        _print(record, found)


def _row(store: Store, text: str) -> tuple[Block, Row] | None:
    """The row that is meant; None where the text is part of just one run id, or of no row."""
    from fusionbench.cli.reading import Reading
    from fusionbench.leaderboard.select import select_row

    names = {p.stem for kind in ("records", "failed") for p in store.files(kind)}
    if text in names or sum(text in name for name in names) == 1:
        return None
    blocks = Reading(store.folder).blocks()
    if not any(text == row.key or text in row.name for block in blocks for row in block.rows):
        return None
    return select_row(blocks, text)


def _print_row(block: Block, row: Row, store: Store, as_json: bool) -> None:
    from fusionbench.cli import terminal
    from fusionbench.metrics.names import METRICS, PER_CLASS

    records = [store.read(run_id) for run_id in row.run_ids]
    results = [(record, result) for record in records if (result := record.result) is not None]
    classes = results[0][1].classes
    matrices = {
        part: [
            [sum(cells) for cells in zip(*lines, strict=True)]
            for lines in zip(*(r.parts[part].confusion for _, r in results), strict=True)
        ]
        for part in row.parts
    }
    if as_json:
        data: dict[str, Any] = {"key": row.key, "name": row.name, "dataset": block.dataset}
        data |= {"protocol": block.protocol, "runs_expected": row.runs_expected, "classes": classes}
        parts = {
            name: {"n": part.n, "confusion": matrices[name], "metrics": {
                metric: vars(part.metrics[metric]) for metric in part.metrics}}
            for name, part in row.parts.items()
        }  # fmt: skip
        folds = [{"run_id": r.run_id, "fold": r.identity.fold, "seed": r.identity.seed,
                  "metrics": result.metrics} for r, result in results]  # fmt: skip
        terminal.print_json(data | {"parts": parts, "runs": folds})
        return
    console = terminal.out()
    identity = results[0][0].identity
    console.print(terminal.facts({
        "row": f"{row.name} ({row.key})",
        "method": _method(identity.method),
        "data": f"{block.place} ({block.data_fingerprint})",
        "fusion settings": _pairs(identity.method.fusion.params),
        "settings": _pairs(identity.settings),
        "runs": f"{row.runs_done} of {row.runs_expected}, mean ± standard deviation over them",
        "audit": row.verdict or "not audited",
        "remarks": "; ".join(row.remarks) or "none",
    }))  # fmt: skip
    for name, part in row.parts.items():

        def mean(metric: str, digits: int = 4, part: PartStats = part) -> str:
            stat = part.metrics.get(metric)
            if stat is None:
                return "-"
            spread = "" if stat.std is None else f" ± {stat.std:.{digits}f}"
            fewer = f" (n={stat.n})" if stat.n < row.runs_done else ""
            return f"{stat.mean:.{digits}f}{spread}{fewer}"

        families = [f for f in PER_CLASS if any(f"{f}{label}" in part.metrics for label in classes)]
        families = [f for f in families if not f.startswith("sens")]
        headings = ["n", *(f.rstrip("/") for f in families)]
        console.print()
        names = [metric for metric in part.metrics if "/" not in metric]
        title = f"{name}, {part.n:,} photographs"
        console.print(terminal.grid(["", ""], ([m, mean(m)] for m in names), title=title,
                                    style="cyan"))  # fmt: skip
        matrix = matrices[name]
        console.print(terminal.grid(
            ["", *headings],
            ([label, sum(counts), *(mean(f"{f}{label}", 3) for f in families)]
             for label, counts in zip(classes, matrix, strict=True)),
            right=headings, title="by class", style="cyan",
        ))  # fmt: skip
        console.print(terminal.grid(
            ["", *classes],
            ([label, *line] for label, line in zip(classes, matrix, strict=True)),
            right=classes, title=f"true \\ predicted, sum over {len(results)} runs", style="cyan",
        ))  # fmt: skip
    shown = ("acc", "precision_weighted", "bacc", "f1_weighted", "auc_ovr_macro")
    titles = [METRICS[m].title for m in shown]
    console.print(terminal.grid(
        ["fold", "seed", *titles, "run"],
        ([r.identity.fold, r.identity.seed,
          *("-" if (v := result.metrics.get(m)) is None else f"{v:.3f}" for m in shown),
          r.run_id.rpartition("_")[2]]
         for r, result in results),
        right=["seed", *titles], title="test, fold by fold",
    ))  # fmt: skip


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
        "settings": _pairs(identity.settings),
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
        if store.path("weights", record.run_id).is_file():
            facts["trained weights"] = store.path("weights", record.run_id)
        facts["rows"] = f"{result.n_train} trained on, {result.n_test} tested"
        if result.best_epoch is not None:
            facts["epoch"] = f"{result.best_epoch} of {result.epochs_run}"
        facts["parameters"] = _pairs(result.parameters)
        facts["audit"] = result.verdict or "not audited"
        facts["contract"] = result.contract
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
        for table in _tables(part, result.classes):
            console.print(table)


def _method(method: MethodIdentity) -> str:
    if not method.uses_images:
        return f"{method.fusion.name}, a control: no photograph"
    return f"{method.fusion.name} on {method.backbone}, loss {method.loss}"


def _tables(part: PartResult, classes: Sequence[str]) -> Iterator[Table]:
    """Metrics of all classes together; for each level a line a class; the confusion matrix."""
    from fusionbench.cli.terminal import grid
    from fusionbench.metrics.names import PER_CLASS

    levels: dict[str, Level] = {"photographs": part}
    if part.lesions is not None:
        levels["lesions"] = part.lesions
    names = [name for name in part.metrics if "/" not in name]
    yield grid(
        ["", *(levels if len(levels) > 1 else [""])],
        ([name, *(_number(level, name) for level in levels.values())] for name in names),
        right=["", *levels],
        style="cyan",
    )
    for title, level in levels.items():
        families = [f for f in PER_CLASS if any(f"{f}{name}" in level.metrics for name in classes)]
        headings = ["n", *(f.rstrip("/").replace("sens_at_spec", "sens@") for f in families)]
        yield grid(
            ["", *headings],
            (
                [name, sum(counts), *(_number(level, f"{f}{name}", digits=3) for f in families)]
                for name, counts in zip(classes, level.confusion, strict=False)
            ),
            right=headings,
            title=f"by class, {title}",
            style="cyan",
        )
    yield grid(
        ["", *classes],
        ([name, *row] for name, row in zip(classes, part.confusion, strict=True)),
        right=classes,
        title="true \\ predicted, photographs",
        style="cyan",
    )


def _number(level: Level, metric: str, digits: int = 4) -> str:
    if metric not in level.metrics:
        return ""
    value = level.metrics[metric]
    return "-" if value is None else f"{value:.{digits}f}"


def _measured(measured: Measured) -> str:
    parts = [f"{name} {duration(seconds)}" for name, seconds in measured.durations.items()]
    if measured.images_per_s is not None:
        parts.append(f"{measured.images_per_s:,.0f} images/s")
    if measured.peak_memory_bytes is not None:
        parts.append(f"peak memory {decimal(measured.peak_memory_bytes)}")
    return ", ".join([*parts, f"started {measured.started}"] if measured.started else parts)


def _pairs(values: Mapping[str, object]) -> str:
    """`ce.class_weights=none, columns=[age, region]`"""
    texts = {
        name: f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else value
        for name, value in leaves(values, lists=False)
    }
    return ", ".join(f"{name}={text}" for name, text in texts.items())
