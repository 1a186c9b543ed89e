"""What is on both sides of a split: patients, lesions, copies of a photograph.

Near-duplicates are told by a 256-bit perceptual hash (imagehash.phash on a 64 x 64 picture; C.
Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010,
https://www.phash.org/docs/pubs/thesis_zauner.pdf). NEAR_BITS was chosen on 1,098 photographs of
PAD-UFES-20 and the drawn ones of `synthetic`. Copies that were re-encoded, halved, enlarged, or
made lighter or darker by a tenth differ in 12 bits or fewer in 98 of 100 cases; those that had all
of it at once in 24 bits or fewer in 95 to 99 of 100. Two photographs of one lesion differ in 28
bits and more (half of them in more than 110), those of different patients in 46 and more. A copy
that was cut, framed, mirrored or turned is found by fusionbench.audit.altered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, product

import numpy as np
import pandas as pd

from fusionbench.audit.altered import altered_copies
from fusionbench.audit.findings import BothSides, Copies, Overlap, PartOverlap
from fusionbench.audit.spellings import joined
from fusionbench.data.photo_facts import HASH_BITS, PhotoFacts, hash_bits
from fusionbench.data.table import Table
from fusionbench.progress import SILENT, Progress
from fusionbench.protocols import Split

NEAR_BITS = 24
EXAMPLES = 5
SHOWN_COPIES = 20
_CHUNK = 1024  # rows of the distance matrix at a time


def find_overlap(
    table: Table,
    protocol: Split,
    pairs: pd.DataFrame,
    pictured: np.ndarray,
    views_alike: Sequence[int] = (),
) -> Overlap:
    """Everything shared, per fold and part, and over all folds. `pairs` as from find_pairs;
    `pictured`: bool (n,), rows whose photographs are here; `views_alike` as from that function."""
    either = pd.concat([pairs, pairs.rename(columns={"a": "b", "b": "a"})]).sort_values(["a", "b"])
    keys = table.groups if table.card.group else table.lesions
    one, spellings = joined(keys, table)
    sides: list[tuple[int, str, pd.DataFrame, pd.DataFrame]] = []
    for fold in protocol.folds:
        seen = fold.train if fold.valid is None else np.concatenate([fold.train, fold.valid])
        patients = np.isin(table.groups, table.groups[seen]) & bool(table.card.group)
        lesions = np.isin(table.lesions, table.lesions[seen])
        respelled = np.isin(one, one[seen]) & ~np.isin(keys, keys[seen])
        for part, held in {"test": fold.test, **fold.extra}.items():
            rows = pd.DataFrame({
                "row": held, "pictured": pictured[held],
                "patients": patients[held], "lesions": lesions[held],
                "respelled": respelled[held],
            })  # fmt: skip
            copies = either[either.a.isin(held) & either.b.isin(seen)]
            copies = copies.assign(fold=fold.index, other=~patients[copies.a])
            sides.append((fold.index, part, rows, copies))

    def over_all_folds(part: str) -> PartOverlap:
        rows, copies = zip(*(frames for _, name, *frames in sides if name == part), strict=True)
        return _shared(table, one, -1, part, pd.concat(rows), pd.concat(copies))

    order = ["identical", "altered", "distance", "a", "b"]
    closest = pairs.sort_values(order, ascending=[False, *[True] * 4])
    shown = closest[:SHOWN_COPIES].astype(object).values.tolist()
    return Overlap(
        near_bits=NEAR_BITS,
        folds=tuple(_shared(table, one, *side) for side in sides),
        total=tuple(over_all_folds(part) for part in dict.fromkeys(side[1] for side in sides)),
        identical_pairs=int(pairs.identical.sum()),
        near_pairs=int((~pairs.identical & (pairs.altered == "")).sum()),
        altered_pairs=int((pairs.altered != "").sum()),
        unnamed=_unnamed(table),
        spellings=spellings,
        views_alike=tuple(table.ids[list(views_alike)].tolist()),
        copies=tuple(
            Copies(
                a=str(table.ids[a]),
                b=str(table.ids[b]),
                distance=distance,
                identical=identical,
                altered=altered,
                same_patient=bool(table.groups[a] == table.groups[b]),
                same_lesion=bool(table.lesions[a] == table.lesions[b]),
                same_class=bool(table.labels[a] == table.labels[b]),
            )
            for a, b, distance, identical, altered in shown
        ),
    )


def _unnamed(table: Table) -> float:
    """Share of the rows that are a group by themselves for want of a patient's name."""
    bars = len(table.card.group)  # see Table.groups: one more than between the parts of a key
    alone = [re.sub(r"\\.", "", key).count("|") == bars for key in table.groups.tolist()]
    return float(np.mean(alone)) if bars else 1.0


def find_views_alike(facts: Mapping[str, Sequence[PhotoFacts | None]]) -> list[int]:
    """Rows whose photographs of two views are copies of each other."""
    alike = []
    for row, views in enumerate(zip(*facts.values(), strict=True)):
        hashes = [fact.hash for fact in views if fact is not None and fact.hash]
        if any(_near(hashes)):
            alike.append(row)
    return alike


def find_pairs(
    table: Table,
    facts: Mapping[str, Sequence[PhotoFacts | None]],
    progress: Progress = SILENT,
) -> pd.DataFrame:
    """Rows `a` < `b` whose photographs of some view are copies of each other: `distance` in bits,
    whether they are `identical`, and how one was `altered`, where neither the file nor the hash
    shows them to be copies. `facts` per view and row (None: no photograph)."""
    pairs: list[tuple[int, int, int, bool, str]] = []
    for view, per_row in facts.items():
        digests = pd.Series(table.digests[view])
        # Identical files need no structure to be told.
        for digest, same in digests.groupby(digests).groups.items():
            pairs += [(a, b, 0, True, "") for a, b in combinations(same, 2) if digest]
        hashes = {i: fact.hash for i, fact in enumerate(per_row) if fact is not None and fact.hash}
        rows = list(hashes)
        pairs += [(rows[i], rows[j], n, False, "") for i, j, n in _near(list(hashes.values()))]
        looks = {digests[i]: fact.look for i, fact in enumerate(per_row) if fact and fact.look}
        files = dict(zip(digests, table.images[view], strict=True))
        rows_of = digests.groupby(digests).groups
        for first, second, how in altered_copies(looks, files, progress):
            for a, b in product(rows_of[first], rows_of[second]):
                bits = int((hash_bits([hashes[a]]) != hash_bits([hashes[b]])).sum())
                pairs.append((min(a, b), max(a, b), bits, False, how))
    frame = pd.DataFrame(pairs, columns=["a", "b", "distance", "identical", "altered"])
    frame = frame.astype({"a": int, "b": int, "distance": int, "identical": bool})
    closest = frame.sort_values(["identical", "altered", "distance"], ascending=[False, True, True])
    return closest.drop_duplicates(["a", "b"]).sort_values(["a", "b"], ignore_index=True)


def _near(hashes: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """(i, j, bits) of all i < j that differ in at most NEAR_BITS."""
    if len(hashes) < 2:
        return
    signs = hash_bits(hashes).astype(np.float32) * 2 - 1
    for start in range(0, len(signs), _CHUNK):
        # A product of signs is bits alike minus bits that differ: exact in float32.
        differ = (HASH_BITS - signs[start : start + _CHUNK] @ signs.T) / 2
        i, j = np.nonzero(differ <= NEAR_BITS)
        for a, b in zip((i + start).tolist(), j.tolist(), strict=True):
            if a < b:
                yield a, b, round(float(differ[a - start, b]))


def _shared(
    table: Table, one: np.ndarray, fold: int, part: str, rows: pd.DataFrame, copies: pd.DataFrame
) -> PartOverlap:
    """Of one fold's part, or of one part over all folds (-1): a row, and a photograph, counts once
    for each fold that evaluates it; a patient or a lesion once if any fold has it on both sides."""
    photographs = int(rows.pictured.sum())

    def keys(shared: pd.Series, keys: np.ndarray) -> BothSides:
        names = np.unique(keys[rows.row[shared]]).tolist()
        return _both(len(names), int(shared.sum()), len(rows), names)

    def photos(pairs: pd.DataFrame) -> BothSides:
        n = len(pairs.drop_duplicates(["fold", "a"]))
        # A pair that two folds see from either side is one example.
        ordered = np.sort(pairs[["a", "b"]].to_numpy(), axis=1)
        texts = dict.fromkeys(" = ".join(table.ids[pair]) for pair in ordered)
        return _both(n, n, photographs, texts)

    return PartOverlap(
        fold=fold,
        part=part,
        rows=len(rows),
        photographs=photographs,
        patients=keys(rows.patients, table.groups) if table.card.group else None,
        respelled=keys(rows.respelled, one) if table.card.group or table.card.lesion else None,
        lesions=keys(rows.lesions, table.lesions) if table.card.lesion else None,
        identical=photos(copies[copies.identical]),
        near=photos(copies[~copies.identical & (copies.altered == "")]),
        altered=photos(copies[copies.altered != ""]),
        images_of_others=photos(copies[copies.other]),
    )


def _both(keys: int, rows: int, of: int, examples: Iterable[str]) -> BothSides:
    share = rows / of if of else 0.0
    return BothSides(keys=keys, rows=rows, share=share, examples=tuple(examples)[:EXAMPLES])
