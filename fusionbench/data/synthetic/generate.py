"""The synthetic dataset: drawn lesions with a planted truth, in PAD-UFES-20's own file layout.

    metadata.csv                        the same 26 columns and vocabulary, empty cells and UNK
    images/imgs_part_{1,2,3}/PAT_*.png  most of them with an alpha channel
    truth.csv                           what was planted, per photograph; no loader reads it
    generator.json                      the knobs

The label is explained in fusionbench.data.synthetic.truth, the drawing in .drawing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from pydantic import ValidationError

from fusionbench.data.card import DatasetCard
from fusionbench.data.synthetic.drawing import draw_lesion, png_bytes, shape_of, style_of
from fusionbench.data.synthetic.patients import (
    COLUMNS,
    Row,
    draw_lesions,
    draw_patients,
    image_names,
)
from fusionbench.data.synthetic.truth import (
    CLASSES,
    FAMILIES,
    Knobs,
    Stream,
    Truth,
    sample,
)
from fusionbench.errors import DataError, UsageError
from fusionbench.files import cache_folder, new_folder
from fusionbench.progress import SILENT, Progress

__all__ = ["COLUMNS", "VERSION", "Knobs", "ensure", "generate"]

VERSION = 1  # of what is written; a change gets a new cache folder and new split files


def ensure(card: DatasetCard | None = None, progress: Progress = SILENT) -> Path:
    """The data folder of a card with `generator = "synthetic"`; drawn on first use.

    It lies in $FUSIONBENCH_CACHE, by default the user's cache folder, under a name that holds a
    hash of the knobs (the card's `generator_options`). Safe for processes at the same time.
    Raises UsageError for a knob that is unknown or out of range.
    """
    knobs = knobs_of(card.generator_options if card is not None else {})
    text = json.dumps({"version": VERSION, **knobs.model_dump()}, sort_keys=True)
    name = f"synthetic-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return generate(cache_folder() / name, knobs, progress)


def knobs_of(options: Mapping[str, object]) -> Knobs:
    """Knobs from a card's `generator_options`. Raises UsageError."""
    try:
        return Knobs.model_validate(dict(options))
    except ValidationError as error:
        faults = "; ".join(f"{e['loc'][0]}: {e['msg']}" for e in error.errors())
        raise UsageError(
            f"The synthetic generator cannot use these options: {faults}.",
            f"It has: {', '.join(Knobs.model_fields)}.",
        ) from None


def generate(folder: Path, knobs: Knobs | None = None, progress: Progress = SILENT) -> Path:
    """Write the dataset into `folder` and return it.

    Written beside it first and renamed when complete; a folder that already holds the dataset of
    the same knobs is left as it is. Raises DataError where the folder holds anything else.
    """
    folder, knobs = Path(folder), knobs or Knobs()
    stamp = json.dumps({"version": VERSION, **knobs.model_dump()}, indent=1, sort_keys=True) + "\n"
    if _is_complete(folder, stamp):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if _is_complete(folder, stamp):
            return folder
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DataError(
                f"{folder} exists and holds something else than this synthetic dataset.",
                "Delete it, or name another folder.",
            )
        with new_folder(folder) as partial:
            _write(partial, knobs, progress)
            (partial / "generator.json").write_text(stamp, encoding="utf-8", newline="\n")
    return folder


def _is_complete(folder: Path, stamp: str) -> bool:
    path = folder / "generator.json"
    return path.is_file() and path.read_text(encoding="utf-8") == stamp


def _write(folder: Path, knobs: Knobs, progress: Progress) -> None:
    truth = sample(knobs)
    patients, fitzpatrick = draw_patients(Stream(knobs.seed, 2), knobs.patients)
    lesions = draw_lesions(Stream(knobs.seed, 3), truth, patients)
    draw = Stream(knobs.seed, 4)
    shots = 1 + draw.pick(len(truth), (0.5, 0.35, 0.15))
    of = np.repeat(np.arange(len(truth)), shots)
    names = image_names(draw, [lesions[i] for i in of])
    part, rgba = 1 + draw.pick(len(of), (1, 1, 1)), draw.chance(len(of), 0.85)
    order = draw.shuffled(len(of))

    for number in (1, 2, 3):
        (folder / f"images/imgs_part_{number}").mkdir(parents=True)
    styles = [style_of(Stream(knobs.seed, 5, i), int(f)) for i, f in enumerate(fitzpatrick)]
    shapes = [shape_of(Stream(knobs.seed, 6, i)) for i in range(len(truth))]
    with progress.task("drawing lesions", total=len(of), unit="img") as task:
        for k, i in enumerate(of):
            style = styles[truth.patient[i]]
            stream = Stream(knobs.seed, 7, k)
            image = draw_lesion(stream, style, shapes[i], int(truth.core[i]), int(truth.rim[i]))
            path = folder / f"images/imgs_part_{part[k]}" / names[k]
            path.write_bytes(png_bytes(image, bool(rgba[k])))
            task.advance()
    rows = [{**lesions[of[k]], "img_id": names[k]} for k in order]
    planted = [{"img_id": names[k], **_planted(truth, int(of[k]))} for k in order]
    for name, table in (
        ("metadata.csv", pd.DataFrame(rows, columns=COLUMNS)),
        ("truth.csv", pd.DataFrame(planted)),
    ):
        table.to_csv(folder / name, index=False, lineterminator="\n")


def _planted(truth: Truth, i: int) -> Row:
    families = [f"{benign}/{malignant}" for benign, malignant in FAMILIES]
    return {
        "diagnostic": CLASSES[truth.label[i]],
        "planted": CLASSES[truth.planted[i]],
        "core": families[truth.core[i]],
        "rim": families[truth.rim[i]],
        "counts": "core" if truth.core_counts[i] else "rim",
        "malignant": str(bool(truth.malignant[i])),
    }
