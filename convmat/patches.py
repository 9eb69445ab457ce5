"""Unrolling images into X_col and flattening filters into W_col: the FC equivalence, on arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from convmat.errors import DTypeError, GeometryError, ShapeError
from convmat.geometry import Block, ConvGeometry, Padding, Sizes, whole

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")

# Of X_col, written at one time: bounds what is copied to pad a block's input, and a stream's memory.
_BLOCK_BYTES = 1 << 20


def unroll(
    x: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    padding_mode: str = "zeros",
    out: NDArray[Any] | None = None,
    *,
    order: str = "hwc",
) -> NDArray[Any]:
    """Unroll images into the patch matrix X_col (im2col) by the index mapping of Eq. 8.

    Args:
        x: (N, *spatial, C), any number dtype, strides and byte order; not written to.
        kernel_size, stride, padding, dilation: as `ConvGeometry` takes them.
        padding_mode: what lies outside the input: "zeros", "reflect" (mirrored about the edge pixel),
            "replicate" (the edge pixel) or "circular" (the input again).
        out: array to write to, of the result's shape and dtype, that does not overlap `x`.
        order: columns over (i, j, c) with "hwc", over (c, i, j), PyTorch's order, with "chw".

    Returns:
        X_col, (N·H_out·W_out, kh·kw·C), rows over (n, y, x), in the dtype of `x`, bit for bit.

    Raises:
        GeometryError: sizes that make no convolution.
        ShapeError: `out` of another shape.
        DTypeError: not numbers, or `out` of another dtype.
    """
    x = as_numbers("x", x)
    geometry = ConvGeometry(x.shape, kernel_size, stride, padding, dilation)
    check_choice("padding_mode", padding_mode, PADDING_MODES)
    check_choice("order", order, ("hwc", "chw"))
    if out is None:
        out = np.empty(geometry.matrix_shape, x.dtype)
    elif out.shape != geometry.matrix_shape:
        raise ShapeError("out", f"has shape {out.shape}, X_col has {geometry.matrix_shape}")
    elif out.dtype != x.dtype:
        raise DTypeError("out", f"has dtype {out.dtype}, X_col keeps the input's {x.dtype}")
    elif np.may_share_memory(out, x):
        raise ShapeError("out", "overlaps the input in memory; give an array of its own")
    for block in geometry.blocks(_block_rows(geometry, x.itemsize)):
        rows = out[block.rows.start : block.rows.stop]
        copy_patches(windows(x, geometry, block, padding_mode), rows, order)
    return out


def unroll_stream(
    x: NDArray[Any], geometry: ConvGeometry, padding_mode: str = "zeros", order: str = "hwc"
) -> Iterator[NDArray[Any]]:
    """The rows of X_col in blocks, for matrices larger than memory; a block is valid until the next."""
    limit = _block_rows(geometry, x.itemsize)
    buffer = np.empty((math.prod(geometry.block_shape(limit)), geometry.matrix_shape[1]), x.dtype)
    for block in geometry.blocks(limit):
        rows = buffer[: len(block.rows)]
        copy_patches(windows(x, geometry, block, padding_mode), rows, order)
        yield rows


def _block_rows(geometry: ConvGeometry, itemsize: int) -> int:
    return max(_BLOCK_BYTES // (geometry.row_footprint * itemsize), 1)


def copy_patches(patches: NDArray[Any], rows: NDArray[Any], order: str = "hwc") -> None:
    """Write a block's patches (n, *positions, *kernel, C) as rows of X_col, (rows, kh·kw·C)."""
    check_choice("order", order, ("hwc", "chw"))
    axes = (patches.ndim - 2) // 2
    *kernel, channels = patches.shape[1 + axes :]
    if order == "chw":
        target = rows.reshape(*patches.shape[: 1 + axes], channels, *kernel)
        target = np.moveaxis(target, 1 + axes, -1)
    else:
        target = rows.reshape(patches.shape)
    copy_runs(patches, target)


def copy_runs(source: NDArray[Any], target: NDArray[Any]) -> None:
    """Copy patches (..., kw, C), whole kernel rows at a time where they lie in one run of memory.

    Channels last, a kernel row without dilation is kw·C neighbouring values. Copied as one opaque element it
    is one memcpy, several times faster than value by value.
    """
    as_one = source.dtype == target.dtype and source.size and _is_run(source) and _is_run(target)
    if as_one:
        source, target = _runs(source), _runs(target)
    np.copyto(target, source, casting="same_kind")


def _is_run(a: NDArray[Any]) -> bool:
    (width, channels), (step, channel_step) = a.shape[-2:], a.strides[-2:]
    return (channels == 1 or channel_step == a.itemsize) and (width == 1 or step == channels * a.itemsize)


class _Memory:
    """Somebody else's memory, seen in another shape and dtype, and kept alive for as long as it is seen."""

    def __init__(self, owner: NDArray[Any], interface: dict[str, Any]) -> None:
        self.owner = owner
        self.__array_interface__ = interface


def _runs(a: NDArray[Any]) -> NDArray[Any]:
    """The array with each run along its last two axes as one element of that many bytes, in place."""
    typestr = f"|V{a.shape[-2] * a.shape[-1] * a.itemsize}"
    seen = {"shape": a.shape[:-2], "strides": a.strides[:-2], "typestr": typestr, "descr": [("", typestr)]}
    return np.asarray(_Memory(a, a.__array_interface__ | seen))


def windows(
    x: NDArray[Any], geometry: ConvGeometry, block: Block, padding_mode: str = "zeros"
) -> NDArray[Any]:
    """The patches of a block of output positions as a read-only view (n, *positions, *kernel, C).

    This is Eq. 8 as strides: a step in the output moves S pixels, a tap D pixels, in the same memory.
    Only where a block reaches into the padding is its part of the input copied, the padding around it.
    """
    images, positions = block.positions[0], block.positions[1:]
    spans = [
        range(y.start * s - before, (y.stop - 1) * s - before + reach)
        for y, s, (before, _), reach in zip(
            positions, geometry.stride, geometry.pads, geometry.extent, strict=True
        )
    ]
    slab = _padded_slab(x[images.start : images.stop], spans, padding_mode)
    axes = range(1, slab.ndim - 1)
    # (n, *every position, C, *every pixel of the extent), then only each S-th position and D-th pixel.
    patches = sliding_window_view(slab, geometry.extent, axis=tuple(axes))
    steps = [slice(None, None, s) for s in geometry.stride]
    taps = [slice(None, None, d) for d in geometry.dilation]
    return np.moveaxis(patches[:, *steps, :, *taps], slab.ndim - 1, -1)


def _padded_slab(x: NDArray[Any], spans: list[range], padding_mode: str) -> NDArray[Any]:
    """The pixels `spans` of each image, which may lie outside of it; a view where none do."""
    size = x.shape[1:-1]
    if all(span.start >= 0 and span.stop <= h for span, h in zip(spans, size, strict=True)):
        return x[:, *(slice(span.start, span.stop) for span in spans)]
    if padding_mode != "zeros":
        inside = (_source(span, h, padding_mode) for span, h in zip(spans, size, strict=True))
        found: NDArray[Any] = x[np.ix_(np.arange(len(x)), *inside)]
        return found
    slab = np.zeros((len(x), *map(len, spans), x.shape[-1]), x.dtype)
    inner, source = [], []
    for span, h in zip(spans, size, strict=True):
        start, stop = max(span.start, 0), max(min(span.stop, h), 0)
        source.append(slice(start, stop))
        inner.append(slice(start - span.start, max(stop, start) - span.start))
    slab[:, *inner] = x[:, *source]
    return slab


def _source(span: range, size: int, padding_mode: str) -> NDArray[np.intp]:
    """The pixel inside 0..size−1 that stands for each position of `span`."""
    p = np.arange(span.start, span.stop)
    if padding_mode == "replicate":
        return np.clip(p, 0, size - 1)
    if padding_mode == "circular":
        return p % size
    # Mirroring about both edge pixels repeats after 2(size − 1) steps.
    p = p % max(2 * (size - 1), 1)
    return np.minimum(p, 2 * (size - 1) - p)


def flatten_filters(filters: ArrayLike, groups: int = 1, *, order: str = "hwc") -> NDArray[Any]:
    """Flatten filters into the weight matrix W_col, one filter a column.

    Args:
        filters: (K, *kernel, C/groups), any number dtype.
        groups: divides K; each group's K/groups filters are neighbouring columns.
        order: rows over (i, j, c) with "hwc", over (c, i, j) with "chw", as in `unroll`.

    Returns:
        W_col, (kh·kw·C/groups, K), in the dtype of `filters`, bit for bit.

    Raises:
        ShapeError: not filters. GeometryError: groups that do not divide K. DTypeError: not numbers.
    """
    filters = as_numbers("filters", filters)
    check_choice("order", order, ("hwc", "chw"))
    if filters.ndim < 3 or 0 in filters.shape:
        raise ShapeError("filters", f"have shape {filters.shape}; expected (K, *kernel, C/groups), none 0")
    check_filter_groups(len(filters), groups)
    if order == "chw":
        filters = np.moveaxis(filters, -1, 1)
    return np.array(filters.reshape(len(filters), -1).T, order="C")


def check_filter_groups(filters: int, groups: int) -> None:
    """Raise GeometryError unless `groups` divides the number of filters."""
    groups = whole("groups", groups)
    if groups < 1 or filters % groups:
        raise GeometryError(
            "groups", f"{groups} does not divide the {filters} filters; give a divisor of {filters}"
        )


def check_choice(parameter: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise GeometryError unless `value` is one of `choices`."""
    if value not in choices:
        raise GeometryError(parameter, f"unknown {value!r}; give one of {', '.join(choices)}")


def as_numbers(name: str, values: ArrayLike) -> NDArray[Any]:
    """`values` as an array of booleans, integers, floats or complex numbers.

    Raises:
        DTypeError: any other dtype.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biufc":
        raise DTypeError(
            name, f"has dtype {array.dtype}; expected booleans, integers, floats or complex numbers"
        )
    return array
