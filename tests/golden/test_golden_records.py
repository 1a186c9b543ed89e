"""Records written by the first version are read for ever, with the values that they had then.

The files in v1/ are small enough to be checked by hand and are never written again: a schema that
cannot read them, or reads other values, is a defect of the schema.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fusionbench.metrics.compute import compute
from fusionbench.metrics.lesions import by_lesion
from fusionbench.records import Store, run_id
from fusionbench.records.verify import verify

V1 = Path(__file__).parent / "v1"
FULL = "golden_grouped-2fold_sgmc_resnet18_f1_s3_dd62baca4136"
SPARE = "golden_grouped-2fold_sgmc_resnet18_f0_s3_cbb73a81ab0e"
FAILED = "golden_grouped-2fold_sgmc_resnet18_f1_s4_7ff5d49e246a"


def test_every_golden_file_is_read() -> None:
    store = Store(V1)
    assert [r.run_id for r in store.records()] == [SPARE, FULL]
    assert store.scan()[1] == [] and store.failures() == [FAILED]


def test_a_record_with_every_field() -> None:
    record = Store(V1).read(FULL)
    result = record.result
    assert result is not None and record.status == "ok" and record.error is None
    assert run_id(record.identity) == FULL
    assert record.identity["settings"] == {
        "epochs": 2,
        "lr": 1e-4,
        "columns": ["age", "itch"],
        "crop": [0.5, 1.0],
        "ema": None,
        "calibrate": True,
    }
    test, holdout = result.parts["test"], result.parts["holdout"]
    assert (test.n, holdout.n) == (4, 2)
    # Three of four right: P(BCC) is .75, .25, .25, .125 for BCC, BCC, NEV, NEV.
    assert test.confusion == ((1, 1), (0, 2))
    expected = {"acc": 0.75, "bacc": 0.75, "recall/BCC": 0.5, "recall/NEV": 1.0}
    expected |= {"auc_ovr_macro": 3.5 / 4, "sens_at_spec95/BCC": 0.5, "nll_scaled": 0.5}
    expected["brier"] = (2 * 0.25**2 + 2 * 0.75**2 + 2 * 0.25**2 + 2 * 0.125**2) / 4
    expected["nll"] = -math.log(0.75 * 0.25 * 0.75 * 0.875) / 4
    assert test.metrics == pytest.approx(expected, abs=1e-15)
    # The two photographs of one lesion average to (.5, .5): the first class of equals.
    assert test.lesions is not None and holdout.lesions is None
    assert (test.lesions.n, test.lesions.confusion) == (3, ((1, 0), (0, 2)))
    assert test.lesions.metrics["acc"] == 1.0
    assert test.lesions.metrics["brier"] == (0.5 + 2 * 0.25**2 + 2 * 0.125**2) / 3
    # No BCC in the second part: what is undefined is None.
    assert holdout.metrics["recall/BCC"] is None and holdout.metrics["auc_ovr_macro"] is None
    assert holdout.metrics["acc"] == 0.5
    assert (result.classes, result.n_train, result.n_test) == (("BCC", "NEV"), 4, 4)
    assert (result.best_epoch, result.epochs_run, result.folds_expected) == (2, 2, 2)
    assert (result.n_rows_dataset, result.n_rows_used, result.complete_data) == (12, 10, False)
    assert result.cohort == "c0" * 8
    assert result.flags == ("leaky: patients", "images missing")
    assert result.verdict == "leaky: patients 54 %; shortcut: missingness"
    assert result.temperature == 1.5
    assert result.parameters["loss"] == 2048
    assert result.history == (
        {"epoch": 1, "loss": 1.25, "bacc": None},
        {"epoch": 2, "loss": 0.5, "bacc": 0.75},
    )
    assert record.environment["libraries"] == {"torch": "2.14.0"}
    measured = record.measured
    assert measured.durations == {"train": 12.5, "evaluate": 0.25}
    assert (measured.images_per_s, measured.peak_memory_bytes) == (96.5, 123_456_789)
    assert measured.started == "2025-01-02T03:04:05Z"


def test_its_predictions() -> None:
    found = Store(V1).predictions(FULL)
    assert found.ids[2] == 'PAT_2, the "second".png'
    assert found.parts == ("test",) * 4 + ("holdout",) * 2
    assert found.labels == ("BCC", "BCC", "NEV", "NEV", "NEV", "NEV")
    assert found.groups == ("PAT_1", "PAT_1", "PAT_2", "PAT_3", "PAT_9", "PAT_9")
    assert found.lesions[:3] == ("PAT_1|7", "PAT_1|7", "PAT_2|1")
    assert (found.fold, found.classes) == (1, ("BCC", "NEV"))
    assert found.probabilities[:, 0].tolist() == [0.75, 0.25, 0.25, 0.125, 0.1, 2 / 3]


def test_what_a_file_leaves_out_has_the_defaults_of_then() -> None:
    record = Store(V1).read(SPARE)
    assert record.result is not None
    assert record.result.metrics == {"acc": 1.0}
    assert record.result.parts["test"].lesions is None
    assert (record.result.flags, record.result.verdict, record.result.temperature) == ((), "", None)
    assert record.result.history == () and record.result.best_epoch is None
    assert record.environment == {} and record.measured.started == ""
    assert Store(V1).predictions(SPARE).ids == ("a", "b")


def test_a_failure() -> None:
    record = Store(V1).read(FAILED)
    assert record.status == "failed" and record.result is None and record.error is not None
    assert record.error.type == "RunFailedError"
    assert record.error.message == "loss is NaN in epoch 2, step 7"
    assert record.error.traceback.startswith("Traceback")


def test_the_numbers_are_those_of_the_predictions_still() -> None:
    """A metric of today that gives another value under an old name would be caught here."""
    found = verify(Store(V1), compute=compute, by_lesion=by_lesion)
    assert found.problems == ()
    assert (found.records, found.failures) == (2, 1) and found.numbers >= 23
