"""Training augmentation of a whole batch on its device, with parameters drawn per image.

The random numbers come from a CPU generator, so that a seed gives the same pictures on any device.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Augmentation = Callable[[Tensor, torch.Generator], Tensor]


def none(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images as they are."""
    return x


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 3, H, W): each image mirrored left-right and upside-down, each with probability 1/2."""
    coins = torch.rand(2, len(x), generator=generator).to(x.device) < 0.5
    x = torch.where(coins[0, :, None, None, None], x.flip(3), x)
    return torch.where(coins[1, :, None, None, None], x.flip(2), x)


def mild(x: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 3, H, W) in 0..1: any rotation, mirror, scale 0.85-1.15, shift up to 5 %, and brightness,
    contrast and saturation by up to 15 %. Lesions have no upright side, so every angle is as real
    as another; hue is left alone, for colour is a sign of disease."""
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


AUGMENTATIONS: dict[str, Augmentation] = {"none": none, "flip": flip, "mild": mild}
