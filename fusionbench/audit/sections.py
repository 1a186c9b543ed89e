"""An audit as a reader sees it: sections of one sentence and small tables, for any format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fusionbench.audit.findings import Audit, BothSides, EmptyCells, Gaps, Measure, Signs
from fusionbench.audit.measures import ALPHA
from fusionbench.config.wording import percent, plural

ALPHA_NOTE = (
    f"Findings: p < {ALPHA} after Holm's correction within a section, errors over patients."
)
NONE = "-"


@dataclass(frozen=True)
class Grid:
    """A table: the first column is text, the others are numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    title: str
    sentence: str
    grids: Sequence[Grid] = ()


def facts(audit: Audit) -> dict[str, str]:
    """What was looked at."""
    data, split = audit.dataset, audit.protocol
    counts = [plural(data.rows, "row")]
    for count, noun in ((data.patients, "patient"), (data.lesions, "lesion")):
        counts += [] if count is None else [plural(count, noun)]
    return {
        "data": f"{data.title}, {', '.join(counts)} ({data.fingerprint})",
        "photographs": _photographs(audit),
        "split": f"{split.kind}, {plural(split.folds, 'fold')} ({split.split_hash})",
        "inputs": ", ".join(split.columns) or "none",
        "malignant": ", ".join(data.malignant) or "the card names none",
    }


def _photographs(audit: Audit) -> str:
    """How many there are to look at."""
    data = audit.dataset
    if data.photographs == data.rows:
        return f"all {data.rows:,}"
    there = None if audit.confounds is None else audit.confounds.there
    part = ""
    if there is not None and there.telling:
        told = "" if there.told is None else f" (best told: {_cells(there)[2]})"
        part = f": not a random part, the class shows in which of them are here{told}"
    rest = "all that is said of photographs rests on these"
    return f"{data.photographs:,} of {data.rows:,}; {rest}{part}"


def sections(audit: Audit) -> list[Section]:
    """In the order of the JSON."""
    return [
        _overlap(audit),
        _missingness(audit),
        _proxies(audit),
        _leak_value(audit),
        _confounds(audit),
        _classes(audit),
    ]


def _overlap(audit: Audit) -> Section:
    overlap = audit.overlap
    rows = []
    for part in (*overlap.folds, *overlap.total):
        name = "all" if part.fold < 0 else str(part.fold)
        if part.part != "test":
            name += f" {part.part}"
        both = (part.patients, part.lesions, part.identical, part.near)
        rows.append((name, f"{part.rows:,}", *map(_shared, both)))
    notes = [
        "Evaluated rows whose patient, lesion or photograph the fold trains on. Near copy: a "
        f"256-bit perceptual hash differs in at most {overlap.near_bits} bits."
    ]
    for part in overlap.total:
        for name, copies in (
            ("Identical photographs", part.identical),
            ("Near-duplicates", part.near),
        ):
            if copies.examples:
                notes.append(f"{name}, across the split: {', '.join(copies.examples)}.")
    some = ", ".join(
        f"{c.a} = {c.b}{'' if c.same_class else ' (other class)'}" for c in overlap.copies[:5]
    )
    notes.append(
        f"In the whole dataset {plural(overlap.identical_pairs, 'pair')} of identical photographs "
        f"and {plural(overlap.near_pairs, 'near-duplicate')}{': ' + some if some else ''}."
    )
    worst = overlap.total[0]
    keyed = {"patient": worst.patients, "lesion": worst.lesions}
    names = [name for name, shared in keyed.items() if shared is not None]
    shared = next((shared for shared in keyed.values() if shared is not None), None)
    if shared is not None and shared.rows:
        sentence = (
            f"{percent(shared.share)} of the evaluated rows are of {plural(shared.keys, names[0])} "
            "that the same fold trains on: a model can know them again."
        )
    elif worst.identical.rows + worst.near.rows:
        share = percent(worst.identical.share + worst.near.share)
        sentence = f"{share} of the evaluated photographs have a copy in training."
    else:
        what = f"{', '.join(names)} or photograph" if names else "photograph"
        sentence = f"No {what} is on both sides of the split."
    if worst.patients is None:
        sentence += " The card names no patient, so nothing is known of patients."
    header = ("fold", "rows", "patients", "lesions", "same photo", "near copy")
    grid = Grid(header, rows, notes)
    return Section("Overlap between training and evaluation", sentence, (grid,))


def _shared(shared: BothSides | None) -> str:
    if shared is None:
        return NONE
    return f"{shared.rows:,} ({percent(shared.share)})" if shared.rows else "0"


def _missingness(audit: Audit) -> Section:
    found = audit.missingness
    in_blocks = {name for block in found.blocks for name in block.columns}
    alone = [gap for gap in found.not_recorded.columns if gap.columns[0] not in in_blocks]
    notes = [
        f"Block: {', '.join(b.columns)}; {plural(b.rows, 'row')}, by class: "
        + ", ".join(f"{name} {n}" for name, n in b.by_class.items() if n) + "."
        for b in found.blocks
    ]  # fmt: skip
    notes.append(
        "AUC: the flag, malignant against benign; best told: one class against the rest. BACC: "
        "balanced accuracy of the flag alone for "
        f"the classes, out of fold by patient; knowing nothing gives {percent(found.chance, 1)}. "
        "* more than chance and enough to matter, ** strong."
    )
    grids = [
        _gaps("nothing recorded", "all flags", [*found.blocks, *alone], found.not_recorded, notes),
        _gaps(
            f"answered {', '.join(found.marks)}", "all marks", found.unknown.columns, found.unknown
        ),
    ]
    sentence = "What was not recorded tells nothing of the class."
    if not found.not_recorded.columns:
        sentence = "Nothing is missing."
    elif "shortcut: missingness" in audit.verdict:
        sentence = "What was not recorded gives the class away: a model can win without any answer."
    elif _telling(found.not_recorded, found.blocks):
        sentence = "What was not recorded tells something of the class, though little."
    if found.unknown.columns:
        telling = [gap.columns[0] for gap in found.unknown.columns if gap.telling]
        if "shortcut: unknown marks" in audit.verdict:
            sentence += " So does answering “unknown”."
        elif telling:
            sentence += f" “Unknown” tells something in {', '.join(telling)}."
        else:
            sentence += " “Unknown” tells nothing."
    return Section("Missingness", sentence, [grid for grid in grids if grid.rows])


def _gaps(
    title: str, mask: str, gaps: Sequence[EmptyCells], every: Gaps, notes: Sequence[str] = ()
) -> Grid:
    rows = [
        (
            f"block of {len(gap.columns)}" if len(gap.columns) > 1 else gap.columns[0],
            f"{gap.rows:,} ({percent(gap.share)})",
            NONE if gap.malignant_rows is None else f"{gap.malignant_rows:,}",
            *_cells(gap),
        )
        for gap in gaps
    ]
    if every.mask is not None and every.mask.measures:
        rows.append((f"{mask} together", "", "", *_cells(every.mask)))
    header = (title, "rows", "malignant", "AUC", "BACC", "best told")
    return Grid(header, rows, notes)


def _telling(gaps: Gaps, blocks: Sequence[EmptyCells]) -> bool:
    return any(s.telling for s in (gaps.mask, *gaps.columns, *blocks) if s is not None)


def _proxies(audit: Audit) -> Section:
    found = audit.proxies
    rows = [
        (
            f"{column.name} (proxy)" if column.proxy else column.name,
            column.role,
            # An honest sign may be strong; only a proxy is marked here, at its name.
            *_cells(column, stars=False)[:2],
            percent(max(column.information, 0.0), 1),
            percent(column.certain),
        )
        for column in found.columns
    ]
    sentence = (
        f"{', '.join(found.found)} nearly determine{'s' * (len(found.found) == 1)} the label."
        if found.found
        else "No column nearly determines the label."
    )
    if found.unlisted:
        sentence += f" The card has {', '.join(found.unlisted)} as an input."
    if found.unconfirmed:
        names = ", ".join(found.unconfirmed)
        sentence += f" The card warns of {names}, which counting alone does not show."
    notes = [f"{c.name}: {c.why}." for c in found.columns if c.proxy]
    notes.append(
        "Over the rows where the column was recorded, out of fold by patient. information: share "
        "of the class's entropy that it takes away. certain: rows whose value goes with one side "
        "only. A proxy: information of 50 %, or AUC of 0.97, or 20 % certain with an AUC of 0.80."
    )
    header = ("column", "card", "AUC", "BACC", "information", "certain")
    grid = Grid(header, rows, notes)
    return Section("Proxies of the label", sentence, (grid,))


def _leak_value(audit: Audit) -> Section:
    worth = audit.leak_value
    title = "What the leak is worth"
    if worth is None:
        return Section(title, "Metadata-only models were not fitted.")
    if not worth.twin:
        own = [(m.model, _score(m.here.bacc), _score(m.here.acc)) for m in worth.models]
        grid = Grid(("model", "BACC", "ACC"), own)
        return Section(title, f"Metadata only. {worth.note}", (grid,))
    rows = tuple(
        (
            m.model,
            _score(m.here.bacc),
            _score(m.twin.bacc),
            _gain(m.here.bacc, m.twin.bacc),
            _gain(m.here.acc, m.twin.acc),
        )
        for m in worth.models
    )
    most = max(worth.models, key=lambda m: m.gap("bacc"))
    sentence = (
        f"Without any photograph, {most.model} loses {_points(most.gap('bacc'))} points of "
        f"balanced accuracy when no patient is on both sides ({worth.twin})."
        if most.gap("bacc") > 0
        else f"Metadata-only models gain nothing over {worth.twin}."
    )
    header = ("model", "BACC here", "BACC grouped", "gap", "gap in ACC")
    note = f"{worth.note} Percent; mean ± sample standard deviation over folds."
    return Section(title, sentence, (Grid(header, rows, (note,)),))


def _confounds(audit: Audit) -> Section:
    found, title = audit.confounds, "Confounds of the photographs"
    if found is None:
        return Section(title, "There is no photograph here to look at.")
    telling = [c.fact for c in found.facts if c.telling and not c.fact.startswith("all")]
    sentence = (
        f"The class shows in {', '.join(telling)}."
        if telling
        else "The class does not show in size, file, border, colour or sharpness."
    )
    if found.photographs < found.rows:
        sentence += f" Over {found.photographs:,} of {found.rows:,} photographs."
    note = (
        f"AUC, BACC and best told as above, chance {percent(found.chance, 1)}. Colour, sharpness "
        "and file size are partly the lesion's own and never count against the dataset."
    )
    rows = [(confound.fact, *_cells(confound)) for confound in found.facts]
    grid = Grid(("known of the photograph", "AUC", "BACC", "best told"), rows, (note,))
    return Section(title, sentence, (grid,))


def _classes(audit: Audit) -> Section:
    found = audit.classes
    names = tuple(audit.dataset.classes)
    rows = [(f"{f.fold} {f.part}", *(f"{f.counts[n]:,}" for n in names)) for f in found.folds]
    fewest, rarest, fold = min(
        (
            (min(f.counts.values()), min(f.counts, key=lambda n: f.counts[n]), f.fold)
            for f in found.folds
            if f.part == "test"
        ),
        key=lambda few: few[0],
    )
    small = tuple(
        (s.metric, NONE if s.over_folds is None else _points(s.over_folds), _points(s.pooled))
        for s in found.smallest
    )
    first = found.smallest[0]
    reach = first.pooled if first.over_folds is None else first.over_folds
    sentence = (
        f"Fold {fold} tests {fewest:,} of {rarest}, the fewest. Two methods must differ by about "
        f"{_points(reach)} points of {first.metric} to be told apart."
    )
    header = ("smallest difference, points", "over folds", "pooled")
    grids = (Grid(("rows", *names), rows), Grid(header, small, (found.assumptions,)))
    return Section("Classes", sentence, grids)


def _cells(signs: Signs, *, stars: bool = True) -> tuple[str, str, str]:
    """AUC, BACC and the class that is told best."""

    def cell(measure: Measure | None, number: str) -> str:
        if measure is None:
            return NONE
        return number + "*" * (measure.found + measure.strong) * stars

    auc, bacc, told = signs.auc, signs.bacc, signs.told
    return (
        cell(auc, f"{auc.value:.2f}" if auc else ""),
        cell(bacc, percent(bacc.value, 1) if bacc else ""),
        cell(told.auc, f"{told.class_name} {told.auc.value:.2f}") if told else NONE,
    )


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _score(folds: Sequence[float]) -> str:
    spread = f" ± {_points(float(np.std(folds, ddof=1)))}" if len(folds) > 1 else ""
    return _points(float(np.mean(folds))) + spread


def _gain(here: Sequence[float], twin: Sequence[float]) -> str:
    """The gap of the means, and the root of the sum of both variances over folds."""
    gap = f"{100 * (float(np.mean(here)) - float(np.mean(twin))):+.1f}"
    if min(len(here), len(twin)) < 2:
        return gap
    return f"{gap} ± {_points(float(np.hypot(np.std(here, ddof=1), np.std(twin, ddof=1))))}"
