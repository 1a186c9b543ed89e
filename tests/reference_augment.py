"""A slow oracle of the augmentations: one image, one pixel at a time, in float64 and plain NumPy.

It follows the docstrings of training.augment, not its code: `REFERENCES[name](image, numbers)`
changes one image (3, H, W), given the numbers that were drawn for it. It makes no holes: those of
metablock-2021 are drawn for a whole batch and have a test of their own.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

Image = NDArray[np.float64]


def none(image: Image, u: Image) -> Image:
    return image


def flip(image: Image, u: Image) -> Image:
    if u[0] < 0.5:
        image = image[:, :, ::-1]
    return image[:, ::-1] if u[1] < 0.5 else image


def mild(image: Image, u: Image) -> Image:
    angle, scale = 2 * math.pi * u[0], 0.85 + 0.3 * u[1]
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    mirror = np.diag([-1.0 if u[2] < 0.5 else 1.0, 1.0])
    image = warped(image, turn @ mirror / scale, 0.1 * (2 * u[3:5] - 1))
    brightness, contrast, saturation = 0.85 + 0.3 * u[5:8]
    image = image * brightness
    image = image.mean() + contrast * (image - image.mean())
    grey = image.mean(0)
    return np.clip(grey + saturation * (image - grey), 0, 1)


def metablock_2021(image: Image, u: Image) -> Image:
    if u[0] < 0.25:
        image = warped(image, np.diag(1 / (1 + u[1:3])), np.zeros(2))
    if u[3] < 0.5:
        image = image[:, :, ::-1]
    if u[4] < 0.2:
        image = image[:, ::-1]
    if u[5] < 0.25:
        # In pixels; positions count in halves of a side.
        angle, (height, width) = math.radians(120) * (2 * u[6] - 1), image.shape[1:]
        sides = np.diag([width, height])
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        image = warped(image, np.linalg.inv(sides) @ turn @ sides, np.zeros(2))
    if u[7] < 0.25:
        image = blurred(image, max(3 * u[8], 0.05))
    assert u[9] >= 0.1, "holes"
    if u[10] < 0.25 and u[11] < 0.5:
        steps = np.floor(np.float32(31) * u[12:15].astype(np.float32)) - 15
        steps = np.full(3, steps[0]) if u[15] < 0.5 else steps
        image = image + steps[:, None, None] / 255
    elif u[10] < 0.25:
        hue, more = np.floor(np.float32(21) * u[12:14].astype(np.float32)) - 10
        image = coloured(image, 2 * int(hue / 255 * 180), float(more) / 255)
    return np.clip(image, 0, 1)


def warped(image: Image, matrix: Image, shift: Image) -> Image:
    """Each pixel from where `matrix` and `shift` send it, on a picture from -1 to 1: interpolated
    between the four pixels around; beyond the rim the picture is mirrored."""
    _, height, width = image.shape
    out = np.empty_like(image)
    for i in range(height):
        for j in range(width):
            x, y = matrix @ [(2 * j + 1) / width - 1, (2 * i + 1) / height - 1] + shift
            column, row = ((x + 1) * width - 1) / 2, ((y + 1) * height - 1) / 2
            column, row = mirrored(column, width), mirrored(row, height)
            left, top = math.floor(column), math.floor(row)
            out[:, i, j] = sum(
                (1 - abs(column - a)) * (1 - abs(row - b)) * image[:, b, a]
                for a in (left, left + 1)
                for b in (top, top + 1)
                if 0 <= a < width and 0 <= b < height
            )
    return out


def mirrored(position: float, size: int) -> float:
    """Inside the picture, whose rim is half a pixel beyond the outermost pixels."""
    position = (position + 0.5) % (2 * size)
    position = min(position, 2 * size - position) - 0.5
    return min(max(position, 0.0), size - 1.0)


def blurred(image: Image, sigma: float) -> Image:
    reach = min(9, image.shape[1] - 1, image.shape[2] - 1)
    kernel = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    for axis in (1, 2):
        image = correlate1d(image, kernel / kernel.sum(), axis, mode="mirror")
    return image


def coloured(image: Image, degrees: float, more: float) -> Image:
    out = np.empty_like(image)
    for i, j in np.ndindex(*image.shape[1:]):
        # Outside 0..1 after an earlier step it is not: that comes last in every list.
        hue, saturation, value = colorsys.rgb_to_hsv(*image[:, i, j])
        saturation = min(max(saturation + more, 0.0), 1.0)
        out[:, i, j] = colorsys.hsv_to_rgb((hue + degrees / 360) % 1, saturation, value)
    return out


REFERENCES: dict[str, Callable[..., Image]] = {
    "none": none,
    "flip": flip,
    "mild": mild,
    "metablock-2021": metablock_2021,
}
