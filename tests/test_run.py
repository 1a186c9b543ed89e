"""From a configuration to records in a store."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import balanced_accuracy_score

from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.errors import FusionbenchError, UsageError
from fusionbench.plugin.fusion import FusionRefused
from fusionbench.progress import SILENT
from fusionbench.records import Store
from fusionbench.runs.network_study import setup
from fusionbench.runs.run import run
from fusionbench.runs.study import Opened
from fusionbench.training.placement import Placement

EXPLODES = '''
"""Loses its mind after two steps."""
import torch
from fusionbench.plugin.fusion import Fusion
class Explodes(Fusion):
    steps = 0
    def fuse(self, image, meta):
        if self.training:
            Explodes.steps += 1
        return image * (float("nan") if Explodes.steps > {after} else 1.0)
'''

RAISES = '''
"""Raises in the middle of training."""
from fusionbench.plugin.fusion import Fusion
class Raises(Fusion):
    def fuse(self, image, meta):
        if self.training:
            raise KeyError("a mistake in the plugin")
        return image
'''

GREEDY = '''
"""Runs out of memory above nine images."""
import torch
from fusionbench.plugin.fusion import Fusion
class Greedy(Fusion):
    def fuse(self, image, meta):
        if len(image) > 9:
            raise torch.OutOfMemoryError("no room")
        return image
'''


def plugin(folder: Path, name: str, source: str) -> Path:
    path = folder / f"{name}.py"
    path.write_text(source)
    return path


def test_a_run_leaves_records_that_agree_with_their_predictions(
    quick: RunConfig, here: Execution
) -> None:
    outcome = run(quick, replace(here, folds=None))
    assert [r.identity.fold for r in outcome.records] == [0, 1, 2]
    store = Store(here.store)
    tested: Counter[str] = Counter()
    for record in outcome.records:
        assert record.result is not None
        predictions = store.predictions(record.run_id)
        tested.update(predictions.ids)
        truth = [predictions.classes.index(label) for label in predictions.labels]
        expected = balanced_accuracy_score(truth, predictions.probabilities.argmax(1))
        assert record.result.metrics["bacc"] == pytest.approx(expected)
        assert record.result.epochs_run == record.result.best_epoch == 2
        assert record.result.folds_expected == 3
        assert record.result.flags == ()
    whole = setup(quick, Opened(here)).table
    assert tested == Counter(whole.ids.tolist())  # every photograph is tested exactly once


def test_the_same_command_gives_the_same_record_bit_for_bit(
    quick: RunConfig, here: Execution, tmp_path: Path
) -> None:
    config = quick.changed(augment="mild", fusion="sgmc")
    first = run(config, here).records[0]
    again = run(config, replace(here, store=tmp_path / "other")).records[0]
    assert first.reproducible() == again.reproducible()
    files = [s / "predictions" / f"{first.run_id}.csv" for s in (here.store, tmp_path / "other")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_folds_and_seeds_differ(quick: RunConfig, here: Execution) -> None:
    by_fold = run(quick, replace(here, folds=(0, 1))).records
    other = run(quick.changed(seed=1), here).records[0]
    losses = [r.result.history[0]["loss"] for r in (*by_fold, other) if r.result]
    assert len(set(losses)) == 3


def test_a_finished_fold_is_never_computed_again(
    quick: RunConfig, here: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(quick, here).records[0]
    with monkeypatch.context() as patch:
        patch.setattr(
            "fusionbench.runs.network_trainer.fit", lambda *a, **k: pytest.fail("trained again")
        )
        assert run(quick, here).records[0] == first
        with pytest.raises(UsageError, match=r"in .* already"):
            run(quick, replace(here, existing="fail"))
    redone = run(quick, replace(here, existing="redo")).records[0]
    assert redone.measured != first.measured
    assert redone.reproducible() == first.reproducible()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 5},
        {"lr": 1e-4},
        {"params": {"fusion.hidden": "64"}},
        {"missing": "indicator"},
        {"columns": ("age", "itch")},
        {"protocol": "image-3fold"},
        {"loss": "ce+deep-supervision"},
        {"params": {"optimizer.eps": "1e-6"}},
    ],
)
def test_whatever_changes_the_number_changes_the_run_id(
    quick: RunConfig, here: Execution, change: dict[str, object]
) -> None:
    ids = set()
    for config in (quick, quick.changed(**change)):
        experiment = setup(config, Opened(here))
        ids.add(experiment.run_id(experiment.protocol.folds[0]))
    assert len(ids) == 2


def test_where_it_runs_does_not_change_the_run_id(
    quick: RunConfig, here: Execution, tmp_path: Path
) -> None:
    spelled_out = quick.changed(loss="ce", params={"fusion.hidden": "256"})
    elsewhere = replace(here, store=tmp_path / "x", workers=1, device="auto")
    ids = set()
    for config, execution in ((quick, here), (spelled_out, elsewhere)):
        experiment = setup(config, Opened(execution))
        ids.add(experiment.run_id(experiment.protocol.folds[0]))
    assert len(ids) == 1


def test_the_plugin_source_is_part_of_the_run_id(
    quick: RunConfig, here: Execution, tmp_path: Path
) -> None:
    ids = set()
    for text in (EXPLODES.format(after=1), EXPLODES.format(after=2)):
        path = plugin(tmp_path, "explodes", text)
        config = quick.changed(fusion="explodes")
        experiment = setup(config, Opened(replace(here, plugins=(path,))))
        ids.add(experiment.run_id(experiment.protocol.folds[0]))
    assert len(ids) == 2


def test_a_non_finite_loss_stops_the_fold_and_is_recorded(
    quick: RunConfig, here: Execution, tmp_path: Path
) -> None:
    path = plugin(tmp_path, "explodes", EXPLODES.format(after=2))
    execution = replace(here, plugins=(path,), folds=(0, 1))
    outcome = run(quick.changed(fusion="explodes"), execution)
    assert not outcome.records
    failed = outcome.failures[0]
    assert "epoch 1, step 3 of" in failed.message
    assert Store(here.store).read(failed.run_id).status == "failed"
    assert len(outcome.failures) == 2  # the other fold was tried as well


def test_an_exception_in_a_plugin_is_recorded_with_its_traceback(
    quick: RunConfig, here: Execution, tmp_path: Path
) -> None:
    path = plugin(tmp_path, "raises", RAISES)
    outcome = run(quick.changed(fusion="raises"), replace(here, plugins=(path,)))
    error = Store(here.store).read(outcome.failures[0].run_id).error
    assert error is not None and error.type == "KeyError"
    assert "raises.py" in error.traceback and "a mistake in the plugin" in error.message


def test_running_out_of_memory_says_what_to_make_smaller(
    quick: RunConfig, here: Execution, tmp_path: Path
) -> None:
    path = plugin(tmp_path, "greedy", GREEDY)
    config = quick.changed(fusion="greedy", batch_size=32)
    (failure,) = run(config, replace(here, plugins=(path,))).failures
    assert "Out of memory on cpu with --batch-size 32 at" in failure.message
    assert "Use a smaller --batch-size" in failure.message


def test_the_last_epoch_is_kept_by_default_and_the_best_when_watched(
    quick: RunConfig, here: Execution
) -> None:
    config = quick.changed(epochs=4, select="inner-val", lr=3e-3)
    result = run(config, here).records[0].result
    assert result is not None
    watched = [h["watched"] for h in result.history]
    assert result.best_epoch == 1 + int(np.argmax([float(w or 0) for w in watched]))
    last = run(config.changed(select="last"), here).records[0].result
    assert last is not None and last.best_epoch == 4
    assert result.n_train < last.n_train  # the inner part comes out of the training rows
    assert result.n_test == last.n_test


def test_choosing_on_the_test_part_is_marked_and_reports_its_best_epoch(
    quick: RunConfig, here: Execution
) -> None:
    config = quick.changed(epochs=3, select="test-best", lr=3e-3)
    result = run(config, here).records[0].result
    assert result is not None
    assert "optimistic: test-best" in result.flags
    best = max(float(h["watched"] or 0) for h in result.history)
    assert result.metrics["bacc"] == pytest.approx(best)


def test_inner_validation_never_shares_a_patient_with_training(
    quick: RunConfig, here: Execution
) -> None:
    experiment = setup(quick.changed(select="inner-val"), Opened(here))
    for fold in experiment.protocol.folds:
        rows = experiment.rows(fold)
        assert rows.watch is not None
        groups = [set(experiment.table.groups[part]) for part in (rows.train, rows.watch)]
        groups.append(set(experiment.table.groups[rows.parts["test"]]))
        assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])


def test_the_encoder_sees_training_rows_only(quick: RunConfig, here: Execution) -> None:
    experiment = setup(quick, Opened(here))
    fold = experiment.protocol.folds[0]
    rows = experiment.rows(fold)
    metadata = experiment.table.metadata
    before = experiment.encoder(metadata, rows.train).transform(metadata.iloc[rows.train])
    metadata.loc[rows.parts["test"], "age"] = 119.0
    after = experiment.encoder(metadata, rows.train).transform(metadata.iloc[rows.train])
    np.testing.assert_array_equal(before, after)


def test_a_held_out_part_is_evaluated_beside_the_fold(quick: RunConfig, here: Execution) -> None:
    record = run(quick.changed(protocol="holdout"), here).records[0]
    assert record.result is not None
    assert set(record.result.parts) == {"test", "holdout"}
    parts = Counter(Store(here.store).predictions(record.run_id).parts)
    assert parts == {name: part.n for name, part in record.result.parts.items()}


def test_leaky_protocols_and_dropped_rows_are_marked(quick: RunConfig, here: Execution) -> None:
    leaky = setup(quick.changed(protocol="image-3fold"), Opened(here))
    assert leaky.flags() == ("leaky: patients",)
    dropping = setup(quick.changed(missing="drop-rows"), Opened(here))
    dropped = int(
        dropping.table.metadata[[c.name for c in dropping.columns]].isna().any(axis=1).sum()
    )
    assert 0 < dropped < len(dropping.table)
    assert dropping.flags() == (f"rows dropped: {dropped}",)
    fold = dropping.protocol.folds[0]
    kept = setup(quick, Opened(here))
    assert dropping.cohort(dropping.rows(fold)) != kept.cohort(kept.rows(fold))


def test_weights_are_saved_on_request_and_give_the_same_predictions(
    quick: RunConfig, here: Execution
) -> None:
    from fusionbench.training.feed import Arrays
    from fusionbench.training.loop import predict

    record = run(quick, replace(here, save_weights=True)).records[0]
    store, experiment = Store(here.store), setup(quick, Opened(here))
    fold = experiment.protocol.folds[0]
    rows = experiment.rows(fold)
    encoder = experiment.encoder(experiment.table.metadata, rows.train)
    model, _ = experiment.model(experiment.backbone(), encoder, rows.train)
    model.load_state_dict(load_file(store.path("weights", record.run_id)))
    arrays = Arrays(
        experiment.images(None, SILENT),
        torch.from_numpy(encoder.transform(experiment.table.metadata)),
        torch.from_numpy(experiment.table.labels),
    )
    found = predict(model, arrays, rows.parts["test"], Placement(torch.device("cpu"), "fp32"))
    np.testing.assert_allclose(
        found, store.predictions(record.run_id).probabilities, rtol=0, atol=1e-6
    )


def test_it_learns(quick: RunConfig, here: Execution) -> None:
    config = quick.changed(epochs=12, lr=2e-3, loss="ce")
    result = run(config, here).records[0].result
    assert result is not None
    losses = [float(h["loss"] or 9) for h in result.history]
    assert losses[-1] < 0.8 * losses[0]
    assert result.metrics["auc_ovr_macro"] > 0.6


def test_every_schedule_and_the_averaged_weights_run(quick: RunConfig, here: Execution) -> None:
    from fusionbench.training.optimizers import SCHEDULES

    config = quick.changed(epochs=1, ema=0.9, clip_grad=1.0)
    for schedule in SCHEDULES:
        outcome = run(config.changed(schedule=schedule), here)
        assert not outcome.failures, outcome.failures[0].message


def test_refusals_name_the_reason_and_nothing_is_recorded(
    quick: RunConfig, here: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before photographs are decoded: that may take an hour."""
    monkeypatch.setattr(
        "fusionbench.runs.network_study.open_or_build", lambda *a, **k: pytest.fail("decoded")
    )
    wrong = [
        ({"fusion": "metanet"}, FusionRefused, "no multiple of 64"),
        ({"loss": "ce+ce"}, UsageError, "twice"),
        ({"params": {"fusion.hiden": "3"}}, UsageError, "Did you mean hidden"),
        ({"params": {"fusion.hidden": "many"}}, UsageError, "integer"),
        ({"params": {"loss.nothing": "1"}}, UsageError, "none of ce"),
        ({"params": {"fuson.hidden": "1"}}, UsageError, "nothing here is called"),
        ({"columns": ("biopsed",)}, UsageError, "biopsed"),
        ({"optimizer": "adamv"}, UsageError, "Did you mean"),
        ({"schedule": "cosin"}, UsageError, "cosine"),
        ({"params": {"optimizer.nothing": "1"}}, UsageError, "optimizer adamw does not take"),
        ({"params": {"schedule.nothing": "1"}}, UsageError, "schedule cosine does not take"),
        ({"params": {"fusion.hidden": "-1"}}, FusionbenchError, "cannot be built"),
        ({"view": "x-ray"}, UsageError, "no view"),
    ]
    for change, error, text in wrong:
        with pytest.raises(error, match=text):
            run(quick.changed(**change), here)
    with pytest.raises(UsageError, match="has no fold 7"):
        run(quick, replace(here, folds=(7,)))
    assert not here.store.exists() or not list(here.store.rglob("*.json"))


def test_records_say_what_ran(quick: RunConfig, here: Execution) -> None:
    record = run(quick.changed(fusion="sgmc"), here).records[0]
    saved = json.loads((here.store / "records" / f"{record.run_id}.json").read_text())
    method = saved["identity"]["method"]
    assert [loss["name"] for loss in method["losses"]] == ["ce", "self-contrastive"]
    assert method["losses"][1]["params"]["tau"] == 0.07
    assert method["fusion"]["params"]["fr"] == "pixel"
    assert saved["environment"]["libraries"]["torch"] == torch.__version__.split("+")[0]
    assert saved["measured"]["images_per_s"] > 0
    assert set(saved["result"]["parameters"]) == {"backbone", "fusion", "total"}
    # What only the loss owns is no part of the model.
    parameters = saved["result"]["parameters"]
    assert parameters["total"] == parameters["backbone"] + parameters["fusion"]
