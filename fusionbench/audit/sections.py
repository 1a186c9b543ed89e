"""An audit as a reader sees it: sections of one sentence and small tables, for any format."""

from __future__ import annotations

from dataclasses import dataclass

from fusionbench.audit.findings import (
    Audit,
    Confound,
    Gap,
    Gaps,
    Measure,
    PartOverlap,
    ProxyColumn,
    Scores,
    Shared,
    Told,
)
from fusionbench.audit.measures import ALPHA
from fusionbench.config.wording import percent, plural

NONE = "-"


@dataclass(frozen=True)
class Grid:
    """A table: the first column is text, the others are numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    title: str
    sentence: str
    grids: tuple[Grid, ...] = ()


def headline(audit: Audit) -> str:
    return f"{audit.dataset.name} / {audit.protocol.name}: {audit.verdict}"


def facts(audit: Audit) -> dict[str, str]:
    """What was looked at."""
    data, split = audit.dataset, audit.protocol
    counts = f"{data.rows:,} rows"
    if data.patients is not None:
        counts += f", {data.patients:,} patients"
    if data.lesions is not None:
        counts += f", {data.lesions:,} lesions"
    return {
        "data": f"{data.title}, {counts} ({data.fingerprint})",
        "photographs": photographs(audit),
        "split": f"{split.kind}, {plural(split.folds, 'fold')} ({split.split_hash})",
        "inputs": ", ".join(split.columns) or "none",
        "malignant": ", ".join(data.malignant) or "the card names none",
    }


def photographs(audit: Audit) -> str:
    """How many there are to look at."""
    data = audit.dataset
    if data.photographs == data.rows:
        return f"all {data.rows:,}"
    there = None if audit.confounds is None else audit.confounds.there
    part = ""
    if there is not None and _found(there.auc, there.bacc, _of(there.told)):
        told = "" if there.told is None else f" (best told: {_told(there.told)})"
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
    rows = [_overlap_row(part) for part in (*overlap.folds, *overlap.total)]
    header = ("fold", "rows", "patients", "lesions", "same photo", "near copy")
    notes = [
        "Evaluated rows whose patient, lesion or photograph the fold trains on. Near copy: a "
        f"256-bit perceptual hash differs in at most {overlap.near_bits} bits."
    ]
    for part in overlap.total:
        for name in ("identical", "near"):
            if examples := getattr(part, name).examples:
                notes.append(f"{_COPY[name]}, across the split: {', '.join(examples)}.")
    some = ", ".join(f"{c.a} = {c.b}{_odd(c.same_class)}" for c in overlap.copies[:5])
    within = (
        f"In the whole dataset {plural(overlap.identical_pairs, 'pair')} of identical photographs "
        f"and {plural(overlap.near_pairs, 'near-duplicate')}{': ' + some if some else ''}."
    )
    worst = overlap.total[0]
    keyed = [("patient", worst.patients), ("lesion", worst.lesions)]
    looked = [name for name, shared in keyed if shared is not None]
    what = f"{', '.join(looked)} or photograph" if looked else "photograph"
    said = f"No {what} is on both sides of the split."
    hit = worst.patients or worst.lesions
    if hit is not None and hit.rows:
        keys = "patients" if worst.patients is not None else "lesions"
        said = (
            f"{percent(hit.share)} of the evaluated rows are of {hit.keys:,} {keys} that the same "
            "fold trains on: a model can know them again."
        )
    elif worst.identical.rows + worst.near.rows:
        share = percent(worst.identical.share + worst.near.share)
        said = f"{share} of the evaluated photographs have a copy in training."
    if worst.patients is None:
        said += " The card names no patient, so nothing is known of patients."
    return Section(
        "Overlap between training and evaluation",
        said,
        (Grid(header, tuple(rows), (*notes, within)),),
    )


_COPY = {"identical": "Identical photographs", "near": "Near-duplicates"}


def _odd(same_class: bool) -> str:
    return "" if same_class else " (other class)"


def _overlap_row(part: PartOverlap) -> tuple[str, ...]:
    name = "all" if part.fold < 0 else str(part.fold)
    if part.part != "test":
        name += f" {part.part}"
    shared = (part.patients, part.lesions, part.identical, part.near)
    return (name, f"{part.rows:,}", *(_shared(s) for s in shared))


def _shared(shared: Shared | None) -> str:
    if shared is None:
        return NONE
    return f"{shared.rows:,} ({percent(shared.share)})" if shared.rows else "0"


def _missingness(audit: Audit) -> Section:
    found = audit.missingness
    in_blocks = {name for block in found.blocks for name in block.columns}
    rows = [
        _gap_row(f"block of {len(b.columns)}", b) for b in found.blocks
    ] + [_gap_row(g.columns[0], g) for g in found.not_recorded.columns
         if g.columns[0] not in in_blocks]  # fmt: skip
    if found.not_recorded.mask_bacc is not None or found.not_recorded.mask_auc is not None:
        mask = found.not_recorded
        rows.append(("all flags together", "", "", *_mask(mask)))
    header = ("nothing recorded", "rows", "malignant", "AUC", "BACC", "best told")
    notes = tuple(
        f"Block: {', '.join(b.columns)}; {b.rows:,} rows, by class: "
        + ", ".join(f"{name} {n}" for name, n in b.by_class.items() if n) + "."
        for b in found.blocks
    )  # fmt: skip
    notes += (
        "AUC: the flag, malignant against benign; best told: one class against the rest. BACC: "
        "balanced accuracy of the flag alone for "
        f"the classes, out of fold by patient; knowing nothing gives {percent(found.chance, 1)}. "
        "* more than chance and enough to matter, ** strong.",
    )
    grids = [Grid(header, tuple(rows), notes)] if rows else []
    marks = [_gap_row(g.columns[0], g) for g in found.unknown.columns]
    if marks:
        marks.append(("all marks together", "", "", *_mask(found.unknown)))
        header = (f"answered {', '.join(found.marks)}", *header[1:])
        grids.append(Grid(header, tuple(marks)))
    said = ["What was not recorded tells nothing of the class."]
    if not found.not_recorded.columns:
        said = ["Nothing is missing."]
    elif "shortcut: missingness" in audit.verdict:
        said = ["What was not recorded gives the class away: a model can win without any answer."]
    elif _found(*_measures(found.not_recorded.columns, found.blocks),
                found.not_recorded.mask_auc, found.not_recorded.mask_bacc,
                _of(found.not_recorded.mask_told)):  # fmt: skip
        said = ["What was not recorded tells something of the class, though little."]
    if found.unknown.columns:
        if "shortcut: unknown marks" in audit.verdict:
            said.append("So does answering “unknown”.")
        elif telling := [
            g.columns[0] for g in found.unknown.columns if _found(g.auc, g.bacc, _of(g.told))
        ]:
            said.append(f"“Unknown” tells something in {', '.join(telling)}.")
        else:
            said.append("“Unknown” tells nothing.")
    return Section("Missingness", " ".join(said), tuple(grids))


def _gap_row(name: str, gap: Gap) -> tuple[str, ...]:
    malignant = NONE if gap.malignant_rows is None else f"{gap.malignant_rows:,}"
    rows = f"{gap.rows:,} ({percent(gap.share)})"
    return (name, rows, malignant, _auc(gap.auc), _bacc(gap.bacc), _told(gap.told))


def _mask(gaps: Gaps) -> tuple[str, ...]:
    return (_auc(gaps.mask_auc), _bacc(gaps.mask_bacc), _told(gaps.mask_told))


def _proxies(audit: Audit) -> Section:
    found = audit.proxies
    header = ("column", "card", "AUC", "BACC", "information", "certain")
    rows = tuple(_proxy_row(c) for c in found.columns)
    said = (
        f"{', '.join(found.found)} nearly determine{'s' * (len(found.found) == 1)} the label."
        if found.found
        else "No column nearly determines the label."
    )
    notes = [f"{c.name}: {c.why}." for c in found.columns if c.proxy]
    if found.unlisted:
        said += f" The card has {', '.join(found.unlisted)} as an input."
    if found.unconfirmed:
        names = ", ".join(found.unconfirmed)
        said += f" The card warns of {names}, which counting alone does not show."
    notes.append(
        "Over the rows where the column was recorded, out of fold by patient. information: share "
        "of the class's entropy that it takes away. certain: rows whose value goes with one side "
        "only. A proxy: information of 50 %, or AUC of 0.97, or 20 % certain with an AUC of 0.80."
    )
    return Section("Proxies of the label", said, (Grid(header, rows, tuple(notes)),))


def _proxy_row(column: ProxyColumn) -> tuple[str, ...]:
    name = f"{column.name} (proxy)" if column.proxy else column.name
    known = max(column.information, 0.0)
    certain = percent(column.certain) if column.certain else "0"
    # An honest sign may be strong; only a proxy is marked here, at its name.
    auc = NONE if column.auc is None else f"{column.auc.value:.2f}"
    bacc = NONE if column.bacc is None else percent(column.bacc.value, 1)
    return (name, column.role, auc, bacc, percent(known, 1), certain)


def _leak_value(audit: Audit) -> Section:
    worth = audit.leak_value
    title = "What the leak is worth"
    if worth is None:
        return Section(title, "Metadata-only models were not fitted.")
    if not worth.twin:
        own = tuple((m.model, _score(m.here, "bacc"), _score(m.here, "acc")) for m in worth.models)
        grid = Grid(("model", "BACC", "ACC"), own)
        return Section(title, f"Metadata only. {worth.note}", (grid,))
    rows = tuple(
        (
            m.model,
            _score(m.here, "bacc"),
            _score(m.twin, "bacc"),
            _gap(m.bacc_gap, m.bacc_gap_std),
            _gap(m.acc_gap, m.acc_gap_std),
        )
        for m in worth.models
    )
    most = max(worth.models, key=lambda m: m.bacc_gap)
    said = (
        f"Without any photograph, {most.model} loses {100 * most.bacc_gap:.1f} points of "
        f"balanced accuracy when no patient is on both sides ({worth.twin})."
        if most.bacc_gap > 0
        else f"Metadata-only models gain nothing over {worth.twin}."
    )
    header = ("model", "BACC here", "BACC grouped", "gap", "gap in ACC")
    note = f"{worth.note} Percent; mean ± sample standard deviation over folds."
    return Section(title, said, (Grid(header, rows, (note,)),))


def _confounds(audit: Audit) -> Section:
    found, title = audit.confounds, "Confounds of the photographs"
    if found is None:
        return Section(title, "There is no photograph here to look at.")
    rows = tuple(_confound_row(c) for c in found.facts)
    telling = [
        c.fact
        for c in found.facts
        if _found(c.auc, c.bacc, _of(c.told)) and not c.fact.startswith("all")
    ]
    said = (
        f"The class shows in {', '.join(telling)}."
        if telling
        else "The class does not show in size, file, border, colour or sharpness."
    )
    if found.photographs < found.rows:
        said += f" Over {found.photographs:,} of {found.rows:,} photographs."
    note = (
        f"AUC, BACC and best told as above, chance {percent(found.chance, 1)}. Colour, sharpness "
        "and file size are partly the lesion's own and never count against the dataset."
    )
    return Section(
        title, said, (Grid(("known of the photograph", "AUC", "BACC", "best told"), rows, (note,)),)
    )


def _confound_row(confound: Confound) -> tuple[str, ...]:
    return (confound.fact, _auc(confound.auc), _bacc(confound.bacc), _told(confound.told))


def _classes(audit: Audit) -> Section:
    found = audit.classes
    names = tuple(audit.dataset.classes)
    rows = tuple((f"{f.fold} {f.part}", *(f"{f.counts[n]:,}" for n in names)) for f in found.folds)
    tested = [f for f in found.folds if f.part == "test"]
    rarest = min(tested, key=lambda f: f.rarest_rows)
    small = tuple(
        (s.metric, NONE if s.over_folds is None else _points(s.over_folds), _points(s.pooled))
        for s in found.smallest
    )
    first = found.smallest[0]
    reach = first.pooled if first.over_folds is None else first.over_folds
    said = (
        f"Fold {rarest.fold} tests {rarest.rarest_rows:,} of {rarest.rarest}, the fewest. Two "
        f"methods must differ by about {_points(reach)} points of {first.metric} to be told apart."
    )
    return Section(
        "Classes",
        said,
        (
            Grid(("rows", *names), rows),
            Grid(
                ("smallest difference, points", "over folds", "pooled"), small, (found.assumptions,)
            ),
        ),
    )


def _measures(*gaps: tuple[Gap, ...]) -> list[Measure | None]:
    return [m for some in gaps for gap in some for m in (gap.auc, gap.bacc, _of(gap.told))]


def _found(*measures: Measure | None) -> bool:
    return any(m is not None and m.found for m in measures)


def _of(told: Told | None) -> Measure | None:
    return None if told is None else told.auc


def _told(told: Told | None) -> str:
    return NONE if told is None else f"{told.class_name} {_auc(told.auc)}"


def _stars(measure: Measure) -> str:
    return "**" if measure.strong else "*" if measure.found else ""


def _auc(measure: Measure | None) -> str:
    return NONE if measure is None else f"{measure.value:.2f}{_stars(measure)}"


def _bacc(measure: Measure | None) -> str:
    return NONE if measure is None else f"{percent(measure.value, 1)}{_stars(measure)}"


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _score(scores: Scores, metric: str) -> str:
    mean, std = getattr(scores, f"{metric}_mean"), getattr(scores, f"{metric}_std")
    return _points(mean) if std is None else f"{_points(mean)} ± {_points(std)}"


def _gap(mean: float, std: float | None) -> str:
    return f"{100 * mean:+.1f}" + ("" if std is None else f" ± {_points(std)}")


def alpha_note() -> str:
    return f"Findings: p < {ALPHA} after Holm's correction within a section, errors over patients."
