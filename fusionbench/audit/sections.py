"""An audit for people: sections of one sentence and small tables, and all of it as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from fusionbench.audit.classes import ASSUMPTIONS
from fusionbench.audit.findings import Audit, BothSides, Gaps, Signs
from fusionbench.audit.measures import ALPHA
from fusionbench.config.wording import markdown, percent, plural

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


def to_markdown(audit: Audit, *, command: str) -> str:
    """The report; `command` says how it was made."""
    from tabulate import tabulate

    data = audit.dataset
    libraries = ", ".join(f"{name} {version}" for name, version in data.libraries.items())
    parts = [
        f"# Audit of {data.name} / {audit.protocol.name}",
        f"**{markdown(audit.verdict)}**",
        f"Made by `{command}`; generated, not to be edited. Audit version {data.audit_version}; "
        f"{libraries}.",
        "\n".join(f"* {name}: {markdown(value)}" for name, value in facts(audit).items()),
    ]
    for section in sections(audit):
        parts += [f"## {section.title}", markdown(section.sentence)]
        for grid in section.grids:
            cells = [[markdown(cell) for cell in row] for row in (grid.header, *grid.rows)]
            align = ["left", *["right"] * (len(grid.header) - 1)]
            parts += [
                tabulate(cells, "firstrow", "pipe", colalign=align, disable_numparse=True),
                *map(markdown, grid.notes),
            ]
    return "\n\n".join(parts) + "\n"


def facts(audit: Audit) -> dict[str, str]:
    """What was looked at."""
    data, split = audit.dataset, audit.protocol
    counts = [plural(data.rows, "row")]
    for count, noun in ((data.patients, "patient"), (data.lesions, "lesion")):
        counts += [] if count is None else [plural(count, noun)]
    photographs = f"{data.photographs:,} of {data.rows:,}"
    if data.photographs < data.rows:
        photographs += "; all that is said of photographs rests on these"
    there = None if audit.confounds is None else audit.confounds.there
    if there is not None and there.telling:
        photographs += ": not a random part, the class shows in which of them are here"
        photographs += f" (best told: {_cells(there)[2]})" if there.told else ""
    return {
        "data": f"{data.title}, {', '.join(counts)} ({data.fingerprint})",
        "photographs": photographs,
        "split": f"{split.kind}, {plural(split.folds, 'fold')} ({split.split_hash})",
        "inputs": ", ".join(split.columns) or "none",
        "malignant": ", ".join(data.malignant) or "the card names none",
        "findings": f"p < {ALPHA} after Holm's correction within a section, errors over patients",
    }


def sections(audit: Audit) -> list[Section]:
    """In the order of the JSON."""
    parts = (_overlap, _missingness, _proxies, _together, _leak_value, _confounds, _classes)
    return [part(audit) for part in parts]


def _overlap(audit: Audit) -> Section:
    overlap = audit.overlap
    worst = overlap.total[0]
    rows = []
    for part in (*overlap.folds, *overlap.total):
        name = "all" if part.fold < 0 else str(part.fold)
        both = (
            part.patients,
            part.respelled,
            part.lesions,
            part.identical,
            part.near,
            part.altered,
        )
        suffix = "" if part.part == "test" else f" {part.part}"
        rows.append((name + suffix, f"{part.rows:,}", *map(_shared, both)))
    notes = [
        "Evaluated rows whose patient, lesion or photograph the fold trains on. Near copy: a "
        f"256-bit perceptual hash differs in at most {overlap.near_bits} bits. Altered: mirrored, "
        "turned by quarter turns, cut or framed. Spelled twice: a patient (or lesion) that may be "
        "in training under another spelling."
    ]
    for part in overlap.total:
        copies = {
            "Patients that may be spelled twice": part.respelled,
            "Identical photographs": part.identical,
            "Near-duplicates": part.near,
            "Altered copies": part.altered,
        }
        notes += [
            f"{name}, across the split: {', '.join(shared.examples)}."
            for name, shared in copies.items()
            if shared is not None and shared.examples
        ]
    some = ", ".join(
        f"{c.a} = {c.b}"
        + (f" ({c.altered})" if c.altered else "")
        + ("" if c.same_class else " (other class)")
        for c in overlap.copies[:5]
    )
    notes.append(
        f"In the whole dataset {plural(overlap.identical_pairs, 'pair')} of identical photographs"
        f", {plural(overlap.near_pairs, 'near-duplicate')} and "
        f"{plural(overlap.altered_pairs, 'altered copy', 'altered copies')}"
        f"{': ' + some if some else ''}."
    )
    if overlap.spellings:
        several = plural(len(overlap.spellings), "patient")
        notes.append(f"{several} may be spelled twice: {', '.join(overlap.spellings[:5])}.")
    if overlap.views_alike:
        rows_alike = plural(len(overlap.views_alike), "row")
        some = ", ".join(overlap.views_alike[:10])
        notes.append(f"{rows_alike} show the same photograph in two views: {some}.")
    keyed = {"patient": worst.patients, "lesion": worst.lesions}
    known = {name: shared for name, shared in keyed.items() if shared is not None}
    name, shared = next(iter(known.items()), ("", None))
    if shared is not None and shared.rows:
        sentence = (
            f"{percent(shared.share)} of the evaluated rows are of {plural(shared.keys, name)} "
            "that the same fold trains on: a model can know them again."
        )
    elif copied := worst.identical.share + worst.near.share + worst.altered.share:
        sentence = f"{percent(copied)} of the evaluated photographs have a copy in training."
    else:
        what = f"{', '.join(known)} or photograph" if known else "photograph"
        sentence = f"No {what} is on both sides of the split."
    if worst.respelled is not None and worst.respelled.rows:
        sentence += (
            f" {percent(worst.respelled.share)} may be of patients that the fold trains on under "
            f"another spelling: {', '.join(worst.respelled.examples[:3])}."
        )
    if worst.patients is None:
        sentence += " The card names no patient, so nothing is known of patients."
    header = (
        "fold",
        "rows",
        "patients",
        "spelled twice",
        "lesions",
        "same photo",
        "near copy",
        "altered",
    )
    title = "Overlap between training and evaluation"
    return Section(title, sentence, (Grid(header, rows, notes),))


def _shared(shared: BothSides | None) -> str:
    if shared is None:
        return NONE
    return f"{shared.rows:,} ({percent(shared.share)})" if shared.rows else "0"


def _missingness(audit: Audit) -> Section:
    missing = audit.missingness
    notes = [
        f"Block: {', '.join(b.columns)}; {plural(b.rows, 'row')}, by class: "
        + ", ".join(f"{name} {n}" for name, n in b.by_class.items() if n) + "."
        for b in missing.not_recorded.blocks
    ]  # fmt: skip
    notes.append(
        "AUC: the flag, malignant against benign; best told: one class against the rest. BACC: "
        "balanced accuracy of the flag alone for "
        f"the classes, out of fold by patient; knowing nothing gives {percent(missing.chance, 1)}. "
        "* more than chance and enough to matter, ** strong."
    )
    marks = f"answered {', '.join(missing.marks)}"
    grids = (
        _gaps("nothing recorded", "all flags together", missing.not_recorded, notes),
        _gaps(marks, "all marks together", missing.unknown, ()),
    )
    if not missing.not_recorded.columns:
        sentence = "Nothing is missing."
    elif "shortcut: missingness" in audit.verdict:
        sentence = "What was not recorded gives the class away: a model can win without any answer."
    elif any(signs.telling for signs in missing.not_recorded.signs):
        sentence = "What was not recorded tells something of the class, though little."
    else:
        sentence = "What was not recorded tells nothing of the class."
    telling = [gap.columns[0] for gap in missing.unknown.columns if gap.telling]
    if "shortcut: unknown marks" in audit.verdict:
        sentence += " So does answering “unknown”."
    elif telling:
        sentence += f" “Unknown” tells something in {', '.join(telling)}."
    elif missing.unknown.columns:
        sentence += " “Unknown” tells nothing."
    return Section("Missingness", sentence, [grid for grid in grids if grid.rows])


def _gaps(title: str, together: str, gaps: Gaps, notes: Sequence[str]) -> Grid:
    in_blocks = {name for block in gaps.blocks for name in block.columns}
    alone = [gap for gap in gaps.columns if gap.columns[0] not in in_blocks]
    rows: list[tuple[str, ...]] = [
        (
            f"block of {len(gap.columns)}" if gap in gaps.blocks else gap.columns[0],
            f"{gap.rows:,} ({percent(gap.share)})",
            NONE if gap.malignant_rows is None else f"{gap.malignant_rows:,}",
            *_cells(gap),
        )
        for gap in (*gaps.blocks, *alone)
    ]
    if gaps.mask is not None and gaps.mask.measures:
        rows.append((together, "", "", *_cells(gaps.mask)))
    return Grid((title, "rows", "malignant", "AUC", "BACC", "best told"), rows, notes)


def _proxies(audit: Audit) -> Section:
    found = audit.proxies
    rows = [
        (
            f"{column.name} (proxy)" if column.proxy else column.name,
            column.role,
            # An honest sign may be strong; only a proxy is marked here, at its name.
            *(cell.rstrip("*") for cell in _cells(column)[:2]),
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


def _together(audit: Audit) -> Section:
    found, title = audit.together, "Inputs together"
    if found is None:
        return Section(title, "There are fewer than two inputs.")
    rows = []
    for signs in (*found.pairs, found.forest):
        auc, bacc, _ = _cells(signs)
        first = NONE if signs.auc_apart is None else f"{signs.auc_apart:.2f}"
        second = NONE if signs.bacc_apart is None else percent(signs.bacc_apart, 1)
        rows.append((" with ".join(signs.columns) or "all, by a forest", auc, first, bacc, second))
    strong = [" with ".join(pair.columns) for pair in found.pairs if pair.strong]
    if strong:
        sentence = f"Together, far beyond what each says, the class shows in {', '.join(strong)}."
    elif found.forest.strong:
        sentence = "A forest tells the class from all inputs far beyond what they say one by one."
    else:
        sentence = "Inputs together tell little that they do not say one by one."
    note = (
        f"{plural(found.looked_at, 'pair')} of inputs, and all of them by a random forest, out of "
        "fold by patient. apart: the better of one alone and all taken as independent. Strong: "
        "from what they tell apart (0) to perfect (1), 0.4 of the AUC's way or 0.2 of BACC's."
    )
    header = ("inputs", "AUC", "apart", "BACC", "apart ")
    return Section(title, sentence, (Grid(header, rows, (note,)),))


def _leak_value(audit: Audit) -> Section:
    worth = audit.leak_value
    title = "What the leak is worth"
    if worth is None:
        return Section(title, "Metadata-only models were not fitted.")
    rows = [
        (
            m.model,
            *map(_score, (m.here.bacc, m.here.acc, m.twin.bacc)),
            f"{100 * m.gap('bacc'):+.1f}",
            f"{100 * m.gap('acc'):+.1f}",
        )
        for m in worth.models
    ]
    header = ("model", "BACC", "ACC", "BACC grouped", "gap in BACC", "gap in ACC")
    width = len(header)
    most = max(worth.models, key=lambda m: m.gap("bacc"))
    if not worth.twin:
        apart = audit.dataset.patients is not None
        why = "The split keeps patients apart" if apart else "The card names no patient"
        sentence = f"Metadata only. {why}: there is no gap to measure."
        width = 3
    elif most.gap("bacc") > 0:
        sentence = (
            f"Without any photograph, {most.model} loses {_points(most.gap('bacc'))} points of "
            f"balanced accuracy when no patient is on both sides ({worth.twin}): what it gained "
            "from having met the patients in training."
        )
    else:
        sentence = f"Metadata-only models gain nothing over {worth.twin}."
    note = "Percent; mean ± sample standard deviation over folds."
    grid = Grid(header[:width], [row[:width] for row in rows], (note,))
    return Section(title, sentence, (grid,))


def _confounds(audit: Audit) -> Section:
    found, title = audit.confounds, "Confounds of the photographs"
    if found is None:
        return Section(title, "There is no photograph here to look at.")
    telling = [c.fact for c in found.facts if c.telling and not c.fact.startswith("all")]
    sentence = (
        f"The class shows in {', '.join(telling)}."
        if telling
        else "The class does not show in size, file, border, marks, colour or sharpness."
    )
    note = (
        f"AUC, BACC and best told as above, chance {percent(found.chance, 1)}. Colour, sharpness "
        "and file size are partly the lesion's own and never count against the dataset."
    )
    rows = [(confound.fact, *_cells(confound)) for confound in found.facts]
    grid = Grid(("known of the photograph", "AUC", "BACC", "best told"), rows, (note,))
    return Section(title, sentence, (grid,))


def _classes(audit: Audit) -> Section:
    classes = audit.classes
    names = tuple(audit.dataset.classes)
    rows = [(f"{f.fold} {f.part}", *(f"{f.counts[n]:,}" for n in names)) for f in classes.folds]
    tested = [
        (n, rarest, f.fold) for f in classes.folds if f.part == "test"
        for rarest, n in f.counts.items()
    ]  # fmt: skip
    fewest, rarest, fold = min(tested, key=lambda count: count[0])
    small = [
        (s.metric, NONE if s.over_folds is None else _points(s.over_folds), _points(s.pooled))
        for s in classes.smallest
    ]
    first = classes.smallest[0]
    reach = first.pooled if first.over_folds is None else first.over_folds
    sentence = (
        f"Fold {fold} tests {fewest:,} of {rarest}, the fewest. Two methods must differ by about "
        f"{_points(reach)} points of {first.metric} to be told apart."
    )
    header = ("smallest difference, points", "over folds", "pooled")
    grids = (Grid(("rows", *names), rows), Grid(header, small, (ASSUMPTIONS,)))
    return Section("Classes", sentence, grids)


def _cells(signs: Signs) -> tuple[str, str, str]:
    """AUC, BACC and the class that is told best."""
    auc, bacc, told = signs.auc, signs.bacc, signs.told
    return (
        f"{auc.value:.2f}{auc.stars}" if auc else NONE,
        f"{percent(bacc.value, 1)}{bacc.stars}" if bacc else NONE,
        f"{told.class_name} {told.value:.2f}{told.stars}" if told else NONE,
    )


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _score(folds: Sequence[float]) -> str:
    spread = f" ± {_points(stdev(folds))}" if len(folds) > 1 else ""
    return _points(fmean(folds)) + spread
