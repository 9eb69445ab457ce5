"""Axis orders: other frameworks' arrays to and from the one layout used inside, channels last."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convmat.checks import got
from convmat.errors import GeometryError, ShapeError

KERNEL_LAYOUTS = ("ohwi", "oihw", "hwio")


def to_batch(array: NDArray[Any], dims: int, layout: str = "nhwc") -> NDArray[Any]:
    """An image, an image with channels, or a batch of them, as (N, *spatial, C); a view.

    Args:
        array: (*spatial), (*spatial, C) or (N, *spatial, C). With `layout` "nchw" channels are first:
            (*spatial), (C, *spatial) or (N, C, *spatial). "nhw" is a batch of single-channel images,
            (N, *spatial), and reads other numbers of axes as "nhwc" does.
        dims: number of spatial axes.

    Raises:
        ShapeError: any other number of axes.
    """
    batch, channels = said_axes(array.shape, dims, layout)
    if layout == "nchw" and channels:
        array = np.moveaxis(array, -dims - 1, -1)
    if not channels:
        array = array[..., None]
    return array if batch else array[None]


def to_batch_shape(shape: tuple[int, ...], dims: int, layout: str = "nhwc") -> tuple[int, ...]:
    """The shape `to_batch` gives an array of `shape`; errors likewise."""
    batch, channels = said_axes(shape, dims, layout)
    if layout == "nchw" and channels:
        shape = (*shape[: -dims - 1], *shape[-dims:], shape[-dims - 1])
    return (*(() if batch else (1,)), *shape, *(() if channels else (1,)))


def said_axes(shape: tuple[int, ...], dims: int, layout: str = "nhwc") -> tuple[bool, bool]:
    """Whether an array of this shape has an axis of images, and one of channels; errors as `to_batch`."""
    if not dims <= len(shape) <= dims + 2:
        forms = {
            "nhwc": "(*spatial), (*spatial, C) or (N, *spatial, C)",
            "nchw": "(*spatial), (C, *spatial) or (N, C, *spatial)",
            "nhw": "(*spatial), (N, *spatial) or (N, *spatial, C)",
        }[layout]
        raise ShapeError(
            "input",
            f"has {len(shape)} axes {got(shape)}; with {dims} spatial axes it is {forms}",
        )
    if len(shape) == dims + 1:
        return layout == "nhw", layout != "nhw"
    return (len(shape) > dims,) * 2


def output_layout(layout: str) -> str:
    """The layout of results, which have channels: "nhwc" or "nchw"."""
    return "nchw" if layout == "nchw" else "nhwc"


def from_batch(array: NDArray[Any], layout: str = "nhwc") -> NDArray[Any]:
    """(N, *spatial, C) in the layout of results, with channels first for "nchw", else last; a view."""
    return np.moveaxis(array, -1, 1) if layout == "nchw" else array


def from_batch_shape(shape: tuple[int, ...], layout: str = "nhwc") -> tuple[int, ...]:
    """The shape `from_batch` gives."""
    return (shape[0], shape[-1], *shape[1:-1]) if layout == "nchw" else shape


def to_filters(array: NDArray[Any], dims: int, layout: str = "ohwi") -> NDArray[Any]:
    """One filter, single-channel filters, or filters with channels, as (K, *kernel, C/groups); a view.

    Args:
        array: (*kernel), one filter; (K, *kernel), single-channel filters whatever the layout; or K
            filters with channels: "ohwi" (K, *kernel, C/groups), "oihw" (K, C/groups, *kernel),
            "hwio" (*kernel, C/groups, K).
        dims: number of spatial axes.

    Raises:
        ShapeError: any other number of axes.
    """
    if array.ndim == dims:
        return array[None, ..., None]
    if array.ndim == dims + 1:
        return array[..., None]
    if array.ndim != dims + 2:
        raise ShapeError(
            "filters",
            f"have {array.ndim} axes {array.shape}; with {dims} spatial axes (dims) they have "
            f"{dims} (one filter), {dims + 1} (K, *kernel) or {dims + 2} (with channels)",
        )
    if layout == "oihw":
        return np.moveaxis(array, 1, -1)
    return np.moveaxis(array, -1, 0) if layout == "hwio" else array


def product_shape(
    rows: tuple[int, ...], output_size: int | tuple[int, ...], dims: int | None = None
) -> tuple[int, ...]:
    """The shape (N, *out, K) of a product Y of shape (..., K).

    Args:
        rows: the product's own shape.
        output_size: (*out), or (N, *out); three numbers are (N, H_out, W_out) unless `dims` is 3.
        dims: number of spatial axes, where the numbers alone do not tell.

    Raises:
        GeometryError: sizes that do not share out the rows.
    """
    size: tuple[int, ...] = output_size if isinstance(output_size, tuple) else (output_size,)
    count = math.prod(rows[:-1])
    axes = dims or max(min(len(size), 2), len(size) - 1)
    if len(size) not in (axes, axes + 1) or min(size, default=0) < 0:
        raise GeometryError(
            "output_shape", f"got {size}; give {axes} output sizes, and before them N if need be"
        )
    per_image = math.prod(size)
    if len(size) == axes and per_image and count % per_image == 0:
        size = (count // per_image, *size)
    if len(size) == axes or math.prod(size) != count:
        raise GeometryError(
            "output_shape",
            f"{' × '.join(map(str, size))} is {math.prod(size)} rows, Y has {count}; "
            "give the output size that unroll printed",
        )
    return (*size, rows[-1])
