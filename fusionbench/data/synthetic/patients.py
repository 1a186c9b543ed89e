"""The synthetic metadata.csv: PAD-UFES-20's 26 columns, vocabulary and irregularities.

Two answers carry the planted truth, `elevation` and `bleed`; nothing else depends on the label
except `biopsed`, and the thirteen missing columns where the knobs say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from fusionbench.data.synthetic.truth import CLASSES, MALIGNANT, Ints, Stream, Truth

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

Row = dict[str, str]


def draw_patients(draw: Stream, n: int) -> tuple[list[Row], Ints]:
    """Patients' answers, and their Fitzpatrick types 1..6. Nothing here depends on a label."""
    numbers = 1 + draw.shuffled(max(2 * n, 10))[:n]
    fitzpatrick = 1 + draw.pick(n, _FITZPATRICK)
    columns: dict[str, Iterable[str]] = {
        "patient_id": (f"PAT_{i}" for i in numbers),
        "age": (str(int(20 + a)) for a in draw.uniform(n, 0, 37) + draw.uniform(n, 0, 37)),
        "gender": _texts(draw, n, {"FEMALE": 753, "MALE": 741}),
        "background_father": _texts(draw, n, _FATHER),
        "background_mother": _texts(draw, n, _MOTHER),
        "fitspatrick": (f"{f:.1f}" for f in fitzpatrick),
    }
    for name, share in _YES.items():
        columns[name] = (str(bool(v)) for v in draw.chance(n, share))
    keys = list(columns)
    rows = [dict(zip(keys, r, strict=True)) for r in zip(*columns.values(), strict=True)]
    return rows, fitzpatrick


def draw_lesions(draw: Stream, truth: Truth, patients: list[Row]) -> list[Row]:
    """Rows of metadata.csv without img_id, one per lesion."""
    n = len(truth)
    # Lesion numbers repeat across patients, never within one: the key is (patient, lesion).
    numbers = 1 + draw.shuffled(n) % max(3, (9 * n) // 10)
    first = 2 + np.floor(draw.uniform(n) * draw.uniform(n, 8, 32))
    second = np.maximum(1, np.floor(first * draw.uniform(n, 0.5, 1)))
    unmeasured = draw.chance(n, 0.01)
    regions = _texts(draw, n, _REGION)
    biopsed = draw.chance(n, 0.2)
    answers = {
        name: _texts(draw, n, {"True": yes, "False": 1 - yes - unknown, "UNK": unknown})
        for name, (yes, unknown) in _IDLE.items()
    }
    for name, unknown in _REPEATED.items():
        hidden = draw.chance(n, unknown)
        answers[name] = [
            "UNK" if h else str(bool(v)) for h, v in zip(hidden, truth.malignant, strict=True)
        ]
    rows: list[Row] = []
    for i in range(n):
        label = truth.label[i]
        row = {
            **patients[truth.patient[i]],
            "lesion_id": str(numbers[i]),
            "diagnostic": CLASSES[label],
            "region": regions[i],
            "diameter_1": "0.0" if unmeasured[i] else f"{first[i]:.1f}",
            "diameter_2": "0.0" if unmeasured[i] else f"{second[i]:.1f}",
            **{name: texts[i] for name, texts in answers.items()},
            "bleed": str(bool(truth.malignant[i])),
            "elevation": str(bool(truth.core_counts[i])),
            "biopsed": str(bool(MALIGNANT[label] or biopsed[i])),
        }
        if truth.missing[i]:
            row.update(dict.fromkeys(BLOCK, ""))
        rows.append(row)
    taken: set[tuple[str, str]] = set()
    for row in rows:
        while (row["patient_id"], row["lesion_id"]) in taken:
            row["lesion_id"] = str(int(row["lesion_id"]) + 1)
        taken.add((row["patient_id"], row["lesion_id"]))
    return rows


def image_names(draw: Stream, rows: list[Row]) -> list[str]:
    names: dict[str, None] = {}
    for row, number in zip(rows, draw.pick(len(rows), (1,) * 999), strict=True):
        name = f"{row['patient_id']}_{row['lesion_id']}"
        while f"{name}_{number + 1}.png" in names:
            number = (number + 1) % 999
        names[f"{name}_{number + 1}.png"] = None
    return list(names)


def _texts(draw: Stream, n: int, odds: Mapping[str, float]) -> list[str]:
    values = list(odds)
    return [values[i] for i in draw.pick(n, tuple(odds.values()))]
