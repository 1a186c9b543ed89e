"""Copies of a photograph that were mirrored, turned by quarter turns, cut or framed.

A perceptual hash compares whole pictures, so it misses them. Here every picture, in its eight
mirrored and turned forms, is compared with many windows of every other one: by the low
frequencies of two thumbnails first, which leaves three candidates a picture; then the window is
fitted (B. D. Lucas, T. Kanade, An iterative image registration technique, IJCAI 1981), first on the
thumbnails, then on the photographs themselves. A pair counts where their fine structure
correlates by SAME or more, as a mean over that half of the picture's parts where it does least: a
disc on an even ground looks like any other disc, but its ground has no structure to agree in.

tests/audit/test_altered.py holds what is found of each kind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fusionbench.data.images import DECODER
from fusionbench.data.photo_facts import LOOK, VERSION, thumbnails, unframed
from fusionbench.files import Memory, cache_folder
from fusionbench.progress import SILENT, Progress

SAME = 0.8
CANDIDATES, _LIKELY, _THUMBNAIL = 3, 0.6, 0.5
_OUTSIDE = 0.03  # how far a window may reach beyond the picture
_LOW = 8  # frequencies per axis
_SIZE = 64  # pixels a side, at which the photographs themselves are compared
_CHUNK = 32
# Lengths of the windows, as shares of a side, and how many places each has.
_PLACES = {1.0: 1, 0.95: 2, 0.9: 3, 0.85: 4, 0.8: 5, 0.7: 5, 0.6: 5}

Interval = tuple[float, float]
Copy = tuple[str, str, str]


def _windows() -> list[tuple[Interval, Interval]]:
    """(top, bottom), (left, right): cut on all sides alike, or on one axis alone."""
    windows = []
    for length, places in _PLACES.items():
        along = [(float(a), float(a) + length) for a in np.linspace(0, 1 - length, places)]
        windows += [(y, x) for y in along for x in along]
        if 0.7 < length < 1:
            windows += [(y, (0.0, 1.0)) for y in along] + [((0.0, 1.0), x) for x in along]
    return windows


def altered_copies(
    looks: Mapping[str, str], files: Mapping[str, Path], progress: Progress
) -> list[Copy]:
    """altered_pairs of photographs by their sha256 (Table.digests). Remembered below the cache
    folder for these very photographs."""
    digests = sorted(looks)
    key = hashlib.sha256("\n".join(digests).encode()).hexdigest()[:24]
    memory = Memory(cache_folder() / f"photo-copies-v{VERSION}-{DECODER}.json", list[Copy])
    if (known := memory.read().get(key)) is not None:
        return known

    def pixels(numbers: Sequence[int]) -> np.ndarray:
        return np.stack([unframed(files[digests[i]]) for i in numbers])

    pairs = altered_pairs([looks[digest] for digest in digests], pixels, progress)
    found = [(digests[i], digests[j], how) for i, j, how in pairs]
    memory.add({key: found}, progress)
    return found


def altered_pairs(
    looks: Sequence[str],
    pixels: Callable[[Sequence[int]], np.ndarray],
    progress: Progress = SILENT,
) -> list[tuple[int, int, str]]:
    """(i, j, how) of all i < j that are one photograph. `looks` as in PhotoFacts; `pixels` reads
    the photographs of these numbers, grey, (C, SIDE, SIDE)."""
    small = thumbnails(looks)
    if len(small) < 2:
        return []
    i, j, form, window = _candidates(small, progress)
    if not len(i):
        return []
    boxes = np.array([[*y, *x] for y, x in _windows()])[window]
    found: dict[tuple[int, int], str] = {}
    with progress.task("comparing photographs", total=len(i), unit="pair") as task:
        for part in np.array_split(np.arange(len(i)), range(_CHUNK, len(i), _CHUNK)):
            task.advance(len(part))
            turned = _turned(small[i[part]], form[part])
            box = _fitted(_scaled(turned, LOOK // 2), small[j[part]], boxes[part], 6)
            box = _fitted(turned, small[j[part]], box, 6)
            close = _likeness(turned, _seen(small[j[part]], box, LOOK)) >= _THUMBNAIL
            pairs = [tuple(sorted(pair)) for pair in zip(i[part], j[part], strict=True)]
            close &= [pair not in found for pair in pairs]
            if not close.any():
                continue
            part, box = part[close], box[close]
            rows, where = np.unique([i[part], j[part]], return_inverse=True)
            whole = pixels(rows.tolist()).astype(np.float64)
            mine, theirs = whole[where.reshape(2, -1)]
            turned = _scaled(_turned(mine, form[part]), _SIZE)
            box = _fitted(turned, _scaled(theirs, 2 * _SIZE), box, 5)
            alike = _likeness(turned, _seen(theirs, box, _SIZE), parts=4)
            inside = (box.min(axis=1) > -_OUTSIDE) & (box.max(axis=1) < 1 + _OUTSIDE)
            for k in np.flatnonzero((alike >= SAME) & inside):
                cut = (box[k, 1] - box[k, 0]) * (box[k, 3] - box[k, 2]) < 0.97
                how = ["mirrored or turned"] * bool(form[part][k]) + ["cut or framed"] * bool(cut)
                a, b = sorted((int(i[part][k]), int(j[part][k])))
                found[a, b] = ", ".join(how) or "changed"
    return [(*pair, how) for pair, how in sorted(found.items())]


def _candidates(
    small: np.ndarray, progress: Progress
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The likeliest others of every picture: i, j, form of i (0..7) and window of j."""
    windows, n = _windows(), len(small)
    forms = _forms(_low(small, (0, 1), (0, 1)))
    best = np.full((n, n), -1, dtype=np.float32)
    with progress.task("looking for copies", total=len(windows), unit="window") as task:
        for y, x in windows:
            seen = _low(small, y, x).reshape(n, -1).T
            for form in forms:
                np.maximum(best, form @ seen, out=best)
            task.advance()
    np.fill_diagonal(best, -1)
    j = np.argsort(-best, axis=1)[:, :CANDIDATES]
    i = np.repeat(np.arange(n), j.shape[1])
    j = j.ravel()
    likely = best[i, j] > _LIKELY
    i, j = i[likely], j[likely]
    scores = np.stack([
        np.einsum("fcd,cd->fc", forms[:, i], _low(small, y, x).reshape(n, -1)[j])
        for y, x in windows
    ])  # fmt: skip
    top = scores.reshape(len(windows) * 8, -1).argmax(axis=0) if len(i) else np.zeros(0, int)
    return i, j, top % 8, top // 8


def _low(pictures: np.ndarray, y: Interval, x: Interval) -> np.ndarray:
    """(n, 8, 8) cosine transform of a window, without its mean, of length 1; fine counts more."""
    from scipy.fft import dct

    basis = dct(np.eye(2 * _LOW), axis=0, norm="ortho")[:_LOW]
    rows, columns = (basis @ _weights(np.array([side]), 2 * _LOW, LOOK)[0] for side in (y, x))
    low = rows @ pictures @ columns.T * np.hypot.outer(np.arange(_LOW), np.arange(_LOW))
    return (low / (np.linalg.norm(low, axis=(1, 2), keepdims=True) + 1e-6)).astype(np.float32)


def _forms(low: np.ndarray) -> np.ndarray:
    """(8, n, 64) of the pictures mirrored and turned, in the order of `_turned`."""
    odd = np.where(np.arange(_LOW) % 2, -1, 1)
    forms = [
        (low.transpose(0, 2, 1) if form & 4 else low)
        * (odd[:, None] if form & 2 else 1)
        * (odd if form & 1 else 1)
        for form in range(8)
    ]
    return np.stack(forms).reshape(8, len(low), -1).astype(np.float32)


def _turned(pictures: np.ndarray, form: np.ndarray) -> np.ndarray:
    out = []
    for picture, f in zip(pictures, form.tolist(), strict=True):
        picture = picture.T if f & 4 else picture
        out.append(picture[:: -1 if f & 2 else 1, :: -1 if f & 1 else 1])
    return np.array(out)


def _weights(side: np.ndarray, m: int, size: int) -> np.ndarray:
    """(C, m, size) weights that scale the intervals `side` (C, 2) of `size` pixels to m, with a
    triangle of the new pixel's width; outside of the picture its edge goes on."""
    step = (side[:, 1:] - side[:, :1]) * size / m
    middle = side[:, :1] * size + step * (np.arange(m) + 0.5) - 0.5
    middle = np.clip(middle, 0, size - 1)[:, :, None]
    weights = np.maximum(0, 1 - np.abs(middle - np.arange(size)) / np.maximum(step, 1)[:, :, None])
    return np.asarray(weights / weights.sum(axis=2, keepdims=True))


def _seen(pictures: np.ndarray, box: np.ndarray, m: int) -> np.ndarray:
    """(C, m, m): the windows `box` (C, 4)."""
    size = pictures.shape[-1]
    columns = _weights(box[:, 2:], m, size).transpose(0, 2, 1)
    return np.asarray(_weights(box[:, :2], m, size) @ pictures @ columns)


def _scaled(pictures: np.ndarray, m: int) -> np.ndarray:
    return _seen(pictures, np.tile([0.0, 1.0, 0.0, 1.0], (len(pictures), 1)), m)


def _fitted(whole: np.ndarray, others: np.ndarray, box: np.ndarray, steps: int) -> np.ndarray:
    """The windows `box` of `others` moved to where they look like `whole`, up to light and
    contrast: Gauss-Newton steps for the four sides."""
    m = whole.shape[-1]
    u = (np.arange(m) + 0.5) / m
    for _ in range(steps):
        seen = _seen(others, box, m)
        down, right = np.gradient(seen, axis=1) * m, np.gradient(seen, axis=2) * m
        moves = (down * (1 - u)[:, None], down * u[:, None], right * (1 - u), right * u)
        slopes = np.stack([*moves, seen, np.ones_like(seen)], -1).reshape(len(whole), m * m, 6)
        square = slopes.transpose(0, 2, 1) @ slopes + 1e-3 * np.eye(6)
        best = np.linalg.solve(square, slopes.transpose(0, 2, 1) @ whole.reshape(-1, m * m, 1))
        step = np.clip(best[:, :4, 0] / np.maximum(best[:, 4:5, 0], 0.1), -0.05, 0.05)
        size = np.repeat(box[:, 1::2] - box[:, ::2], 2, axis=1)
        box = box + step * size
    return box


def _likeness(a: np.ndarray, b: np.ndarray, parts: int = 1) -> np.ndarray:
    """(C,) correlation of fine structure; of parts x parts pieces, mean of the worse half."""
    from scipy.ndimage import uniform_filter

    m = a.shape[-1] // parts
    a, b = (
        (picture - uniform_filter(picture, (0, 5, 5)))
        .reshape(-1, parts, m, parts, m)
        .swapaxes(2, 3)
        .reshape(len(picture), parts**2, m * m)
        for picture in (a, b)
    )
    a, b = a - a.mean(axis=2, keepdims=True), b - b.mean(axis=2, keepdims=True)
    # A piece without structure (half a grey level of deviation) agrees with nothing.
    floor = 0.25 * m * m
    norm = np.sqrt(((a * a).sum(axis=2) + floor) * ((b * b).sum(axis=2) + floor))
    pieces = np.sort((a * b).sum(axis=2) / norm, axis=1)
    return np.asarray(pieces[:, : (parts**2 + 1) // 2].mean(axis=1))
