"""Generated tables under leaderboards/ follow from the records beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from fusionbench.cli import cli
from fusionbench.records import Store

ROOT = Path(__file__).parents[1]
STORES = sorted(path.parent for path in (ROOT / "leaderboards").glob("*/records"))


def test_there_are_some() -> None:
    assert STORES


@pytest.mark.parametrize("store", STORES, ids=lambda path: path.name)
@pytest.mark.parametrize("suffix", ["md", "csv"])
def test_a_table_renders_again_from_its_records(store: Path, suffix: str, tmp_path: Path) -> None:
    output = tmp_path / f"table.{suffix}"
    result = CliRunner().invoke(
        cli, ["leaderboard", "--store", str(store), "--output", str(output)], standalone_mode=False
    )
    assert result.exception is None, result.exception
    assert output.read_text(encoding="utf-8") == (store / f"table.{suffix}").read_text("utf-8")


@pytest.mark.parametrize("store", STORES, ids=lambda path: path.name)
def test_predictions_belong_to_their_records(store: Path) -> None:
    """Every metric follows from the predictions that are committed with it."""
    from fusionbench.metrics import compute

    kept = Store(store)
    for record in kept.records():
        assert record.result is not None
        predictions = kept.predictions(record.run_id)
        for name, part in record.result.parts.items():
            rows = [i for i, p in enumerate(predictions.parts) if p == name]
            truth = [predictions.classes.index(predictions.labels[i]) for i in rows]
            again = compute(truth, predictions.probabilities[rows], predictions.classes)
            assert part.metrics == pytest.approx(again)
