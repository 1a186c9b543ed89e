"""Augmentation that draws as it goes, frozen: what every seed must go on giving, to the bit.

It was training.augment before drawing and applying were apart. Nothing here is to be improved.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def none(x: Tensor, generator: torch.Generator) -> Tensor:
    return x


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    coins = torch.rand(2, len(x), generator=generator).to(x.device) < 0.5
    x = torch.where(coins[0, :, None, None, None], x.flip(3), x)
    return torch.where(coins[1, :, None, None, None], x.flip(2), x)


def mild(x: Tensor, generator: torch.Generator) -> Tensor:
    size = len(x)
    u = torch.rand(8, size, generator=generator)
    angle = u[0] * 2 * math.pi
    scale = 1 / (0.85 + 0.3 * u[1])
    mirror = torch.where(u[2] < 0.5, -1.0, 1.0)
    shift = 0.1 * (u[3:5] - 0.5) * 2
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    theta = torch.stack([cos * mirror, -sin, shift[0], sin * mirror, cos, shift[1]], dim=1)
    grid = F.affine_grid(theta.view(size, 2, 3).to(x.device), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)

    brightness, contrast, saturation = (0.85 + 0.3 * u[5:8]).to(x.device)[:, :, None, None, None]
    x = x * brightness
    x = x + (contrast - 1) * (x - x.mean(dim=(1, 2, 3), keepdim=True))
    x = x + (saturation - 1) * (x - x.mean(dim=1, keepdim=True))
    return x.clamp(0, 1)


def metablock_2021(x: Tensor, generator: torch.Generator) -> Tensor:
    x, size = x.clone(), len(x)
    u = torch.rand(16, size, generator=generator)
    own = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))

    if len(on := torch.where(u[0] < 0.25)[0]):
        theta = torch.zeros(len(on), 2, 3)
        theta[:, 0, 0], theta[:, 1, 1] = 1 / (1 + u[1:3, on])
        _replace(x, on, lambda images: _warp(images, theta))
    _replace(x, torch.where(u[3] < 0.5)[0], lambda images: images.flip(3))
    _replace(x, torch.where(u[4] < 0.2)[0], lambda images: images.flip(2))
    if len(on := torch.where(u[5] < 0.25)[0]):
        angle = math.radians(120) * (2 * u[6, on] - 1)
        ratio = x.shape[2] / x.shape[3]
        theta = torch.zeros(len(on), 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = torch.cos(angle)
        theta[:, 0, 1], theta[:, 1, 0] = -torch.sin(angle) * ratio, torch.sin(angle) / ratio
        _replace(x, on, lambda images: _warp(images, theta))
    if len(on := torch.where(u[7] < 0.25)[0]):
        _replace(x, on, lambda images: gaussian_blur(images, 3 * u[8, on]))
    if len(on := torch.where(u[9] < 0.1)[0]):
        holes = _holes(len(on), x.shape[2], x.shape[3], own).to(x.device)
        _replace(x, on, lambda images: images.masked_fill(holes, 0))
    colour = u[10] < 0.25
    if len(on := torch.where(colour & (u[11] < 0.5))[0]):
        steps = (31 * u[12:15, on]).floor() - 15
        steps = torch.where(u[15, on] < 0.5, steps[:1], steps).T.to(x.device) / 255
        _replace(x, on, lambda images: images + steps[:, :, None, None])
    if len(on := torch.where(colour & (u[11] >= 0.5))[0]):
        hue, saturation = (21 * u[12:14, on]).floor() - 10
        degrees = 2 * torch.trunc(hue / 255 * 180)
        _replace(x, on, lambda images: shift_hue_saturation(images, degrees, saturation / 255))
    return x.clamp_(0, 1)


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    reach = min(9, height - 1, width - 1)
    offsets = torch.arange(-reach, reach + 1)
    kernels = torch.exp(-(offsets**2) / (2 * sigma.clamp(min=0.05)[:, None] ** 2))
    kernels = (kernels / kernels.sum(1, keepdim=True)).to(x).repeat_interleave(channels, 0)
    padded = F.pad(x, (reach, reach, reach, reach), mode="reflect")
    planes = padded.reshape(1, batch * channels, *padded.shape[2:])
    planes = F.conv2d(planes, kernels[:, None, :, None], groups=len(kernels))
    planes = F.conv2d(planes, kernels[:, None, None, :], groups=len(kernels))
    return planes.view(batch, channels, height, width)


def shift_hue_saturation(x: Tensor, degrees: Tensor, saturation: Tensor) -> Tensor:
    value, lowest = x.amax(1), x.amin(1)
    spread = value - lowest
    safe = torch.where(spread > 0, spread, torch.ones_like(spread))
    red, green, blue = x.unbind(1)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + degrees.to(x)[:, None, None] / 60
    share = spread / torch.where(value > 0, value, torch.ones_like(value))
    share = (share + saturation.to(x)[:, None, None]).clamp(0, 1)
    turned = torch.stack([hue + 5, hue + 3, hue + 1], 1).remainder(6)
    fall = torch.minimum(turned, 4 - turned).clamp(0, 1)
    return value[:, None] * (1 - share[:, None] * fall)


def _replace(x: Tensor, on: Tensor, change: Callable[[Tensor], Tensor]) -> None:
    if len(on):
        index = on.to(x.device)
        x[index] = change(x[index])


def _warp(x: Tensor, theta: Tensor) -> Tensor:
    grid = F.affine_grid(theta.to(x), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def _holes(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    rate = 0.05 * torch.rand(count, 1, 1, 1, generator=generator)
    pixels = torch.rand(count, 1, height, width, generator=generator) < rate
    coarse = (count, 1, -(-height // 4), -(-width // 4))
    squares = torch.rand(coarse, generator=generator) < 0.02
    squares = squares.repeat_interleave(4, 2).repeat_interleave(4, 3)[..., :height, :width]
    single = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    return torch.where(single, pixels, squares)


REFERENCES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": none,
    "flip": flip,
    "mild": mild,
    "metablock-2021": metablock_2021,
}
