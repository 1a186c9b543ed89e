"""Writes a folder in Derm7pt's published layout and vocabulary, filled with made-up cases.

The photographs are noise: those of the dataset may not be passed on.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

# The 20 diagnoses with their published numbers of cases.
DIAGNOSES = {
    "basal cell carcinoma": 42,
    "blue nevus": 28,
    "clark nevus": 399,
    "combined nevus": 13,
    "congenital nevus": 17,
    "dermal nevus": 33,
    "recurrent nevus": 6,
    "reed or spitz nevus": 79,
    "melanoma": 1,
    "melanoma (in situ)": 64,
    "melanoma (less than 0.76 mm)": 102,
    "melanoma (0.76 to 1.5 mm)": 53,
    "melanoma (more than 1.5 mm)": 28,
    "melanoma metastasis": 4,
    "dermatofibroma": 20,
    "lentigo": 24,
    "melanosis": 16,
    "miscellaneous": 8,
    "vascular lesion": 29,
    "seborrheic keratosis": 45,
}

VALUES = {
    "pigment_network": ["absent", "typical", "atypical"],
    "streaks": ["absent", "regular", "irregular"],
    "pigmentation": [
        "absent",
        "diffuse regular",
        "localized regular",
        "diffuse irregular",
        "localized irregular",
    ],
    "regression_structures": ["absent", "blue areas", "white areas", "combinations"],
    "dots_and_globules": ["absent", "regular", "irregular"],
    "blue_whitish_veil": ["absent", "present"],
    "vascular_structures": [
        "absent",
        "arborizing",
        "comma",
        "hairpin",
        "within regression",
        "wreath",
        "dotted",
        "linear irregular",
    ],
    "level_of_diagnostic_difficulty": ["low", "medium", "high"],
    "elevation": ["flat", "palpable", "nodular"],
    "location": [
        "back",
        "lower limbs",
        "abdomen",
        "upper limbs",
        "chest",
        "head neck",
        "acral",
        "buttocks",
        "genital areas",
    ],
    "sex": ["female", "male"],
    "management": ["excision", "clinical follow up", "no further examination"],
}

COLUMNS = [
    "case_num",
    "diagnosis",
    "seven_point_score",
    "pigment_network",
    "streaks",
    "pigmentation",
    "regression_structures",
    "dots_and_globules",
    "blue_whitish_veil",
    "vascular_structures",
    "level_of_diagnostic_difficulty",
    "elevation",
    "location",
    "sex",
    "management",
    "clinic",
    "derm",
    "case_id",
    "notes",
]

PARTS = {"train": 413, "valid": 203, "test": 395}


def write_derm7pt(folder: Path, *, per_diagnosis: int | None = None, seed: int = 0) -> Path:
    """Write `folder/release_v0` and return it: 1,011 cases, or at most `per_diagnosis` each.

    Names in the csv and on disk differ in case for some photographs, as they do in the original.
    """
    rng = np.random.default_rng(seed)
    root = folder / "release_v0"
    labels = [d for d, n in DIAGNOSES.items() for _ in range(min(n, per_diagnosis or n))]
    rows = []
    for number, diagnosis in enumerate(labels, start=1):
        row = {name: str(rng.choice(values)) for name, values in VALUES.items()}
        atlas = ["NEL", "FAL", "GBL"][number % 3]
        suffix = ".JPG" if number % 4 == 0 else ".jpg"
        row |= {
            "case_num": str(number),
            "diagnosis": diagnosis,
            "seven_point_score": str(rng.integers(0, 11)),
            "clinic": f"{atlas}/{atlas}{number:03d}c{suffix}",
            "derm": f"{atlas}/{atlas.capitalize()}{number:03d}{suffix}",
            "case_id": "",
            "notes": "two lesions, see text" if number % 50 == 0 else "",
        }
        rows.append(row)
        for view in ("clinic", "derm"):
            name = row[view].swapcase() if number % 10 == 0 else row[view]
            _noise(root / "images" / name, rng)
    (root / "meta").mkdir(parents=True)
    with (root / "meta" / "meta.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    _write_parts(root / "meta", len(rows), rng)
    return root


def _noise(path: Path, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="JPEG")


def _write_parts(folder: Path, rows: int, rng: np.random.Generator) -> None:
    order = rng.permutation(rows)
    whole = sum(PARTS.values())
    stops = np.cumsum([round(n * rows / whole) for n in PARTS.values()])[:-1]
    for part, indexes in zip(PARTS, np.split(order, stops), strict=True):
        text = "indexes\n" + "".join(f"{i}\n" for i in sorted(indexes))
        (folder / f"{part}_indexes.csv").write_text(text, encoding="utf-8")
