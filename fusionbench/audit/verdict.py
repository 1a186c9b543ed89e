"""The verdict: what a reader of a leaderboard row must know of its data and split, in a few words.

    clean
    leaky: patients 54 %; shortcut: missingness

The rules, all of them:

leaky: patients P %    P % of the evaluated rows, over all folds, are of a patient that their fold
                       trains on. Any at all count.
leaky: lesions P %     the same for lesions, where more rows share their lesion than their patient.
leaky: images P %      rows with a copy of their photograph in training (identical, or a
                       near-duplicate: overlap.py) although their patient is not; a share of the
                       rows whose photographs are here.
shortcut: missingness  what was not recorded among the inputs, one column, a block or all together,
                       tells the class strongly (measures.py: an AUC of 0.70 for malignancy or one
                       class, or balanced accuracy a fifth of the way from chance to perfect).
shortcut: unknown marks    the same for answers that are marked unknown.
shortcut: <column>     an input that nearly determines the label (proxies.py), or that the card
                       forbids or calls a proxy.
shortcut: image <fact>     width, height, format or border of the photographs tells the class as
                       strongly as that. Never colour, sharpness and file size.

Shares are rounded to whole percents, below 1 % to a tenth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fusionbench.audit.findings import BothSides, Confounds, Gaps, Missingness, Overlap, Proxies
from fusionbench.config.wording import percent
from fusionbench.data.card import Column

CLEAN = "clean"


def verdict_text(
    columns: Sequence[Column],
    overlap: Overlap,
    missingness: Missingness,
    proxies: Proxies,
    confounds: Confounds | None,
) -> str:
    """The verdict on a split with these inputs. `missingness` is that of these columns."""
    parts = [*_leaks(overlap), *_shortcuts(columns, missingness, proxies, confounds)]
    return "; ".join(parts) or CLEAN


def _leaks(overlap: Overlap) -> Iterable[str]:
    # A protocol with a holdout has two evaluated parts; the worse one counts.
    def worst(shared: Iterable[BothSides | None]) -> float:
        return max((s.share for s in shared if s is not None), default=0.0)

    patients = worst(part.patients for part in overlap.total)
    lesions = worst(part.lesions for part in overlap.total)
    images = worst(part.images_of_others for part in overlap.total)
    if patients:
        yield f"leaky: patients {percent(patients)}"
    if lesions > patients:
        yield f"leaky: lesions {percent(lesions)}"
    if images:
        yield f"leaky: images {percent(images)}"


def _shortcuts(
    columns: Sequence[Column],
    missingness: Missingness,
    proxies: Proxies,
    confounds: Confounds | None,
) -> Iterable[str]:
    if _strong(missingness.not_recorded) or any(block.strong for block in missingness.blocks):
        yield "shortcut: missingness"
    if _strong(missingness.unknown):
        yield "shortcut: unknown marks"
    for column in columns:
        if column.name in proxies.found or column.role in ("forbidden", "proxy"):
            yield f"shortcut: {column.name}"
    for fact in confounds.facts if confounds is not None else ():
        if fact.strong and not fact.lesion_too and not fact.fact.startswith("all "):
            yield f"shortcut: image {fact.fact}"


def _strong(gaps: Gaps) -> bool:
    return any(signs.strong for signs in (gaps.mask, *gaps.columns) if signs is not None)
