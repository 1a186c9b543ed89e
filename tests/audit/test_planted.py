"""Every leak that is planted is found and named; where none is planted, none is invented."""

from __future__ import annotations

import random
import unicodedata
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageOps

from fusionbench.audit.evidence import labels_of
from fusionbench.audit.findings import Audit
from fusionbench.audit.proxies import find_proxies
from fusionbench.audit.together import find_together
from fusionbench.data.card import Column
from fusionbench.data.choices import input_columns
from fusionbench.data.locate import open_card
from fusionbench.data.table import Table

MALIGNANT = ("BCC", "SCC", "MEL")


def told(audit: Audit) -> set[str]:
    """Everything that the sections call found, whatever its strength."""
    names = {g.columns[0] for s in (audit.missingness.not_recorded,) for g in s.columns
             if g.telling}  # fmt: skip
    names |= {f"unknown {g.columns[0]}" for g in audit.missingness.unknown.columns
              if g.telling}  # fmt: skip
    assert audit.confounds is not None
    names |= {f"image {c.fact}" for c in audit.confounds.facts if not c.lesion_too
              and c.telling}  # fmt: skip
    return names | set(audit.proxies.unlisted)


@pytest.mark.parametrize(
    "knobs",
    [
        {"patients": 240, "seed": 0},
        {"seed": 1},
        {"seed": 2, "habit": 0.8},
        {"seed": 3, "patients": 60, "missing": 0.5},
    ],
    ids=str,
)
def test_nothing_is_invented(plot, knobs):
    found = plot(**knobs).audit()
    assert found.verdict == "clean"
    assert told(found) == set()
    # Two shots of one lesion may be alike.
    assert all(copy.same_lesion and not copy.identical for copy in found.overlap.copies)


def test_the_one_proxy_of_the_clean_dataset_is_its_forbidden_column(plot):
    found = plot(patients=240).audit()
    assert found.proxies.found == ("biopsed",)
    assert found.proxies.unlisted == found.proxies.unconfirmed == ()
    # The planted honest answers tell more (they err one time in twenty), and are no proxies.
    by_name = {c.name: c for c in found.proxies.columns}
    assert by_name["bleed"].auc.value > by_name["biopsed"].auc.value


def test_patients_on_both_sides(plot):
    ground = plot()
    found = ground.audit("image-kfold")
    assert found.verdict.startswith("leaky: patients ") and ";" not in found.verdict
    total = found.overlap.total[0]
    assert total.patients.rows > total.lesions.rows > 0
    assert found.overlap.identical_pairs == 0


def test_a_holdout_counts_too(plot):
    found = plot().audit("kfold-holdout")
    assert {p.part for p in found.overlap.total} == {"test", "holdout"}
    worst = max(p.patients.share for p in found.overlap.total)
    assert found.verdict == f"leaky: patients {100 * worst:.0f} %"


def copies(ground, how_many: int):
    """Pairs of rows of different patients; the second's photograph is to become the first's."""
    by_patient = {row["patient_id"]: row for row in ground.rows}
    rows = [by_patient[name] for name in sorted(by_patient)]
    random.Random(4).shuffle(rows)
    return list(zip(rows[:how_many], rows[how_many : 2 * how_many], strict=True))


def test_identical_photographs_of_different_patients(plot):
    ground = plot()
    for source, target in copies(ground, 12):
        data = ground.file(source).read_bytes()
        ground.replace(target).write_bytes(data)
    found = ground.audit()
    assert found.overlap.identical_pairs == 12
    others = [c for c in found.overlap.copies if not c.same_lesion]
    assert len(others) == 12 and all(c.identical and not c.same_patient for c in others)
    share = 100 * found.overlap.total[0].images_of_others.share
    assert found.verdict == f"leaky: images {share:.0f} %"


def halved(picture):
    return picture.resize((picture.width // 2 + 7, picture.height // 2 + 7))


def enlarged(picture):
    return picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.BICUBIC)


def lighter(picture):
    return ImageEnhance.Brightness(picture).enhance(1.06)


@pytest.mark.parametrize("change", [lambda p: p, halved, enlarged, lighter],
                         ids=["re-encoded", "halved", "enlarged", "lighter"])  # fmt: skip
def test_altered_copies_of_photographs(plot, change):
    ground = plot()
    pairs = copies(ground, 12)
    for source, target in pairs:
        with Image.open(ground.file(source)) as picture:
            altered = change(picture.convert("RGB"))
        # The same name with other contents: JPEG bytes, which the decoder tells by themselves.
        altered.save(ground.replace(target), format="JPEG", quality=80)
    found = ground.audit()
    expected = {frozenset((a["img_id"], b["img_id"])) for a, b in pairs}
    copies_found = {frozenset((c.a, c.b)) for c in found.overlap.copies if not c.same_lesion}
    assert copies_found <= expected and len(copies_found) >= 11
    assert found.overlap.identical_pairs == 0
    assert found.verdict.startswith("leaky: images ")


@pytest.mark.parametrize("seed", [1, 2])
def test_a_block_that_only_benign_lesions_lack(plot, seed):
    found = plot(seed=seed, missing_block=1.0).audit()
    assert found.verdict == "shortcut: missingness"
    (block,) = found.missingness.not_recorded.blocks
    assert len(block.columns) == 13 and block.malignant_rows == 0 and block.auc.value < 0.3


def test_one_column_that_one_class_lacks(plot):
    ground = plot(missing=0.0)
    for i, row in enumerate(ground.rows):
        if row["diagnostic"] == "NEV" and i % 8:
            row["region"] = ""
    found = ground.audit()
    assert found.verdict == "shortcut: missingness"
    assert found.missingness.not_recorded.blocks == ()
    gap = next(g for g in found.missingness.not_recorded.columns if g.columns == ("region",))
    assert gap.told.class_name == "NEV" and gap.told.strong
    assert {name for name, n in gap.by_class.items() if n} == {"NEV"}


def test_unknown_marks_tied_to_the_class(plot):
    ground = plot()
    draw = random.Random(0)
    for row in ground.rows:
        sure = row["diagnostic"] in MALIGNANT
        row["grew"] = "UNK" if draw.random() < (0.75 if sure else 0.1) else "True"
    found = ground.audit()
    assert found.verdict == "shortcut: unknown marks"
    assert told(found) == {"unknown grew"}


def test_a_column_that_spells_the_class(plot):
    ground = plot()
    draw = random.Random(0)
    codes = {"ACK": "a", "BCC": "b", "MEL": "c", "NEV": "d", "SCC": "e", "SEK": "f"}
    for row in ground.rows:
        wrong = draw.random() < 0.05
        row["icd"] = draw.choice("abcdef") if wrong else codes[row["diagnostic"]]
    ground.columns.append(Column(name="icd", kind="categorical"))
    found = ground.audit()
    assert found.verdict == "shortcut: icd" and found.proxies.unlisted == ("icd",)


def test_a_number_that_spells_malignancy(plot):
    ground = plot()
    draw = random.Random(0)
    for row in ground.rows:
        sure = row["diagnostic"] in MALIGNANT
        row["score"] = f"{draw.gauss(6 if sure else 0, 1):.3f}"
    ground.columns.append(Column(name="score", kind="numeric"))
    assert ground.audit().verdict == "shortcut: score"


def test_a_treatment_that_follows_the_diagnosis(plot):
    """One-sided, as `biopsed` is: every cancer was excised, and some of the rest."""
    ground = plot(patients=240)
    draw = random.Random(0)
    for row in ground.rows:
        sure = row["diagnostic"] in MALIGNANT
        row["excised"] = str(sure or draw.random() < 0.2)
    ground.columns.append(Column(name="excised", kind="boolean"))
    found = ground.audit()
    assert found.verdict == "shortcut: excised"
    assert found.proxies.found == ("biopsed", "excised")


@pytest.mark.parametrize(
    "plant",
    ["width", "border", "format"],
)
def test_what_is_known_of_the_photograph(plot, plant):
    ground = plot()
    draw = random.Random(0)
    for row in ground.rows:
        sure = row["diagnostic"] in MALIGNANT
        if (draw.random() < 0.85) != sure:
            continue
        with Image.open(ground.file(row)) as opened:
            picture = opened.convert("RGB")
        if plant == "width":
            picture = picture.resize((picture.width * 3, picture.height))
        elif plant == "border":
            frame = Image.new("RGB", picture.size, (0, 0, 0))
            frame.paste(picture.crop((8, 8, picture.width - 8, picture.height - 8)), (8, 8))
            picture = frame
        picture.save(ground.replace(row), format="JPEG" if plant == "format" else "PNG")
    found = ground.audit()
    assert found.verdict == f"shortcut: image {plant}"


@pytest.mark.parametrize(
    "spelling",
    [str.lower, lambda p: p.replace("_", "-"), lambda p: p.replace("_", " "),
     lambda p: p.replace("_", "_00"), lambda p: f"{p}\u200b", lambda p: f"{p}.0",
     lambda p: unicodedata.normalize("NFKD", p).translate({ord("P"): "\uff30"})],
    ids=["case", "dash", "blank", "zeros", "zero width", "float", "wide letter"],
)  # fmt: skip
def test_a_patient_under_two_spellings(plot, spelling):
    ground = plot(habit=0.5)
    seen: dict[str, int] = {}
    for row in ground.rows:
        name = row["patient_id"]
        seen[name] = seen.get(name, 0) + 1
        if seen[name] == 2:
            row["patient_id"] = spelling(name)
    found = ground.audit()
    assert found.verdict.startswith("may be leaky: patients spelled twice ")
    total = found.overlap.total[0]
    assert total.patients.rows == 0 < total.respelled.rows
    several = sum(n > 1 for n in seen.values())
    assert len(found.overlap.spellings) == several and " = " in found.overlap.spellings[0]


def test_ids_that_look_alike_are_other_patients(plot):
    """PAT_1 and PAT_10; 1 and 01 of two hospitals, whose sex and age differ."""
    ground = plot()
    names = {row["patient_id"] for row in ground.rows}
    assert any(name + "0" in names for name in names)
    assert ground.audit().overlap.spellings == ()
    half = {name: number for number, name in enumerate(sorted(names))}
    for row in ground.rows:
        number = half[row["patient_id"]]
        row["patient_id"] = f"{number // 2}" if number % 2 else f"0{number // 2}"
    several = [name for name, n in Counter(r["patient_id"] for r in ground.rows).items() if n > 1]
    found = ground.audit()
    told = [text.split(" = ") for text in found.overlap.spellings]
    assert len(told) < len(names) / 2
    assert not any(set(pair) <= set(several) for pair in told)


def test_a_card_that_names_no_patient_is_never_clean(plot):
    ground = plot()
    ground.card = ground.card.model_copy(update={"group": (), "lesion": ()})
    found = ground.audit("image-kfold")
    assert found.verdict == "patients unknown" and found.overlap.unnamed == 1
    assert found.dataset.patients is None


def test_rows_that_name_no_patient(plot):
    ground = plot()
    ground.card = ground.card.model_copy(update={"group_missing": "own"})
    for row in ground.rows[::4]:
        row["patient_id"] = ""
    share = f"{100 * len(ground.rows[::4]) / len(ground.rows):.0f} %"
    assert ground.audit().verdict == f"patients unknown: {share} of the rows"


def test_what_was_done_follows_from_the_diagnosis(plot):
    """A third of the rows has a value that no cancer has; the AUC alone is no proof."""
    ground = plot(patients=300)
    draw = random.Random(0)
    cancer = [row for row in ground.rows if row["diagnostic"] in MALIGNANT]
    ground.rows = [row for row in ground.rows if row not in cancer[::2]]
    for row in ground.rows:
        spared = row["diagnostic"] not in MALIGNANT and draw.random() < 0.56
        row["management"] = "no further examination" if spared else "excision"
    ground.columns.append(Column(name="management", kind="categorical"))
    found = ground.audit()
    column = next(c for c in found.proxies.columns if c.name == "management")
    assert column.auc.value < 0.8 and column.certain > 0.34
    assert found.verdict == "shortcut: management"


@pytest.mark.parametrize("values", [("False", "True"), ("a", "b", "c", "d")], ids=["two", "four"])
def test_two_inputs_that_tell_the_class_together(plot, values):
    """Each alone says nothing: the second is the class, shifted by the first."""
    ground = plot(patients=150)
    draw = random.Random(0)
    n = len(values)
    for row in ground.rows:
        first = draw.randrange(n)
        sure = row["diagnostic"] in MALIGNANT
        second = (first + (n // 2) * sure) % n
        row["one"], row["two"] = values[first], values[second]
        row["elevation"] = row["bleed"] = row["itch"] = row["hurt"] = "UNK"
    ground.columns += [Column(name=name, kind="categorical") for name in ("one", "two")]
    found = ground.audit()
    assert found.verdict == "shortcut: one with two"
    (pair,) = (p for p in found.together.pairs if p.strong)
    assert pair.auc.value > 0.95 and pair.auc_apart < 0.6
    assert found.together.forest.auc.value > found.together.forest.auc_apart


def test_three_inputs_whose_parity_is_the_class(plot):
    ground = plot(patients=240)
    draw = random.Random(0)
    for row in ground.rows:
        one, two = draw.random() < 0.5, draw.random() < 0.5
        three = one ^ two ^ (row["diagnostic"] in MALIGNANT)
        kept = {name: row[name] for name in ("patient_id", "lesion_id", "img_id", "diagnostic")}
        row |= {name: "" for name in row if name not in kept}
        row |= {"one": str(one), "two": str(two), "three": str(three)}
    ground.columns += [Column(name=name, kind="boolean") for name in ("one", "two", "three")]
    assert ground.audit().verdict == "shortcut: inputs together"


@pytest.mark.parametrize("declared", [False, True])
def test_a_hospital_that_goes_with_the_class(plot, declared):
    ground = plot()
    draw = random.Random(0)
    for row in ground.rows:
        sure = row["diagnostic"] in MALIGNANT
        row["hospital"] = "north" if (draw.random() < 0.85) == sure else draw.choice("abc")
        row["nurse"] = draw.choice("abcd")
    if declared:
        column = Column(name="hospital", kind="categorical", role="optional")
        ground.columns.append(column)
    assert ground.audit().verdict == "confound: hospital"


@pytest.mark.parametrize("plant", ["ink", "ruler", "frame", "JPEG quality", "camera", "corners"])
def test_what_was_done_to_the_photograph(plot, plant):
    ground = plot()
    draw = random.Random(0)
    for row in ground.rows:
        sure = row["diagnostic"] in MALIGNANT
        marked = (draw.random() < 0.85) == sure
        with Image.open(ground.file(row)) as opened:
            picture = opened.convert("RGB")
        w, h = picture.size
        pen, extra = ImageDraw.Draw(picture), {"quality": 90}
        if marked and plant == "ink":
            pen.ellipse((0.87 * w, 0.85 * h, 0.99 * w, 0.99 * h), fill=(70, 50, 160))
        elif marked and plant == "ruler":
            for x in range(0, w // 3, 4):
                pen.line((x, h - 8, x, h), fill=(20, 20, 20))
        elif marked and plant == "frame":
            picture = ImageOps.expand(picture, 5, (110, 120, 140))
        elif marked and plant == "corners":
            dark = Image.new("L", (w, h), 110)
            ImageDraw.Draw(dark).ellipse((-0.15 * w, -0.15 * h, 1.15 * w, 1.15 * h), fill=255)
            picture = ImageChops.multiply(picture, dark.convert("RGB"))
        elif plant == "camera":
            extra["exif"] = Image.Exif()
            extra["exif"][0x0110] = "one" if marked else "two"
        elif plant == "JPEG quality":
            extra["quality"] = 60 if marked else 90
        picture.save(ground.replace(row), format="JPEG", **extra)
    # A ruler along the edge is dark there: border or mark.
    names = {"ink": ("mark at the edge",), "ruler": ("border", "mark at the edge"),
             "frame": ("border",)}  # fmt: skip
    told = {f"shortcut: image {name}" for name in names.get(plant, (plant,))}
    assert told & set(ground.audit().verdict.split("; "))


def test_null_tables_are_clean(monkeypatch):
    """Labels that depend on nothing: no rule of the audit speaks, in tables of several sizes,
    numbers of classes, balances and photographs a patient."""
    monkeypatch.setattr("fusionbench.audit.together.TREES", 20)
    said = []
    for seed in range(9):
        table = null_table(seed)
        labels = labels_of(table)
        columns = input_columns(table.card)
        together, proxies = find_together(table, labels, columns), find_proxies(table, labels)
        assert together is not None
        said += [p.columns for p in together.pairs if p.strong]
        said += ["forest"] * together.forest.strong + [*proxies.found, *proxies.confounds]
    assert said == []


def null_table(seed: int) -> Table:
    rng = np.random.default_rng(seed)
    k = (2, 3, 6)[seed % 3]
    patients = (60, 150, 300)[seed // 3 % 3]
    patient = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    n = len(patient)
    weights = np.ones(k) if seed % 2 else 0.6 ** np.arange(k)
    own = rng.choice(k, patients, p=weights / weights.sum())
    labels = np.where(rng.random(n) < 0.7, own[patient], rng.choice(k, n))
    card = open_card("synthetic")
    names = tuple("abcdef"[:k])
    label = card.label.model_copy(update={"classes": names, "malignant": names[: k // 2]})
    columns = tuple(
        Column(name=f"c{j}", kind="numeric" if j < 3 else "categorical") for j in range(8)
    )
    cells = {
        c.name: rng.normal(size=patients)[patient] if c.kind == "numeric"
        else rng.choice([*"uvwxyz"], patients)[patient].astype(object)
        for c in columns
    }  # fmt: skip
    keys = patient.astype(str)
    ids = np.arange(n).astype(str)
    return Table(
        card=card.model_copy(update={"label": label, "columns": columns}), views=("clinical",),
        ids=ids, labels=labels, groups=keys, lesions=ids, rows=np.arange(n), lines=np.arange(n) + 2,
        metadata=pd.DataFrame(cells), images={}, digests={}, fingerprint=f"{seed}", complete=True,
        others=pd.DataFrame({"site": rng.choice([*"pqr"], patients)[patient]}),
    )  # fmt: skip
