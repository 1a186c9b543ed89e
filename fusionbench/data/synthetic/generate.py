"""The synthetic dataset: drawn lesions with a planted truth, in PAD-UFES-20's own file layout.

    metadata.csv                        the same 26 columns and vocabulary, empty cells and UNK
    images/imgs_part_{1,2,3}/PAT_*.png  most of them with an alpha channel
    truth.csv                           what was planted, per photograph; no loader reads it
    generator.json                      the knobs

The label is explained in fusionbench.data.synthetic.truth, the drawing in .drawing. Two answers
carry the planted truth, `elevation` and `bleed`; nothing else depends on the label but `biopsed`,
and the thirteen missing columns where the knobs say so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from numpy.typing import NDArray
from pydantic import ValidationError

from fusionbench.config.problems import problems_of
from fusionbench.data.card import DatasetCard
from fusionbench.data.synthetic.drawing import draw_lesion, png_bytes
from fusionbench.data.synthetic.truth import (
    CLASSES,
    FAMILIES,
    MALIGNANT,
    Knobs,
    Stream,
    Truth,
    sample,
)
from fusionbench.errors import DataError, UsageError
from fusionbench.files import cache_folder, new_folder

__all__ = ["VERSION", "Knobs", "ensure", "generate"]

VERSION = 1  # of what is written; a change gets a new cache folder and new split files
COLUMNS = [
    "patient_id", "lesion_id", "smoke", "drink", "background_father", "background_mother",
    "age", "pesticide", "gender", "skin_cancer_history", "cancer_history", "has_piped_water",
    "has_sewage_system", "fitspatrick", "region", "diameter_1", "diameter_2", "diagnostic",
    "itch", "grew", "hurt", "changed", "bleed", "elevation", "img_id", "biopsed",
]  # fmt: skip
# They go missing together, as in PAD-UFES-20.
BLOCK = [
    "smoke", "drink", "background_father", "background_mother", "pesticide", "gender",
    "skin_cancer_history", "cancer_history", "has_piped_water", "has_sewage_system",
    "fitspatrick", "diameter_1", "diameter_2",
]  # fmt: skip
_FATHER = {
    "POMERANIA": 530, "GERMANY": 466, "ITALY": 250, "UNK": 95, "BRAZIL": 89, "NETHERLANDS": 19,
    "PORTUGAL": 15, "POLAND": 7, "BRASIL": 12, "CZECH": 3, "": 14,
}  # fmt: skip
_MOTHER = {
    "POMERANIA": 533, "GERMANY": 482, "ITALY": 236, "UNK": 84, "BRAZIL": 81, "PORTUGAL": 20,
    "NETHERLANDS": 20, "POLAND": 9, "NORWAY": 7, "": 18,
}  # fmt: skip
_REGION = {
    "FACE": 570, "FOREARM": 392, "CHEST": 280, "BACK": 248, "ARM": 192, "NOSE": 158, "HAND": 126,
    "NECK": 93, "THIGH": 73, "EAR": 73, "ABDOMEN": 36, "LIP": 23, "SCALP": 18, "FOOT": 16,
}  # fmt: skip
_FITZPATRICK = (153, 876, 392, 62, 10, 1)
_YES = {
    "smoke": 0.14, "drink": 0.25, "pesticide": 0.4, "skin_cancer_history": 0.45,
    "cancer_history": 0.52, "has_piped_water": 0.62, "has_sewage_system": 0.57,
}  # fmt: skip
# Answers that nothing depends on, and those that repeat `bleed`: beside an image, one carrier of
# the metadata's part would be learnt too slowly to show in a short run. `elevation` and `bleed` are
# always known, so that the best possible accuracies can be computed.
_IDLE = {"grew": (0.4, 0.17), "changed": (0.3, 0.17)}  # share of True, of UNK
_REPEATED = {"itch": 0.003, "hurt": 0.004}  # share of UNK


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
    try:
        return generate(cache_folder() / name, knobs)
    except OSError as error:
        raise DataError(
            f"{card.title} cannot be drawn in {cache_folder()}: {error.strerror or error}.",
            "Set FUSIONBENCH_CACHE to a folder that can be written to and has space.",
        ) from error


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
    patients = _patients(Stream(knobs.seed, 2), knobs.patients)
    lesions = _lesions(Stream(knobs.seed, 3), truth, patients)
    draw = Stream(knobs.seed, 4)
    shots = 1 + draw.pick(len(truth), (0.5, 0.35, 0.15))
    of = np.repeat(np.arange(len(truth)), shots)  # photograph -> lesion
    rows = lesions.iloc[of].reset_index(drop=True)
    rows["img_id"] = _image_names(draw, rows)
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


def _patients(draw: Stream, n: int) -> pd.DataFrame:
    """One row of answers per patient. Nothing here depends on a label."""
    numbers = 1 + draw.shuffled(max(2 * n, 10))[:n]
    skin = 1.0 + draw.pick(n, _FITZPATRICK)
    age = 20 + (draw.uniform(n, 0, 37) + draw.uniform(n, 0, 37))
    columns = {
        "patient_id": [f"PAT_{i}" for i in numbers],
        "age": age.astype(int),
        "gender": _texts(draw, n, {"FEMALE": 753, "MALE": 741}),
        "background_father": _texts(draw, n, _FATHER),
        "background_mother": _texts(draw, n, _MOTHER),
        "fitspatrick": skin,
    }
    columns |= {name: draw.chance(n, share) for name, share in _YES.items()}
    return pd.DataFrame(columns)


def _lesions(draw: Stream, truth: Truth, patients: pd.DataFrame) -> pd.DataFrame:
    """One row per lesion: all columns of metadata.csv but img_id, as text."""
    n = len(truth)
    # Lesion numbers repeat across patients, never within one: the key is (patient, lesion).
    numbers = 1 + draw.shuffled(n) % max(3, (9 * n) // 10)
    keys: dict[tuple[int, int], None] = {}
    for patient, number in zip(truth.patient.tolist(), numbers.tolist(), strict=True):
        while (patient, number) in keys:
            number += 1
        keys[patient, number] = None
    first = 2 + np.floor(draw.uniform(n) * draw.uniform(n, 8, 32))
    second = np.maximum(1, np.floor(first * draw.uniform(n, 0.5, 1)))
    measured = ~draw.chance(n, 0.01)
    columns = {
        "lesion_id": [number for _, number in keys],
        "diagnostic": np.array(CLASSES)[truth.label],
        "region": _texts(draw, n, _REGION),
        "diameter_1": first * measured,
        "diameter_2": second * measured,
        "bleed": truth.malignant,
        "elevation": truth.core_counts,
        "biopsed": draw.chance(n, 0.2) | MALIGNANT[truth.label],
    }
    for name, (yes, unknown) in _IDLE.items():
        odds = {"True": yes, "False": 1 - yes - unknown, "UNK": unknown}
        columns[name] = _texts(draw, n, odds)
    for name, unknown in _REPEATED.items():
        columns[name] = np.where(draw.chance(n, unknown), "UNK", truth.malignant.astype(str))
    table = patients.iloc[truth.patient].reset_index(drop=True).assign(**columns).astype(str)
    table.loc[truth.missing, BLOCK] = ""
    return table


def _image_names(draw: Stream, lesions: pd.DataFrame) -> list[str]:
    """`PAT_<patient>_<lesion>_<number>.png` of every row, each name once."""
    names: dict[str, None] = {}
    numbers = draw.pick(len(lesions), (1,) * 999)
    keys = lesions["patient_id"] + "_" + lesions["lesion_id"]
    for key, number in zip(keys, numbers.tolist(), strict=True):
        while f"{key}_{number + 1}.png" in names:
            number = (number + 1) % 999
        names[f"{key}_{number + 1}.png"] = None
    return list(names)


def _texts(draw: Stream, n: int, odds: Mapping[str, float]) -> NDArray[np.str_]:
    return np.array(list(odds))[draw.pick(n, tuple(odds.values()))]
