"""Training augmentation: reproducible, drawn per image, and harmless to colour."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from fusionbench.training.augment import AUGMENTATIONS, gaussian_blur, shift_hue_saturation

none, flip, mild, metablock_2021 = (
    AUGMENTATIONS[name] for name in ("none", "flip", "mild", "metablock-2021")
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(size: int = 24) -> Tensor:
    """(3, S, S): no symmetry, so that every mirror image is another picture."""
    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    return torch.stack([x, 0.5 * y, 0.25 + 0.5 * x * y])


def lesion(size: int = 48) -> Tensor:
    """(3, S, S): skin with a brown disc in its middle."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    disc = ((x**2 + y**2) < 0.2).float()
    skin, brown = (torch.tensor(c).view(3, 1, 1) for c in ([0.8, 0.6, 0.5], [0.4, 0.25, 0.2]))
    return skin * (1 - disc) + brown * disc


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_seed_gives_the_same_pictures(name: str) -> None:
    batch, augment = torch.rand(8, 3, 20, 20, generator=seeded(9)), AUGMENTATIONS[name]
    kept = batch.clone()
    first, again, other = (augment(batch, seeded(s)) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert torch.equal(batch, kept)  # the input is left alone
    if name != "none":
        assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["flip", "mild"])
def test_parameters_are_drawn_per_image_and_per_batch(name: str) -> None:
    batch = picture().expand(32, 3, 24, 24).contiguous()
    generator = seeded()
    first, second = (AUGMENTATIONS[name](batch, generator) for _ in range(2))
    kinds = len({tuple(image.flatten().tolist()) for image in first})
    assert kinds == (4 if name == "flip" else 32)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (5, 3, 33, 17)])
def test_shape_range_and_type_are_kept(name: str, shape: tuple[int, ...]) -> None:
    batch = (torch.rand(shape, generator=seeded(1)) > 0.5).float()  # only the extremes
    out = AUGMENTATIONS[name](batch, seeded())
    assert out.shape == batch.shape and out.dtype == batch.dtype
    assert float(out.min()) >= 0 and float(out.max()) <= 1
    assert torch.isfinite(out).all()


def test_none_is_the_identity() -> None:
    batch = torch.rand(4, 3, 8, 8)
    assert none(batch, seeded()) is batch


def test_a_flip_is_exact_and_all_four_are_as_likely() -> None:
    image = picture()
    turned = {
        "as it is": image, "left-right": image.flip(2), "upside-down": image.flip(1),
        "both": image.flip((1, 2)),
    }  # fmt: skip
    out = flip(image.expand(800, 3, 24, 24), seeded())
    counts = dict.fromkeys(turned, 0)
    for one in out:
        (name,) = [name for name, expected in turned.items() if torch.equal(one, expected)]
        counts[name] += 1
    assert all(150 < n < 250 for n in counts.values())  # 200 +- 4 standard deviations


def test_mild_keeps_colours_and_brightness_on_average() -> None:
    image = lesion()
    out = mild(image.expand(400, 3, 48, 48), seeded())
    assert torch.allclose(out.mean((0, 2, 3)), image.mean((1, 2)), atol=0.02)
    # Brightness within 15 %, and no channel drifts from the others by more than saturation may.
    level = out.mean((1, 2, 3)) / image.mean()
    assert 0.8 < float(level.min()) < 0.95 and 1.05 < float(level.max()) < 1.2
    assert (out[:, 0].mean((1, 2)) > out[:, 1].mean((1, 2))).all()  # red stays the most,
    assert (out[:, 1].mean((1, 2)) > out[:, 2].mean((1, 2))).all()  # blue the least


def test_mild_leaves_grey_grey() -> None:
    """Neither hue nor saturation can give a grey picture a colour."""
    grey = torch.rand(16, 1, 20, 20, generator=seeded(2)).expand(16, 3, 20, 20)
    out = mild(grey, seeded())
    assert torch.allclose(out[:, 0], out[:, 1], atol=1e-5)
    assert torch.allclose(out[:, 0], out[:, 2], atol=1e-5)


def test_mild_does_to_a_plain_colour_what_it_says() -> None:
    """Nothing of place: brightness to 15 %, and how far the channels are apart, which contrast and
    saturation each change to 15 %; their order and proportions stay, so the hue does."""
    colour = torch.tensor([0.6, 0.4, 0.3]).view(1, 3, 1, 1)
    out = mild(colour.expand(300, 3, 12, 12), seeded())
    assert torch.allclose(out, out.mean((2, 3), keepdim=True).expand_as(out), atol=1e-5)
    found = out.mean((2, 3))
    brightness = found.mean(1, keepdim=True) / colour.mean()
    apart = (found - found.mean(1, keepdim=True)) / (colour - colour.mean()).view(1, 3)
    spread = apart / brightness
    assert torch.allclose(spread, spread[:, :1].expand_as(spread), atol=1e-3)
    assert 0.849 < float(brightness.min()) < 0.86 and 1.14 < float(brightness.max()) < 1.151
    assert 0.85**2 - 1e-3 < float(spread.min()) < 0.8 and 1.2 < float(spread.max()) < 1.15**2 + 1e-3


def test_mild_moves_and_scales_within_its_bounds() -> None:
    """The disc's area and centre tell scale (0.85 to 1.15) and shift (5 % of the side)."""
    size = 96
    image = lesion(size)
    out = mild(image.expand(200, 3, size, size), seeded())
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    radii, shifts = [], []
    for one in out:
        level = one.mean(0)
        disc = level < (level.max() + level.min()) / 2
        radii.append(float(disc.sum() / (image[0] < 0.6).sum()) ** 0.5)
        shifts.append(float((x[disc].mean() ** 2 + y[disc].mean() ** 2) ** 0.5) / 2)
    assert 0.82 < min(radii) < 0.9 and 1.1 < max(radii) < 1.18
    # Of the side: 5 % along each axis, so 7.1 % at most; scaling up enlarges a shift with it.
    assert 0.04 < max(shifts) < 0.05 * 2**0.5 * 1.15 + 0.005


def test_a_generator_of_the_cpu_decides_wherever_the_images_are() -> None:
    """So that a seed gives the same pictures on a GPU; where there is one, look."""
    batch = torch.rand(6, 3, 16, 16, generator=seeded(5))
    for augment in AUGMENTATIONS.values():
        generator = seeded()
        augment(batch, generator)
        drawn = generator.get_state()
        twin = seeded()
        augment(torch.zeros(6, 3, 9, 9), twin)  # what is drawn depends on the batch size alone
        assert torch.equal(drawn, twin.get_state())
        if torch.cuda.is_available():
            there = augment(batch.cuda(), seeded())
            assert there.is_cuda
            assert torch.allclose(there.cpu(), augment(batch, seeded()), atol=1e-4)


# ---- metablock-2021


def test_blur_is_that_of_scipy() -> None:
    batch = torch.rand(3, 3, 40, 33, generator=seeded(1))
    sigma = torch.tensor([0.0, 1.2, 3.0])
    out = gaussian_blur(batch, sigma)
    assert torch.allclose(out[0], batch[0], atol=1e-6)
    for image, found, width in zip(batch[1:], out[1:], sigma[1:].tolist(), strict=True):
        for plane, got in zip(image.numpy(), found.numpy(), strict=True):
            expected = gaussian_filter(plane.astype(float), width, mode="mirror", radius=9)
            np.testing.assert_allclose(got, expected, atol=1e-5)


def test_hue_and_saturation_are_those_of_the_standard_library() -> None:
    """Every pixel through colorsys, greys and pure colours among them."""
    batch = torch.rand(2, 3, 12, 12, generator=seeded(3))
    batch[0, :, 0] = 0.4
    batch[0, :, 1] = torch.tensor([1.0, 0.0, 0.0])[:, None]
    batch[0, :, 2] = 0.0
    degrees, saturation = torch.tensor([14.0, -8.0]), torch.tensor([0.04, -0.3])
    out = shift_hue_saturation(batch, degrees, saturation)
    for k in range(2):
        for colour, found in zip(batch[k].flatten(1).T, out[k].flatten(1).T, strict=True):
            h, s, v = colorsys.rgb_to_hsv(*colour.tolist())
            s = min(max(s + float(saturation[k]), 0), 1)
            expected = colorsys.hsv_to_rgb((h + float(degrees[k]) / 360) % 1, s, v)
            assert found.tolist() == pytest.approx(expected, abs=1e-5)
    same = shift_hue_saturation(batch, torch.zeros(2), torch.zeros(2))
    assert torch.allclose(same, batch, atol=1e-6)


def test_the_authors_operations_come_as_often_as_they_say() -> None:
    """One plain grey photograph: geometry and blur leave it alone, so only holes and colours show.
    4,000 of them; four standard deviations either side."""
    level = 0.5
    out = metablock_2021(torch.full((4000, 3, 16, 16), level), seeded())
    holes = (out == 0).all(1)
    # Half are single pixels with a rate of up to 5 %, half 16 squares with one of 2 %.
    seen = 1 - sum((1 - r) ** 256 for r in np.linspace(0, 0.05, 1001)) / 1001
    expected = 0.1 * (seen + 1 - 0.98**16) / 2
    share = float(holes.any((1, 2)).float().mean())
    assert abs(share - expected) < 4 * (expected / 4000) ** 0.5
    assert float(holes.float().mean()) == pytest.approx(0.1 * (0.025 + 0.02) / 2, rel=0.35)

    whole = out[~holes.any((1, 2))][:, :, 0, 0] - level
    shifted = whole.abs().amax(1) > 1e-4
    by_channel = (whole.amax(1) - whole.amin(1)) > 1e-4
    together = shifted & ~by_channel
    # Brightness in 1/8, of which half for all channels alike, 1 of 31 steps being 0; saturation
    # and hue in 1/8: added saturation gives even grey a little colour, half of the time.
    assert abs(float(together.float().mean()) - 0.0625 * 30 / 31) < 0.016
    assert abs(float(by_channel.float().mean()) - (0.0625 + 0.125 * 10 / 21)) < 0.022
    assert float(whole.abs().max()) <= 15 / 255 + 1e-6


def test_the_authors_geometry_mirrors_turns_and_zooms_as_often_as_it_says() -> None:
    """Exact mirror images tell how often nothing but mirroring happened: 1/2 and 1/5, in
    (3/4)^3 * 9/10 * 3/4 of the photographs (fewer holes than that show)."""
    image = picture(24)
    out = metablock_2021(image.expand(4000, 3, 24, 24), seeded())
    kinds = {
        "as it is": (image, 0.5 * 0.8),
        "left-right": (image.flip(2), 0.5 * 0.8),
        "upside-down": (image.flip(1), 0.5 * 0.2),
        "both": (image.flip((1, 2)), 0.5 * 0.2),
    }
    left_alone = 0.75**3 * 0.75
    for expected, probability in kinds.values():
        share = float((out - expected).abs().amax((1, 2, 3)).lt(1e-6).float().mean())
        low, high = 0.9 * left_alone * probability, left_alone * probability
        assert low - 0.03 < share < high + 0.03
    # Zooming in and turning by mirrored rims never show anything that was not there.
    assert float(metablock_2021(torch.full((200, 3, 24, 24), 0.7), seeded(7)).max()) < 0.77
