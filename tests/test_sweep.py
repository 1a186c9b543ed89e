"""A sweep runs what its table lacks, in order, whatever fails on the way."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from fusionbench import sweep as sweep_module
from fusionbench.config import Execution
from fusionbench.errors import DataError
from fusionbench.records import Store
from fusionbench.sweep import carry_out, plan
from fusionbench.tables import Overrides, Table, read_table

EXPLODES = '''
"""Loses its mind at once."""
from fusionbench.fusion import Fusion
class Explodes(Fusion):
    def fuse(self, image, meta):
        return image * (float("nan") if self.training else 1.0)
'''

ROWS = """
title = "Tiny"
dataset = "{card}"

[settings]
backbone = "test_resnet"
loss = "ce"
weights = "none"
epochs = 1
batch_size = 16
image_size = 32
precision = "fp32"

[[rows]]
label = "plain"
fusion = "none"
"""
CONCAT = '[[rows]]\nlabel = "both"\nfusion = "concat"\n'
EXPLODING = '[[rows]]\nlabel = "bad"\nfusion = "explodes"\n'
# Its width of 96 is no multiple of 64: refused when the model is built.
REFUSED = '[[rows]]\nlabel = "unfit"\nfusion = "metanet"\n'


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "explodes.py"
    path.write_text(EXPLODES, encoding="utf-8")
    return path


@pytest.fixture
def here(tmp_path: Path, plugin: Path) -> Execution:
    return Execution(store=tmp_path / "store", device="cpu", plugins=(plugin,))


def table(folder: Path, card: Path, *rows: str, top: str = "") -> Table:
    path = folder / "tiny.toml"
    path.write_text(top + ROWS.format(card=card) + "".join(rows), encoding="utf-8")
    return read_table(path, plugins=[folder / "explodes.py"])


def test_it_runs_what_is_missing_and_then_nothing(
    tmp_path: Path, tiny_card: Path, here: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = table(tmp_path, tiny_card, CONCAT)
    found = plan(tiny, here)
    assert not here.store.exists()  # planning computes and writes nothing
    assert [(j.fold, j.label) for j in found.jobs] == [
        (k, label) for k in range(3) for label in ("plain", "both")
    ]
    # Two of the six by another route, to be left alone.
    sweep_module.run(found.jobs[1].config, Execution(**{**vars(here), "folds": (0, 2)}))
    found = plan(tiny, here)
    assert [(j.fold, j.label) for j in found.jobs if j.done] == [(0, "both"), (2, "both")]
    before = {p: p.stat().st_mtime_ns for p in (here.store / "records").iterdir()}

    outcome = carry_out(found, here)
    assert outcome.failures == ()
    assert [r.run_id for r in outcome.records] == [j.run_id for j in found.missing]
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert {r.run_id for r in Store(here.store).records()} == {j.run_id for j in found.jobs}

    monkeypatch.setattr("fusionbench.run.fit", lambda *a, **k: pytest.fail("trained again"))
    again = plan(tiny, here)
    assert again.missing == () and len(again.jobs) == 6
    assert carry_out(again, here) == sweep_module.SweepOutcome((), ())


def test_a_failing_row_is_recorded_and_the_others_go_on(
    tmp_path: Path, tiny_card: Path, here: Execution
) -> None:
    tiny = table(tmp_path, tiny_card, EXPLODING, REFUSED, CONCAT, top="folds = [0, 1]\n")
    outcome = carry_out(plan(tiny, here), here)
    done = [(r.identity["fold"], r.identity["fusion"]) for r in outcome.records]
    assert done == [(0, "none"), (0, "concat"), (1, "none"), (1, "concat")]
    bad = [f for f in outcome.failures if f.label == "bad"]
    assert [f.fold for f in bad] == [0, 1]
    for failure in bad:
        assert "not finite" in failure.message
        kept = Store(here.store).read(failure.run_id)
        assert kept.status == "failed" and kept.error is not None
        assert "Traceback" in kept.error.traceback
    # Refused before training: once for the row, without a record.
    (unfit,) = [f for f in outcome.failures if f.label == "unfit"]
    assert (unfit.fold, unfit.run_id) == (None, "") and "no multiple of 64" in unfit.message
    # A failure is no result: it is tried again.
    assert {j.label for j in plan(tiny, here).missing} == {"bad", "unfit"}


def test_an_unexpected_error_stops_one_row_only(
    tmp_path: Path, tiny_card: Path, here: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []

    def stub(config, execution, progress):
        order.append((execution.folds, config.fusion, config.seed))
        if config.fusion == "none":
            raise RuntimeError("a bug")
        if config.seed == 5 and execution.folds == (1,):
            raise KeyboardInterrupt
        return SimpleNamespace(records=(), failures=())

    tiny = table(tmp_path, tiny_card, CONCAT, top="folds = [0, 1]\nseeds = [7, 5]\n")
    found = plan(tiny, here)
    monkeypatch.setattr(sweep_module, "run", stub)
    with pytest.raises(KeyboardInterrupt):  # a person's wish to stop is no failure of a run
        carry_out(found, here)
    assert order == [
        ((0,), "none", 7), ((0,), "concat", 7), ((1,), "concat", 7),
        ((0,), "none", 5), ((0,), "concat", 5), ((1,), "concat", 5),
    ]  # fmt: skip


def test_what_cannot_run_is_in_the_plan(tmp_path: Path, tiny_card: Path, here: Execution) -> None:
    tiny = table(tmp_path, tiny_card, CONCAT)
    absent = Overrides(settings={"weights": str(tmp_path / "no.safetensors")})
    found = plan(tiny, here, absent)
    assert found.jobs == ()
    assert [f.label for f in found.refused] == ["plain", "both"]
    assert all("no.safetensors" in f.message for f in found.refused)
    with pytest.raises(DataError):  # the data itself: no row could run
        plan(tiny, Execution(store=here.store, data=tmp_path), Overrides(dataset="derm7pt"))
