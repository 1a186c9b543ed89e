"""A Report as a table for a terminal, as Markdown, as JSON data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fusionbench.bench.results import Line, Ratio, Report

# A table: its title, its column names and its rows.
Cells = tuple[str, list[str], list[list[str]]]

NOTES = (
    "bare: the timm model with a linear head; one batch, in place, normalised.",
    "vs: speed over that of another subject, the median over rounds (smallest to largest).",
    "data: feed, augmentation, normalisation. Each part is timed by itself; on a GPU they overlap.",
)
REFERENCE = (
    "reference: the method as papers' code runs it, fp32, eager, contiguous memory; SGMC builds "
    "both maps and its loss loops over the batch. It is not charged for its data."
)
FOLDS = (
    "first, further: seconds until a fold's first training step is done, counted from the start of "
    "the process and from the end of the fold before. images/s: of the second fold, evaluation, "
    "checkpoints and records included."
)
OPERATIONS = (
    "operations: what each takes by itself, in ms of a step, in a subject's quickest turn of "
    "several under the profiler, which slows it; those in which the columns differ most, then the "
    "sum of the others."
)
AT_ONCE = (
    "at once: folds at a time, each in a process of its own. seconds: of a whole run, from the "
    "start of its process to its last record."
)


def facts(report: Report) -> dict[str, str]:
    """What holds for every line."""
    machine = report.machine
    software = f"fusionbench {report.version}, torch {machine.torch}, timm {machine.timm}"
    losses = {line.name: line.loss for line in report.lines if line.kind == "method"}
    unsaid = [f"{name} under {loss}" for name, loss in losses.items() if ":" not in name]
    return {
        "Machine": f"{machine.device}: {machine.name}, {machine.threads} "
        f"{'thread' if machine.threads == 1 else 'threads'}",
        "Software": software + (f", CUDA {machine.cuda}" if machine.cuda else ""),
        "Setting": f"{report.backbone}, {report.image_size} px, batch {report.batch_size}, "
        f"augmentation {report.augment}, {report.optimizer}, {report.metadata} metadata features, "
        f"{report.classes} classes",
        **({"Losses": ", ".join(unsaid)} if unsaid else {}),
        "Measured": f"{report.date}, {report.rounds} rounds of {report.steps} steps",
    }


def tables(report: Report) -> list[Cells]:
    """Speed, where a step's time goes, and folds where they were measured."""
    bases = list(dict.fromkeys(base for line in report.lines for base in line.ratios))
    # One column for all references: each method has its own.
    references = {line.name for line in report.lines if line.kind == "reference"}
    shared = [base for base in bases if base not in references]
    names = ["", "images/s", "ms/step", *(f"vs {base}" for base in shared)]
    names += ["vs reference"] * bool(references)
    rows = []
    for line in report.lines:
        row = [line.name, _number(line.images_per_s), _number(line.ms_per_step)]
        row += [_ratio(line.ratios.get(base)) for base in shared]
        if references:
            own = [r for base, r in line.ratios.items() if base in references]
            row.append(_ratio(own[0] if own else None))
        rows.append(row)
    found: list[Cells] = [("Training", names, rows), _split(report.lines)]
    if report.operations:
        found.append(_operations(report))
    if report.folds:
        found.append(_folds(report))
    if report.at_once:
        found.append(_at_once(report))
    return found


def notes(report: Report) -> list[str]:
    """What the columns mean, as far as they are there."""
    has_reference = any(line.kind == "reference" for line in report.lines)
    asked = {
        REFERENCE: has_reference,
        OPERATIONS: report.operations,
        FOLDS: report.folds,
        AT_ONCE: report.at_once,
    }
    return [*NOTES, *(note for note, there in asked.items() if there)]


def terminal(report: Report) -> RenderableType:
    """For rich."""
    parts: list[RenderableType] = [Text(f"{k}: {v}", style="dim") for k, v in facts(report).items()]
    for title, names, rows in tables(report):
        table = Table(
            title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1)
        )
        for name, text in zip(names, _is_text(names), strict=True):
            table.add_column(name, justify="left" if text else "right", no_wrap=not text)
        for row in rows:
            # A range below its ratio, so that all of it fits on 80 columns.
            table.add_row(*(Text(cell.replace(" (", "\n(")) for cell in row))
        parts.append(table)
    parts += [Text(note, style="dim") for note in notes(report)]
    return Group(*parts)


def markdown(report: Report, command: str = "fusionbench bench") -> str:
    """A generated file, which says in its first line which `command` made it."""
    lines = [f"<!-- Generated by `{command.replace('--', '&#45;&#45;')}`; do not edit. -->", ""]
    lines += [f"- {name}: {_escaped(text)}" for name, text in facts(report).items()]
    for title, names, rows in tables(report):
        rule = ["---" if text else "---:" for text in _is_text(names)]
        lines += ["", f"### {title}", "", _row(map(_escaped, names)), _row(rule)]
        lines += [_row(map(_escaped, row)) for row in rows]
    lines += ["", *(f"{_escaped(note)}\n" for note in notes(report))]
    return "\n".join(lines).rstrip() + "\n"


def data(report: Report) -> dict[str, Any]:
    """For JSON: the dataclasses as they are."""
    return asdict(report)


def _split(lines: Sequence[Line]) -> Cells:
    names = ["", "data", "forward", "backward", "optimizer", "precision", "path"]
    has_memory = any(line.peak_memory is not None for line in lines)
    names += ["peak MB"] * has_memory
    rows = []
    for line in lines:
        part = line.split
        ms = (part.data, part.forward, part.backward, part.optimizer)
        row = [line.name, *map(_number, ms), line.precision, line.path]
        if has_memory:
            row.append("" if line.peak_memory is None else f"{line.peak_memory / 1e6:,.0f}")
        rows.append(row)
    return "A step, in ms", names, rows


def _operations(report: Report) -> Cells:
    subjects = list(report.operations[0].ms)
    rows = [
        [_shortened(one.name), *(_number(one.ms[subject]) for subject in subjects)]
        for one in report.operations
    ]
    sums = [sum(one.ms[subject] for one in report.operations) for subject in subjects]
    return "Operations, in ms", ["", *subjects], [*rows, ["together", *map(_number, sums)]]


def _at_once(report: Report) -> Cells:
    names = ["", "at once", "folds", "epochs", "seconds", "images/s", "vs first"]
    rows = [
        [
            one.name,
            *(str(one.at_once), str(one.folds), str(one.epochs), _number(one.seconds)),
            *(_number(one.images_per_s), f"{one.of_first:.2f}"),
        ]
        for one in report.at_once
    ]
    return "Folds at once", names, rows


def _folds(report: Report) -> Cells:
    names = ["", "epochs", "images", "first, s", "further, s", "images/s", "vs bare"]
    rows = [
        [
            fold.name,
            str(fold.epochs),
            str(fold.train_images),
            f"{fold.first:.1f}",
            f"{fold.further:.2f}",
            _number(fold.images_per_s),
            "" if fold.of_bare is None else f"{fold.of_bare:.3f}",
        ]
        for fold in report.folds
    ]
    return "Whole folds", names, rows


def _is_text(names: Sequence[str]) -> list[bool]:
    return [name in ("", "precision", "path") for name in names]


def _number(value: float) -> str:
    """Three digits or more."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _shortened(name: str, most: int = 60) -> str:
    """A GPU's kernels have names of hundreds of letters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    digits = 3 if ratio.median < 2 else 1
    return f"{ratio.median:.{digits}f} ({ratio.low:.{digits}f}-{ratio.high:.{digits}f})"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
