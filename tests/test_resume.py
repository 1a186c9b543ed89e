"""A run that is stopped, wherever, goes on from its last epoch to the same bits."""

from __future__ import annotations

import io
import math
import os
import pickle
import random
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm.optim
import torch
from safetensors import safe_open
from thorough import times

from fusionbench.analysis.stress.stress_test import stress
from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.errors import RecordError
from fusionbench.leaderboard import blocks
from fusionbench.leaderboard.select import select_row
from fusionbench.progress import Progress
from fusionbench.records import Record, Store
from fusionbench.records.leftovers import leftovers, remove
from fusionbench.records.verify import verify
from fusionbench.runs import plan
from fusionbench.runs.fold import open_experiment
from fusionbench.runs.run import run
from fusionbench.runs.study import Opened
from fusionbench.runs.worker import ToldToStop
from fusionbench.tables import read_table
from fusionbench.training import checkpoints
from fusionbench.training import loop as train
from fusionbench.training.checkpoints import CheckpointError, Keeper, State, read
from fusionbench.training.step import TrainingStep


class Stopped(ToldToStop):
    """Stands for whatever ends the process."""


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@contextmanager
def changed(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@pytest.fixture
def here(here: Execution) -> Execution:
    """With a checkpoint after every epoch, however short."""
    return replace(here, checkpoint_every=0)


def stop_after(kept: int = 1) -> Any:
    """The process ends once it has written so many checkpoints."""
    keep, count = Keeper.keep, [0]

    def ends(self: Keeper, state: State) -> None:
        keep(self, state)
        count[0] += 1
        if count[0] == kept:
            raise Stopped

    return changed(Keeper, "keep", ends)


def only(records: tuple[Record, ...]) -> Record:
    assert len(records) == 1
    return records[0]


def same(one: Execution, other: Execution, name: str) -> bool:
    """Bit for bit: the record but for time and place, and every probability."""
    a, b = Store(one.store), Store(other.store)
    return a.read(name).reproducible() == b.read(name).reproducible() and (
        a.predictions(name).to_csv() == b.predictions(name).to_csv()
    )


def content_of(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def checkpoint(config: RunConfig, execution: Execution) -> Path:
    study = open_experiment(config, Opened(execution))
    fold = next(f for f in study.protocol.folds if f.index == (execution.folds or (0,))[0])
    return Store(execution.store).path("checkpoints", study.run_id(fold))


# ---- what is trained, in every way


SETTINGS: dict[str, dict[str, Any]] = {
    "sgd, dropped metadata and paths, oversampling": {
        "optimizer": "sgd", "schedule": "step", "metadata_dropout": 0.3, "block_dropout": 0.2,
        "sampler": "class-balanced", "drop_path": 0.3, "reducer": 16,
    },
    "adamw, averaged weights, the best epoch of an inner part": {
        "optimizer": "adamw", "schedule": "cosine", "ema": 0.9, "select": "inner-val",
        "watch": "nll", "augment": "mild", "clip_grad": 1.0,
    },
    "momentum, plateau after warm-up, early stop": {
        "optimizer": "momentum", "lr": 2.0, "clip_grad": 0.1, "schedule": "plateau",
        "warmup_epochs": 1, "select": "test-best", "watch": "nll", "early_stop": 1,
        "params": {"schedule.patience": "0"},
    },
    "plateau of the training loss, without a warm-up": {
        "optimizer": "momentum", "lr": 2.0, "clip_grad": 0.1, "schedule": "plateau",
        "warmup_epochs": 0, "epochs": 5, "batch_size": 16,
        "params": {"schedule.patience": "0", "schedule.factor": "0.5"},
    },
    "lamb, contrast of stages": {
        "optimizer": "lamb", "fusion": "sgmc", "loss": "ce+self-contrastive", "schedule": "poly",
    },
    "lion, deferred weights of classes": {
        "optimizer": "lion", "loss": "ldam", "sampler": "square-root", "schedule": "tanh",
        "params": {"loss.drw_from": "0.5"},
    },
    "adafactor, a classifier at every stage": {
        "optimizer": "adafactorbv", "loss": "ce+deep-supervision", "schedule": "constant",
        "augment": "metablock-2021",
    },
    "rmsprop, a gate, calibration": {
        "optimizer": "rmsprop", "fusion": "metablock", "calibrate": True, "schedule": "multistep",
        "params": {"schedule.decay_milestones": "[2, 3]"},
    },
    "bf16": {"optimizer": "nadam", "precision": "bf16", "backbone": "test_vit", "schedule": "none"},
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_stopped_after_every_epoch_it_gives_the_same_bits(
    name: str, quick: RunConfig, here: Execution, tmp_path: Path
) -> None:
    config = quick.changed(**({"epochs": 4, "batch_size": 32, "loss": "ce"} | SETTINGS[name]))
    whole = only(run(config, here).records)
    assert whole.result is not None
    other = replace(here, store=tmp_path / "other")
    for epoch in range(1, whole.result.epochs_run + 1):
        progress = Notes()
        with stop_after(1), pytest.raises(Stopped):
            run(config, other, progress)
        said = [n for n in progress.notes if "after epoch" in n or "from the beginning" in n]
        expected = f"fold 0 goes on after epoch {epoch - 1} of {config.training.epochs}"
        assert said == ([expected] if epoch > 1 else [])
    with changed(train, "train_epoch", lambda *a, **k: pytest.fail("trained an epoch again")):
        again = only(run(config, other).records)
    assert again.result is not None and again.result.history == whole.result.history
    assert same(here, other, whole.run_id)
    assert not checkpoint(config, other).exists()
    # The rules themselves went through a stop.
    if "early_stop" in SETTINGS[name]:
        assert whole.result.epochs_run < 4
    elif "plateau" in name:
        assert len({entry["lr"] for entry in whole.result.history}) > 1


def test_stopped_inside_an_epoch_it_repeats_that_epoch_only(
    quick: RunConfig, here: Execution, tmp_path: Path
) -> None:
    """Ctrl-C at steps drawn at random, and at the moment a checkpoint takes its name."""
    config = quick.changed(epochs=6, ema=0.8, optimizer="adamw")
    whole = only(run(config, here).records)
    other = replace(here, store=tmp_path / "other")
    rng, step, rename = random.Random(1), TrainingStep.__call__, Path.replace
    train_epoch = train.train_epoch
    began: list[int] = []
    left = [0]

    def counted(*arguments: Any, **named: Any) -> Any:
        began.append(named["epoch"])
        return train_epoch(*arguments, **named)

    def interrupted_step(*arguments: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return step(*arguments)

    def interrupted_rename(self: Path, target: Path) -> Path:
        if target.parent.name == "checkpoints":
            raise KeyboardInterrupt
        return rename(self, target)

    stops = 0
    with changed(train, "train_epoch", counted):
        while not Store(other.store).has(whole.run_id):
            owner, name, value = (
                (Path, "replace", interrupted_rename)
                if stops == 2
                else (TrainingStep, "__call__", interrupted_step)
            )
            left[0] = rng.randrange(1, 25)
            try:
                with changed(owner, name, value):
                    run(config, other)
            except KeyboardInterrupt:
                stops += 1
                # Nothing half written lies about.
                assert {p.suffix for p in (other.store / "checkpoints").glob("*")} <= {".pt"}
    assert stops >= 4
    assert set(began) == set(range(1, 7)) and began == sorted(began)
    assert len(began) <= 6 + stops
    assert same(here, other, whole.run_id)


def test_time_and_photographs_of_all_processes_count(quick: RunConfig, here: Execution) -> None:
    config = quick.changed(epochs=3)
    path = checkpoint(config, here)
    with stop_after(1), pytest.raises(Stopped):
        run(config, here)
    content = content_of(path)
    assert 0 < content["state"]["train_seconds"] < content["state"]["seconds"] < 600
    content["state"]["train_seconds"] += 1000
    content["state"]["seconds"] += 2000  # as if it had been slow
    torch.save(content, path)
    with stop_after(1), pytest.raises(Stopped):
        run(config, here)
    state = read(path)[0]
    assert state.epoch == 2 and state.images_seen == 2 * content["state"]["images_seen"] > 0
    assert 1000 < state.train_seconds < 1600 and 2000 < state.seconds < 2600
    record = only(run(config, here).records)
    durations = record.measured.durations
    assert state.train_seconds < durations["train"] < 1600
    assert state.seconds < durations["total"] < 2600
    assert record.measured.images_per_s is not None
    assert record.measured.images_per_s * durations["train"] == pytest.approx(
        state.images_seen * 3 / 2
    )


# ---- when it starts from the beginning


def damage(raw: bytes, how: str) -> bytes:
    rng = random.Random(how)
    at = rng.randrange(len(raw))
    return {
        "empty": b"",
        "short": raw[:7],
        "cut": raw[:at],
        "one byte less": raw[:-1],
        "another file": b"\x80\x04\x95 a pickle, perhaps" * 9,
        "a plain pickle": pickle.dumps({"place": {}, "state": {}}),
        "another archive": archive({"words.txt": b"none of ours"}),
        "compressed": archive({"archive/data.pkl": b"0" * 10**6}, zipfile.ZIP_DEFLATED),
    }[how]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, tiny_card: Path) -> bytes:
    """A run's checkpoint."""
    store = tmp_path_factory.mktemp("written")
    here = Execution(store=store, folds=(0,), device="cpu", checkpoint_every=0)
    with stop_after(1), pytest.raises(Stopped):
        run(tiny(tiny_card), here)
    return checkpoint(tiny(tiny_card), here).read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_card: Path) -> Execution:
    """The same run's finished store."""
    here = Execution(store=tmp_path_factory.mktemp("undisturbed"), folds=(0,), device="cpu")
    run(tiny(tiny_card), here)
    return here


def tiny(card: Path) -> RunConfig:
    return RunConfig.of(
        fusion="none", backbone="test_resnet", dataset=str(card), weights="none", epochs=2,
        batch_size=16, image_size=32, augment="flip", precision="fp32",
    )  # fmt: skip


def archive(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", compression) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return raw.getvalue()


@pytest.mark.parametrize(
    "how",
    ["empty", "short", "cut", "one byte less", "another file", "a plain pickle",
     "another archive", "compressed"],
)  # fmt: skip
def test_a_damaged_checkpoint_is_noticed(how: str, written: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(written)
    assert read(path)[0].epoch == 1
    path.write_bytes(damage(written, how))
    with pytest.raises(CheckpointError, match=str(path)):
        read(path)


def test_any_byte_counts(written: bytes, tmp_path: Path) -> None:
    """A changed bit is noticed, or stands where nothing is kept (alignment, times)."""
    path = tmp_path / "x.pt"
    path.write_bytes(written)
    expected, noticed = content_of(path), 0
    rng = random.Random(5)
    with zipfile.ZipFile(path) as file:
        kept = [entry.header_offset + 200 for entry in file.infolist() if entry.file_size > 500]
    places = [*rng.sample(kept, 20), *rng.sample(range(len(written)), 60), 0, len(written) - 30]
    for at in places:
        path.write_bytes(written[:at] + bytes([written[at] ^ (1 << at % 8)]) + written[at + 1 :])
        try:
            state, place = read(path)
        except CheckpointError:
            noticed += 1
        else:
            assert identical(expected, {"place": place, "state": vars(state)}), at
    assert noticed >= 40


class Malicious:
    def __reduce__(self) -> Any:
        return os.mkdir, ("hacked",)


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pt"
    torch.save({"place": {}, "state": {"epoch": Malicious()}}, path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read(path)
    assert not (tmp_path / "hacked").exists()
    torch.load(path, weights_only=False)  # it would have been
    assert (tmp_path / "hacked").exists()


def identical(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(identical(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(identical, a, b))
    return type(a) is type(b) and a == b


def spoil(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:-100])
    return "cannot be used"


def of_another_torch(path: Path) -> str:
    content = content_of(path)
    content["place"]["torch"] = "1.0"
    torch.save(content, path)
    return r"epoch 1 was made with torch 1\.0, not"


def of_another_run(path: Path) -> str:
    content = content_of(path)
    content["place"]["run"] = "another"
    torch.save(content, path)
    return "was made with run another, not"


def of_another_model(path: Path) -> str:
    content = content_of(path)
    tensors = content["state"]["tensors"]["trained"]
    tensors.pop(next(iter(tensors)))
    torch.save(content, path)
    return "cannot be used.*another model"


def of_another_optimiser(path: Path) -> str:
    content = content_of(path)
    content["state"]["optimizer"]["param_groups"].pop()
    torch.save(content, path)
    return "cannot be used.*does not fit"


def of_another_layout(path: Path) -> str:
    content = content_of(path)
    del content["state"]["epoch"]
    content["state"]["step"] = 7
    torch.save(content, path)
    return "cannot be used"


def a_link(path: Path) -> str:
    aside = path.with_name("aside")
    path.rename(aside)
    path.symlink_to(aside)
    return "not a plain file"


@pytest.mark.parametrize(
    "spoilt",
    [spoil, of_another_torch, of_another_run, of_another_model, of_another_optimiser,
     of_another_layout, a_link],
)  # fmt: skip
def test_one_that_is_no_good_is_said_and_not_used(
    spoilt: Callable[[Path], str],
    written: bytes,
    undisturbed: Execution,
    tiny_card: Path,
    here: Execution,
) -> None:
    config = tiny(tiny_card)
    path = checkpoint(config, here)
    path.parent.mkdir(parents=True)
    path.write_bytes(written)
    said = spoilt(path)
    progress, began = Notes(), []
    train_epoch = train.train_epoch

    def counted(*arguments: Any, **named: Any) -> Any:
        began.append(named["epoch"])
        return train_epoch(*arguments, **named)

    with changed(train, "train_epoch", counted):
        record = only(run(config, here, progress).records)
    assert began == [1, 2]
    (note,) = [n for n in progress.notes if "from the beginning" in n]
    assert note.startswith("fold 0 starts from the beginning")
    assert re.search(said, note)
    assert same(here, undisturbed, record.run_id)
    assert not path.exists() and not path.is_symlink()


def test_other_threads_or_precision_are_another_place(
    quick: RunConfig, here: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stop_after(1), pytest.raises(Stopped):
        run(quick, here)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    progress = Notes()
    run(quick, here, progress)
    assert any("made with threads" in note and "not 77" in note for note in progress.notes)


def test_a_run_that_is_to_be_computed_again_uses_no_checkpoint(
    quick: RunConfig, here: Execution
) -> None:
    with stop_after(1), pytest.raises(Stopped):
        run(quick, here)
    progress = Notes()
    run(quick, replace(here, existing="redo"), progress)
    assert not any("goes on" in note for note in progress.notes)


# ---- what is left in the store


def test_a_failed_run_leaves_no_checkpoint(
    quick: RunConfig, here: Execution, tmp_path: Path
) -> None:
    path = tmp_path / "late.py"
    path.write_text(
        '"""Loses its mind in its second epoch."""\n'
        "import torch\n"
        "from fusionbench.plugin.fusion import Fusion\n"
        "class Late(Fusion):\n"
        "    def __init__(self, spec):\n"
        "        super().__init__(spec)\n"
        '        self.register_buffer("steps", torch.zeros(()))\n'
        "    def fuse(self, image, meta):\n"
        "        self.steps += self.training\n"
        '        return image * torch.where(self.steps > 6, float("nan"), 1.0)\n',
        encoding="utf-8",
    )
    execution = replace(here, plugins=(path,))
    config = quick.changed(fusion="late", epochs=4)
    kept: list[int] = []
    keep = Keeper.keep

    def noted(self: Keeper, state: State) -> None:
        keep(self, state)
        kept.append(state.epoch)

    with changed(Keeper, "keep", noted):
        failure = only(run(config, execution).failures)
    assert kept == [1] and failure.run_id
    assert not list((here.store / "checkpoints").iterdir())


def test_a_full_disk_costs_the_checkpoint_not_the_run(
    quick: RunConfig, here: Execution, tmp_path: Path
) -> None:
    def full(self: Store, path: Path, data: Any, temporary: Any = None) -> None:
        if path.parent.name == "checkpoints":
            data = _half(data)
        write(self, path, data, temporary)

    write, progress = Store.write_file, Notes()
    with changed(Store, "write_file", full):
        record = only(run(quick, here, progress).records)
    (note,) = [n for n in progress.notes if "checkpoint" in n]  # once, for both epochs
    assert "no checkpoint of epoch 1" in note and "No space left" in note
    assert not list((here.store / "checkpoints").iterdir())
    whole = replace(here, store=tmp_path / "whole")
    run(quick, whole)
    assert same(here, whole, record.run_id)


def _half(data: Any) -> Iterator[Any]:
    yield next(iter(data))[:1000]
    raise OSError(28, "No space left on device")


def test_checkpoints_may_be_rare(quick: RunConfig, here: Execution) -> None:
    config = quick.changed(epochs=3)
    for every, expected in ((math.inf, 0), (1e-9, 3)):
        written: list[str] = []
        write = Store.write_checkpoint

        def noted(self: Store, name: str, data: Any, to: list[str] = written, by: Any = write):
            to.append(name)
            by(self, name, data)

        with changed(Store, "write_checkpoint", noted):
            run(config, replace(here, checkpoint_every=every, existing="redo"))
        assert len(written) == expected


@pytest.mark.parametrize(
    ("cost", "expected"), [(0.05, [4, *range(5, 41)]), (1.0, [4, 21, 38])], ids=["quick", "slow"]
)
def test_left_to_themselves_they_take_a_small_share_of_the_time(
    cost: float, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs of 3 s. The first checkpoint is thought to take 0.2 s, and takes less or more."""
    clock, written, epoch = 0.0, [], 0

    def write(self: Store, name: str, data: Any) -> None:
        nonlocal clock
        written.append(epoch)
        clock += cost

    monkeypatch.setattr(checkpoints, "SHARE", 0.02)
    monkeypatch.setattr(checkpoints, "RATE", 400e6)
    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: clock)
    monkeypatch.setattr(Store, "write_checkpoint", write)
    tensors = {"trained": {"weight": torch.empty(20_000_000)}}  # 80 MB
    keeper = Keeper(Store(tmp_path), "a-run", {})
    for epoch in range(1, 41):
        clock += 3.0
        keeper.keep(State(epoch=epoch, tensors=tensors))
    assert written == expected


def test_the_store_knows_what_they_are(quick: RunConfig, here: Execution) -> None:
    with stop_after(1), pytest.raises(Stopped):
        run(quick, here)
    store, path = Store(here.store), checkpoint(quick, here)
    # Half a checkpoint of a process that was killed: the next attempt writes over it.
    half = path.with_name(f".{path.stem}.tmp")
    half.write_bytes(b"half")
    (file,) = leftovers(store)
    assert (file.path, file.message) == (half, "was left half written")
    (file,) = leftovers(store, "checkpoints")
    assert (file.path, file.message) == (path, "is where a stopped run would go on")
    raw = path.read_bytes()
    path.write_bytes(raw[:-10])
    assert path in [problem.path for problem in verify(store).problems]
    path.write_bytes(raw)
    assert path not in [problem.path for problem in verify(store).problems]
    with store.lock(path.stem):
        assert leftovers(store, "checkpoints") == [] and leftovers(store) == []

    run(quick, here)
    assert not path.exists() and not half.exists() and verify(store).ok
    path.write_bytes(raw)  # as if killed between the record and this
    (file,) = leftovers(store)
    assert (file.path, file.message) == (path, "is the checkpoint of a run that is done")


@pytest.mark.parametrize("name", timm.optim.list_optimizers())
def test_what_any_optimiser_remembers_can_be_read_again(name: str, tmp_path: Path) -> None:
    """Reading is restricted to tensors and plain values; writing is not."""
    layer = torch.nn.Linear(6, 4)
    try:
        optimizer = timm.optim.create_optimizer_v2(layer, opt=name, lr=0.01, weight_decay=0.01)
    except (ImportError, AssertionError, TypeError):
        pytest.skip("needs another package or argument")
    layer(torch.ones(2, 6)).square().sum().backward(create_graph=name == "adahessian")
    optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    assert identical(optimizer.state_dict(), torch.load(file, weights_only=True))


def test_memory_format_and_bits_of_tensors_are_kept(written: bytes, tmp_path: Path) -> None:
    """Sums over channels-last memory have other bits than over contiguous."""
    path = tmp_path / "x.pt"
    path.write_bytes(written)
    weights = read(path)[0].tensors["trained"]
    assert all(torch.isfinite(v).all() for v in weights.values() if v.is_floating_point())
    assert any(v.ndim == 4 and not v.is_contiguous() for v in weights.values())


# ---- kill -9

TABLE = """
title = "Tiny"
dataset = "{card}"
folds = [0]

[settings]
backbone = "test_resnet"
loss = "ce"
weights = "none"
epochs = 6
batch_size = 16
image_size = 32
augment = "flip"
precision = "fp32"
ema = 0.9
select = "inner-val"

[[rows]]
label = "plain"
fusion = "none"

[[rows]]
label = "both"
fusion = "concat"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes in order to kill them")
def test_a_sweep_killed_at_random_moments_ends_with_the_same_records(
    tiny_card: Path, tmp_path: Path
) -> None:
    table = tmp_path / "tiny.toml"
    table.write_text(TABLE.format(card=tiny_card), encoding="utf-8")
    script, kills = Path(__file__).with_name("killed_sweep.py"), str(times(20, 5))
    done = subprocess.run(
        [sys.executable, str(script), str(table), str(tmp_path), kills, "4"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [kills], done.stdout
    whole = Execution(store=tmp_path / "whole", device="cpu")
    jobs = plan(read_table(table), whole).jobs
    assert len(jobs) == 2 and all(job.state == "done" for job in jobs)
    for store in tmp_path.glob("killed-*"):
        # Killed in the middle of a write, half a file may lie about; killed right after its record,
        # a run leaves its checkpoint and its lock. Nothing else, and each is named.
        left = Store(store)
        named = ("was left half written", "checkpoint of a run that is done", "is the lock of")
        problems = [problem.message for problem in verify(left).problems]
        assert not [text for text in problems if not any(words in text for words in named)]
        remove(left, leftovers(left))
        assert verify(left).ok
        for job in jobs:
            assert same(whole, replace(whole, store=store), job.run_id)

    began: dict[tuple[str, str], list[int]] = {}
    kept: dict[tuple[str, str], int] = {}
    children: dict[tuple[str, str], set[str]] = {}
    for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines():
        _, turn, child, event, name, epoch = line.split()
        key = turn, name
        if event == "kept":
            kept[key] = int(epoch)
            continue
        # An epoch whose checkpoint was written is never trained again: at most the current one.
        assert int(epoch) > kept.get(key, 0), line
        began.setdefault(key, []).append(int(epoch))
        children.setdefault(key, set()).add(child)
    assert len(began) == 2 * len(list(tmp_path.glob("killed-*")))
    for key, epochs in began.items():
        assert sorted(set(epochs)) == [1, 2, 3, 4, 5, 6] and epochs == sorted(epochs)
        assert len(epochs) <= 6 + len(children[key]) - 1
    assert sum(len(found) - 1 for found in children.values()) >= times(
        8, 1
    )  # killed while training


# ---- what a checkpoint does not hold

KEEPS = '''
"""Remembers in {name} what its next step depends on."""
import collections, random
import numpy as np
import torch
from fusionbench import Fusion

STEPS = [0]

def counter():
    steps = 0
    def step():
        nonlocal steps
        steps += 1
        return steps
    return step

class Box:
    def __init__(self):
        self.inside = {{"steps": 0}}

class Keeps(Fusion):
    shared = {{"steps": 0}}

    def __init__(self, spec):
        super().__init__(spec)
        self.mix = torch.nn.Linear(spec.metadata, spec.width)
        self.again, self.box, self.lock = [self.mix], Box(), __import__("threading").Lock()
        self.register_buffer("seen", torch.zeros(()))
        self.steps, self.plain, self.several = 0, torch.zeros(2), [torch.zeros(1)]
        self.last, self.array, self.count = collections.deque(maxlen=2), np.zeros(2), counter()

    def fuse(self, image, meta):
        if self.training:
            {change}
        return image + self.mix(meta) + self.seen
'''


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("self.steps += 1", "fusion.steps"),
        ("self.plain += 1", "fusion.plain"),
        ("self.plain = meta.detach()[0]", "fusion.plain"),
        ("self.several[0].add_(1)", "fusion.several"),
        ("self.last.append(len(meta))", "fusion.last"),
        ("self.array[0] += 1", "fusion.array"),
        ("self.count()", "fusion.count"),
        ("self.box.inside['steps'] += 1", "fusion.box"),
        ("self.shared['steps'] += 1", "Keeps.shared"),
        ("STEPS[0] += 1", "STEPS"),
        ("random.random()", "Python's random numbers"),
        ("np.random.rand()", "numpy's random numbers"),
        ("self.seen += 1", ""),
        ("torch.rand(2)", ""),
    ],
)
def test_a_method_that_keeps_more_than_a_checkpoint_does_not_resume(
    quick: RunConfig, here: Execution, tmp_path: Path, change: str, name: str
) -> None:
    plugin = tmp_path / "keeps.py"
    plugin.write_text(KEEPS.format(name=name or "a buffer", change=change), encoding="utf-8")
    here = replace(here, plugins=(plugin,), save_weights=True)
    config, progress = quick.changed(fusion="keeps", loss="ce", epochs=2), Notes()
    with stop_after(1), pytest.raises(Stopped):
        run(config, here, progress)
    assert checkpoint(config, here).exists() is not bool(name)
    said = [note for note in progress.notes if "while it trains" in note]
    assert len(said) == bool(name) and all(name in note for note in said)
    record = only(run(config, here).records)
    with safe_open(Store(here.store).path("weights", record.run_id), "pt") as file:
        assert (file.metadata() or {}).get("unsaved", "").endswith(name)
    store = Store(here.store)
    block, row = select_row(blocks(store), "keeps")
    if name:
        with pytest.raises(RecordError, match="do not reproduce it"):
            stress(store, block, row, here, dataset=quick.data.dataset)
    else:
        report = stress(store, block, row, here, mask_seeds=1, dataset=quick.data.dataset)
        assert [one.difference for one in report.runs] == [0]
