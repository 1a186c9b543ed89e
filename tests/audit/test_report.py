"""What is written can be read; what is said follows from the numbers; the verdict is remembered."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from fusionbench.audit.classes import difference_sd
from fusionbench.audit.examine import audit, verdict_of
from fusionbench.audit.findings import Audit
from fusionbench.audit.leak_value import estimators, grouped_twin
from fusionbench.audit.sections import to_markdown
from fusionbench.config.wording import percent
from fusionbench.data.choices import input_columns
from fusionbench.files import cache_folder
from fusionbench.protocols import overlap

AUDITS = Path(__file__).parents[2] / "leaderboards" / "audits"
TOP = [
    "dataset",
    "protocol",
    "overlap",
    "missingness",
    "proxies",
    "together",
    "leak_value",
    "confounds",
    "classes",
    "verdict",
]  # fmt: skip


@pytest.fixture
def leaky(plot, cut):
    ground = plot(patients=60, habit=0.9, missing_block=1.0)
    table = ground.table()
    return ground, table, cut(table, "image-kfold", 2)


def test_json_there_and_back(leaky):
    _, table, protocol = leaky
    found = audit(table, protocol, leak_value=False)
    text = found.model_dump_json()
    assert list(json.loads(text)) == TOP
    assert Audit.model_validate_json(text) == found
    with pytest.raises(ValidationError):
        Audit.model_validate_json(text.replace('"verdict"', '"opinion"'))


@pytest.mark.parametrize("path", sorted(AUDITS.glob("*.json")), ids=lambda path: path.stem)
def test_a_committed_report_is_what_its_numbers_give(path):
    """leaderboards/README.md says how both are made."""
    found = Audit.model_validate_json(path.read_text("utf-8"))
    command = f"fusionbench audit {found.dataset.name} --protocol {found.protocol.name}"
    text = path.with_suffix(".md").read_text("utf-8")
    assert text == to_markdown(found, command=command)


def test_markdown_says_the_verdict_and_every_section(leaky):
    ground, table, protocol = leaky
    found = audit(table, protocol, leak_value=False)
    text = to_markdown(found, command="fusionbench audit x")
    assert f"**{found.verdict}**" in text.replace("&lt;", "<")
    assert text.count("\n## ") == 7 and "`fusionbench audit x`" in text
    for line in text.splitlines():
        if line.startswith("|"):  # each table has as many cells in every row
            assert line.endswith("|")
    total = found.overlap.total[0].patients
    assert f"{total.rows:,} ({percent(total.share)})" in text
    assert str(ground.folder) not in text


def test_the_verdict_alone_is_that_of_the_audit_and_is_remembered(leaky, tmp_path, monkeypatch):
    _, table, protocol = leaky
    columns = input_columns(table.card)
    full = audit(table, protocol, leak_value=False).verdict
    assert full.startswith("leaky: patients ") and "shortcut: missingness" in full
    alone = verdict_of(table, protocol, columns)
    assert alone == full
    monkeypatch.setattr("fusionbench.audit.examine.find_overlap", None)
    assert verdict_of(table, protocol, columns) == full
    with pytest.raises(TypeError):  # other inputs are another verdict
        verdict_of(table, protocol, columns[:3])


def test_a_verdict_is_about_the_inputs(leaky, cut):
    _, table, protocol = leaky
    protocol = cut(table, folds=2)

    def verdict(*names):
        columns = input_columns(table.card, names, forbidden=True) if names else ()
        return verdict_of(table, protocol, columns)

    assert verdict() == verdict("age", "region") == "clean"
    assert verdict("age", "gender") == "shortcut: missingness"
    assert verdict("age", "biopsed") == "shortcut: biopsed"


def test_a_damaged_memory_is_no_verdict(leaky):
    _, table, protocol = leaky
    columns = input_columns(table.card)
    first = verdict_of(table, protocol, columns)
    for path in (cache_folder() / "verdicts").iterdir():
        path.write_text("cle", encoding="utf-8")
    assert verdict_of(table, protocol, columns) == first


@pytest.mark.parametrize("kind", ["image-kfold", "kfold-holdout"])
def test_the_twin_keeps_patients_apart_and_the_sizes(plot, kind, cut):
    table = plot(patients=100).table()
    protocol = cut(table, kind)
    assert sum(overlap(protocol, table.groups)) > 0
    twin = grouped_twin(table, protocol)
    assert twin is not None and len(twin[1]) == len(protocol.folds)
    for mine, theirs in zip(twin[1], protocol.folds, strict=True):
        assert not set(table.groups[mine.train]) & set(table.groups[mine.test])
        assert abs(len(mine.train) - len(theirs.train)) < 0.1 * len(table)
    grouped = cut(table)
    assert grouped_twin(table, grouped) == ("", grouped.folds)


def test_a_habit_of_patients_is_worth_points_only_where_they_leak(plot, monkeypatch, cut):
    models = estimators(0)
    assert set(models) == {"metadata-logistic", "metadata-forest", "metadata-boosting"}
    forest = models["metadata-forest"].set_params(n_estimators=25)
    monkeypatch.setattr(
        "fusionbench.audit.leak_value.estimators", lambda seed: {"metadata-forest": forest}
    )
    ground = plot(habit=1.0, noise=0.0)
    table = ground.table()
    leaky = audit(table, cut(table, "image-kfold")).leak_value
    apart = audit(table, cut(table)).leak_value
    (gap,) = leaky.models
    assert gap.gap("bacc") > 0.2 and len(gap.here.bacc) == 4
    assert gap.gap("bacc") == pytest.approx(np.mean(gap.here.bacc) - np.mean(gap.twin.bacc))
    assert apart.twin == "" and apart.models[0].gap("bacc") == 0


def test_the_assumed_spread_of_a_difference_by_simulation():
    """Two methods right at 0.7 each, correlated by 0.5, on rows of three classes."""
    rng = np.random.default_rng(0)
    counts = np.array([40, 25, 10])
    y = np.repeat(np.arange(3), counts)
    # Both right with 0.7·0.7 + 0.5·0.21, one alone with 0.7 minus that.
    both = 0.49 + 0.5 * 0.21
    draw = rng.random((20_000, len(y)))
    a = draw < 0.7
    b = (draw < both) | (draw >= 1 - (0.7 - both))
    right = (a.astype(float) - b).T
    per_class = np.array([right[y == k].mean(axis=0) for k in range(3)])
    assert difference_sd(counts, "bacc") == pytest.approx(per_class.mean(axis=0).std(), rel=0.03)
    assert difference_sd(counts, "acc") == pytest.approx(right.mean(axis=0).std(), rel=0.03)
