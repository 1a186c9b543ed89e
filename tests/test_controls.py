"""Controls: methods without photographs, and metadata that belongs to somebody else."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_records import identity
from sklearn.linear_model import LogisticRegression

from fusionbench.analysis.reopen import reopen
from fusionbench.config.identity import Expected, Identity, RowIdentity
from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.data.locate import find_data
from fusionbench.errors import DataError, PluginError, UsageError
from fusionbench.plugin import registry
from fusionbench.progress import SILENT
from fusionbench.records import Store
from fusionbench.runs.fold import open_experiment
from fusionbench.runs.run import run
from fusionbench.runs.study import Opened, swapped

CONTROLS = sorted(registry.discover("controls"))

SEES_NO_CLASS = '''
"""Always says the same."""
from sklearn.dummy import DummyClassifier
from fusionbench.plugin.control import Control
class Same(Control):
    def __init__(self, *, strategy: str = "prior") -> None:
        self.strategy = strategy
    def estimator(self, seed):
        return DummyClassifier(strategy=self.strategy)
'''


@pytest.fixture
def control(quick: RunConfig) -> RunConfig:
    return quick.changed(fusion="metadata-logistic")


@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_leaves_a_record_like_any_method(
    name: str, control: RunConfig, here: Execution
) -> None:
    outcome = run(control.changed(fusion=name), here)
    record = outcome.records[0]
    assert record.result is not None
    assert record.identity.method.backbone is record.identity.method.loss is None
    assert "control: no image" in record.result.flags
    assert record.result.history == () and record.result.best_epoch is None
    assert record.measured.images_per_s is None
    predictions = Store(here.store).predictions(record.run_id)
    np.testing.assert_allclose(predictions.probabilities.sum(axis=1), 1, atol=1e-9)


def test_a_control_is_compared_on_the_rows_of_the_networks(
    control: RunConfig, quick: RunConfig, here: Execution
) -> None:
    records = [run(config, here).records[0] for config in (control, quick)]
    assert records[0].result and records[1].result
    assert records[0].result.cohort == records[1].result.cohort
    ids = [Store(here.store).predictions(r.run_id).ids for r in records]
    assert ids[0] == ids[1]


def test_the_logistic_control_is_scikit_learns_on_the_encoded_rows(
    control: RunConfig, here: Execution
) -> None:
    record = run(control, here).records[0]
    experiment = open_experiment(control, Opened(here))
    rows = experiment.rows(experiment.protocol.folds[0])
    table = experiment.table
    x = experiment.encoder(table.metadata, rows.train).transform(table.metadata).astype(float)
    model = LogisticRegression(class_weight="balanced", max_iter=2000)
    model.fit(x[rows.train], table.labels[rows.train])
    expected = model.predict_proba(x[rows.parts["test"]])
    found = Store(here.store).predictions(record.run_id).probabilities
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_missingness_sees_gaps_and_nothing_else(control: RunConfig, here: Execution) -> None:
    """Answers may change; as long as the same cells are empty, so are the probabilities."""
    config = control.changed(fusion="missingness")
    first = open_experiment(config, Opened(here))
    fold = first.protocol.folds[0]
    rows = first.rows(fold)

    def found() -> np.ndarray:
        return first.trainer(here).train(fold, rows, SILENT).probabilities["test"]

    before = found()
    metadata = first.table.metadata
    recorded = metadata["age"].notna()
    metadata.loc[recorded, "age"] = 77.0
    np.testing.assert_array_equal(before, found())
    gaps = [name for name in metadata if metadata[name].iloc[rows.train].isna().any()]
    metadata.loc[metadata.index[rows.parts["test"][:5]], gaps] = None
    assert (before != found()).any()


def test_training_settings_are_no_part_of_a_control(control: RunConfig, here: Execution) -> None:
    changes = [
        {},
        {"epochs": 9, "lr": 0.5, "backbone": "resnet50", "image_size": 64},
        {"select": "test-best", "loss": "focal", "params": {"loss.gamma": "3"}},
    ]
    ids = set()
    for change in changes:
        experiment = open_experiment(control.changed(**change), Opened(here))
        ids.add(experiment.run_id(experiment.protocol.folds[0]))
        assert "optimistic: test-best" not in experiment.flags()
    assert len(ids) == 1
    other = [{"columns": ("age",)}, {"missing": "indicator"}, {"params": {"fusion.c": "2"}},
             {"shuffle_metadata": True}, {"seed": 3}]  # fmt: skip
    for change in other:
        experiment = open_experiment(control.changed(**change), Opened(here))
        ids.add(experiment.run_id(experiment.protocol.folds[0]))
    assert len(ids) == 1 + len(other)


def test_a_control_of_ones_own(control: RunConfig, here: Execution, tmp_path: Path) -> None:
    path = tmp_path / "same.py"
    path.write_text(SEES_NO_CLASS)
    execution = replace(here, plugins=(path,))
    config = control.changed(fusion="same")
    record = run(config, execution).records[0]
    assert record.result and record.result.metrics["auc_ovr_macro"] == 0.5
    with pytest.raises(UsageError, match="Did you mean strategy"):
        run(config.changed(params={"fusion.stratgy": "x"}), execution)


def test_a_name_belongs_to_one_kind(control: RunConfig, here: Execution, tmp_path: Path) -> None:
    (tmp_path / "sgmc.py").write_text(SEES_NO_CLASS)
    with pytest.raises(PluginError, match="A fusion and a control are called 'sgmc'"):
        run(control.changed(fusion="sgmc"), replace(here, plugins=(tmp_path,)))
    with pytest.raises(UsageError, match="Did you mean metadata-forest"):
        registry.find_method("metadata-forst")


def test_a_control_runs_without_torch(tiny_card: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from fusionbench.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as e: print('code', e.code)\n"
        "print('torch' in sys.modules, 'timm' in sys.modules)"
    )
    command = ["run", "--fusion", "missingness", "--dataset", str(tiny_card), "--fold", "0"]
    ran = subprocess.run(
        [sys.executable, "-c", code, *command, "--store", str(tmp_path)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.stdout.splitlines()[-2:] == ["code 0", "False False"], ran.stderr


def test_a_control_needs_no_photographs(
    control: RunConfig, here: Execution, tmp_path: Path
) -> None:
    """With the photographs it is the row beside networks; without, a row on the same cells."""
    experiment = open_experiment(control, Opened(here))
    card = experiment.table.card
    metadata = find_data(card) / card.files.metadata
    bare = tmp_path / "bare" / metadata.name
    bare.parent.mkdir()
    bare.write_bytes(metadata.read_bytes())
    apart = replace(here, data=bare.parent, store=tmp_path / "apart")
    with pytest.raises(DataError, match="are missing"):
        run(control.changed(fusion="concat"), apart)
    whole, alone = run(control, here).records[0], run(control, apart).records[0]
    assert whole.result and alone.result and whole.result.parts == alone.result.parts
    assert whole.identity.data.fingerprint != alone.identity.data.fingerprint
    assert whole.result.cohort != alone.result.cohort  # never ranked together
    assert alone.result.complete_data
    # One opened dataset serves both kinds where nothing is missing.
    opened = Opened(here)
    table, _ = opened.of(control.data, pictured=False)
    assert opened.of(control.data)[0] is table is opened.of(control.data, pictured=False)[0]
    assert (
        reopen(alone, apart, control.data.dataset).table.fingerprint
        == alone.identity.data.fingerprint
    )


def test_options_that_do_nothing_for_a_control_are_named(tiny_card: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from fusionbench.cli import cli

    command = ["run", "--fusion", "missingness", "--dataset", str(tiny_card), "--fold", "0"]
    result = CliRunner().invoke(cli, [*command, "--store", str(tmp_path), "--epochs", "3"])
    assert "--epochs unused" in result.output and "--fusion" not in result.output.split("unused")[0]


@given(st.lists(st.integers(0, 6), min_size=2, max_size=40), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_nobody_keeps_their_own_metadata(members: list[int], seed: int) -> None:
    groups = np.array([f"P{m}" for m in members])
    rows = np.arange(len(members))[::-1].copy()
    taken = swapped(rows, groups, np.random.default_rng(seed))
    sizes = Counter(members)
    large, n = max(sizes.values()), len(members)
    if len(sizes) == 1:
        return
    assert all(groups[row] != groups[donor] for row, donor in zip(rows, taken, strict=True))
    # A permutation of the rows; where one patient has more than half, as few again as can be.
    assert len({*taken.tolist()}) == min(n, 2 * (n - large))
    assert {*taken.tolist()} <= {*rows.tolist()}


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_patients_with_equally_many_rows_exchange_them_whole(sizes: list[int], seed: int) -> None:
    sizes = [*sizes, *sizes]  # no number of rows is one patient's alone
    groups = np.repeat([f"P{k}" for k in range(len(sizes))], sizes)
    rows = np.random.default_rng(seed).permutation(len(groups))
    taken = swapped(rows, groups, np.random.default_rng(seed))
    assert sorted(taken.tolist()) == list(range(len(groups)))
    donors: dict[str, set[str]] = {}
    for row, donor in zip(rows, taken, strict=True):
        donors.setdefault(groups[row], set()).add(groups[donor])
    assert all(len(found) == 1 for found in donors.values())
    assert len({*map(frozenset, donors.values())}) == len(sizes)
    for group, (donor,) in donors.items():
        assert group != donor and (groups == group).sum() == (groups == donor).sum()


def test_few_patients_have_more_than_one_donor_on_real_counts() -> None:
    """PAD-UFES-20: how many of its 1,373 patients have 1, 2, ... photographs, as drawn here."""
    draw = np.random.default_rng(0)
    groups = np.repeat(np.arange(1373), np.minimum(1 + draw.geometric(0.55, 1373), 20))
    rows = np.arange(len(groups))
    taken = swapped(rows, groups, draw)
    assert sorted(taken.tolist()) == rows.tolist()
    several = sum(len({*groups[taken[groups == k]].tolist()}) > 1 for k in range(1373))
    assert several < 14  # one per cent
    other = swapped(rows, groups, draw)
    assert (other != taken).mean() > 0.9


def test_the_shuffled_row_of_an_earlier_way_is_another_row() -> None:
    own = {"epochs": 5, "lr": 1e-4, "select": "last"}
    row = identity(settings=own | {"shuffle_metadata": True}).row
    assert row.data.shuffle_metadata == "permutation"
    assert identity(settings=own).row.shuffled_twin() == row
    assert Identity.config(row.at(0, 0)).data.shuffle_metadata is True
    expected = Expected.of(row.at(0, 0).config())
    assert row.at(0, 0).matches(expected)
    earlier = row.model_copy(
        update={"data": row.data.model_copy(update={"shuffle_metadata": True})}
    )
    earlier = RowIdentity.model_validate_json(earlier.model_dump_json())
    assert earlier.data.shuffle_metadata is True and not earlier.same_runs(row)
    assert not earlier.at(0, 0).matches(expected)


def test_shuffled_metadata_stays_on_its_side(quick: RunConfig, here: Execution) -> None:
    config = quick.changed(shuffle_metadata=True, calibrate=True)
    experiment = open_experiment(config, Opened(here))
    fold = experiment.protocol.folds[0]
    rows = experiment.rows(fold)
    own = experiment.table.metadata.copy()
    own["age"] = np.arange(len(own), dtype=float)  # who gave it
    object.__setattr__(experiment.table, "metadata", own)
    given_to = experiment.metadata(fold, rows)["age"].to_numpy().astype(int)
    assert rows.inner is not None
    seen = np.concatenate([rows.train, rows.inner])
    assert set(given_to[seen]) <= set(seen.tolist())
    assert set(given_to[rows.parts["test"]]) <= set(rows.parts["test"].tolist())
    groups = experiment.table.groups
    assert (groups[given_to] != groups).all()
    other = experiment.metadata(experiment.protocol.folds[1], rows)["age"].to_numpy()
    assert (other != given_to).any()
    assert "control: shuffled metadata" in experiment.flags()


def test_shuffled_metadata_is_worth_nothing(control: RunConfig, here: Execution) -> None:
    """A classifier on somebody else's answers is at chance."""
    execution = replace(here, folds=None)
    shuffled = control.changed(shuffle_metadata=True)
    runs = [control, *(shuffled.changed(seed=seed) for seed in range(4))]
    areas = [
        np.mean([float(r.result.metrics["auc_ovr_macro"] or 0) for r in found.records if r.result])
        for found in (run(config, execution) for config in runs)
    ]
    assert areas[0] > 0.6
    assert abs(np.mean(areas[1:]) - 0.5) < 0.06


def test_a_forbidden_column_needs_to_be_allowed_and_is_named(
    control: RunConfig, here: Execution
) -> None:
    config = control.changed(columns=("age", "biopsed"))
    with pytest.raises(UsageError, match="--allow-forbidden"):
        run(config, here)
    record = run(config.changed(allow_forbidden=True), here).records[0]
    assert record.result and "forbidden inputs: biopsed" in record.result.flags
    plain = run(control.changed(columns=("age",)), here).records[0]
    assert plain.result is not None
    gain = float(record.result.metrics["bacc"] or 0) - float(plain.result.metrics["bacc"] or 0)
    assert gain > 0.1  # it does give the label away


def test_calibration_is_reported_before_and_after(control: RunConfig, here: Execution) -> None:
    whole = run(control, here).records[0].result
    result = run(control.changed(calibrate=True), here).records[0].result
    assert whole and result and whole.temperature is None and result.temperature is not None
    assert result.n_train < whole.n_train and result.n_test == whole.n_test
    names = {"nll_scaled", "brier_scaled", "ece_scaled"}
    assert names <= set(result.metrics) and not names & set(whole.metrics)
