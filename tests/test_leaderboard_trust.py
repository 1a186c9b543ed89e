"""What a row says of itself beyond its numbers: the audit's verdict, what its metadata gain it over
controls, what chance could have done, lesions, and the parts of its spread."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import re
import statistics
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_records import control, record
from rich.console import Console

from fusionbench.config.run_config import RunConfig
from fusionbench.leaderboard import (
    Block,
    Row,
    Terminal,
    beside,
    blocks,
    render,
    without_controls,
)
from fusionbench.leaderboard.published import PublishedRow, Value
from fusionbench.leaderboard.table_model import SIGN
from fusionbench.records import Record

CE: dict[str, Any] = {
    "loss": "ce",
    "loss_params": {"ce": {"class_weights": "none"}},
    "loss_sources": {"ce": "1" * 16},
}
BASE = [0.50, 0.54, 0.47, 0.52, 0.58]  # folds differ more than methods do
SMALL_TEST = {"n_train": 80, "n_test": 20}  # n_test / n_train = 0.25
TWIN = {"epochs": 5, "lr": 1e-4, "select": "last", "shuffle_metadata": True}
SHUFFLED = SMALL_TEST | {"flags": ("control: shuffled metadata",)}


def rows(
    values: Sequence[float], *, seed: int = 0, name: str = "bacc", **changes: Any
) -> list[Record]:
    """One record a fold with that value."""
    result = SMALL_TEST | changes.pop("result", {})
    return [
        record({name: v}, fold=f, seed=seed, result=result, **changes) for f, v in enumerate(values)
    ]


def plus(*differences: float) -> list[float]:
    return [b + d for b, d in zip(BASE, differences, strict=True)]


def only(records: list[Record], **options: Any) -> Block:
    (block,) = blocks(records, **options)
    return block


def named(block: Block, fusion: str, *, shuffled: bool = False) -> Row:
    (row,) = [r for r in block.rows if r.fusion == fusion and r.shuffled == shuffled]
    return row


def screen(block: Block, width: int = 80, metrics: Sequence[str] | None = ("bacc",)) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(Terminal([block], metrics))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def csv_rows(block: Block) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(render([block], "csv"))))


def data(block: Block, **options: Any) -> list[dict[str, Any]]:
    """The rows in JSON."""
    (table,) = json.loads(render([block], "json", **options))["tables"]
    return list(table["rows"])


def cells(block: Block, **options: Any) -> list[dict[str, str]]:
    """The rows of the Markdown table by column."""
    text = render([block], "markdown", **({"metrics": ["bacc"]} | options))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    head, _, *body = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    return [dict(zip(head, line, strict=True)) for line in body]


# ---- methods without a network


def test_a_control_shows_no_backbone_and_no_loss() -> None:
    block = only(rows(BASE) + rows(BASE, **control()))
    (shown,) = [c for c in cells(block) if c["Method"] == "metadata-forest"]
    assert (shown["Params (M)"], shown["images/s"]) == ("-",) * 2
    assert shown["Notes"] == "control: no image"
    (line,) = [c for c in csv_rows(block) if c["fusion"] == "metadata-forest"]
    assert (line["backbone"], line["loss"], line["parameters"], line["control"]) == (
        *("", "", ""),
        "True",
    )
    (row,) = [r for r in data(block) if r["fusion"] == "metadata-forest"]
    assert (row["backbone"], row["loss"], row["control"]) == (None, None, True)
    assert row["kind"] == "control"
    text = screen(block)
    label = text[text.index("metadata-forest") :].splitlines()
    assert "resnet18" not in label[0]


def test_what_a_control_lacks_is_no_difference() -> None:
    training = {"columns": ["age"], "encoding": "onehot", "missing": "zero", "view": "clinical",
                "epochs": 30, "lr": 1e-3, "augment": "mild", "optimizer_args": {}}  # fmt: skip
    block = only(rows(BASE, settings=training) + rows(BASE, **control()))
    assert [r.differences for r in block.rows] == [{}, {}]
    # What both have is compared, among networks as before.
    records = rows(BASE, settings=training) + rows(BASE, settings=training | {"lr": 1e-4})
    records += rows(BASE, **control(settings={"encoding": "ordinal"}))
    told = {r.fusion: r.differences for r in only(records).rows if r.backbone is None}
    assert told == {"metadata-forest": {"encoding": "ordinal"}}
    networks = [r.differences for r in only(records).rows if r.backbone is not None]
    assert sorted(d["lr"] for d in networks) == ["0.0001", "0.001"]
    assert {d["encoding"] for d in networks} == {"onehot"}


def test_a_shuffled_twin_differs_by_its_remark_only() -> None:
    block = only(rows(plus(*[0.1] * 5)) + rows(BASE, settings=TWIN, result=SHUFFLED))
    assert [r.differences for r in block.rows] == [{}, {}]
    assert [c.get("Notes") for c in cells(block)] == ["", "control: shuffled metadata"]
    assert [r.shuffled for r in block.rows] == [False, True]


def test_controls_can_be_left_out_and_the_gains_stay() -> None:
    records = rows(plus(0.1, 0.11, 0.1, 0.09, 0.1)) + rows(BASE, fusion="none", **CE)
    records += rows(BASE, settings=TWIN, result=SHUFFLED) + rows(plus(*[0.3] * 5), **control())
    whole = only(records)
    (kept,) = without_controls([whole])
    assert [r.fusion for r in whole.rows] == ["metadata-forest", "sgmc", "sgmc", "none"] or [
        r.fusion for r in whole.rows
    ] == ["metadata-forest", "sgmc", "none", "sgmc"]
    assert [(r.fusion, r.shuffled) for r in kept.rows] == [("sgmc", False), ("none", False)]
    assert kept.rows[0].gains == named(whole, "sgmc").gains is not None
    assert whole.best("bacc") != kept.best("bacc") == {kept.rows[0].key}
    assert without_controls([only(rows(BASE, **control()))]) == []


# ---- recipes


def recipe_settings(name: str, **changes: Any) -> dict[str, Any]:
    """As a run under that recipe records them."""
    config = RunConfig.of(recipe=name).flat()
    drop = {"fusion", "backbone", "loss", "params", "dataset", "protocol", "seed", "weights"}
    drop |= {"allow_missing_images"}
    args: dict[str, Any] = {"optimizer_args": {}, "schedule_args": {}}
    if name == "metablock-2021":
        args["optimizer_args"] = {"momentum": 0.9, "filter_bias_and_bn": False}
        args["schedule_args"] = {"factor": 0.1, "patience": 10, "min_lr": 1e-6}
    return {k: v for k, v in config.items() if k not in drop} | args | changes


def test_a_row_of_another_recipe_names_it_and_its_departures() -> None:
    balanced = CE | {"loss_params": {"ce": {"class_weights": "balanced", "label_smoothing": 0.0}}}
    plain = CE | {"loss_params": {"ce": {"class_weights": "none", "label_smoothing": 0.0}}}
    smooth = CE | {"loss_params": {"ce": {"class_weights": "none", "label_smoothing": 0.1}}}
    other = recipe_settings("metablock-2021")
    records = rows(BASE, fusion="a", settings=recipe_settings("modern"), **plain)
    records += rows(BASE, fusion="b", settings=recipe_settings("modern", lr=1e-3), **smooth)
    records += rows(BASE, fusion="c", settings=other, **balanced)
    args = other["schedule_args"] | {"patience": 3}
    departing = other | {"epochs": 100, "schedule_args": args}
    records += rows(BASE, fusion="d", settings=departing, **plain)
    told = {r.fusion: r.differences for r in only(records).rows}
    assert told == {
        "a": {"recipe": "modern", "loss.ce.label_smoothing": "0.0"},
        "b": {"recipe": "modern", "lr": "0.001", "loss.ce.label_smoothing": "0.1"},
        "c": {"recipe": "metablock-2021", "loss.ce.label_smoothing": "0.0"},
        "d": {
            "recipe": "metablock-2021",
            "epochs": "100",
            "schedule_args.patience": "3",
            "loss.ce.class_weights": "none",
            "loss.ce.label_smoothing": "0.0",
        },
    }


def test_what_all_rows_share_is_no_departure() -> None:
    """Two recipes, both at five epochs, as a sweep with --epochs 5 leaves them."""
    records = rows(BASE, fusion="a", settings=recipe_settings("modern", epochs=5))
    records += rows(BASE, fusion="b", settings=recipe_settings("metablock-2021", epochs=5))
    told = {r.fusion: r.differences for r in only(records).rows}
    assert told == {"a": {"recipe": "modern"}, "b": {"recipe": "metablock-2021"}}


def test_another_optimizer_does_without_the_recipes_parameters() -> None:
    changed = recipe_settings("metablock-2021", optimizer="adam", optimizer_args={})
    records = rows(BASE, fusion="a", settings=recipe_settings("modern"))
    records += rows(BASE, fusion="b", settings=changed)
    told = {r.fusion: r.differences for r in only(records).rows}
    assert told == {
        "a": {"recipe": "modern"},
        "b": {"recipe": "metablock-2021", "optimizer": "adam"},
    }


# ---- the verdict

LEAKY = "leaky: patients 54 %; shortcut: missingness"


def test_a_verdict_stands_in_the_heading_and_on_every_row() -> None:
    result = {"verdict": LEAKY, "flags": ("leaky: patients", "images missing")}
    records = rows(BASE, fusion="a", result=result) + rows(BASE, fusion="b", result=result)
    block = only(records)
    assert block.verdict == LEAKY
    assert {r.verdict for r in block.rows} == {LEAKY}
    assert all("Audit" not in c for c in cells(block))  # said once, above
    assert [c["verdict"] for c in csv_rows(block)] == [LEAKY] * 2
    assert [r["verdict"] for r in data(block)] == [LEAKY] * 2
    for text in (render([block], "markdown"), render([block], "latex"), screen(block)):
        assert f"Audit: {LEAKY}".replace("%", "\\%" if "\\begin" in text else "%") in text
        # The protocol's own flag says less of the same thing: left out, the other one stays.
        assert text.count("leaky: patients") == 1 and text.count("images missing") >= 1
    assert {c["flags"] for c in csv_rows(block)} == {"images missing"}


def test_verdicts_that_differ_stand_in_full_on_their_rows() -> None:
    records = rows(BASE, fusion="a", result={"verdict": "clean"})
    records += rows(BASE, fusion="b", result={"verdict": "shortcut: biopsed"}) + rows(BASE)
    block = only(records)
    assert block.verdict is None and "Audit:" not in render([block], "markdown")
    assert {c["Method"]: c["Audit"] for c in cells(block)} == {
        "a": "clean", "b": "shortcut: biopsed", "sgmc": "not audited",
    }  # fmt: skip
    text = screen(block, 120)
    for said in ("clean", "shortcut: biopsed", "not audited"):
        assert text.count(said) == 1


def test_without_an_audit_that_is_said() -> None:
    block = only(rows(BASE, result={"flags": ("leaky: patients",)}))
    assert [c["Audit"] for c in cells(block)] == ["not audited"]
    assert "\n\nNot audited\n\n" in render([block], "markdown")
    assert cells(block)[0]["Notes"] == "leaky: patients"  # nothing says it better


def test_a_row_is_not_cleaner_than_its_least_audited_run() -> None:
    some = [record({"bacc": 0.5}, fold=f, result={"verdict": "clean"}) for f in range(3)]
    rest = [record({"bacc": 0.5}, fold=f) for f in (3, 4)]
    assert only(some + rest).rows[0].verdict == "clean; not audited: 2 of 5 runs"
    found = [
        record({"bacc": 0.5}, fold=f, result={"verdict": text})
        for f, text in enumerate(["clean", "leaky: images 1 %", "clean", "clean", "clean"])
    ]
    assert only(found).rows[0].verdict == "leaky: images 1 %"


def test_the_badge_is_coloured() -> None:
    def coloured(verdict: str) -> str:
        console = Console(
            width=80, file=io.StringIO(), color_system="standard", force_terminal=True
        )
        console.print(Terminal([only(rows(BASE, result={"verdict": verdict}))], ["bacc"]))
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    assert "\x1b[32mAudit: clean" in coloured("clean")
    assert "\x1b[31mAudit: leaky" in coloured(LEAKY)
    assert "\x1b[2mNot audited" in coloured("")


# ---- gains


def t_interval(differences: Sequence[float], ratio: float) -> tuple[float, float, float]:
    """(low, high, p) of the corrected resampled t-test, written out."""
    from scipy.stats import t

    n, mean = len(differences), statistics.fmean(differences)
    se = math.sqrt((1 / n + ratio) * statistics.variance(differences))
    half = t.ppf(0.975, n - 1) * se
    return mean - half, mean + half, 2 * t.sf(abs(mean / se), n - 1)


OVER_IMAGE = (0.080, 0.085, 0.078, 0.084, 0.081)
OVER_TWIN = (0.060, 0.072, 0.050, 0.065, 0.061)


def trio(metric: str = "bacc", sign: int = 1) -> list[Record]:
    """A fusion, its network alone, its twin; their differences per fold are the two above."""
    image = plus(*(-sign * d for d in OVER_IMAGE))
    twin = plus(*(-sign * d for d in OVER_TWIN))
    return (
        rows(BASE, name=metric)
        + rows(image, name=metric, fusion="none", **CE)
        + rows(twin, name=metric, settings=TWIN, result=SHUFFLED)
    )


def test_gains_are_paired_by_fold() -> None:
    block = only(trio())
    gains = named(block, "sgmc").gains
    assert gains is not None and gains.image is not None and gains.shuffled is not None
    for gain, differences, against in (
        (gains.image, OVER_IMAGE, named(block, "none")),
        (gains.shuffled, OVER_TWIN, named(block, "sgmc", shuffled=True)),
    ):
        assert gain.mean == pytest.approx(statistics.fmean(differences))
        assert gain.std == pytest.approx(statistics.stdev(differences))
        assert (gain.low, gain.high, gain.p) == pytest.approx(t_interval(differences, 0.25))
        assert (gain.against, gain.n) == (against.key, 5)
    share = statistics.fmean(OVER_TWIN) / statistics.fmean(OVER_IMAGE)
    assert gains.share == pytest.approx(share)
    assert named(block, "none").gains is None and against.gains is None


def test_gains_in_every_format() -> None:
    block = only(trio())
    shown = {(c["Method"], c["vs image"], c["vs shuffled"]) for c in cells(block)}
    assert shown == {("sgmc", "+8.2", "+6.2 (75 %)"), ("none", "", ""), ("sgmc", "", "")}
    (line,) = [c for c in csv_rows(block) if c["vs_image_mean"]]
    assert float(line["vs_image_mean"]) == pytest.approx(0.0816)
    assert float(line["vs_image_std"]) == pytest.approx(statistics.stdev(OVER_IMAGE))
    assert float(line["vs_shuffled_low"]) == pytest.approx(t_interval(OVER_TWIN, 0.25)[0])
    assert float(line["vs_shuffled_share"]) == pytest.approx(0.0616 / 0.0816)
    assert line["gain_metric"] == "bacc"
    (row,) = [r for r in data(block) if "gain_metric" in r]
    assert row["vs_image"]["n"] == 5
    assert row["vs_shuffled"]["share"] == pytest.approx(0.0616 / 0.0816)
    narrow, wide = screen(block, 80, None), screen(block, 130, None)
    assert "+8.2" in narrow or "lack of room" in narrow
    assert "vs image" in wide.split("───")[0] and "+6.2 (75 %)" in wide
    assert "vs image +8.2" not in wide
    assert "+8.2 & +6.2 (75 \\%)" in re.sub(" +", " ", render([block], "latex", two_column=True))
    for text in (
        wide if "Gain in" in wide else render([block], "markdown"),
        render([block], "markdown"),
    ):
        said = " ".join(text.split())
        assert "vs image: over the same network without metadata" in said
        assert "permuted between patients" in said and "lies above 0" in said


def test_columns_of_gains_only_where_there_are_any() -> None:
    alone = only(rows(BASE))
    assert not {"vs image", "vs shuffled"} & cells(alone)[0].keys()
    assert not [c for c in csv_rows(alone)[0] if c.startswith(("vs_", "gain"))]
    both = only(rows(plus(*[0.1] * 5)) + rows(BASE, fusion="none", **CE))
    assert "vs image" in cells(both)[0] and "vs shuffled" not in cells(both)[0]
    assert "vs_image_mean" in csv_rows(both)[0]
    assert "vs_shuffled_mean" not in csv_rows(both)[0]
    assert "Gain in" not in render([alone], "markdown")


@pytest.mark.parametrize("image", [(0.08, -0.07, 0.09, -0.06, 0.05), (-0.08, -0.085, -0.078,
                                   -0.084, -0.081)])  # fmt: skip
def test_no_share_of_a_gain_that_is_not_clear(image: tuple[float, ...]) -> None:
    records = rows(BASE) + rows(plus(*(-d for d in image)), fusion="none", **CE)
    records += rows(plus(*(-d for d in OVER_TWIN)), settings=TWIN, result=SHUFFLED)
    gains = named(only(records), "sgmc").gains
    assert gains is not None and gains.image is not None and gains.shuffled is not None
    assert gains.image.low <= 0 and t_interval(image, 0.25)[0] < 0
    assert gains.share is None
    (shown,) = [c for c in cells(only(records)) if c["vs shuffled"]]
    assert shown["vs shuffled"] == "+6.2"


def test_a_gain_in_a_metric_that_is_better_low_is_positive_too() -> None:
    block = only(trio("nll", sign=-1), sort="nll")
    gains = named(block, "sgmc").gains
    assert gains is not None and gains.image is not None
    assert gains.image.mean == pytest.approx(statistics.fmean(OVER_IMAGE))
    shown = [c["vs image"] for c in cells(block, metrics=["nll"]) if c["vs image"]]
    assert shown == ["+0.082"]


def test_an_absent_value_gives_no_gain() -> None:
    assert named(only(trio("acc")), "sgmc").gains is None  # bacc is not in these records


GUIDED = {
    "ce": {"class_weights": "balanced"},
    "self-contrastive": {"delta": 0.1},
}
OTHER_CE = CE | {"loss_params": {"ce": {"class_weights": "balanced"}}}
FOCAL = {"loss": "focal", "loss_params": {"focal": {}}, "loss_sources": {"focal": "3" * 16}}


@pytest.mark.parametrize(
    ("there", "mine", "expected"),
    [
        # The same loss goes before the plain one.
        ([CE, FOCAL], FOCAL, 1),
        ([CE], FOCAL, 0),
        ([FOCAL], CE, None),
        # Of two plain ones that with the same cross-entropy; no guess where both fit.
        ([CE, OTHER_CE], {"loss_params": GUIDED}, 1),
        ([CE, OTHER_CE], FOCAL, None),
        ([CE], {"loss_params": GUIDED}, None),
        # Another network or another training is none of ours.
        ([CE | {"backbone": "resnet50"}], CE, None),
        ([CE | {"weights": "imagenet:1"}], CE, None),
        ([CE | {"settings": {"epochs": 6, "lr": 1e-4, "select": "last"}}], CE, None),
        # What metadata it would have been given changes nothing for a network that sees none.
        (
            [
                CE
                | {"settings": {"epochs": 5, "lr": 1e-4, "select": "last", "metadata_dropout": 0.2}}
            ],
            CE,
            0,
        ),
    ],
)
def test_which_row_is_the_network_alone(
    there: list[dict[str, Any]], mine: dict[str, Any], expected: int | None
) -> None:
    """The candidates lie 1, 2, ... points below, so that the gain tells which was taken."""
    records = rows(BASE, **mine)
    for i, changes in enumerate(there, 1):
        records += rows(plus(*[-i / 100] * 5), fusion="none", **changes)
    gains = named(only(records), "sgmc").gains
    if expected is None:
        assert gains is None
    else:
        assert gains is not None and gains.image is not None
        assert gains.image.mean == pytest.approx((expected + 1) / 100)


def test_a_twin_is_the_same_in_everything_else() -> None:
    whole = rows(BASE)
    for changes in (
        {"fusion_params": {"hidden": 8}},
        {"loss": "ce"},
        {"fusion_source": "0" * 16},
        {"settings": TWIN | {"epochs": 6}},
    ):
        twin = rows(BASE, **({"settings": TWIN} | changes), result=SHUFFLED)
        block = only(whole + twin)
        assert all(row.gains is None for row in block.rows), changes
    # An incomplete row compares with nothing.
    half = rows(BASE[:3], settings=TWIN, result=SHUFFLED)
    assert all(row.gains is None for row in only(whole + half).rows)
    # A control without images has a twin too, and no image to be held against.
    records = rows(BASE, **control()) + rows(BASE, fusion="none", **CE)
    records += rows(plus(*[-0.1] * 5), **control(settings={"shuffle_metadata": True}))
    gains = named(only(records), "metadata-forest").gains
    assert gains is not None and gains.image is None and gains.shuffled is not None


def test_one_fold_gives_a_gain_without_a_spread() -> None:
    once = SMALL_TEST | {"folds_expected": 1}
    records = [
        record({"bacc": 0.6}, result=once),
        record({"bacc": 0.5}, fusion="none", result=once, **CE),
    ]
    gains = named(only(records), "sgmc").gains
    assert gains is not None and gains.image is not None
    assert gains.image.mean == pytest.approx(0.1)
    assert (gains.image.std, gains.image.p, gains.image.low) == (None, None, None)


# ---- marks


def holm_by_hand(p_values: dict[str, float]) -> dict[str, float]:
    ordered, highest, found = sorted(p_values, key=lambda k: p_values[k]), 0.0, {}
    for i, key in enumerate(ordered):
        highest = max(highest, min(1.0, p_values[key] * (len(ordered) - i)))
        found[key] = highest
    return found


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=40)
def test_marks_follow_the_corrected_test(seed: int) -> None:
    draw = random.Random(seed)
    values = {
        name: [b + shift + draw.gauss(0, 0.01) for b in BASE]
        for name, shift in zip("abcdef", (0, -0.01, -0.02, -0.04, -0.06, -0.2), strict=True)
    }
    block = only([r for name, v in values.items() for r in rows(v, fusion=name)])
    keys = {row.key: row.fusion for row in block.rows}
    (best,) = block.best("bacc")
    top = values[keys[best]]
    p_values = {
        name: t_interval([x - y for x, y in zip(top, v, strict=True)], 0.25)[2]
        for name, v in values.items()
        if name != keys[best]
    }
    expected = {name for name, p in holm_by_hand(p_values).items() if p >= 0.05}
    assert {keys[key] for key in block.alike("bacc")} == expected
    rows_ = data(block, metrics=["bacc"])
    assert {r["fusion"] for r in rows_ if r["metrics"]["bacc"]["not_different"]} == expected
    assert {r["key"] for r in rows_ if r["metrics"]["bacc"]["best"]} == {best}
    marked = {c["Method"] for c in cells(block) if c["BACC"].endswith(SIGN)}
    assert marked == expected


def test_marks_are_said_and_stand_in_every_printed_format() -> None:
    near = plus(0.002, -0.004, 0.001, -0.003, 0.001)
    far = plus(-0.20, -0.21, -0.2, -0.19, -0.2)
    records = rows(BASE, fusion="a") + rows(near, fusion="b") + rows(far, fusion="c")
    block = only(records)
    numbers = {c["Method"]: c["BACC"] for c in cells(block)}
    assert numbers["a"].startswith("**") and not numbers["a"].endswith(SIGN)
    assert numbers["b"] == f"52.1 ± 4.1{SIGN}" and not numbers["c"].endswith(SIGN)
    for text in (render([block], "markdown"), screen(block), screen(block, 120)):
        said = " ".join(text.split())
        assert "Holm over the rows; alpha 0.05" in said
    tex = render([block], "latex")
    assert "\\rlap{$^\\circ$}" in tex and SIGN not in tex
    alone = render([only(rows(BASE, fusion="a") + rows(far, fusion="c"))], "markdown")
    assert SIGN not in alone and "Nadeau" not in alone


def test_what_cannot_be_tested_is_not_marked() -> None:
    # One fold: no spread. Incomplete: not ranked. Optimistic: no rival.
    once = {"folds_expected": 1}
    single = [record({"bacc": v}, fusion=n, result=once) for n, v in (("a", 0.5), ("b", 0.5001))]
    assert only(single).alike("bacc") == frozenset()
    peek = rows(plus(*[0.001] * 5), fusion="peek", result={"flags": ("optimistic: test-best",)})
    block = only(rows(BASE, fusion="a") + rows(BASE[:4], fusion="b") + peek)
    assert block.alike("bacc") == frozenset()
    # Ties are both best, and bold rather than marked.
    tied = only(rows(BASE, fusion="a") + rows(BASE, fusion="b"))
    assert len(tied.best("bacc")) == 2 and tied.alike("bacc") == frozenset()
    assert tied.alike("acc") == frozenset()


# ---- lesions


def with_lesions(**changes: Any) -> list[Record]:
    """Photographs at .5 and up, lesions at .6 and up."""
    return [
        record({"bacc": v}, lesions={"bacc": v + 0.1}, n=12, fold=f, **changes)
        for f, v in enumerate(BASE)
    ]


def test_by_lesion_the_lesions_are_counted() -> None:
    records = with_lesions(fusion="a") + with_lesions(fusion="b")
    image, lesion = only(records), only(records, level="lesion")
    mean = statistics.fmean(BASE)
    for block, n, value in ((image, 60, mean), (lesion, 30, mean + 0.1)):
        part = block.rows[0].parts["test"]
        assert part.n == n and part.metrics["bacc"].mean == pytest.approx(value)
        assert [c["level"] for c in csv_rows(block)] == [block.level] * 2
        assert {row["level"] for row in data(block)} == {block.level}
    text = render([lesion], "markdown")
    assert "## synthetic / grouped-5fold, by lesion" in text
    assert "n lesions over all folds" in text and "n photographs" not in text
    assert "by lesion" not in render([image], "markdown")


def test_records_without_lesions_have_no_row_by_lesion() -> None:
    records = with_lesions(fusion="a") + rows(BASE, fusion="b", n=12)
    assert {r.fusion for r in only(records).rows} == {"a", "b"}
    assert [r.fusion for r in only(records, level="lesion").rows] == ["a"]
    assert blocks(rows(BASE), level="lesion") == []


def test_published_numbers_are_not_by_lesion() -> None:
    paper = PublishedRow(
        method="SGMC", backbone="resnet18", dataset="synthetic", protocol="grouped-5fold",
        samples=50, source="A", url="https://a.org/b",
        values={"bacc": Value(0.7, None, "paper", "")},
    )  # fmt: skip
    image = blocks(with_lesions())
    lesion = blocks(with_lesions(), level="lesion")
    assert beside(image, [paper])[0].rows[0].delta
    assert beside(lesion, [paper]) == []
    (item,) = beside(lesion, [paper], show=True)[0].rows
    assert item.delta == {} and item.reason == "ours is by lesion"


# ---- several seeds


def anova(table: list[list[float]]) -> tuple[float, float, float]:
    """(fold, seed, rest) standard deviations of folds x seeds, from the mean squares, by loops."""
    f, s = len(table), len(table[0])
    grand = statistics.fmean(x for line in table for x in line)
    folds = [statistics.fmean(line) for line in table]
    seeds = [statistics.fmean(table[i][j] for i in range(f)) for j in range(s)]
    ms_fold = s * sum((m - grand) ** 2 for m in folds) / (f - 1)
    ms_seed = f * sum((m - grand) ** 2 for m in seeds) / (s - 1)
    rest = sum(
        (table[i][j] - folds[i] - seeds[j] + grand) ** 2 for i in range(f) for j in range(s)
    ) / ((f - 1) * (s - 1))
    return (
        math.sqrt(max(0.0, (ms_fold - rest) / s)),
        math.sqrt(max(0.0, (ms_seed - rest) / f)),
        math.sqrt(rest),
    )


def test_several_seeds_split_the_spread() -> None:
    draw = random.Random(5)
    table = [[b + shift + draw.gauss(0, 0.01) for shift in (0, 0.02, -0.02)] for b in BASE]
    records = [r for s in range(3) for r in rows([line[s] for line in table], seed=s)]
    block = only(records)
    fold, seed, rest = anova(table)
    (line,) = csv_rows(block)
    found = [float(line[f"bacc_std_{kind}"]) for kind in ("fold", "seed", "rest")]
    assert found == pytest.approx([fold, seed, rest])
    stat = data(block)[0]["metrics"]["bacc"]
    assert [stat[f"std_{kind}"] for kind in ("fold", "seed", "rest")] == pytest.approx(found)
    rerun = math.hypot(seed, rest)
    said = f"folds {fold * 100:.1f}, seeds {rerun * 100:.1f}"
    assert said in cells(block)[0]["BACC"] and said in " ".join(screen(block).split())
    assert "the parts of the spread" in render([block], "markdown")
    # A single seed has no parts, and no columns for them.
    single = only(rows(BASE))
    assert "bacc_std_fold" not in csv_rows(single)[0] and "folds " not in cells(single)[0]["BACC"]
    assert "the parts of the spread" not in render([single], "markdown")


def test_seeds_of_one_fold_are_not_split() -> None:
    block = only([record({"bacc": v}, seed=s, result={"folds_expected": 1})
                  for s, v in enumerate(BASE)])  # fmt: skip
    (line,) = csv_rows(block)
    assert "bacc_std_fold" not in line and line["bacc_std"] != ""
    assert not [name for name in data(block)[0]["metrics"]["bacc"] if name.startswith("std_")]


# ---- all of it on the terminal


@pytest.mark.parametrize("width", [80, 120])
def test_a_full_table_fits_the_terminal(width: int) -> None:
    verdict = {"verdict": LEAKY}
    draw = random.Random(1)

    def everything(seed: int, fusion: str, result: dict[str, Any], **changes: Any) -> list[Record]:
        names = ("acc", "precision_weighted", "bacc", "f1_weighted", "auc_ovr_macro")
        return [
            record({m: v + draw.gauss(0, 0.01) for m in names}, fusion=fusion, seed=seed, fold=f,
                   n=460, result=SMALL_TEST | result, **changes)
            for f, v in enumerate(BASE)
        ]  # fmt: skip

    records: list[Record] = []
    for seed in (0, 1):
        records += everything(seed, "sgmc", verdict)
        records += everything(seed, "none", verdict, **CE)
        records += everything(seed, "sgmc", verdict | SHUFFLED, settings=TWIN)
        forest = control()
        result = verdict | forest.pop("result")
        records += everything(seed, forest.pop("fusion"), result, **forest)
    text = screen(only(records), width, None)
    assert max(len(line) for line in text.splitlines()) <= width and "…" not in text
    assert text.count("Audit: leaky") == 1 and text.count("BACC") == 2  # header, caption
    for row in only(records).rows:
        assert f"{row.parts['test'].metrics['bacc'].mean * 100:.1f}" in text
