"""Training augmentation of a whole batch on its device, with parameters drawn per image.

Drawing and applying are apart. The random numbers come from a CPU generator, so that a seed gives
the same pictures on any device; what is done with them is a function of tensors alone, so that it
can be compiled and recorded in a CUDA graph with the rest of the training step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Augmentation:
    """How the photographs of a batch are changed while a model is trained.

    draw     (B, a CPU generator) -> (P, B) float32 on the CPU: P random numbers for each of B
             images. How many are taken from the generator depends on B alone.
    apply    (x, drawn) -> tensor like x, which is left as it is: x (B, 3, H, W) in 0..1 and what
             was drawn for it, on the device of x if static, on the CPU if not. Nothing in it makes
             the host wait for a GPU.
    static   The same operations on the same shapes whatever was drawn: `apply` may be compiled in
             one piece and recorded in a CUDA graph. If False, the numbers decide on the CPU which
             images each operation gets, and `apply` runs as it is, ahead of the step.
    """

    draw: Callable[[int, torch.Generator], Tensor]
    apply: Callable[[Tensor, Tensor], Tensor]
    static: bool

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draw and apply at once."""
        drawn = self.draw(len(x), generator)
        return self.apply(x, _moved(drawn, x.device) if self.static else drawn)


def _uniform(count: int) -> Callable[[int, torch.Generator], Tensor]:
    """Draws `count` numbers from 0..1 for each image."""

    def draw(size: int, generator: torch.Generator) -> Tensor:
        return torch.rand(count, size, generator=generator)

    return draw


def none(x: Tensor, drawn: Tensor) -> Tensor:
    """Images as they are."""
    return x


def flip(x: Tensor, u: Tensor) -> Tensor:
    """(B, 3, H, W): each image mirrored left-right and upside-down, each with probability 1/2.
    u (2, B) uniform."""
    coins = u < 0.5
    x = torch.where(coins[0, :, None, None, None], x.flip(3), x)
    return torch.where(coins[1, :, None, None, None], x.flip(2), x)


def mild(x: Tensor, u: Tensor) -> Tensor:
    """(B, 3, H, W) in 0..1: any rotation, mirror, scale 0.85-1.15, shift up to 5 %, and brightness,
    contrast and saturation by up to 15 %, all uniform: u (8, B). Lesions have no upright side, so
    every angle is as real as another; hue is left alone, for colour is a sign of disease."""
    angle = u[0] * 2 * math.pi
    scale = 1 / (0.85 + 0.3 * u[1])
    mirror = torch.where(u[2] < 0.5, -1.0, 1.0)
    shift = 0.1 * (u[3:5] - 0.5) * 2
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    x = _warp(x, torch.stack([cos * mirror, -sin, shift[0], sin * mirror, cos, shift[1]], dim=1))

    # All three in one pass: b (c (s x + (1 - s) grey) + (1 - c) mean), grey a pixel's mean.
    brightness, contrast, saturation = (0.85 + 0.3 * u[5:8])[:, :, None, None, None]
    grey = x.mean(1, keepdim=True)
    level = brightness * (1 - contrast) * grey.mean((2, 3), keepdim=True)
    gain = brightness * contrast
    grey = grey.mul_(gain * (1 - saturation)).add_(level)
    return x.mul_(gain * saturation).add_(grey).clamp_(0, 1)


def metablock_2021(x: Tensor, u: Tensor) -> Tensor:
    """(B, 3, H, W) in 0..1: the list of the MetaBlock authors' script for PAD-UFES-20
    (https://github.com/paaatcha/MetaBlock, benchmarks/pad/aug_pad.py), in its order, each with its
    probability and drawn per image:

        1/4   zoom into the middle, 1 to 2 times, width and height apart
        1/2   mirrored left-right; 1/5 upside-down
        1/4   turned by up to 120 degrees, the rim mirrored
        1/4   Gaussian blur, sigma 0 to 3 pixels
        1/10  black holes: either single pixels, up to 5 % of them, or 2 % of 4 x 4 squares
        1/4   either brightness by up to 15 of 255 steps, the same for all three colours or, half
              of the time, another for each; or hue by up to 14 degrees and saturation by up to 10

    The original (imgaug, which is no longer maintained) works on 8-bit integers and zooms before
    it shrinks the photograph; this works in floating point on the shrunk one.

    u (17, B) uniform, on the CPU. Holes take as many numbers as there are pixels: the last number
    of the first image seeds a generator for those of the batch.
    """
    x = x.clone()
    for_holes = torch.Generator().manual_seed(int(u[16, 0] * 2**24))

    if len(on := torch.where(u[0] < 0.25)[0]):
        theta = torch.zeros(len(on), 6)
        theta[:, 0], theta[:, 4] = 1 / (1 + u[1:3, on])
        _replace(x, on, lambda images: _warp(images, theta))
    _replace(x, torch.where(u[3] < 0.5)[0], lambda images: images.flip(3))
    _replace(x, torch.where(u[4] < 0.2)[0], lambda images: images.flip(2))
    if len(on := torch.where(u[5] < 0.25)[0]):
        angle = math.radians(120) * (2 * u[6, on] - 1)
        # In pixels, not in halves of a side: a photograph that is not square stays undistorted.
        ratio = x.shape[2] / x.shape[3]
        theta = torch.zeros(len(on), 6)
        theta[:, 0] = theta[:, 4] = torch.cos(angle)
        theta[:, 1], theta[:, 3] = -torch.sin(angle) * ratio, torch.sin(angle) / ratio
        _replace(x, on, lambda images: _warp(images, theta))
    if len(on := torch.where(u[7] < 0.25)[0]):
        _replace(x, on, lambda images: gaussian_blur(images, 3 * u[8, on]))
    if len(on := torch.where(u[9] < 0.1)[0]):
        holes = _moved(_holes(len(on), x.shape[2], x.shape[3], for_holes), x.device)
        _replace(x, on, lambda images: images.masked_fill(holes, 0))
    colour = u[10] < 0.25
    if len(on := torch.where(colour & (u[11] < 0.5))[0]):
        steps = (31 * u[12:15, on]).floor() - 15  # whole ones, -15 to 15
        steps = _moved(torch.where(u[15, on] < 0.5, steps[:1], steps).T, x.device) / 255
        _replace(x, on, lambda images: images + steps[:, :, None, None])
    if len(on := torch.where(colour & (u[11] >= 0.5))[0]):
        hue, saturation = (21 * u[12:14, on]).floor() - 10
        degrees = 2 * torch.trunc(hue / 255 * 180)  # whole steps of two degrees
        _replace(x, on, lambda images: shift_hue_saturation(images, degrees, saturation / 255))
    return x.clamp_(0, 1)


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """(B, C, H, W) blurred with `sigma` (B,) pixels, at most 3; the rim is mirrored."""
    batch, channels, height, width = x.shape
    reach = min(9, height - 1, width - 1)  # three sigma, or what there is to mirror
    offsets = torch.arange(-reach, reach + 1)
    kernels = torch.exp(-(offsets**2) / (2 * sigma.clamp(min=0.05)[:, None] ** 2))
    kernels = _moved(kernels / kernels.sum(1, keepdim=True), x.device).to(x.dtype)
    kernels = kernels.repeat_interleave(channels, 0)
    padded = F.pad(x, (reach, reach, reach, reach), mode="reflect")
    planes = padded.reshape(1, batch * channels, *padded.shape[2:])
    planes = F.conv2d(planes, kernels[:, None, :, None], groups=len(kernels))
    planes = F.conv2d(planes, kernels[:, None, None, :], groups=len(kernels))
    return planes.view(batch, channels, height, width)


def shift_hue_saturation(x: Tensor, degrees: Tensor, saturation: Tensor) -> Tensor:
    """(B, 3, H, W) in 0..1 with hue turned by `degrees` (B,) and `saturation` (B,) added to that of
    HSV, which stays within 0..1; the brightest channel keeps its value."""
    value, lowest = x.amax(1), x.amin(1)
    spread = value - lowest
    safe = torch.where(spread > 0, spread, torch.ones_like(spread))
    red, green, blue = x.unbind(1)
    # In sixths of a turn; grey has hue 0.
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + _moved(degrees, x.device).to(x.dtype)[:, None, None] / 60
    share = spread / torch.where(value > 0, value, torch.ones_like(value))
    share = (share + _moved(saturation, x.device).to(x.dtype)[:, None, None]).clamp(0, 1)
    # Each channel falls from `value` with its distance on the circle from that channel's own hue.
    turned = torch.stack([hue + 5, hue + 3, hue + 1], 1).remainder(6)
    fall = torch.minimum(turned, 4 - turned).clamp(0, 1)
    return value[:, None] * (1 - share[:, None] * fall)


def _replace(x: Tensor, on: Tensor, change: Callable[[Tensor], Tensor]) -> None:
    """In place, the images `on` of x by what `change` makes of them; the others stay exact."""
    if len(on):
        index = _moved(on, x.device)
        x[index] = change(x[index])


def _moved(numbers: Tensor, device: torch.device) -> Tensor:
    """On `device`, without the host waiting for it: only from pinned memory is that certain."""
    if device.type == "cuda" and numbers.device.type == "cpu":
        numbers = numbers.pin_memory()
    return numbers.to(device, non_blocking=True)


def _warp(x: Tensor, theta: Tensor) -> Tensor:
    """(B, 3, H, W) in new memory, read at (a x + b y + c, d x + e y + f) for theta (B, 6) = a … f;
    x and y are the pixels' centres on a picture from -1 to 1, beyond which it is mirrored.

    The grid is F.affine_grid's, as a sum of one term per column and one per row: a quarter of its
    time on a CPU.
    """
    x_part, y_part, shift = _moved(theta, x.device).view(-1, 2, 3).unbind(2)  # each (B, 2)
    columns, rows = (
        ((2 * torch.arange(n, device=x.device) + 1) / n - 1)[:, None]
        for n in (x.shape[3], x.shape[2])
    )
    grid = (y_part[:, None] * rows + shift[:, None])[:, :, None] + (x_part[:, None] * columns)[
        :, None
    ]
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def _holes(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """(count, 1, H, W) bool: pixels with a rate of 0 to 5 %, or 4 x 4 squares with one of 2 %."""
    rate = 0.05 * torch.rand(count, 1, 1, 1, generator=generator)
    pixels = torch.rand(count, 1, height, width, generator=generator) < rate
    coarse = (count, 1, -(-height // 4), -(-width // 4))
    squares = torch.rand(coarse, generator=generator) < 0.02
    squares = squares.repeat_interleave(4, 2).repeat_interleave(4, 3)[..., :height, :width]
    single = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    return torch.where(single, pixels, squares)


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(_uniform(0), none, static=True),
    "flip": Augmentation(_uniform(2), flip, static=True),
    "mild": Augmentation(_uniform(8), mild, static=True),
    # Static, with every operation done to every image, it would take several times as long.
    "metablock-2021": Augmentation(_uniform(17), metablock_2021, static=False),
}
