"""The training step: every path computes the same, steps down by itself, and is used again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from traced import traced

from fusionbench.config.run_config import Execution, RunConfig, StepPath
from fusionbench.errors import UsageError
from fusionbench.models.backbones import build_backbone
from fusionbench.models.fusion_model import FusionModel
from fusionbench.plugin import registry
from fusionbench.plugin.fusion import Fusion, Spec
from fusionbench.plugin.loss import CombinedLoss, Loss, Output
from fusionbench.progress import Progress
from fusionbench.records import Store
from fusionbench.runs.run import run
from fusionbench.training.augment import AUGMENTATIONS
from fusionbench.training.feed import Arrays
from fusionbench.training.loop import predict
from fusionbench.training.placement import Placement
from fusionbench.training.step import TrainingStep

CPU = Placement(torch.device("cpu"), "fp32")
SIZE, FEATURES, CLASSES = 32, 7, 3


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def built(
    fusion: str | type[Fusion] = "none",
    losses: dict[str, str | type[Loss]] | None = None,
    *,
    seed: int = 0,
    counts: tuple[int, ...] = (5, 3, 2),
    features: int = FEATURES,
    reducer: int = 0,
) -> tuple[FusionModel, CombinedLoss]:
    torch.manual_seed(seed)
    backbone = build_backbone("test_resnet", SIZE)
    spec = Spec(backbone.stages, backbone.width, metadata=features, classes=CLASSES)
    if isinstance(fusion, str):
        fusion = registry.load(registry.find("fusions", fusion), Fusion)
    model = FusionModel(backbone, fusion(spec), reducer)
    own = Spec(**{**vars(model.spec), "counts": counts})
    parts = {}
    for name, loss in (losses or {"ce": "ce"}).items():
        if isinstance(loss, str):
            loss = registry.load(registry.find("losses", loss), Loss)
        parts[name] = loss(own)
    return model, CombinedLoss(parts)


def made(
    path: StepPath, *arguments: Any, augment: str = "mild", compiler: str = "aot_eager", **more: Any
) -> TrainingStep:
    """A step of a path; captured ones are traced, which stands for a CUDA graph."""
    progress = more.pop("progress", Progress())
    recorder = more.pop("recorder", traced if path.endswith("captured") else None)
    return TrainingStep(
        *built(*arguments, **more), AUGMENTATIONS[augment], CPU, path, progress,
        compiler=compiler, recorder=recorder,
    )  # fmt: skip


def batch(n: int, seed: int = 0, features: int = FEATURES) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (n, SIZE, SIZE, 3), generator=g, dtype=torch.uint8)
    meta = torch.rand(n, features, generator=g)
    return image.permute(0, 3, 1, 2), meta, torch.arange(n) % CLASSES


def train(
    step: TrainingStep,
    steps: int,
    *,
    clip: float = 0.0,
    lr: float = 0.01,
    device: torch.device | None = None,
) -> np.ndarray:
    """The loss of each step of SGD; every fifth batch is a smaller one. Epochs of ten steps."""
    optimizer = torch.optim.SGD(step.trained.parameters(), lr=lr, momentum=0.9)
    draws, losses = torch.Generator().manual_seed(1), []
    torch.manual_seed(2)  # dropout's
    for i in range(steps):
        if i % 10 == 0:
            step.begin_epoch(1 + i // 10, max(steps // 10, 1))
        image, meta, target = (t.to(device) for t in batch(5 if i % 5 == 4 else 8, i))
        drawn = step.augment.draw(len(target), draws)
        losses.append(float(step(image, drawn, meta, target)["loss"]))
        if clip:
            nn.utils.clip_grad_norm_(step.trained.parameters(), clip)
        optimizer.step()
    return np.array(losses)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def test_the_plain_step_is_what_one_would_write_by_hand() -> None:
    model, _ = built("concat", reducer=16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    mean = torch.tensor(model.backbone.mean).view(1, 3, 1, 1)
    std = torch.tensor(model.backbone.std).view(1, 3, 1, 1)
    model.to(memory_format=torch.channels_last).train()
    expected = []
    torch.manual_seed(2)
    for i in range(50):
        image, meta, target = batch(5 if i % 5 == 4 else 8, i)
        loss = F.cross_entropy(model((image / 255 - mean) / std, meta).logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(float(loss.detach()))
    step = made("eager", "concat", augment="none", reducer=16)
    np.testing.assert_allclose(train(step, 50), expected, rtol=2e-3)
    assert expected[-1] != expected[0]


METHODS: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "none": ("none", {"ce": "ce"}, "mild", 0),
    "concat": ("concat", {"ldam": "ldam"}, "flip", 16),  # its weights change with the epochs
    "metablock": ("metablock", {"focal": "focal"}, "metablock-2021", 0),
    "sgmc": ("sgmc", {"ce": "ce", "self-contrastive": "self-contrastive"}, "mild", 0),
    "sgmc-deep": (
        "sgmc", {"balanced-softmax": "balanced-softmax", "deep-supervision": "deep-supervision"},
        "none", 16,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "name"),
    [*(("captured", name) for name in METHODS), ("compiled", "concat"), ("compiled", "sgmc")],
)
def test_a_fast_step_equals_the_plain_one_over_50_steps(path: StepPath, name: str) -> None:
    """Augmentation, dropout, smaller batches and a limit on the gradient among them."""
    fusion, losses, augment, reducer = METHODS[name]
    notes = Notes()
    plain = made("eager", fusion, losses, augment=augment, reducer=reducer)
    fast = made(path, fusion, losses, augment=augment, reducer=reducer, progress=notes)
    expected = train(plain, 50, clip=1.0)
    found = train(fast, 50, clip=1.0)
    assert fast.path == path and not notes.notes
    if path == "captured":  # the same kernels
        assert found.tolist() == expected.tolist()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    ours, theirs = state(fast.trained), state(plain.trained)
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-2, atol=1e-3)


def test_warming_up_leaves_no_trace() -> None:
    """Neither in batch norm's running statistics nor in the random numbers of dropout."""
    plain, fast = made("eager", "concat", reducer=16), made("captured", "concat", reducer=16)
    image, meta, target = batch(8)
    results = []
    for step in (plain, fast):
        step.begin_epoch(1, 1)
        torch.manual_seed(5)
        terms = step(image, step.augment.draw(8, torch.Generator().manual_seed(1)), meta, target)
        results.append((terms, state(step.trained), torch.rand(3)))
    (terms, values, after), (terms2, values2, after2) = results
    assert torch.equal(terms["loss"], terms2["loss"]) and torch.equal(after, after2)
    assert values.keys() == values2.keys()
    assert all(torch.equal(values[k], values2[k]) for k in values)
    for ours, theirs in zip(fast.trained.parameters(), plain.trained.parameters(), strict=True):
        assert torch.equal(cast(Tensor, ours.grad), cast(Tensor, theirs.grad))


def test_kernels_are_tried_out_for_full_batches_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU cuDNN tries its kernels at every new size; an epoch's last batch and evaluation have
    sizes of their own in every fold."""
    seen: list[tuple[int, bool]] = []

    class Looks(Fusion):
        def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
            seen.append((len(meta), torch.backends.cudnn.benchmark))
            return image

    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    step = made("eager", Looks)
    seen.clear()  # building a model tries it on two
    train(step, 6)
    assert set(seen) == {(8, True), (5, False)}
    seen.clear()
    images = torch.zeros(6, SIZE, SIZE, 3, dtype=torch.uint8)
    arrays = Arrays(images, torch.rand(6, FEATURES), torch.zeros(6))
    predict(step.model, arrays, np.arange(6), CPU, 4)
    assert seen == [(4, False), (2, False)]
    assert torch.backends.cudnn.benchmark


# ---- what cannot be compiled or captured


class Reads(Fusion):
    """Looks at a value in Python."""

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return image * 2 if float(meta.sum()) > 0 else image


class Counts(Fusion):
    """Remembers in Python how often it ran, and makes use of it."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.times = 0

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        self.times += 1
        return image / self.times


class Breaks(Fusion):
    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        raise ZeroDivisionError("the plugin's own mistake")


@pytest.mark.parametrize(
    ("fusion", "asked", "taken"),
    [
        (Reads, "compiled+captured", "compiled"),
        (Reads, "captured", "compiled"),
        (Reads, "compiled", "compiled"),
        (Counts, "compiled+captured", "eager"),
        (Counts, "compiled", "eager"),
    ],
)
def test_the_next_best_path_is_taken_and_said_once(
    fusion: type[Fusion], asked: StepPath, taken: StepPath
) -> None:
    notes = Notes()
    step = made(asked, fusion, progress=notes)
    found = train(step, 12)
    assert step.path == taken
    expected = train(made("eager", fusion), 12)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    if asked == taken:
        assert not notes.notes
    else:
        assert asked in notes.notes[0] and taken in notes.notes[-1]
        assert len(notes.notes) == len(set(notes.notes)) <= 3


def test_without_a_compiler_it_is_captured_alone() -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise OSError("no compiler here")

    notes = Notes()
    step = made("compiled+captured", "sgmc", compiler=cast(Any, broken), progress=notes)
    assert train(step, 6).tolist() == train(made("eager", "sgmc"), 6).tolist()
    assert step.path == "captured"
    assert len(notes.notes) == 1 and "no compiler here" in notes.notes[0]


def test_a_mistake_of_the_plugin_is_the_plugins() -> None:
    with pytest.raises(ZeroDivisionError, match="own mistake"):
        train(made("compiled+captured", Breaks), 1)


class Annealed(Loss):
    """Keeps the epoch's weight in Python, where a recorded step does not see it."""

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.weight = 1.0 / epoch

    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        return {"annealed": self.weight * F.cross_entropy(output.logits, target)}


@pytest.mark.parametrize("path", ["compiled", "captured"])
def test_a_loss_that_changes_with_the_epochs_is_recorded_anew(path: StepPath) -> None:
    fast, plain = (made(p, "none", {"annealed": Annealed}) for p in (path, "eager"))
    np.testing.assert_allclose(train(fast, 30), train(plain, 30), rtol=1e-4)
    assert fast.path == path


# ---- used again


@pytest.mark.parametrize("path", ["eager", "captured"])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_used_again_equals_a_fresh_one(path: StepPath, name: str) -> None:
    fusion, losses, augment, reducer = METHODS[name]
    options: dict[str, Any] = {"reducer": reducer}
    again = made(path, fusion, losses, augment=augment, **options)
    train(again, 12, lr=0.1)
    kept = again.trained
    assert again.reinitialise(*built(fusion, losses, seed=9, counts=(9, 1, 4), **options))
    assert again.trained is kept
    fresh = made(path, fusion, losses, augment=augment, seed=9, counts=(9, 1, 4), **options)
    expected = train(fresh, 12)
    assert train(again, 12).tolist() == expected.tolist()
    ours, theirs = state(again.trained), state(fresh.trained)
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


class Weighted(Loss):
    """What follows from the counts lies in Python: another fold's would go unseen."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.rarest = min(spec.counts)

    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        return {"weighted": F.cross_entropy(output.logits, target) * self.rarest}


def _other_widths() -> Iterator[tuple[str, Callable[[], tuple[FusionModel, CombinedLoss]]]]:
    yield "features", lambda: built("concat", {"w": Weighted}, features=8)
    yield "counts in Python", lambda: built("concat", {"w": Weighted}, counts=(9, 9, 9))
    yield "fusion", lambda: built("none", {"w": Weighted})
    yield "loss", lambda: built("concat", {"ce": "ce"})
    yield "reducer", lambda: built("concat", {"w": Weighted}, reducer=16)


@pytest.mark.parametrize("other", [pytest.param(v, id=k) for k, v in _other_widths()])
def test_what_is_not_alike_is_not_used_again(
    other: Callable[[], tuple[FusionModel, CombinedLoss]],
) -> None:
    step = made("eager", "concat", {"w": Weighted})
    before = state(step.trained)
    assert not step.reinitialise(*other())
    after = state(step.trained)
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_plugin_that_remembers_in_python_is_not_used_again() -> None:
    step = made("eager", Counts)
    train(step, 2)
    assert not step.reinitialise(*built(Counts))


# ---- through a run


def test_folds_of_one_run_equal_folds_run_alone(quick: RunConfig, here: Execution) -> None:
    """To the bit: the second fold trains on the step that was built for the first."""
    config = quick.changed(fusion="sgmc", loss="ldam+self-contrastive", reducer=8, ema=0.9)
    together = run(config, replace(here, folds=None)).records
    assert len(together) > 1
    for record in together:
        fold = record.identity.fold
        alone = replace(here, folds=(fold,), store=here.store / f"alone-{fold}")
        (other,) = run(config, alone).records
        assert record.result is not None and other.result is not None
        assert record.result.history == other.result.history
        assert record.result.metrics == other.result.metrics
        found = (Store(e.store).predictions(record.run_id) for e in (here, alone))
        (ours, theirs) = (p.probabilities for p in found)
        np.testing.assert_array_equal(ours, theirs)


def test_a_compiled_run_is_worth_the_same_and_says_how_it_ran(
    quick: RunConfig, here: Execution
) -> None:
    """By the compiler that users have. Its record is found again by a plain run."""
    # Without dropout, whose numbers a compiled step draws in another order.
    changed = {"backbone": "test_vit", "fusion": "metablock", "seed": 3}
    config = quick.changed(**changed)
    other = replace(here, store=here.store / "compiled", step="compiled")
    plain, fast = (run(config, execution).records[0] for execution in (here, other))
    assert (plain.environment["path"], fast.environment["path"]) == ("eager", "compiled")
    assert plain.run_id == fast.run_id
    assert plain.result is not None and fast.result is not None
    for mine, theirs in zip(fast.result.history, plain.result.history, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)
    assert fast.result.metrics == pytest.approx(plain.result.metrics, abs=0.02)


def test_the_record_keeps_the_path_that_was_taken(quick: RunConfig, here: Execution) -> None:
    """Not the one that was asked for."""
    plugin = here.store.parent / "reads.py"
    plugin.write_text(
        '"""Cannot be compiled."""\n'
        "import torch\n"
        "from fusionbench.plugin.fusion import Fusion\n\n\n"
        "class Reads(Fusion):\n"
        '    """Grows in Python."""\n\n'
        "    def __init__(self, spec):\n"
        "        super().__init__(spec)\n"
        "        self.seen = []\n\n"
        "    def fuse(self, image, meta):\n"
        "        self.seen.append(len(meta))\n"
        "        return torch.cat([image, meta], 1)\n"
    )
    notes = Notes()
    execution = replace(here, step="compiled", folds=(0, 1), plugins=(plugin,))
    outcome = run(quick.changed(fusion="reads"), execution, notes)
    assert not outcome.failures
    assert [record.environment["path"] for record in outcome.records] == ["eager", "eager"]
    assert len([note for note in notes.notes if "eager, not compiled" in note]) == 1


def test_a_graph_without_a_gpu_is_refused(quick: RunConfig, here: Execution) -> None:
    with pytest.raises(UsageError, match="--step captured is for a GPU"):
        run(quick, replace(here, step="captured"))
