"""A leaderboard compares only what may be compared, and says what each number is."""

from __future__ import annotations

import csv
import io
import json
import random
import re
import statistics
import subprocess
import sys
from copy import copy
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_records import failed, record
from rich.console import Console

from fusionbench.errors import UsageError
from fusionbench.leaderboard import FORMATS, PAPER, Block, Row, Terminal, blocks, render, sheets
from fusionbench.metrics.names import METRICS
from fusionbench.records import Record

EVIL = "=cmd|'/c calc'!A1 [red]x[/red] **b** \\input{x} a_b & 5% $x$ <script> `q`\n\x1b[31m"


def row(
    values: list[float], *, folds: list[int] | None = None, name: str = "bacc", **changes: Any
) -> list[Record]:
    """One record a fold with that value in `name`, and half of it in acc."""
    pairs = zip(folds or range(len(values)), values, strict=True)
    return [record({name: v, "acc": v / 2}, fold=f, **changes) for f, v in pairs]


def only(found: list[Block]) -> Block:
    assert len(found) == 1
    return found[0]


def by_name(block: Block) -> dict[str, Row]:
    assert len({r.fusion for r in block.rows}) == len(block.rows)
    return {r.fusion: r for r in block.rows}


def screen(found: list[Block], width: int, metrics: list[str] | None = None) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None, force_terminal=True)
    console.print(Terminal(found, metrics))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# ---- rows


def test_hand_computed_means() -> None:
    found = by_name(
        only(
            blocks(
                row([0.70, 0.72, 0.74, 0.76, 0.78], fusion="sgmc", n=7)
                + row([0.60, 0.60, 0.60, 0.60, 0.60], fusion="none", n=7)
            )
        )
    )
    stat = found["sgmc"].parts["test"].metrics["bacc"]
    assert stat.mean == pytest.approx(0.74) and stat.n == 5
    assert stat.std == pytest.approx(0.0316227766)  # sqrt(0.004 / 4)
    assert found["sgmc"].parts["test"].n == 35
    assert found["sgmc"].parameters == 11_500_000
    assert found["sgmc"].images_per_s == 100.0
    assert found["none"].parts["test"].metrics["bacc"].std == 0.0


@given(st.lists(st.floats(0, 1), min_size=2, max_size=10))
@settings(deadline=None, max_examples=60)
def test_mean_and_spread_are_the_sample_ones(values: list[float]) -> None:
    stat = only(blocks(row(values))).rows[0].parts["test"].metrics["bacc"]
    assert stat.mean == pytest.approx(statistics.mean(values), rel=1e-12, abs=1e-15)
    assert stat.std == pytest.approx(statistics.stdev(values), rel=1e-9, abs=1e-12)


def test_several_seeds_are_one_row_over_all_runs() -> None:
    a, b = [0.1, 0.2, 0.3, 0.4, 0.5], [0.3, 0.3, 0.3, 0.9, 0.9]
    block = only(blocks(row(a, seed=0, n=4) + row(b, seed=1, n=4)))
    found = block.rows[0]
    stat = found.parts["test"].metrics["bacc"]
    assert (stat.mean, stat.std) == pytest.approx((statistics.mean(a + b), statistics.stdev(a + b)))
    assert (found.seeds, found.runs_done, found.runs_expected, found.ranked) == (
        (0, 1),
        10,
        10,
        True,
    )
    assert found.parts["test"].n == 20  # the photographs, not the runs
    assert "folds x seeds" in render([block], "markdown")


def test_a_single_fold_has_no_spread() -> None:
    block = only(blocks([record({"bacc": 0.5}, result={"folds_expected": 1})]))
    stat = block.rows[0].parts["test"].metrics["bacc"]
    assert stat.std is None and block.rows[0].ranked
    assert "| **50.0** |" in re.sub(" +", " ", render([block], "markdown"))


def test_a_null_is_left_out_of_the_mean() -> None:
    rows = [*row([0.5] * 4), record({"bacc": None, "acc": 0.25}, fold=4)]
    stat = only(blocks(rows)).rows[0].parts["test"].metrics["bacc"]
    assert (stat.mean, stat.n) == (0.5, 4)


def test_the_order_of_records_and_copies_do_not_matter() -> None:
    records = row([0.5, 0.6, 0.7]) + row([0.1] * 5, fusion="none") + row([0.2] * 5, seed=1)
    expected = blocks(records)
    for seed in range(5):
        shuffled = [*records, *(copy(r) for r in records[:4])]
        random.Random(seed).shuffle(shuffled)
        assert blocks(shuffled) == expected


def test_an_incomplete_row_is_not_ranked_and_comes_last() -> None:
    records = row([0.9] * 3, fusion="early") + row([0.5] * 5, fusion="low")
    records += [*row([0.6] * 5, fusion="mid"), failed(fusion="early", fold=3)]
    block = only(blocks(records))
    assert [r.fusion for r in block.rows] == ["mid", "low", "early"]
    assert [r.ranked for r in block.rows] == [True, True, False]
    assert block.best("bacc") == {block.rows[0].key}
    for text in (render([block], "markdown"), render([block], "latex"), screen([block], 80)):
        assert "n=3/5" in text
    assert "**90.0" not in render([block], "markdown")
    assert "**60.0 ± 0.0**" in render([block], "markdown")


def test_a_second_seed_half_done_is_incomplete() -> None:
    found = only(blocks(row([0.5] * 5, seed=0) + row([0.5] * 2, seed=1))).rows[0]
    assert (found.runs_done, found.runs_expected, found.ranked) == (7, 10, False)


def test_ties_are_all_best_and_low_wins_where_low_is_better() -> None:
    records = row([0.3] * 5, fusion="a", name="nll") + row([0.3] * 5, fusion="b", name="nll")
    block = only(blocks(records + row([0.4] * 5, fusion="c", name="nll")))
    named = by_name(block)
    assert block.best("nll") == {named["a"].key, named["b"].key}
    assert block.best("acc") == {named["c"].key}
    assert block.best("brier") == frozenset()


def test_sorting_follows_the_metric_asked_for() -> None:
    records = row([0.1] * 5, fusion="a", name="ece") + row([0.2] * 5, fusion="b", name="ece")
    assert [r.fusion for r in only(blocks(records, sort="ece")).rows] == ["a", "b"]
    assert [r.fusion for r in only(blocks(records, sort="acc")).rows] == ["b", "a"]
    # Nothing to sort by: ranked rows still come first.
    records += row([0.1], fusion="A", name="ece")
    assert [r.fusion for r in only(blocks(records, sort="nll")).rows] == ["a", "b", "A"]


def test_an_optimistic_row_is_marked_and_beats_no_honest_one() -> None:
    flags = {"flags": ("optimistic: test-best",)}
    peeking = row([0.9] * 5, fusion="peek", result=flags)
    block = only(blocks(peeking + row([0.5] * 5, fusion="honest")))
    assert block.best("bacc") == {by_name(block)["honest"].key}
    assert "optimistic: test-best" in render([block], "markdown")
    assert "Optimistic rows do not compete" in render([block], "markdown")
    alone = only(blocks(peeking))
    assert alone.best("bacc") == {alone.rows[0].key}


def test_a_part_that_chose_nothing_is_not_optimistic() -> None:
    """--select test-best chooses on the test part; the part that is held out chose nothing."""
    peeking = {"flags": ("optimistic: test-best", "leaky: patients")}
    records = []
    for name, test, holdout in (("peek", 0.8, 0.7), ("honest", 0.7, 0.65)):
        for fold in range(5):
            made = record({"bacc": test}, holdout={"bacc": holdout}, fusion=name, fold=fold, n=4,
                          result=peeking if name == "peek" else {})  # fmt: skip
            records.append(made)
    block = only(blocks(records))
    named = by_name(block)
    assert block.best("bacc") == {named["honest"].key}
    assert block.best("bacc", "holdout") == {named["peek"].key}
    rows = json.loads(render([block], "json"))["tables"][0]["rows"]
    flags = {row["part"]: row["flags"] for row in rows if row["fusion"] == "peek"}
    assert flags["test"] == ["optimistic: test-best", "leaky: patients"]
    assert flags["holdout"] == ["leaky: patients"]


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "other"},
        {"data_fingerprint": "e" * 16},
        {"protocol": "image-5fold"},
        {"split_hash": "6" * 16},
        {"n": 11},  # other photographs: another cohort
    ],
)
def test_what_was_evaluated_otherwise_stands_in_another_block(change: dict[str, Any]) -> None:
    found = blocks(row([0.5] * 5, fusion="a") + row([0.6] * 5, fusion="b", **change))
    assert sorted([r.fusion for r in b.rows] for b in found) == [["a"], ["b"]]
    assert all(b.best("bacc") == {b.rows[0].key} for b in found)


def test_an_incomplete_row_joins_the_block_whose_folds_it_shares() -> None:
    def cohorts(name: str, tag: str, folds: list[int]) -> list[Record]:
        return [
            record({"bacc": 0.5}, fusion=name, fold=f, result={"cohort": f"{tag}{f}"})
            for f in folds
        ]

    for i in range(8):  # other names have other keys, and so another order
        found = blocks(
            cohorts(f"part-x{i}", "x", [1, 3])
            + cohorts(f"whole-x{i}", "x", [0, 1, 2, 3, 4])
            + cohorts(f"whole-y{i}", "y", [0, 1, 2, 3, 4])
            + cohorts(f"part-y{i}", "y", [2])
        )
        names = sorted(sorted(r.fusion for r in b.rows) for b in found)
        assert names == [[f"part-x{i}", f"whole-x{i}"], [f"part-y{i}", f"whole-y{i}"]]


def test_a_changed_source_is_stale() -> None:
    records = row([0.5] * 5)
    same = {("fusions", "sgmc"): "f" * 16, ("losses", "ce"): "1" * 16}
    assert only(blocks(records)).rows[0].flags == ()
    assert only(blocks(records, current_sources=same)).rows[0].flags == ()
    assert only(blocks(records, current_sources={})).rows[0].flags == ()  # not at hand: unknown
    changed = {**same, ("fusions", "sgmc"): "0" * 16, ("losses", "self-contrastive"): "0" * 16}
    stale = only(blocks(records, current_sources=changed))
    assert stale.rows[0].flags == ("stale: sgmc, self-contrastive",)
    assert "stale: sgmc, self-contrastive" in render([stale], "markdown")
    other_kind = {("losses", "sgmc"): "0" * 16}
    assert only(blocks(records, current_sources=other_kind)).rows[0].flags == ()


def test_rows_are_told_apart_by_what_differs_and_nothing_else() -> None:
    base = {"epochs": 5, "lr": 1e-4, "optimizer_args": {"nesterov": True}}
    records = row([0.1] * 5, settings=base)
    records += row([0.2] * 5, settings=base | {"lr": 3e-4})
    records += row([0.3] * 5, settings=base | {"optimizer_args": {"nesterov": False}})
    found = {tuple(r.differences.items()) for r in only(blocks(records)).rows}
    assert found == {
        (("lr", "0.0001"), ("optimizer_args.nesterov", "true")),
        (("lr", "0.0003"), ("optimizer_args.nesterov", "true")),
        (("lr", "0.0001"), ("optimizer_args.nesterov", "false")),
    }


def test_a_methods_own_settings_are_compared_with_its_like_only() -> None:
    records = row([0.1] * 5, fusion="a", fusion_params={"hidden": 8})
    records += row([0.2] * 5, fusion="b", fusion_params={"width": 9})
    assert all(r.differences == {} for r in only(blocks(records)).rows)
    records += row([0.3] * 5, fusion="b", fusion_params={"width": 10, "gate": "tanh"})
    told = [(r.fusion, r.differences) for r in only(blocks(records)).rows]
    assert told == [
        ("b", {"fusion.gate": "tanh", "fusion.width": "10"}),
        ("b", {"fusion.gate": "-", "fusion.width": "9"}),
        ("a", {}),
    ]


def test_another_source_or_other_weights_tell_rows_apart() -> None:
    records = row([0.1] * 5) + row([0.2] * 5, fusion_source="a" * 16)
    records += row([0.3] * 5, weights="imagenet:abc") + row([0.4] * 5, backbone="other")
    told = [r.differences for r in only(blocks(records)).rows]
    assert told == [
        {"fusion.source": "ffffffff"},
        {"fusion.source": "ffffffff", "weights": "imagenet:abc"},
        {"fusion.source": "aaaaaaaa", "weights": "none"},
        {"fusion.source": "ffffffff", "weights": "none"},
    ]


def test_a_holdout_part_has_lines_and_a_best_of_its_own() -> None:
    records = []
    for name, test, holdout in (("a", 0.8, 0.6), ("b", 0.7, 0.65)):
        for fold in range(5):
            made = record({"bacc": test}, holdout={"bacc": holdout}, fusion=name, fold=fold, n=4)
            records.append(made)
    block = only(blocks(records))
    assert block.parts == ("test", "holdout")
    named = by_name(block)
    assert block.best("bacc", "test") == {named["a"].key}
    assert block.best("bacc", "holdout") == {named["b"].key}
    assert named["a"].parts["test"].n == 20
    assert named["a"].parts["holdout"].n == 4  # the same photographs in every fold
    text = re.sub(" +", " ", render([block], "markdown", metrics=["bacc"]))
    assert "| a | test | **80.0 ± 0.0** | 20 |" in text
    assert "| b | holdout | **65.0 ± 0.0** | 4 |" in text
    assert "a, holdout" in screen([block], 80)


# ---- renderings


def full(names: tuple[str, ...] = ("none", "sgmc"), **changes: Any) -> list[Block]:
    random.seed(3)
    records = [
        record({m: random.random() for m in METRICS}, fusion=name, fold=fold, **changes)
        for name in names
        for fold in range(5)
    ]
    return blocks(records)


def test_the_default_columns_are_the_papers() -> None:
    text = render(full(("sgmc", "concat")), "markdown")
    header = next(line for line in text.splitlines() if line.startswith("| Method"))
    assert [c.strip() for c in header.strip("|").split("|")] == [
        *("Method", "ACC", "Precision", "BACC", "F1", "AUC", "Params (M)", "images/s"),
    ]
    # What all rows share is said once.
    assert "All rows: backbone resnet18, loss ce+self-contrastive, n 50" in text
    for name in PAPER:
        assert f"= {name}" in text


def test_a_mean_over_fewer_classes_is_said() -> None:
    """Each distinct number of classes, and the folds with it; nothing where all are there."""
    held = {"bacc": 0.5, "auc_ovr_macro": 0.5, "acc": 0.5}
    lacks = {3: ["MEL"], 4: ["MEL", "BCC"]}
    recalls = [
        {f"recall/{c}": None if c in lacks.get(k, ()) else 0.5 for c in ("ACK", "BCC", "MEL")}
        for k in range(5)
    ]
    found = blocks(
        record(held | recalls[k], fold=k, fusion=fusion) for fusion in ("a", "b") for k in range(5)
    )
    said = "mean over 1 of 3 classes in 1 fold and 2 of 3 classes in 1 fold"
    for format_ in ("markdown", "latex", "json"):
        assert f"BACC and AUC: {said}" in render(found, format_)
    assert f" AUC: {said}" in render(found, "markdown", metrics=["acc", "auc_ovr_macro"])
    assert "mean over" not in render(found, "markdown", metrics=["acc"]).replace("Mean over", "")
    whole = blocks(record(held | recalls[0], fold=k) for k in range(5))
    assert "classes in" not in render(whole, "markdown")


def test_metrics_are_chosen_by_exact_name() -> None:
    text = render(full(), "markdown", metrics=["nll", "recall/MEL"])
    header = next(line for line in text.splitlines() if line.startswith("| Method"))
    assert [c.strip() for c in header.split("|")][2:4] == ["NLL", "Recall MEL"]
    assert "ACC" not in text
    assert "nll (lower is better)" in text and "except nll" in text
    for bad in ("f1", "AUC", "recall/"):
        with pytest.raises(UsageError, match=bad):
            render(full(), "csv", metrics=[bad])
        with pytest.raises(UsageError, match=bad):
            Terminal(full(), [bad])
    with pytest.raises(UsageError, match="html"):
        render(full(), "html")


def test_a_subset_is_announced_everywhere() -> None:
    missing = {"complete_data": False, "n_rows_dataset": 2298, "n_rows_used": 1098}
    found = full(dataset="pad-ufes-20", result=missing)
    for text in (render(found, "markdown"), render(found, "latex"), screen(found, 80)):
        assert "subset: 1,098 of 2,298 photographs (not pad-ufes-20)" in text
    assert sheets(found)[0].notes[-1].text.startswith("subset")
    table = pd.read_csv(io.StringIO(render(found, "csv")))
    assert (table["complete_data"] == False).all() and set(table["n_rows_used"]) == {1098}  # noqa: E712
    assert "subset" not in render(full(), "markdown")


def test_csv_reads_back_exactly() -> None:
    found = full()
    text = render(found, "csv", command="fusionbench leaderboard --store runs")
    table = list(csv.DictReader(io.StringIO(text)))
    assert len(table) == len(pd.read_csv(io.StringIO(text))) == 2
    for row_, line in zip(only(found).rows, table, strict=True):
        assert (line["kind"], line["fusion"], line["key"]) == ("own", row_.fusion, row_.key)
        for name, stat in row_.parts["test"].metrics.items():
            assert float(line[f"{name}_mean"]) == stat.mean
            assert float(line[f"{name}_std"]) == stat.std
    assert "auc_mean" not in table[0] and "f1_mean" not in table[0]


def test_json_holds_the_numbers_as_they_are() -> None:
    found = full()
    data = json.loads(render(found, "json", metrics=["bacc"]))
    assert "Generated by" in data["generated"]
    for row_, got in zip(only(found).rows, data["tables"][0]["rows"], strict=True):
        stat = row_.parts["test"].metrics["bacc"]
        (number,) = got["metrics"].values()
        assert (number["mean"], number["std"], number["n"]) == (stat.mean, stat.std, 5)
        assert number["best"] == (row_.key in only(found).best("bacc"))
        assert got["run_ids"] == list(row_.run_ids) and len(got["run_ids"]) == 5


def test_latex_is_balanced_and_escaped() -> None:
    text = render(full((EVIL, "none"), backbone="tf_lite_0&1"), "latex")
    assert text.startswith("% Generated by")
    assert text.count("\\begin{tabular}") == text.count("\\end{tabular}") >= 1
    body = text.split("\\midrule")[1].split("\\bottomrule")[0].strip().splitlines()
    columns = re.search(r"\\begin\{tabular\}\{@\{\}(p)\{.*?\}(r+)@", text)
    assert columns and len(body) == 2
    for line in body:
        assert len(re.findall(r"(?<!\\)&", line)) == len(columns[2]) == 5
        assert line.endswith("\\\\")
    assert "tf\\_lite\\_0\\&1" in text
    assert "\\input" not in text and "\\textbackslash{}input\\{x\\}" in text
    assert not re.search(r"(?<![\\$])[_%#]", "\n".join(body))
    assert text.count("\\textbf{") == 5
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0


def test_names_are_text_and_never_markup() -> None:
    found = full((EVIL, "none"), dataset=EVIL, result={"flags": (EVIL,)})
    markdown = render(found, "markdown", command=f"x --> {EVIL}")
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in rows}
    assert len(cells) == 1 and len(rows) == 4  # no name has added a cell or a line
    assert "<script" not in markdown.replace("<!--", "").split("-->")[1]
    assert markdown.split("\n")[0].count("-->") == 1
    assert "\\[red\\]" in markdown
    assert "\\*\\*b\\*\\*" in markdown and "\\`q\\`" in markdown

    table = pd.read_csv(io.StringIO(render(found, "csv", command=EVIL)))
    assert set(table["fusion"].str[0]) == {"'", "n"}
    assert set(table["dataset"].str[:2]) == {"'="} == set(table["flags"].str[:2])

    shown = screen(found, 200)
    assert "[red]x[/red]" in shown
    table_head = screen(found, 120, ["recall/[b]c"]).split("───")[0]
    assert "Recall [b]c" in table_head
    for text in (markdown, shown, render(found, "csv"), render(found, "latex")):
        assert "\x1b[31m" not in text


@given(st.text(max_size=30).filter(lambda name: name != "none"), st.text(max_size=30))
@settings(deadline=None, max_examples=60)
def test_any_name_leaves_every_table_whole(fusion: str, flag: str) -> None:
    records = [
        record({"bacc": 0.5}, fusion=fusion, result={"flags": (flag,), "folds_expected": 1}),
        record({"bacc": 0.4}, fusion="none", result={"folds_expected": 1}),
    ]
    found = blocks(records)
    rows = [line for line in render(found, "markdown").splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in rows}) == 1
    table = pd.read_csv(io.StringIO(render(found, "csv")), keep_default_na=False)
    assert len(table) == 2
    body = render(found, "latex").split("\\midrule")[1].split("\\bottomrule")[0].strip()
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in body.split("\n")}) == 1
    json.loads(render(found, "json"))
    screen(found, 80)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("metrics", [None, list(METRICS)])
def test_the_terminal_table_fits_and_cuts_no_number(width: int, metrics: list[str] | None) -> None:
    found = full(("none", "a-rather-long-method-name"), backbone="tf_efficientnet_lite0", n=460)
    text = screen(found, width, metrics)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    for row_ in only(found).rows:
        for name in metrics or PAPER:
            scale, digits = (100, 1) if METRICS[name].percent else (1, 3)
            stat = row_.parts["test"].metrics[name]
            assert stat.std is not None
            assert re.search(rf"(?<![\d.]){stat.mean * scale:.{digits}f}(?![\d.])", text)
            assert re.search(rf"± ?{stat.std * scale:.{digits}f}(?![\d.])", text)
    assert "2,300" in text and ("11.5" in text or re.search("lack of room:[^(]*Params", text))


def test_wide_shows_mean_and_spread_together() -> None:
    stat = only(full()).rows[0].parts["test"].metrics["bacc"]
    assert stat.std is not None
    assert f"{stat.mean * 100:.1f} ± {stat.std * 100:.1f}" in screen(full(), 120)


def test_nothing_to_show_is_said() -> None:
    assert blocks([failed()]) == blocks([]) == []
    assert "No finished runs" in screen([], 80)
    assert "No finished runs" in render([], "markdown")
    assert "No finished runs" in render([], "latex")
    assert json.loads(render([], "json"))["tables"] == []
    assert len(pd.read_csv(io.StringIO(render([], "csv")))) == 0


def test_a_generated_text_says_which_command_made_it() -> None:
    for name in set(FORMATS) - {"csv"}:  # which has no place for it
        head = "\n".join(render(full(), name, command="fusionbench x").splitlines()[:2])
        assert "Generated by `fusionbench x`" in head


def test_tables_need_no_torch() -> None:
    code = (
        "import sys, fusionbench.leaderboard;"
        "bad = {'torch', 'timm', 'torchvision', 'sklearn', 'pandas'} & set(sys.modules);"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
