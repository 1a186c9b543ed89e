"""What is on both sides of a split: patients, lesions, copies of a photograph.

Near-duplicates are told by a 256-bit perceptual hash (imagehash.phash on a 64 x 64 picture; C.
Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010,
https://www.phash.org/docs/pubs/thesis_zauner.pdf). NEAR_BITS was chosen on 1,098 photographs of
PAD-UFES-20 and the drawn ones of `synthetic`. Copies that were re-encoded, halved, enlarged, or
made lighter or darker by a tenth differ in 12 bits or fewer in 98 of 100 cases; those that had all
of it at once in 24 bits or fewer in 95 to 99 of 100. Two photographs of one lesion differ in 28
bits and more (half of them in more than 110), those of different patients in 46 and more. A copy
that was cut or turned is not found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np
import pandas as pd

from fusionbench.audit.findings import BothSides, Copies, Overlap, PartOverlap
from fusionbench.data.photo_facts import HASH_BITS, PhotoFacts, hash_bits
from fusionbench.data.table import Table
from fusionbench.protocols import Split

NEAR_BITS = 24
EXAMPLES = 5
SHOWN_COPIES = 20
_CHUNK = 1024  # rows of the distance matrix at a time


@dataclass(frozen=True)
class _Side:
    """One fold's part."""

    fold: int
    part: str
    train: np.ndarray
    test: np.ndarray


def find_overlap(
    table: Table, protocol: Split, pairs: pd.DataFrame, pictured: np.ndarray
) -> Overlap:
    """Everything shared, per fold and part, and over all folds. `pairs` as from find_pairs;
    `pictured`: bool (n,), rows whose photographs are here."""
    sides = list(_sides(protocol))
    totals = {part: [s for s in sides if s.part == part] for part in (s.part for s in sides)}
    closest = pairs.sort_values(["identical", "distance", "a", "b"], ascending=[False, *[True] * 3])
    return Overlap(
        near_bits=NEAR_BITS,
        folds=tuple(_overlap(table, side.fold, [side], pairs, pictured) for side in sides),
        total=tuple(_overlap(table, -1, some, pairs, pictured) for some in totals.values()),
        identical_pairs=int(pairs.identical.sum()),
        near_pairs=int((~pairs.identical).sum()),
        copies=tuple(
            Copies(
                a=str(table.ids[a]),
                b=str(table.ids[b]),
                distance=distance,
                identical=identical,
                same_patient=bool(table.groups[a] == table.groups[b]),
                same_lesion=bool(table.lesions[a] == table.lesions[b]),
                same_class=bool(table.labels[a] == table.labels[b]),
            )
            for a, b, distance, identical in closest[:SHOWN_COPIES].astype(object).values.tolist()
        ),
    )


def find_pairs(table: Table, facts: Mapping[str, Sequence[PhotoFacts | None]]) -> pd.DataFrame:
    """Rows `a` < `b` whose photographs of some view are copies of each other: `distance` in bits,
    and whether they are `identical`. `facts` per view and row (None: no photograph)."""
    found: dict[tuple[int, int], tuple[bool, int]] = {}
    for view, all_ in facts.items():
        digests = table.digests[view]
        # Identical files need no structure to be told.
        for pair in _equal(digests):
            found[pair] = (True, 0)
        hashes = {i: f.hash for i, f in enumerate(all_) if f is not None and f.hash}
        rows = list(hashes)
        for i, j, distance in _near(list(hashes.values())):
            a, b = rows[i], rows[j]
            now = (digests[a] == digests[b], -distance)
            before = found.get((a, b))
            if before is None or now > (before[0], -before[1]):
                found[a, b] = (now[0], distance)
    cells = [(a, b, distance, identical) for (a, b), (identical, distance) in sorted(found.items())]
    frame = pd.DataFrame(cells, columns=["a", "b", "distance", "identical"])
    return frame.astype({"a": int, "b": int, "distance": int, "identical": bool})


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


def _equal(digests: Sequence[str]) -> Iterator[tuple[int, int]]:
    same: dict[str, list[int]] = {}
    for row, digest in enumerate(digests):
        if digest:
            same.setdefault(digest, []).append(row)
    return chain.from_iterable(combinations(rows, 2) for rows in same.values())


def _sides(protocol: Split) -> Iterator[_Side]:
    for fold in protocol.folds:
        seen = fold.train if fold.valid is None else np.concatenate([fold.train, fold.valid])
        for part, held in {"test": fold.test, **fold.extra}.items():
            yield _Side(fold.index, part, seen, held)


def _overlap(
    table: Table, fold: int, sides: Sequence[_Side], pairs: pd.DataFrame, pictured: np.ndarray
) -> PartOverlap:
    """Of one fold's part, or of one part over all folds: a row, and a photograph, counts once for
    each fold that evaluates it; a patient or a lesion once if any fold has it on both sides."""
    card = table.card
    photographs = sum(int(pictured[side.test].sum()) for side in sides)
    others = [
        side.test[~np.isin(table.groups[side.test], table.groups[side.train])]
        if card.group
        else side.test
        for side in sides
    ]
    tests = [side.test for side in sides]
    return PartOverlap(
        fold=fold,
        part=sides[0].part,
        train=sum(len(side.train) for side in sides),
        rows=sum(map(len, tests)),
        photographs=photographs,
        patients=_keys(table.groups, sides) if card.group else None,
        lesions=_keys(table.lesions, sides) if card.lesion else None,
        identical=_copies(table, sides, tests, pairs[pairs.identical], photographs),
        near=_copies(table, sides, tests, pairs[~pairs.identical], photographs),
        images_of_others=_copies(table, sides, others, pairs, photographs),
    )


def _keys(keys: np.ndarray, sides: Sequence[_Side]) -> BothSides:
    shared = [sorted(set(keys[s.test].tolist()) & set(keys[s.train].tolist())) for s in sides]
    rows = sum(int(np.isin(keys[s.test], keys[s.train]).sum()) for s in sides)
    every = dict.fromkeys(chain.from_iterable(shared))
    return _shared(len(every), rows, sum(len(s.test) for s in sides), every)


def _copies(
    table: Table,
    sides: Sequence[_Side],
    tests: Sequence[np.ndarray],
    pairs: pd.DataFrame,
    photographs: int,
) -> BothSides:
    """Rows of `tests`, one for each side, with a copy among the rows that the side trains on."""
    either = np.concatenate([pairs[["a", "b"]].to_numpy(), pairs[["b", "a"]].to_numpy()])
    rows, examples = 0, dict[str, None]()
    for side, test in zip(sides, tests, strict=True):
        across = either[np.isin(either[:, 0], test) & np.isin(either[:, 1], side.train)]
        rows += len(np.unique(across[:, 0]))
        for pair in sorted(across.tolist()):
            # A pair that two folds see from either side is one example.
            examples[" = ".join(str(table.ids[row]) for row in sorted(pair))] = None
    return _shared(rows, rows, photographs, examples)


def _shared(keys: int, rows: int, of: int, examples: Iterable[str]) -> BothSides:
    share = rows / of if of else 0.0
    return BothSides(keys=keys, rows=rows, share=share, examples=tuple(examples)[:EXAMPLES])
