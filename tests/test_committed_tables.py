"""Generated tables under leaderboards/ follow from the records beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from fusionbench.cli import cli
from fusionbench.records import Store
from fusionbench.tables import builtin_tables, read_table

ROOT = Path(__file__).parents[1]
SMALL = ROOT / "leaderboards" / "small"
STORES = sorted(
    path.parent
    for pattern in ("*/records", "small/*/records")
    for path in (ROOT / "leaderboards").glob(pattern)
)


def test_there_are_some() -> None:
    assert STORES


def test_every_declared_table_has_its_small_version() -> None:
    """`make tables` writes them."""
    assert {s.name for s in STORES if s.parent == SMALL} == set(builtin_tables())


@pytest.mark.parametrize("name", sorted(builtin_tables()))
def test_a_small_version_is_complete_and_says_what_it_is(name: str) -> None:
    table = read_table(name)
    assert table.small is not None
    text = (SMALL / name / "table.md").read_text("utf-8")
    heading = next(line for line in text.splitlines() if line.startswith("## "))
    assert heading == f"## {table.title} (small version): synthetic / grouped-5fold"
    assert table.small.note.startswith("A small version: drawn lesions")
    assert table.small.note in text
    assert "n=" not in text and "stale" not in text
    first = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert first[2:] == [row.label for row in table.rows]
    # Nothing else lies there: every record is of a row.
    kept = len(list(Store(SMALL / name).records()))
    assert kept == 5 * len(table.rows)
    assert not [p for p in (SMALL / name).iterdir() if p.name in ("failed", "locks", "weights")]


@pytest.mark.parametrize("store", STORES, ids=lambda path: path.name)
@pytest.mark.parametrize("suffix", ["md", "csv"])
def test_a_table_renders_again_from_its_records(store: Path, suffix: str, tmp_path: Path) -> None:
    output = tmp_path / f"table.{suffix}"
    words = ["leaderboard", "--store", str(store), "--output", str(output)]
    if store.parent == SMALL:
        words += [store.name, "--small"]
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    assert result.exception is None, result.exception
    assert output.read_text(encoding="utf-8") == (store / f"table.{suffix}").read_text("utf-8")


@pytest.mark.parametrize("store", STORES, ids=lambda path: path.name)
def test_predictions_belong_to_their_records(store: Path) -> None:
    """Every metric follows from the predictions that are committed with it."""
    from fusionbench.metrics.compute import compute

    kept = Store(store)
    for record in kept.records():
        assert record.result is not None
        predictions = kept.predictions(record.run_id)
        for name, part in record.result.parts.items():
            rows = [i for i, p in enumerate(predictions.parts) if p == name]
            truth = [predictions.classes.index(predictions.labels[i]) for i in rows]
            again = compute(truth, predictions.probabilities[rows], predictions.classes)
            assert part.metrics == pytest.approx(again)
