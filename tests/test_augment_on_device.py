"""Augmentation in two parts, numbers from the CPU and a function of tensors on the device: the
pictures of a slow oracle, nothing that a compiler or a CUDA graph cannot take, and what is done
to each image of a batch on any device has the distribution that is written down for one image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from reference_augment import REFERENCES
from scipy import stats
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from fusionbench.training.augment import AUGMENTATIONS, Augmentation

STATIC = [name for name, augment in AUGMENTATIONS.items() if augment.static]
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=on_a_gpu)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photographs(*shape: int, channels_last: bool = False) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.rand(shape, generator=seeded(1)).contiguous(memory_format=layout)


def test_every_augmentation_has_a_reference() -> None:
    assert REFERENCES.keys() == AUGMENTATIONS.keys()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(24, 3, 16, 16), (13, 3, 33, 17), (20, 3, 10, 31)])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_pictures_are_those_of_the_oracle(
    name: str, shape: tuple[int, ...], channels_last: bool
) -> None:
    """Pixel by pixel, from the numbers that were drawn; the input is left as it is."""
    batch, augment = photographs(*shape, channels_last=channels_last), AUGMENTATIONS[name]
    before, numbers = batch.clone(), augment.draw(len(batch), seeded(7))
    assert numbers.dtype == torch.float32 and numbers.shape[1:] == (len(batch),)
    if name == "metablock-2021":
        numbers[9] = 1  # holes have a test of their own
        numbers[10, ::2] *= 0.25  # colours in more of the photographs
    found = augment.apply(batch, numbers)
    assert torch.equal(batch, before)
    for image, u, out in zip(batch, numbers.T, found, strict=True):
        expected = REFERENCES[name](image.double().numpy(), u.double().numpy())
        np.testing.assert_allclose(out.numpy(), expected, atol=5e-5)


def test_holes_are_pixels_or_squares_of_a_generator_that_the_drawn_numbers_seed() -> None:
    batch = 0.25 + 0.5 * photographs(64, 3, 16, 16)
    augment = AUGMENTATIONS["metablock-2021"]
    numbers = augment.draw(len(batch), seeded(7))
    numbers[:9], numbers[9], numbers[10] = 1, 0, 1  # holes in each, nothing else
    found = augment.apply(batch, numbers)
    holes = (found == 0).all(1, keepdim=True)
    assert torch.equal(found, batch.masked_fill(holes, 0))
    whole = holes.view(64, 4, 4, 4, 4)
    squares = (whole.all((2, 4)) == whole.any((2, 4))).all((1, 2)) & holes.any((1, 2, 3))
    pixels = holes.any((1, 2, 3)) & ~squares
    assert 2 < squares.sum() < 18 and 18 < pixels.sum() < 40  # of 64: 9 and 28 are expected
    assert torch.equal(found, augment.apply(batch, numbers))
    numbers[16] = 1 - numbers[16]
    assert not torch.equal(found, augment.apply(batch, numbers))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_image_does_not_depend_on_the_rest_of_its_batch(name: str, device: str) -> None:
    """A batch on a device is its images one at a time on the CPU, each with its own numbers."""
    batch, augment = photographs(24, 3, 31, 22), AUGMENTATIONS[name]
    drawn = augment.draw(len(batch), seeded(3))
    if name == "metablock-2021":
        drawn[9] = 1  # no holes: those of a batch come from one generator
    there = augment.apply(batch.to(device), drawn.to(device) if augment.static else drawn)
    assert there.device.type == device
    alone = [augment.apply(batch[i : i + 1], drawn[:, i : i + 1]) for i in range(len(batch))]
    assert torch.allclose(there.cpu(), torch.cat(alone), atol=1e-6 if device == "cpu" else 1e-4)


# ---- what a compiler and a CUDA graph ask for


@pytest.mark.parametrize("name", STATIC)
def test_it_compiles_in_one_piece(name: str) -> None:
    torch._dynamo.reset()
    augment, batch = AUGMENTATIONS[name], photographs(6, 3, 20, 26, channels_last=True)
    compiled: Any = torch.compile(augment.apply, fullgraph=True, dynamic=False, backend="aot_eager")
    generator = seeded()
    for _ in range(2):  # with new numbers, the graph of the first
        drawn = augment.draw(len(batch), generator)
        with torch._dynamo.config.patch(error_on_recompile=True):
            assert torch.allclose(compiled(batch, drawn), augment.apply(batch, drawn), atol=1e-6)


def traced(augment: Augmentation) -> torch.fx.GraphModule:
    """Every operation of `apply` on a GPU that need not be there; raises where one of them would
    have to know a tensor's values."""
    with FakeTensorMode():
        batch = torch.empty(4, 3, 20, 26, device="cuda")
        drawn = torch.empty(augment.draw(4, seeded()).shape, device="cuda")
        return make_fx(augment.apply)(batch, drawn)


@pytest.mark.parametrize("name", STATIC)
def test_a_static_one_stays_on_the_device_and_never_looks_at_a_value(name: str) -> None:
    graph = traced(AUGMENTATIONS[name]).graph
    values = tree_leaves([node.meta["val"] for node in graph.nodes if "val" in node.meta])
    assert {value.device.type for value in values} == {"cuda"}
    constants = [node for node in graph.nodes if node.op == "get_attr"]
    assert not constants  # each would be a copy from the CPU


def test_the_trace_sees_a_value_that_is_looked_at() -> None:
    with pytest.raises(DataDependentOutputException):
        traced(AUGMENTATIONS["metablock-2021"])


HOST_READS = {
    *("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__"),
    *("nonzero", "masked_select", "unique"),
}  # fmt: skip


class Image(Tensor):
    """Of a batch whose values the host may not read, as if they were on a GPU."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, given = getattr(func, "__name__", ""), list(args)
        if name in HOST_READS:
            raise AssertionError(f"{name} waits for the device")
        if name in {"__getitem__", "__setitem__"} and any(
            isinstance(part, Tensor) and part.dtype == torch.bool for part in tree_leaves(given[1])
        ):
            raise AssertionError("a boolean mask waits for the device")
        return super().__torch_function__(func, types, args, kwargs or {})


class NoWaitingCopies(TorchFunctionMode):
    """Tensors go to a device only without waiting for it."""

    seen = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        assert name != "cuda"
        if name == "to" and any(
            isinstance(value, (torch.device, str, Tensor))
            for value in (*args[1:], *kwargs.values())
        ):
            assert kwargs.get("non_blocking"), args
            self.seen += 1
        return func(*args, **kwargs)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_nothing_waits_for_the_device(name: str) -> None:
    """As far as a CPU can tell; on a GPU, the next test."""
    batch = photographs(64, 3, 20, 26).as_subclass(Image)
    with NoWaitingCopies() as copies:
        out = AUGMENTATIONS[name](batch, seeded(2))
    assert isinstance(out, Image)
    assert copies.seen or name == "none"
    for waits in (lambda: out.sum().item(), lambda: out[out > 0.5]):
        with pytest.raises(AssertionError, match="waits for the device"):
            waits()


@on_a_gpu
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_nothing_waits_for_a_gpu(name: str) -> None:
    batch = photographs(64, 3, 20, 26).cuda()
    AUGMENTATIONS[name](batch, seeded(2))  # libraries may wait once, for set-up
    torch.cuda.set_sync_debug_mode("error")
    try:
        AUGMENTATIONS[name](batch, seeded(2))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_a_gpu
@pytest.mark.parametrize("name", STATIC)
def test_a_recorded_graph_takes_new_numbers(name: str) -> None:
    augment, batch = AUGMENTATIONS[name], photographs(16, 3, 20, 26).cuda()
    generator = seeded()
    drawn = augment.draw(16, generator).cuda()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        augment.apply(batch, drawn)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = augment.apply(batch, drawn)
    for _ in range(2):
        drawn.copy_(augment.draw(16, generator))
        graph.replay()
        assert torch.equal(out, augment.apply(batch, drawn))


# ---- the distribution that mild's docstring states, found in pictures


SIZE, MANY = 9, 4000
CENTRE = SIZE // 2
SAME = torch.tensor([0, 0.5, 0.9, 0.5, 0.5, 0.5, 0.5, 0.5])  # what leaves an image as it is


def mild_with_others_off(batch: Tensor, device: str, *numbers: int) -> np.ndarray:
    """MANY images (MANY, 3, H, W) of which only what `numbers` decide is changed."""
    augment = AUGMENTATIONS["mild"]
    drawn = SAME[:, None].repeat(1, MANY)
    drawn[list(numbers)] = augment.draw(MANY, seeded(11))[list(numbers)]
    out = augment.apply(batch.expand(MANY, -1, -1, -1).to(device), drawn.to(device))
    return out.cpu().double().numpy()


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    """Kolmogorov-Smirnov, and within its bounds."""
    assert values.min() > low - 1e-3 and values.max() < high + 1e-3
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 0.01


def assert_independent(*columns: np.ndarray) -> None:
    found = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(found).max() < 4 / MANY**0.5


def gradients() -> Tensor:
    """(3, SIZE, SIZE): red tells how far right a pixel was, green how far down, -1 to 1 as 0 to 1;
    blue nothing. They are linear, and so interpolated exactly."""
    at = (torch.arange(SIZE) - CENTRE) * 2 / SIZE
    y, x = torch.meshgrid((at + 1) / 2, (at + 1) / 2, indexing="ij")
    return torch.stack([x, y, torch.full_like(x, 0.5)])


@pytest.mark.parametrize("device", DEVICES)
def test_mild_turns_mirrors_scales_and_shifts_as_it_says(device: str) -> None:
    out = 2 * mild_with_others_off(gradients(), device, 0, 1, 2, 3, 4)[:, :2] - 1
    shift = out[:, :, CENTRE, CENTRE] / 2  # of a side, which is 2 long
    right = (out[:, :, CENTRE, CENTRE + 1] - out[:, :, CENTRE, CENTRE]) * SIZE / 2
    down = (out[:, :, CENTRE + 1, CENTRE] - out[:, :, CENTRE, CENTRE]) * SIZE / 2
    area = right[:, 0] * down[:, 1] - right[:, 1] * down[:, 0]
    scale, angle = np.abs(area) ** -0.5, np.arctan2(down[:, 0], down[:, 1])
    assert np.allclose((right * down).sum(1), 0, atol=1e-4)  # not sheared,
    assert np.allclose((right**2).sum(1), (down**2).sum(1), atol=1e-4)  # nor stretched
    assert_uniform(scale, 0.85, 1.15)
    assert_uniform(angle, -np.pi, np.pi)
    assert_uniform(shift[:, 0], -0.05, 0.05)
    assert_uniform(shift[:, 1], -0.05, 0.05)
    assert stats.binomtest(int((area < 0).sum()), MANY).pvalue > 0.01
    assert_independent(scale, angle, shift[:, 0], shift[:, 1], np.sign(area))


@pytest.mark.parametrize("device", DEVICES)
def test_mild_changes_brightness_contrast_and_saturation_as_it_says(device: str) -> None:
    image = 0.35 + 0.2 * photographs(1, 3, SIZE, SIZE)  # nothing of it comes to be cut off at 1
    out, before = mild_with_others_off(image, device, 5, 6, 7), image.double().numpy()

    def measured(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        grey = x.mean(1, keepdims=True)
        return x.mean((1, 2, 3)), grey.std((1, 2, 3)), (x - grey).std((1, 2, 3))

    level, spread, colour = (a / b for a, b in zip(measured(out), measured(before), strict=True))
    found = level, spread / level, colour / spread
    for share in found:
        assert_uniform(share, 0.85, 1.15)
    assert_independent(*found)


@pytest.mark.parametrize("device", DEVICES)
def test_flip_mirrors_independently(device: str) -> None:
    augment: Callable[..., Tensor] = AUGMENTATIONS["flip"]
    out = augment(gradients().expand(MANY, -1, -1, -1).to(device), seeded(4)).cpu()
    left_right, upside_down = (out[:, 0, 0, 0] > 0.5).numpy(), (out[:, 1, 0, 0] > 0.5).numpy()
    for mirrored in (left_right, upside_down, left_right ^ upside_down):
        assert stats.binomtest(int(mirrored.sum()), MANY).pvalue > 0.01
