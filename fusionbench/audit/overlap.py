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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fusionbench.audit.findings import Copies, Overlap, PartOverlap, Shared
from fusionbench.data.photo_facts import HASH_BITS, PhotoFacts, hash_bits
from fusionbench.data.table import Table
from fusionbench.protocols import Split

NEAR_BITS = 24
EXAMPLES = 5
SHOWN_COPIES = 20
_CHUNK = 1024  # rows of the distance matrix at a time


@dataclass(frozen=True)
class Pairs:
    """Rows a < b whose photographs of some view are copies of each other."""

    a: np.ndarray  # (m,) int64
    b: np.ndarray
    distance: np.ndarray  # (m,) int64, bits
    identical: np.ndarray  # (m,) bool

    def of(self, kind: np.ndarray) -> Pairs:
        return Pairs(self.a[kind], self.b[kind], self.distance[kind], self.identical[kind])


@dataclass(frozen=True)
class _Side:
    """One fold's part, or several of them one after the other."""

    fold: int
    part: str
    train: np.ndarray
    test: np.ndarray


def find_overlap(table: Table, protocol: Split, pairs: Pairs, pictured: np.ndarray) -> Overlap:
    """Everything shared, per fold and part, and over all folds. `pairs` as from find_pairs;
    `pictured`: bool (n,), rows whose photographs are here."""
    sides = list(_sides(protocol))
    folds = [_part(table, side, pairs, pictured) for side in sides]
    totals = []
    for part in dict.fromkeys(side.part for side in sides):
        some = [side for side in sides if side.part == part]
        totals.append(_total(table, some, [f for f in folds if f.part == part]))
    order = np.lexsort((pairs.b, pairs.a, pairs.distance, ~pairs.identical))[:SHOWN_COPIES]
    return Overlap(
        near_bits=NEAR_BITS,
        folds=tuple(folds),
        total=tuple(totals),
        identical_pairs=int(pairs.identical.sum()),
        near_pairs=int((~pairs.identical).sum()),
        copies=tuple(
            Copies(
                a=str(table.ids[a]),
                b=str(table.ids[b]),
                distance=int(pairs.distance[i]),
                identical=bool(pairs.identical[i]),
                same_patient=bool(table.groups[a] == table.groups[b]),
                same_lesion=bool(table.lesions[a] == table.lesions[b]),
                same_class=bool(table.labels[a] == table.labels[b]),
            )
            for i, a, b in ((i, pairs.a[i], pairs.b[i]) for i in order.tolist())
        ),
    )


def find_pairs(table: Table, facts: Mapping[str, Sequence[PhotoFacts | None]]) -> Pairs:
    """Pairs of rows with copies: `facts` per view and row (None: no photograph)."""
    found: dict[tuple[int, int], tuple[bool, int]] = {}
    for view, all_ in facts.items():
        digests = table.digests[view]
        rows = np.array([i for i, f in enumerate(all_) if f is not None and f.hash], dtype=np.int64)
        # Identical files need no structure to be told.
        for pair in _equal(digests):
            found[pair] = (True, 0)
        if len(rows) < 2:
            continue
        hashes = [fact.hash for fact in all_ if fact is not None and fact.hash]
        for i, j, distance in _near(hashes):
            pair = (int(rows[i]), int(rows[j]))
            identical = digests[pair[0]] == digests[pair[1]]
            if pair not in found or (identical, -distance) > (found[pair][0], -found[pair][1]):
                found[pair] = (identical, distance)
    keys = sorted(found)
    return Pairs(
        np.array([a for a, _ in keys], dtype=np.int64),
        np.array([b for _, b in keys], dtype=np.int64),
        np.array([found[k][1] for k in keys], dtype=np.int64),
        np.array([found[k][0] for k in keys], dtype=bool),
    )


def _near(hashes: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """(i, j, bits) of all i < j that differ in at most NEAR_BITS."""
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
    for rows in same.values():
        for i, a in enumerate(rows):
            for b in rows[i + 1 :]:
                yield a, b


def _sides(protocol: Split) -> Iterator[_Side]:
    for fold in protocol.folds:
        seen = fold.train if fold.valid is None else np.concatenate([fold.train, fold.valid])
        for part, held in {"test": fold.test, **fold.extra}.items():
            yield _Side(fold.index, part, seen, held)


def _part(table: Table, side: _Side, pairs: Pairs, pictured: np.ndarray) -> PartOverlap:
    card, test = table.card, side.test
    photographs = int(pictured[test].sum())
    theirs = np.isin(table.groups[test], table.groups[side.train])
    known = np.zeros(len(table), dtype=bool)
    known[test[theirs]] = bool(card.group)
    return PartOverlap(
        fold=side.fold,
        part=side.part,
        train=len(side.train),
        rows=len(test),
        photographs=photographs,
        patients=_keys(table.groups, side) if card.group else None,
        lesions=_keys(table.lesions, side) if card.lesion else None,
        identical=_copies(table, side, pairs.of(pairs.identical), photographs),
        near=_copies(table, side, pairs.of(~pairs.identical), photographs),
        images_of_others=_copies(table, side, pairs, photographs, known),
    )


def _keys(keys: np.ndarray, side: _Side) -> Shared:
    held = keys[side.test]
    both = np.isin(held, keys[side.train])
    shared = sorted(set(held[both].tolist()))
    return _shared(len(shared), int(both.sum()), len(held), tuple(shared[:EXAMPLES]))


def _copies(
    table: Table, side: _Side, pairs: Pairs, photographs: int, without: np.ndarray | None = None
) -> Shared:
    train, test = np.zeros(len(table), bool), np.zeros(len(table), bool)
    train[side.train], test[side.test] = True, True
    if without is not None:
        test &= ~without
    across: list[tuple[int, int]] = []
    for here, there in ((pairs.a, pairs.b), (pairs.b, pairs.a)):
        hit = test[here] & train[there]
        across += list(zip(here[hit].tolist(), there[hit].tolist(), strict=True))
    rows = {row for row, _ in across}
    # A pair that two folds see from either side is one example.
    pairs_seen = dict.fromkeys((min(pair), max(pair)) for pair in sorted(across))
    texts = tuple(f"{table.ids[a]} = {table.ids[b]}" for a, b in pairs_seen)
    return _shared(len(rows), len(rows), photographs, texts[:EXAMPLES])


def _total(table: Table, sides: Sequence[_Side], parts: Sequence[PartOverlap]) -> PartOverlap:
    """Over folds: a row, and a photograph, counts once for each fold that evaluates it; a patient
    or a lesion once if any fold has it on both sides."""
    rows, photographs = sum(p.rows for p in parts), sum(p.photographs for p in parts)

    def joined(all_: Sequence[Shared], of: int, keys: int | None = None) -> Shared:
        examples = list(dict.fromkeys(e for s in all_ for e in s.examples))
        keys = sum(s.keys for s in all_) if keys is None else keys
        return _shared(keys, sum(s.rows for s in all_), of, tuple(examples[:EXAMPLES]))

    def keyed(all_: Sequence[Shared | None], keys: np.ndarray) -> Shared | None:
        some = [s for s in all_ if s is not None]
        both = set().union(*(set(keys[s.test]) & set(keys[s.train]) for s in sides))
        return joined(some, rows, len(both)) if some else None

    return PartOverlap(
        fold=-1,
        part=parts[0].part,
        train=sum(p.train for p in parts),
        rows=rows,
        photographs=photographs,
        patients=keyed([p.patients for p in parts], table.groups),
        lesions=keyed([p.lesions for p in parts], table.lesions),
        identical=joined([p.identical for p in parts], photographs),
        near=joined([p.near for p in parts], photographs),
        images_of_others=joined([p.images_of_others for p in parts], photographs),
    )


def _shared(keys: int, rows: int, of: int, examples: tuple[str, ...]) -> Shared:
    return Shared(keys=keys, rows=rows, share=rows / of if of else 0.0, examples=examples)
