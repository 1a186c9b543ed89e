"""The synthetic dataset: its files, its planted truth, and the accuracies its card states."""

from __future__ import annotations

import csv
import hashlib
import itertools
import re
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from planted_accuracies import bayes_accuracies, joint
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from fusionbench.data.card import read_card
from fusionbench.data.synthetic import generate as synthetic
from fusionbench.data.synthetic.generate import Knobs, ensure, generate
from fusionbench.data.synthetic.truth import CLASSES, sample
from fusionbench.errors import DataError, UsageError
from fusionbench.plugin.registry import builtin_root
from fusionbench.protocols import load_protocol

FOLDER = builtin_root() / "datasets" / "synthetic"
PAD_COLUMNS = (
    "patient_id,lesion_id,smoke,drink,background_father,background_mother,age,pesticide,gender,"
    "skin_cancer_history,cancer_history,has_piped_water,has_sewage_system,fitspatrick,region,"
    "diameter_1,diameter_2,diagnostic,itch,grew,hurt,changed,bleed,elevation,img_id,biopsed"
)
BLOCK = (
    "smoke,drink,background_father,background_mother,pesticide,gender,skin_cancer_history,"
    "cancer_history,has_piped_water,has_sewage_system,fitspatrick,diameter_1,diameter_2"
)
FAMILY = {"ACK": 0, "SCC": 0, "NEV": 1, "MEL": 1, "SEK": 2, "BCC": 2}
CANCER = {"BCC", "SCC", "MEL"}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("drawn") / "default")


def digests(root: Path) -> dict[str, str]:
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


# Files


def test_same_seed_same_bytes_everywhere(default: Path) -> None:
    # Literal hashes: not only twice here, but on every machine and with every numpy.
    all_files = "".join(f"{name} {digest}\n" for name, digest in digests(default).items())
    assert hashlib.sha256(all_files.encode()).hexdigest()[:16] == "ca0758db4b1d144e"
    table = hashlib.sha256((default / "metadata.csv").read_bytes()).hexdigest()
    assert table[:16] == "2cad2fc375040b76"


def test_small_dataset_is_drawn_twice_alike_and_the_seed_matters(tmp_path: Path) -> None:
    first, again, other = (
        digests(generate(tmp_path / name, Knobs(seed=seed, patients=6)))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again
    assert not set(first.values()) & set(other.values())


def test_layout_and_vocabulary_are_pad_ufes_20s(default: Path) -> None:
    assert (default / "metadata.csv").read_text().split("\n", 1)[0] == PAD_COLUMNS
    rows = rows_of(default / "metadata.csv")
    files = {p.name: p for p in default.glob("images/imgs_part_[123]/*.png")}
    assert sorted(files) == sorted(r["img_id"] for r in rows)
    assert len({p.parent.name for p in files.values()}) == 3
    modes, sizes = Counter(), set()
    for row in rows:
        assert row["img_id"].startswith(f"{row['patient_id']}_{row['lesion_id']}_")
        assert re.fullmatch(r"PAT_\d+_\d+_\d+\.png", row["img_id"])
        assert re.fullmatch(r"\d+", row["age"]) and re.fullmatch(r"([1-6]\.0)?", row["fitspatrick"])
        assert row["biopsed"] == "True" or row["diagnostic"] not in CANCER
        for name in ("bleed", "elevation", "biopsed"):
            assert row[name] in ("True", "False")
        with Image.open(files[row["img_id"]]) as image:
            image.load()  # decodes, check sums included
            modes[image.mode] += 1
            sizes.add(image.size)
    assert modes["RGBA"] > modes["RGB"] > 0
    assert len(sizes) == 4
    fathers = Counter(r["background_father"] for r in rows)
    assert all(fathers[v] for v in ("BRAZIL", "BRASIL", "UNK", ""))
    assert any(r["grew"] == "UNK" for r in rows) and any(r["diameter_1"] == "0.0" for r in rows)


def test_every_cell_fits_pads_own_card(default: Path) -> None:
    card = read_card(builtin_root() / "datasets" / "pad-ufes-20" / "dataset.toml")
    allowed = {c.name: (set(c.values) | set(c.aliases) | {""}) for c in card.columns if c.values}
    for row in rows_of(default / "metadata.csv"):
        assert {n: row[n] for n in allowed if row[n] not in allowed[n]} == {}
        assert row["diagnostic"] in card.classes


def test_counts_and_repeats(default: Path) -> None:
    rows = rows_of(default / "metadata.csv")
    card = read_card(FOLDER / "dataset.toml")
    assert len(rows) == card.expect.rows
    assert len({r["patient_id"] for r in rows}) == card.expect.groups
    assert Counter(r["diagnostic"] for r in rows) == card.expect.classes
    lesions = Counter((r["patient_id"], r["lesion_id"]) for r in rows)
    assert f"{len(rows)} drawn photographs of {len(lesions)} lesions" in card.description
    assert max(lesions.values()) == 3
    # As in PAD-UFES-20 a lesion's number alone is no key.
    assert len({number for _, number in lesions}) < len(lesions)
    # Answers belong to the lesion: its photographs agree in everything but their name.
    for key in lesions:
        same = [r for r in rows if (r["patient_id"], r["lesion_id"]) == key]
        assert len({tuple(v for k, v in r.items() if k != "img_id") for r in same}) == 1
    # The thirteen columns are missing together.
    for row in rows:
        empty = {name for name in BLOCK.split(",") if row[name] == ""}
        assert len(empty) == 13 or empty <= {"background_father", "background_mother"}


def test_committed_splits_fit_the_default(default: Path) -> None:
    card = read_card(FOLDER / "dataset.toml")
    rows = rows_of(default / "metadata.csv")
    ids, patients = [r["img_id"] for r in rows], [r["patient_id"] for r in rows]
    labels = np.array([card.classes.index(r["diagnostic"]) for r in rows])
    for name in ("grouped-5fold", "image-5fold"):
        protocol = load_protocol(card, ids, labels, patients, name)
        assert sorted(np.concatenate([f.test for f in protocol.folds])) == list(range(len(rows)))
        shared = [
            {patients[i] for i in f.train} & {patients[i] for i in f.test} for f in protocol.folds
        ]
        assert any(shared) == (name == "image-5fold")
        assert all(set(labels[f.test]) == set(range(6)) for f in protocol.folds)


# What is planted shows


def test_truth_file_follows_from_table_and_rule(default: Path) -> None:
    table = {r["img_id"]: r for r in rows_of(default / "metadata.csv")}
    truth = rows_of(default / "truth.csv")
    assert [t["img_id"] for t in truth] == list(table)
    wrong = 0
    for t in truth:
        row = table[t["img_id"]]
        shown = t["core"] if row["elevation"] == "True" else t["rim"]
        benign, malignant = shown.split("/")
        assert t["planted"] == (malignant if row["bleed"] == "True" else benign)
        assert row["itch"] in (row["bleed"], "UNK") and row["hurt"] in (row["bleed"], "UNK")
        wrong += t["planted"] != row["diagnostic"]
    assert 0.04 < wrong / len(truth) < 0.13  # a tenth is redrawn, a sixth of those by luck right


def test_colours_of_core_and_rim_are_legible_at_64_pixels(default: Path) -> None:
    """Mean colour of the middle and of a ring tell the two planted families apart."""
    truth = rows_of(default / "truth.csv")
    files = {p.name: p for p in default.glob("images/*/*.png")}
    y, x = np.mgrid[0:64, 0:64]
    radius = np.hypot(x - 31.5, y - 31.5) / 32
    seen = []
    for t in truth:
        with Image.open(files[t["img_id"]]) as image:
            small = np.asarray(image.convert("RGB").resize((64, 64)), dtype=float)
        seen.append(
            [
                *small[radius < 0.2].mean(axis=0),
                *small[(radius > 0.45) & (radius < 0.6)].mean(axis=0),
            ]
        )
    middle, ring = np.split(np.array(seen) / 255, 2, axis=1)
    half = len(truth) // 2
    for part, colour in (("core", middle), ("rim", ring)):
        family = [t[part] for t in truth]
        model = LogisticRegression(C=1000, max_iter=2000).fit(colour[:half], family[:half])
        assert model.score(colour[half:], family[half:]) > 0.95


def test_patients_have_a_style_of_their_own(default: Path) -> None:
    """The skin in the corners differs more between patients than within one."""
    rows = rows_of(default / "metadata.csv")
    files = {p.name: p for p in default.glob("images/*/*.png")}
    by_patient: dict[str, list[np.ndarray]] = {}
    for row in rows:
        with Image.open(files[row["img_id"]]) as image:
            pixels = np.asarray(image.convert("RGB"), dtype=float)
        corner = np.concatenate([pixels[:8, :8], pixels[-8:, -8:]]).mean(axis=(0, 1))
        by_patient.setdefault(row["patient_id"], []).append(corner)
    several = [np.array(v) for v in by_patient.values() if len(v) > 1]
    within = np.mean([v.var(axis=0, ddof=1).sum() for v in several])
    between = np.var([v.mean(axis=0) for v in several], axis=0, ddof=1).sum()
    assert between > 4 * within


# Best possible accuracies


def test_readme_and_card_state_the_computed_accuracies() -> None:
    best = bayes_accuracies()
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    description = read_card(FOLDER / "dataset.toml").description
    for name, value in best.items():
        assert re.search(rf"^\| {name}\b.*\| {value:.3f} \|$", readme, re.MULTILINE), name
        assert f"{value:.3f}" in description


@pytest.fixture(scope="module")
def factors() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A large table of planted factors without pictures, as one-hot codes; and its labels."""
    truth = sample(Knobs(seed=5), lesions=120_000)
    cells = np.eye(9)[3 * truth.core + truth.rim]  # any function of the image's two factors
    answers = np.stack([truth.core_counts, truth.malignant, truth.missing], axis=1).astype(float)
    return {"image": cells, "metadata": answers}, truth.label


def test_four_accuracies_as_reached_by_models_that_see_the_factors(
    factors: tuple[dict[str, np.ndarray], np.ndarray],
) -> None:
    seen, y = factors
    both = np.concatenate([seen["image"], seen["metadata"]], axis=1)
    half = len(y) // 2

    def score(model: LogisticRegression | DecisionTreeClassifier, x: np.ndarray) -> float:
        return model.fit(x[:half], y[:half]).score(x[half:], y[half:])

    reached = {
        "image": score(LogisticRegression(), seen["image"]),
        "metadata": score(LogisticRegression(), seen["metadata"]),
        "additive": score(LogisticRegression(), both),
        "interaction": score(DecisionTreeClassifier(), both),
    }
    best = bayes_accuracies()
    assert reached == pytest.approx(best, abs=0.01)
    assert best["image"] < best["additive"] - 0.25 < best["interaction"] - 0.5
    # And a logit with products of both sides' factors does what the tree does.
    products = np.einsum("ni,nj->nij", seen["image"], np.c_[np.ones(len(y)), seen["metadata"]])
    assert score(LogisticRegression(), products.reshape(len(y), -1)) == pytest.approx(
        best["interaction"], abs=0.01
    )


def test_accuracies_by_hand() -> None:
    """a of the lesions agree, e are redrawn: the family is known, or a guess among two."""
    for a, e in ((0.4, 0.1), (0.7, 0.0), (0.0, 0.3)):
        best = bayes_accuracies(Knobs(agree=a, noise=e))
        family = a + (1 - a) / 2
        assert best["image"] == pytest.approx((1 - e) * family / 2 + e / 6)
        assert best["metadata"] == pytest.approx((1 - e) / 3 + e / 6)
        assert best["additive"] == pytest.approx((1 - e) * family + e / 6)
        assert best["interaction"] == pytest.approx(1 - e + e / 6)


def test_no_adding_rule_gets_more_than_three_of_four_disagreements_right() -> None:
    """The README's upper bound. Where core and rim differ, a rule that adds prefers one of two
    families by the sign of d(order) + e(answer): every sign pattern but the crossed ones."""
    orders, answers = ("ab", "ba"), (True, False)
    scores = [-3, -1, 0, 1, 3]
    most = 0
    for d0, d1, e0, e1 in itertools.product(scores, repeat=4):
        right = 0
        for order, d in zip(orders, (d0, d1), strict=True):
            for core_counts, e in zip(answers, (e0, e1), strict=True):
                truth = order[0] if core_counts else order[1]
                right += (d + e > 0) == (truth == "a") and d + e != 0
        most = max(most, right)
    assert most == 3
    best = 0.9 * (0.4 + 0.6 * 3 / 4) + 0.1 / 6
    assert f"{best:.3f}" in (FOLDER / "README.md").read_text(encoding="utf-8")


# Knobs


@pytest.mark.parametrize(
    "knobs",
    [Knobs(), Knobs(imbalance=1.0, missing_block=1.0), Knobs(agree=0.0, noise=0.5, missing=0.6)],
)
def test_samples_follow_the_stated_distribution(knobs: Knobs) -> None:
    n = 100_000
    truth = sample(knobs, lesions=n)
    cell = 4 * truth.core_counts + 2 * truth.malignant + truth.missing
    seen = np.zeros((6, 9, 8))
    np.add.at(seen, (truth.label, 3 * truth.core + truth.rim, cell), 1)
    expected = n * joint(knobs)
    assert expected.sum() == pytest.approx(n)
    assert not seen[expected == 0].any()
    # A favourite class is one patient's here, so lesions are independent: Poisson-like counts.
    likely = expected > 20
    assert np.abs((seen - expected)[likely] / np.sqrt(expected[likely])).max() < 4.5
    # Independent of `joint`: the planted class follows from the factors.
    shown = np.where(truth.core_counts, truth.core, truth.rim)
    for i in range(500):
        name = CLASSES[truth.planted[i]]
        assert FAMILY[name] == shown[i] and (name in CANCER) == truth.malignant[i]


def test_imbalance_and_missing_block_at_one_are_pads() -> None:
    truth = sample(Knobs(imbalance=1.0, missing_block=1.0, noise=0.0), lesions=100_000)
    share = np.bincount(truth.label, minlength=6) / len(truth)
    assert share == pytest.approx(np.array([730, 845, 52, 244, 192, 235]) / 2298, abs=0.01)
    assert not truth.missing[truth.malignant].any()
    assert truth.missing[~truth.malignant].mean() == pytest.approx(804 / 1209, abs=0.01)
    assert truth.missing.mean() == pytest.approx(804 / 2298, abs=0.01)
    even = sample(Knobs(), lesions=100_000)
    assert np.bincount(even.label) / len(even) == pytest.approx(1 / 6, abs=0.01)
    rates = [even.missing[even.label == c].mean() for c in range(6)]
    assert rates == pytest.approx([0.2] * 6, abs=0.015)


def test_missing_block_adds_to_what_the_metadata_tell() -> None:
    # At noise one tenth the answers say more than the block does; with much noise it stands out.
    loud = Knobs(noise=0.6, missing_block=1.0)
    assert (
        bayes_accuracies(loud)["metadata"] > bayes_accuracies(Knobs(noise=0.6))["metadata"] + 0.02
    )


def test_habit_makes_patients_alike() -> None:
    def alike(habit: float) -> float:
        truth = sample(Knobs(patients=20_000, habit=habit))
        first, second = truth.label[:-1], truth.label[1:]
        same = truth.patient[:-1] == truth.patient[1:]
        return float((first == second)[same].mean())

    assert alike(0.0) == pytest.approx(1 / 6, abs=0.015)
    assert alike(0.3) == pytest.approx(0.3**2 + (1 - 0.3**2) / 6, abs=0.015)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": 1.5}, "noise: must be less than or equal to 1"),
        ({"patients": 0}, "patients: must be greater than or equal to 1"),
        ({"patients": 2.5}, "patients: must be a valid integer"),
        ({"colour": 1}, "colour: is not a known field.*It has: seed, patients"),
    ],
)
def test_wrong_knobs_are_named(
    options: dict[str, float], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path))
    card = read_card(FOLDER / "dataset.toml").model_copy(update={"generator_options": options})
    with pytest.raises(UsageError, match=message):
        ensure(card)
    assert not list(tmp_path.iterdir())


# On first use


def test_ensure_draws_once_and_by_knobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path))
    card = read_card(FOLDER / "dataset.toml")
    small = card.model_copy(update={"generator_options": {"patients": 4}})
    root = ensure(small)
    assert root.parent == tmp_path and root.name.startswith("synthetic-")
    stamp = (root / "metadata.csv").stat().st_mtime_ns
    assert ensure(small) == root and (root / "metadata.csv").stat().st_mtime_ns == stamp
    other = ensure(card.model_copy(update={"generator_options": {"patients": 4, "noise": 0.2}}))
    assert other != root
    # A half-deleted copy is an error of its own kind only for other knobs; without its stamp it is
    # somebody else's folder.
    (root / "generator.json").unlink()
    with pytest.raises(DataError, match="is not empty"):
        ensure(small)


def test_several_at_once_get_one_whole_copy(tmp_path: Path) -> None:
    knobs = Knobs(patients=5)
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: generate(tmp_path / "x", knobs), range(4)))
    assert set(folders) == {tmp_path / "x"}
    assert digests(tmp_path / "x") == digests(generate(tmp_path / "y", knobs))
    assert {p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")} == {"x", "y"}


def test_an_interrupted_drawing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = itertools.count()

    def fail(*args: object) -> bytes:
        if next(calls) == 3:
            raise OSError("disk full")
        return b""

    monkeypatch.setattr(synthetic, "png_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        generate(tmp_path / "x", Knobs(patients=5))
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == []


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(DataError, match="is not empty"):
        generate(tmp_path, Knobs(patients=2))
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".lock"] == ["thesis.tex"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert (generate(empty, Knobs(patients=2)) / "metadata.csv").is_file()
    shutil.rmtree(empty)


def test_a_cache_in_which_nothing_can_be_drawn_is_refused_with_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="Set FUSIONBENCH_CACHE"):
        ensure(read_card(builtin_root() / "datasets/synthetic/dataset.toml"))
