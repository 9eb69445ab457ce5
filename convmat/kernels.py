"""Kernels by name, for trying things out: `sobel-x`, `laplacian`, `box:5` and the like.

They are cross-correlation kernels: `sobel-x` answers positively where the image brightens to the right.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.errors import GeometryError

_FIXED = {
    "sobel-x": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
    "sobel-y": [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
    "laplacian": [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
    "sharpen": [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
}
_SIZED = ("box", "gaussian")
NAMES = (*_FIXED, *(f"{name}:SIZE" for name in _SIZED))


def is_kernel_name(name: str) -> bool:
    """Whether `name` is meant as a kernel of this module, though its size may be wrong."""
    return name in _FIXED or name.split(":")[0] in _SIZED


def named_kernel(name: str, dims: int = 2) -> NDArray[Any]:
    """One single-channel filter, (*kernel), of `dims` spatial axes.

    The fixed ones are int64 and of two axes. `box:SIZE` is the mean of SIZE pixels along each axis;
    `gaussian:SIZE` has σ = 0.3·((SIZE − 1)/2 − 1) + 0.8, OpenCV's rule for a size given alone, and sums
    to 1; both are float64 and have any number of axes.

    Raises:
        GeometryError: no such name or size, or another number of axes.
    """
    base, _, size = name.partition(":")
    if name in _FIXED:
        if dims != 2:
            raise GeometryError("filters", f"{name} has 2 spatial axes, not {dims}; give an .npy kernel")
        return np.array(_FIXED[name])
    if dims not in (1, 2, 3):
        raise GeometryError("filters", f"kernels have 1 to 3 spatial axes, not {dims}; give an .npy kernel")
    if base not in _SIZED:
        raise GeometryError("filters", f"unknown name {name!r}; give one of {', '.join(NAMES)}")
    # A million weights at most: a digit too many must not ask for all memory.
    limit = {1: 1_000_000, 2: 1000, 3: 100}[dims]
    if not (size.isascii() and size.isdigit() and len(size) < 9 and 1 <= int(size) <= limit):
        raise GeometryError("filters", f"{name!r} has no size of 1 to {limit} pixels; write {base}:5")
    k = int(size)
    if base == "box":
        return np.full((k,) * dims, 1 / k**dims)
    sigma = 0.3 * ((k - 1) / 2 - 1) + 0.8
    line = np.exp(-((np.arange(k) - (k - 1) / 2) ** 2) / (2 * sigma**2))
    kernel: NDArray[Any] = reduce(np.multiply.outer, [line / line.sum()] * dims)
    return kernel
