"""The verdict: what a reader of a leaderboard row must know of its data and split, in a few words.

    clean
    leaky: patients 54 %; shortcut: missingness

The rules, all of them:

leaky: patients P %    P % of the evaluated rows, over all folds, are of a patient that their fold
                       trains on. Any at all count.
may be leaky: patients spelled twice P %
                       the same for patients (lesions, where the card names no patient) that may
                       stand in training under another spelling (spellings.py).
leaky: lesions P %     the same for lesions, where more rows share their lesion than their patient.
leaky: images P %      rows with a copy of their photograph in training (identical, a
                       near-duplicate: overlap.py, or mirrored, turned, cut or framed: altered.py)
                       although their patient is not; a share of the rows whose photographs are
                       here.
patients unknown       the card names no patient, so nothing is known of patients on both sides;
                       with a share of the rows, where only some have none.
shortcut: missingness  what was not recorded among the inputs, one column, a block or all together,
                       tells the class strongly (measures.py: an AUC of 0.70 for malignancy or one
                       class, or balanced accuracy a fifth of the way from chance to perfect).
shortcut: unknown marks    the same for answers that are marked unknown.
shortcut: <column>     an input that nearly determines the label (proxies.py), or that the card
                       forbids or calls a proxy.
shortcut: <column> with <column>   two inputs tell the class together, far beyond what they tell
                       apart (together.py).
shortcut: inputs together    all of them do, though no two.
shortcut: image <fact>     width, height, format, JPEG quality, camera, border, corners or a mark at
                       the edge of the photographs tells the class as strongly as that. Never
                       colour, sharpness and file size.
confound: <column>     a column of few values that is no input tells the class as strongly.

Shares are rounded to whole percents, below 1 % to a tenth.
"""

from __future__ import annotations

from collections.abc import Sequence

from fusionbench.audit.findings import (
    BothSides,
    Confounds,
    Missingness,
    Overlap,
    Proxies,
    Together,
)
from fusionbench.config.wording import percent
from fusionbench.data.card import Column

SHOWN_PAIRS = 3


def verdict_text(
    columns: Sequence[Column],
    overlap: Overlap,
    missingness: Missingness,
    proxies: Proxies,
    together: Together | None,
    confounds: Confounds | None,
) -> str:
    """The verdict on a split with these inputs. `missingness` is that of these columns."""

    # A protocol with a holdout has two evaluated parts; the worse one counts.
    def worst(shared: Sequence[BothSides | None]) -> float:
        return max((one.share for one in shared if one is not None), default=0.0)

    patients = worst([part.patients for part in overlap.total])
    lesions = worst([part.lesions for part in overlap.total])
    respelled = worst([part.respelled for part in overlap.total])
    images = worst([part.images_of_others for part in overlap.total])
    parts = [
        (f"leaky: patients {percent(patients)}", patients > 0),
        (f"may be leaky: patients spelled twice {percent(respelled)}", respelled > 0),
        (f"leaky: lesions {percent(lesions)}", lesions > patients),
        (f"leaky: images {percent(images)}", images > 0),
        ("patients unknown", overlap.unnamed == 1),
        (f"patients unknown: {percent(overlap.unnamed)} of the rows", 0 < overlap.unnamed < 1),
        ("shortcut: missingness", any(s.strong for s in missingness.not_recorded.signs)),
        ("shortcut: unknown marks", any(s.strong for s in missingness.unknown.signs)),
    ]
    for column in columns:
        named = column.name in proxies.found or column.role in ("forbidden", "proxy")
        parts.append((f"shortcut: {column.name}", named))
    if together is not None:
        pairs = [" with ".join(pair.columns) for pair in together.pairs if pair.strong]
        parts += [(f"shortcut: {pair}", True) for pair in pairs[:SHOWN_PAIRS]]
        parts.append(("shortcut: inputs together", together.forest.strong and not pairs))
    parts += [(f"confound: {name}", True) for name in proxies.confounds]
    facts = {fact.fact: fact for fact in (confounds.facts if confounds is not None else ())}
    # A border changes what lies along the edge.
    border = "border" in facts and facts["border"].strong
    for fact in facts.values():
        own = fact.strong and not fact.lesion_too and not fact.fact.startswith("all ")
        own &= not (border and fact.fact in ("corners", "mark at the edge"))
        parts.append((f"shortcut: image {fact.fact}", own))
    return "; ".join(text for text, holds in parts if holds) or "clean"
