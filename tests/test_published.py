"""What papers report is kept apart from what we measured, with its source and its protocol."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_records import finished, record
from msgspec import structs
from rich.console import Console

from fusionbench.cli import cli
from fusionbench.errors import DataError
from fusionbench.leaderboard import (
    PAPER,
    Block,
    PublishedBlock,
    PublishedRow,
    Terminal,
    Value,
    beside,
    blocks,
    published,
    render,
)
from fusionbench.metrics.names import describe
from fusionbench.plugin import registry
from fusionbench.records import Store

ROOT = Path(__file__).parents[1]
HEADER = "method,backbone,dataset,protocol,samples,metric,value,std,source,url,grade,note"
GOOD = "SGMC,resnet18,pad,grouped-5fold,50,bacc,0.7,0.01,A et al.,https://doi.org/10.1/x,paper,"
EVIL = "=cmd|'/c calc'!A1 [red]x[/red] **b** \\input{x} a_b & 5% $x$ <script> `q`\n\x1b[31m"


def file(folder: Path, *lines: str, header: str = HEADER) -> Path:
    path = folder / "published.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def paper(**changes: Any) -> PublishedRow:
    """A published row that may be compared with `ours()`."""
    base: dict[str, Any] = {
        "method": "SGMC",
        "backbone": "resnet18",
        "dataset": "pad",
        "protocol": "grouped-5fold",
        "samples": 50,
        "source": "A et al.",
        "url": "https://doi.org/10.1/x",
        "values": {
            "bacc": Value(0.70, 0.01, "paper", "table 2"),
            "acc": Value(0.8, None, "seed", ""),
        },
    }
    return PublishedRow(**{**base, **changes})


def ours(bacc: float = 0.75, folds: int = 5, **changes: Any) -> list[Block]:
    changes = {"dataset": "pad", **changes}
    return blocks(record({"bacc": bacc, "acc": 0.5}, fold=f, **changes) for f in range(folds))


SUBSET = {"complete_data": False, "n_rows_dataset": 50, "n_rows_used": 20}


def screen(found: list[Block], shown: list[PublishedBlock], width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(Terminal(found, published=shown))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def every_text(found: list[Block], shown: list[PublishedBlock]) -> dict[str, str]:
    texts = {name: render(found, name, published=shown) for name in ("markdown", "csv", "latex")}
    texts["json"] = render(found, "json", published=shown)
    return texts | {"terminal": " ".join(screen(found, shown).split())}


# ---- the file


def test_a_file_is_read_into_rows(tmp_path: Path) -> None:
    other = GOOD.replace("bacc,0.7,0.01", "acc,0.8,").replace("paper,", "seed,a; b")
    unknown = GOOD.replace(",50,", ",,").replace("resnet18", "-")
    rows = published.load(file(tmp_path, GOOD, other, unknown))
    assert [(r.method, r.backbone, r.samples) for r in rows] == [
        ("SGMC", "resnet18", 50),
        ("SGMC", "-", None),
    ]
    assert rows[0].values == {
        "bacc": Value(0.7, 0.01, "paper", ""),
        "acc": Value(0.8, None, "seed", "a; b"),
    }


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("0.7,", "70.0,", "no fraction"),
        ("0.7,", "-0.1,", "greater than or equal to 0"),
        ("0.7,", "nan,", "finite"),
        ("0.7,", ",", "valid number"),
        ("0.01,", "1.5,", "no fraction"),
        (",50,", ",0,", "greater than or equal to 1"),
        (",50,", ",many,", "valid integer"),
        ("bacc", "auc", "no metric called 'auc'"),
        ("A et al.", "", "at least 1 character"),
        ("https://doi.org/10.1/x", "10.1/x", "pattern"),
        ("paper,", "certain,", "'paper', 'secondary' or 'seed'"),
        ("SGMC", "", "at least 1 character"),
        ("grouped-5fold", "  ", "at least 1 character"),
        (",paper,", ",paper", "12 cells"),
        (",paper,", ",paper,,", "12 cells"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert GOOD.count(old) == 1
    with pytest.raises(DataError) as caught:
        published.load(file(tmp_path, GOOD, GOOD.replace(old, new)))
    (problem,) = caught.value.problems
    assert str(problem["field"]).startswith("line 3") and said in str(problem["problem"])
    assert "published.csv" in caught.value.message and caught.value.remedy


def test_every_bad_line_is_listed(tmp_path: Path) -> None:
    bad = [
        GOOD.replace("0.7,", "70,"),
        GOOD.replace("bacc", "f1").replace(",50,", ",x,"),
        GOOD,
        GOOD,
    ]
    with pytest.raises(DataError) as caught:
        published.load(file(tmp_path, *bad))
    fields = [p["field"] for p in caught.value.problems]
    assert fields == ["line 2", "line 3 metric", "line 3 samples", "line 5"]
    assert "repeats the number of line 4" in str(caught.value.problems[-1]["problem"])


def test_a_file_that_is_none(tmp_path: Path) -> None:
    for header in (HEADER.replace("grade", "rank"), HEADER + ",grade", "", HEADER[:-5]):
        with pytest.raises(DataError, match="columns"):
            published.load(file(tmp_path, GOOD, header=header))
    with pytest.raises(DataError, match="cannot be read"):
        published.load(tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        published.load(tmp_path / "binary.csv")
    header = "method,backbone,dataset,change,metric,delta,source,url,grade,note"
    line = "SGMC,-,pad,without CF,acc,-7.8,A,https://a.org/b,seed,"
    with pytest.raises(DataError, match="no fraction"):
        published.load_changes(file(tmp_path, line, header=header))
    (change,) = published.load_changes(
        file(tmp_path, line.replace("-7.8", "-0.078"), header=header)
    )
    assert (change.change, change.delta) == ("without CF", -0.078)


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=12)


@given(st.lists(CELL, min_size=12, max_size=12))
@settings(deadline=None, max_examples=60)
def test_any_line_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, cells: list[str]
) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    try:
        published.load(file(tmp_path_factory.mktemp("any"), text.getvalue()))
    except DataError as error:
        assert error.message


# ---- the committed numbers


def test_committed_numbers_are_fractions_with_a_source() -> None:
    """Read here with pandas alone, not with the code under test."""
    known = registry.dataset_cards()
    for name, number in (("published.csv", "value"), ("published_changes.csv", "delta")):
        table = pd.read_csv(ROOT / "leaderboards" / name, keep_default_na=False)
        assert len(table)
        for line in table.to_dict("records"):
            assert abs(float(line[number])) <= 1, line
            assert number == "delta" or float(line[number]) > 0.5, line  # of 0.747, not 0.0747
            assert line["source"] and re.match(r"https://\S+\.\S+/\S+$", line["url"]), line
            assert describe(line["metric"]).name == line["metric"]
            assert line["dataset"] in known
            assert line["grade"] == "seed" or line["note"], "say what was read"


def test_the_sgmc_paper_and_the_others_are_there() -> None:
    rows = {(r.method, r.backbone, r.dataset): r.values for r in published.load()}
    table = {
        "none": (0.747, 0.747, 0.688, 0.745, 0.922),
        "concat": (0.804, 0.800, 0.724, 0.799, 0.938),
        "MetaNet": (0.783, 0.778, 0.712, 0.779, 0.941),
        "MetaBlock": (0.739, 0.728, 0.647, 0.727, 0.926),
        "SGMC": (0.833, 0.832, 0.751, 0.830, 0.959),
    }
    for method, numbers in table.items():
        values = rows[method, "resnet50", "pad-ufes-20"]
        assert tuple(values[name].value for name in PAPER) == numbers
    mmf = rows["MMF-Net", "resnet50", "pad-ufes-20"]
    # Its AUC (over pairs of classes) and BACC (of sensitivity and specificity) are other metrics.
    assert {name: (v.value, v.std) for name, v in mmf.items()} == {"acc": (0.768, 0.022)}
    assert rows["MetaBlock", "-", "pad-ufes-20"]["bacc"].value == 0.765
    for backbone, value in (("PiT", 0.8), ("CoaT", 0.78), ("ViT", 0.771)):
        assert rows["MetaBlock", backbone, "pad-ufes-20"]["bacc"].value == value
    assert rows["TFormer", "-", "derm7pt"]["acc"].value == 0.8003
    assert rows["SkinM2Former", "-", "derm7pt"]["acc"].value == 0.7785
    assert [c.delta for c in published.load_changes()] == [-0.078, -0.024, 0.052]
    assert all("another task" in r.protocol for r in published.load() if r.dataset == "derm7pt")


def test_no_committed_row_claims_a_protocol_of_ours() -> None:
    """Until somebody has read that it is the very split, its own words stand there."""
    from fusionbench.data.card import read_card

    names = {
        spec.name
        for card in registry.dataset_cards().values()
        for spec in read_card(card).protocols
    }
    assert names and not names & {row.protocol for row in published.load()}


# ---- differences


def test_a_difference_where_protocol_and_samples_are_the_same() -> None:
    (block,) = beside(ours(bacc=0.75), [paper()])
    (item,) = block.rows
    assert item.delta == pytest.approx({"bacc": 0.05, "acc": -0.3})
    assert item.reason == "" and item.against == ours()[0].rows[0].key


@pytest.mark.parametrize(
    ("changes", "mine", "reason"),
    [
        ({"protocol": "five folds"}, {}, "other protocol than grouped-5fold"),
        ({"protocol": "Grouped-5fold"}, {}, "other protocol than grouped-5fold"),
        ({"samples": None}, {}, "samples unknown"),
        ({"samples": 49}, {}, "49 samples, ours 50"),
        ({}, {"result": {"n_rows_used": 46}}, "50 samples, ours 46"),  # rows dropped for gaps
        ({}, {"result": SUBSET}, "ours is a subset of the photographs; 50 samples, ours 20"),
        ({"samples": 20}, {"result": SUBSET}, "ours is a subset of the photographs"),
        ({"method": "MetaBlock"}, {}, "no complete row of ours with that method and backbone"),
        ({"backbone": "ResNet-18"}, {}, "no complete row of ours with that method and backbone"),
        ({}, {"folds": 4}, "no complete row of ours with that method and backbone"),
        (
            {},
            {"result": {"flags": ("optimistic: test-best",)}},
            "no complete row of ours with that method and backbone",
        ),
        ({"values": {"ece": Value(0.1, None, "seed", "")}}, {}, "no metric in common with our row"),
        (
            {"protocol": "folds", "samples": None},
            {"result": SUBSET},
            "ours is a subset of the photographs; other protocol than grouped-5fold; "
            "samples unknown",
        ),
    ],
)
def test_otherwise_the_reason(changes: dict[str, Any], mine: dict[str, Any], reason: str) -> None:
    (block,) = beside(ours(**mine), [paper(**changes)], show=True)
    (item,) = block.rows
    assert (item.delta, item.against, item.reason) == ({}, "", reason)


def test_the_protocol_that_fits_is_found_among_several() -> None:
    found = ours(bacc=0.6, protocol="image-5fold", split_hash="6" * 16) + ours(bacc=0.75)
    (block,) = beside(found, [paper(), paper(protocol="image-5fold", samples=7)])
    assert block.rows[0].delta["bacc"] == pytest.approx(0.05)
    assert block.rows[1].reason == "7 samples, ours 50"
    (block,) = beside(found, [paper(protocol="folds")])
    assert block.rows[0].reason == "other protocol than image-5fold and grouped-5fold"


def test_the_best_of_several_rows_is_compared() -> None:
    records = [
        record({"bacc": bacc}, fold=f, dataset="pad", loss=loss)
        for loss, bacc in (("ce", 0.72), ("focal", 0.78), ("ldam", 0.65))
        for f in range(5)
    ]
    (block,) = beside(blocks(records), [paper()])
    assert block.rows[0].delta == pytest.approx({"bacc": 0.08})


# ---- where the block stands


def test_only_the_datasets_own_rows_below_the_last_whole_block() -> None:
    other = ours(dataset="zzz")
    part = ours(result=SUBSET, data_fingerprint="e" * 16)
    found = ours() + part + other
    rows = [paper(), paper(dataset="zzz", method="X"), paper(dataset="elsewhere")]
    shown = beside(found, rows)
    assert [(b.dataset, b.below, b.subset) for b in shown] == [("pad", 0, False), ("zzz", 2, False)]
    text = render(found, "markdown", published=shown)
    heads = [line for line in text.splitlines() if line.startswith("#")]
    assert heads == [
        "## pad / grouped-5fold",
        "### Published numbers: pad",
        "## pad / grouped-5fold",
        "## zzz / grouped-5fold",
        "### Published numbers: zzz",
    ]


def test_not_beside_a_subset_unless_asked() -> None:
    part = ours(result=SUBSET)
    assert beside(part, [paper()]) == []
    assert beside(ours(), [paper()], show=False) == []
    (block,) = beside(part, [paper()], show=True)
    assert block.subset
    for name, text in every_text(part, [block]).items():
        assert name in ("csv", "json") or "Not comparable: ours is a subset of pad" in text, name
        assert "ours is a subset of the photographs" in text


# ---- renderings


def test_every_format_says_protocol_source_and_difference() -> None:
    rows = [paper(), paper(method="Other", protocol="five folds, unpublished", source="B et al.")]
    shown = beside(ours(), rows)
    for name, text in every_text(ours(), shown).items():
        for said in ("A et al.", "B et al.", "https://doi.org/10.1/x", "five folds, unpublished"):
            assert said in text, (name, said)
        assert "other protocol than grouped-5fold" in text, name
    markdown = re.sub(" +", " ", render(ours(), "markdown", published=shown))
    assert (
        "| SGMC | resnet18 | 80.0 | - | 70.0 ± 1.0 | - | - | 50 | ACC -30.0, BACC +5.0 | 1 |"
        in (markdown)
    )
    assert "| Other | resnet18 | 80.0 | - | 70.0 ± 1.0 | - | - | 50 | - | 2 |" in markdown
    assert "acc: seed" in markdown or "seed (acc)" in markdown
    assert "BACC +5.0" in " ".join(screen(ours(), shown, 120).split())


def test_a_column_of_differences_only_where_there_are_any() -> None:
    shown = beside(ours(), [paper(samples=None)])
    for name in ("markdown", "latex"):
        text = render(ours(), name, published=shown)
        assert "Ours minus published" not in text and "samples unknown" in text
    assert "minus" not in screen(ours(), shown)


def test_ours_stays_as_it_was() -> None:
    """The block is added; no row of ours changes, gains bold, or loses it."""
    shown = beside(ours(), [paper(values={"bacc": Value(0.99, None, "seed", "")})])
    for name in ("markdown", "latex"):
        alone, both = render(ours(), name), render(ours(), name, published=shown)
        assert both.startswith(alone.rstrip("\n")) and both != alone
        assert alone.count("**75.0") == both.count("**75.0") and "**99.0" not in both
    data = json.loads(render(ours(), "json", published=shown))
    assert data["tables"][:1] == json.loads(render(ours(), "json"))["tables"]
    table = pd.read_csv(io.StringIO(render(ours(), "csv", published=shown)))
    alone = pd.read_csv(io.StringIO(render(ours(), "csv")))
    pd.testing.assert_frame_equal(
        table[table["kind"] == "own"][list(alone.columns)], alone, check_dtype=False
    )


def test_csv_and_json_hold_the_numbers_as_they_are() -> None:
    shown = beside(ours(), [paper(), paper(samples=None, backbone="-")])
    table = pd.read_csv(io.StringIO(render(ours(), "csv", published=shown)))
    assert list(table["kind"]) == ["own", "published", "published"]
    first = table.iloc[1]
    assert (first["bacc_mean"], first["bacc_std"], first["n"]) == (0.7, 0.01, 50)
    assert first["bacc_delta"] == pytest.approx(0.05) and not first["ranked"]
    assert (
        pd.isna(table.iloc[2]["bacc_delta"]) and table.iloc[2]["not_compared"] == "samples unknown"
    )
    assert first["grade"] == "paper (bacc), seed (acc)" and first["note"] == "bacc: table 2"
    _, block = json.loads(render(ours(), "json", published=shown))["tables"]
    number = block["rows"][0]["metrics"]["bacc"]
    assert number.pop("delta") == pytest.approx(0.05)
    assert number == {"mean": 0.7, "std": 0.01, "grade": "paper", "note": "table 2"}
    assert "delta" not in block["rows"][1]["metrics"]["bacc"]


def test_only_rows_that_report_a_chosen_metric() -> None:
    auc = paper(method="X", values={"auc_ovr_macro": Value(0.9, None, "seed", "")})
    shown = beside(ours(), [paper(), auc])
    text = render(ours(), "markdown", metrics=["bacc"], published=shown)
    assert "| SGMC" in text and "| X" not in text and "seed" not in text
    for name in ("markdown", "latex"):
        text = render(ours(), name, metrics=["nll"], published=shown)
        assert "Published" not in text
    _, block = json.loads(render(ours(), "json", metrics=["bacc"], published=shown))["tables"]
    assert [row["fusion"] for row in block["rows"]] == ["SGMC"]
    assert set(block["rows"][0]["metrics"]) == {"bacc"}
    assert len(json.loads(render(ours(), "json", published=shown))["tables"][1]["rows"]) == 2


def test_ablations_are_points_and_name_their_source() -> None:
    change = published.Change(
        method="SGMC", backbone="-", dataset="pad", change="without CF", metric="acc", delta=-0.078,
        source="C", url="https://c.d/e", grade="seed", note="",
    )  # fmt: skip
    other = change.model_copy(update={"dataset": "elsewhere", "change": "without XY"})
    shown = beside(ours(), [paper()], [change, other])
    for name in ("markdown", "latex", "terminal", "json"):
        text = every_text(ours(), shown)[name]
        assert "SGMC without CF: ACC -7.8 points (C, https://c.d/e; grade: seed)" in text
        assert "XY" not in text
    assert "without CF" not in render(ours(), "markdown", metrics=["bacc"], published=shown)


def test_published_text_is_never_markup() -> None:
    row = paper(
        method=EVIL,
        protocol=EVIL,
        source=EVIL,
        url=EVIL,
        values={"bacc": Value(0.7, None, "seed", EVIL)},
    )
    shown = beside(ours(), [row, paper()])
    for name, text in every_text(ours(), shown).items():
        assert "\x1b[31m" not in text, name
    markdown = render(ours(), "markdown", published=shown).split("### ")[1]
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(rows) == 4 and len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) == 1
    assert "<script" not in markdown and "\\[red\\]" in markdown
    latex = render(ours(), "latex", published=shown)
    assert "\\input{x}" not in latex
    assert latex.count("\\begin{table}") == latex.count("\\end{table}") == 2
    body = latex.split("\\midrule")[2].split("\\bottomrule")[0].strip().splitlines()
    columns = re.findall(r"\\begin\{tabular\}\{@\{\}p\{.*?\}(r+)@", latex)[1]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {len(columns)}
    table = pd.read_csv(io.StringIO(render(ours(), "csv", published=shown)))
    assert table["fusion"].str[0].tolist()[1] == "'" and len(table) == 3


@pytest.mark.parametrize("width", [80, 120])
def test_the_committed_numbers_fit_the_terminal(width: int) -> None:
    found = ours(dataset="pad-ufes-20")
    shown = beside(found, published.load(), published.load_changes())
    text = screen(found, shown, width)
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    block = text.split("Published numbers")[1]
    for row in shown[0].rows:
        for name in set(PAPER) & row.values.keys():
            value = row.values[name].value
            assert re.search(rf"(?<![\d.]){value * 100:.1f}(?![\d.])", block), (
                row.method,
                name,
            )


# ---- the command


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A store of a whole dataset and one of a part of its photographs."""
    folder = tmp_path_factory.mktemp("stores")
    for name, extra in (
        ("whole", {"n_rows_dataset": 2298, "n_rows_used": 2298}),
        ("part", {"complete_data": False, "n_rows_dataset": 2298, "n_rows_used": 1098}),
    ):
        for fold in range(2):
            made, predictions = finished(fold=fold, dataset="pad-ufes-20", backbone="resnet50")
            assert made.result is not None
            result = structs.replace(made.result, folds_expected=2, **extra)
            Store(folder / name).write(structs.replace(made, result=result), predictions)
    return {path.name: path for path in folder.iterdir()}


def command(store: Path, *options: str) -> Result:
    arguments = ["leaderboard", "--store", str(store), *options]
    return CliRunner().invoke(cli, arguments, standalone_mode=False)


@pytest.mark.parametrize("format_", ["terminal", "markdown", "csv", "latex", "json"])
def test_the_default_is_beside_a_whole_dataset_and_not_beside_a_part(
    stores: dict[str, Path], format_: str
) -> None:
    def shown(store: str, *options: str) -> bool:
        result = command(stores[store], "--format", format_, *options)
        assert result.exception is None, result.exception
        return "Frontiers in Surgery" in " ".join(result.output.split())

    assert shown("whole") and shown("whole", "--published") and shown("part", "--published")
    assert not shown("whole", "--no-published") and not shown("part")
    assert not shown("part", "--no-published")


def test_a_file_names_the_option_that_made_it(stores: dict[str, Path]) -> None:
    for options in ([], ["--published"], ["--no-published"]):
        first = command(stores["part"], "--format", "markdown", *options).output.splitlines()[0]
        said = " ".join(["fusionbench leaderboard", *options, "--format markdown"])
        assert first == f"<!-- Generated by `{said}`; do not edit. -->"


def test_the_numbers_travel_in_the_wheel(tmp_path: Path) -> None:
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        inside = [n for n in archive.namelist() if n.startswith("fusionbench/builtin/leaderboards")]
        assert sorted(Path(name).name for name in inside if name.endswith(".csv")) == [
            "published.csv",
            "published_changes.csv",
        ]
        archive.extractall(tmp_path / "site")
    code = (
        "import fusionbench; from fusionbench.leaderboard import published;"
        "print(fusionbench.__file__, len(published.load()), len(published.load_changes()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "site",
        check=True,
        capture_output=True,
        text=True,
    )
    where, rows, changes = done.stdout.split()
    assert Path(where).is_relative_to(tmp_path)
    assert (int(rows), int(changes)) == (len(published.load()), len(published.load_changes()))
