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
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from pydantic import ValidationError

from fusionbench.config.problems import problems_of
from fusionbench.data.card import DatasetCard
from fusionbench.data.synthetic.drawing import draw_lesion, png_bytes
from fusionbench.data.synthetic.patients import COLUMNS, draw_lesions, draw_patients, image_names
from fusionbench.data.synthetic.truth import CLASSES, FAMILIES, Knobs, Stream, sample
from fusionbench.errors import UsageError
from fusionbench.files import cache_folder, new_folder

__all__ = ["VERSION", "Knobs", "ensure", "generate"]

VERSION = 1  # of what is written; a change gets a new cache folder and new split files


def ensure(card: DatasetCard) -> Path:
    """The data folder of a card with `generator = "synthetic"`; drawn on first use.

    It lies in $FUSIONBENCH_CACHE, by default the user's cache folder, under a name that holds a
    hash of the knobs (the card's `generator_options`). Safe for processes at the same time.
    Raises UsageError for a knob that is unknown or out of range.
    """
    try:
        knobs = Knobs.model_validate(card.generator_options)
    except ValidationError as error:
        raise UsageError(
            "The synthetic generator cannot use these options: "
            f"{'; '.join(f'{name}: {text}' for name, text in problems_of(error))}.",
            f"It has: {', '.join(Knobs.model_fields)}.",
        ) from None
    name = f"synthetic-{hashlib.sha256(_stamp(knobs).encode()).hexdigest()[:12]}"
    return generate(cache_folder() / name, knobs)


def generate(folder: Path, knobs: Knobs | None = None) -> Path:
    """Write the dataset into `folder` and return it.

    Written beside it first and renamed when complete; a folder that already holds the dataset of
    the same knobs is left as it is. Raises DataError where the folder holds anything else.
    """
    knobs = knobs or Knobs()
    stamp = folder / "generator.json"

    def complete() -> bool:
        return stamp.is_file() and stamp.read_text(encoding="utf-8") == _stamp(knobs)

    if not complete():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if not complete():
                with new_folder(folder) as partial:
                    _write(partial, knobs)
                    (partial / stamp.name).write_bytes(_stamp(knobs).encode())
    return folder


def _stamp(knobs: Knobs) -> str:
    return json.dumps({"version": VERSION, **knobs.model_dump()}, indent=1, sort_keys=True) + "\n"


def _write(folder: Path, knobs: Knobs) -> None:
    truth = sample(knobs)
    patients = draw_patients(Stream(knobs.seed, 2), knobs.patients)
    lesions = draw_lesions(Stream(knobs.seed, 3), truth, patients)
    draw = Stream(knobs.seed, 4)
    shots = 1 + draw.pick(len(truth), (0.5, 0.35, 0.15))
    of = np.repeat(np.arange(len(truth)), shots)  # photograph -> lesion
    rows = lesions.iloc[of].reset_index(drop=True)
    rows["img_id"] = image_names(draw, rows)
    part, rgba = 1 + draw.pick(len(of), (1, 1, 1)), draw.chance(len(of), 0.85)
    order = draw.shuffled(len(of))

    for number in (1, 2, 3):
        (folder / f"images/imgs_part_{number}").mkdir(parents=True)
    fitzpatrick = patients["fitspatrick"].astype(int)
    for k, (i, name) in enumerate(zip(of.tolist(), rows["img_id"], strict=True)):
        patient = truth.patient[i]
        skin, core, rim = fitzpatrick[patient], truth.core[i], truth.rim[i]
        image = draw_lesion(knobs.seed, k, patient, skin, i, core, rim)
        path = folder / f"images/imgs_part_{part[k]}" / name
        path.write_bytes(png_bytes(image, bool(rgba[k])))
    names = np.array([f"{benign}/{malignant}" for benign, malignant in FAMILIES])
    planted = pd.DataFrame(
        {
            "diagnostic": np.array(CLASSES)[truth.label],
            "planted": np.array(CLASSES)[truth.planted],
            "core": names[truth.core],
            "rim": names[truth.rim],
            "counts": np.where(truth.core_counts, "core", "rim"),
            "malignant": truth.malignant,
        }
    )
    planted = planted.iloc[of].reset_index(drop=True)
    planted.insert(0, "img_id", rows["img_id"])
    for name, table in (("metadata.csv", rows[COLUMNS]), ("truth.csv", planted)):
        table.iloc[order].to_csv(folder / name, index=False, lineterminator="\n")
