"""Unrolling images into X_col, and flattening filters into W_col: numbers moved by Eq. 8.

The compiled library does it where there is one. Without it NumPy does, a block at a time: of the window of
the padded input that a block of outputs sees, every patch is a view.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, SupportsIndex

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from convmat import native
from convmat.arrays import numbers, out_array
from convmat.axis import PADDING_MODES, padding_source
from convmat.blocks import Block
from convmat.checks import choice, filter_groups, several, whole
from convmat.errors import MemoryLimitError, ShapeError
from convmat.geometry import ORDERS, ConvGeometry, Padding, Sizes
from convmat.threads import thread_count

BLOCK_BYTES = 1 << 22
"""Of X_col that are moved at a time: bounds the memory of streams, and how long Ctrl-C has to wait."""


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
    threads: int | None = None,
) -> NDArray[Any]:
    """Unroll images into the patch matrix X_col (im2col) by the index mapping of Eq. 8.

    Args:
        x: (N, *spatial, C), any number dtype, strides and byte order; not written to.
        kernel_size, stride, padding, dilation: as `ConvGeometry` takes them.
        padding_mode: what lies outside the input: "zeros", "reflect" (mirrored about the edge pixel),
            "replicate" (the edge pixel) or "circular" (the input again).
        out: array to write to, of the result's shape and dtype, that does not overlap `x`.
        order: columns over (i, j, c) with "hwc", over (c, i, j), PyTorch's order, with "chw".
        threads: to copy with, 1 to 1024; by default what CONVMAT_THREADS says, or all cores.

    Returns:
        X_col, (N·H_out·W_out, kh·kw·C), rows over (n, y, x), in the dtype of `x`, bit for bit.

    Raises:
        GeometryError: sizes that make no convolution, or no number of threads.
        ShapeError: `out` of another shape.
        DTypeError: not numbers, or `out` of another dtype.
    """
    x = numbers("input", x)
    geometry = geometry_of(x.shape, kernel_size, stride, padding, dilation)
    choice("padding_mode", padding_mode, PADDING_MODES)
    choice("order", order, ORDERS)
    threads = thread_count(threads)
    if out is None:
        out = allocate(geometry.matrix_shape, x.dtype)
    else:
        out_array(out, geometry.matrix_shape, x.dtype, "X_col", x)
    for block in geometry.boxes(_block_shape(x, geometry, BLOCK_BYTES)):
        part = out[block.rows.start : block.rows.stop]
        rows = part if part.flags.c_contiguous else np.empty(part.shape, x.dtype)
        _unroll_block(rows, x, geometry, block, padding_mode, order, threads)
        if rows is not part:
            part[...] = rows
    return out


def unroll_stream(
    x: NDArray[Any],
    geometry: ConvGeometry,
    padding_mode: str = "zeros",
    order: str = "hwc",
    threads: int | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[NDArray[Any]]:
    """The rows of X_col in blocks of at most `block_bytes`, or one row; a block is valid until the next."""
    choice("order", order, ORDERS)
    threads = thread_count(threads)
    shape = _block_shape(x, geometry, block_bytes)
    buffer = np.empty((math.prod(shape), geometry.matrix_shape[1]), x.dtype)
    for block in geometry.boxes(shape):
        rows = buffer[: len(block.rows)]
        _unroll_block(rows, x, geometry, block, padding_mode, order, threads)
        yield rows


def _block_shape(x: NDArray[Any], geometry: ConvGeometry, nbytes: int) -> tuple[int, ...]:
    """Outputs, over (n, *position), whose rows, or the input they span, take so many bytes, or one row."""
    return geometry.block_shape(nbytes // (geometry.row_footprint * x.itemsize))


def _unroll_block(
    rows: NDArray[Any],
    x: NDArray[Any],
    geometry: ConvGeometry,
    block: Block,
    padding_mode: str,
    order: str,
    threads: int,
) -> None:
    """Write a block's rows of X_col, C-contiguous."""
    compiled, steps = native.library(), steps_of(x)
    if compiled is not None and steps is not None:
        packed = pack_block(geometry, block, steps, padding_mode)
        compiled.unroll(packed, x[block.positions[0].start :], rows, order, 0, len(rows), threads)
        return
    patches = patches_of(window(x, geometry, block.positions, padding_mode), geometry)
    if order == "hwc":
        patches = np.moveaxis(patches, len(geometry.kernel_size) + 1, -1)
    rows.reshape(patches.shape)[...] = patches


def pack_block(
    geometry: ConvGeometry,
    block: Block,
    steps: tuple[int, ...] | None,
    padding_mode: str = "zeros",
    filters: int = 1,
    parts: int = 1,
    pairs: bool = False,
) -> bytes:
    """A block's numbers for the compiled library, as if it were all outputs of a layer of its own.

    Args:
        steps: `steps_of` x, which is read from the block's first image on; None for the block's `window`.
        filters: K. parts: channels that each channel is seen as, 2 for complex numbers. pairs: whether two
            channels are seen as one.
    """
    images, *positions = block.positions
    out = [len(p) for p in positions]
    axes = list(zip(positions, geometry.stride, geometry.pads, geometry.extent, strict=True))
    if steps is None:
        size = [(len(p) - 1) * s + extent for p, s, _, extent in axes]
        return pack(geometry, len(images), size, out, [0] * len(axes), "zeros", None, filters, parts, pairs)
    before = [pads[0] - p.start * s for p, s, pads, _ in axes]
    steps = tuple(parts * step for step in steps)
    laid = (out, before, padding_mode, steps, filters, parts, pairs)
    return pack(geometry, len(images), geometry.input_size, *laid)


def pack(
    geometry: ConvGeometry,
    images: int,
    input_size: Sequence[int],
    output_size: Sequence[int],
    before: Sequence[int],
    padding_mode: str = "zeros",
    steps: tuple[int, ...] | None = None,
    filters: int = 1,
    parts: int = 1,
    pairs: bool = False,
) -> bytes:
    """A layer's numbers for the compiled library, where images, sizes and pads may be a part's own."""
    channels = (geometry.channels * parts // (2 if pairs else 1), filters * parts, geometry.groups)
    taps = (geometry.kernel_size, geometry.stride, geometry.dilation)
    return native.sizes(images, *channels, input_size, output_size, *taps, before, padding_mode, steps)


def window(
    x: NDArray[Any],
    geometry: ConvGeometry,
    positions: tuple[range, ...],
    padding_mode: str = "zeros",
    dtype: np.dtype[Any] | None = None,
) -> NDArray[Any]:
    """The part of the padded input that a box of outputs, over (n, *position), sees: (n, *lines, C).

    A view where it lies inside the input and the dtype stays.
    """
    images, *along = positions
    part, kept, into = x[images.start : images.stop], [slice(None)], [slice(None)]
    shape, padded = [len(images)], False
    for axis, (p, size) in enumerate(zip(along, x.shape[1:-1], strict=True), 1):
        seen = geometry.lines_seen(axis - 1, p)
        start, count = seen.start, len(seen)
        first, last = max(start, 0), min(seen.stop, size)
        if padding_mode != "zeros" and last - first < count:
            part = part.take(padding_source(np.arange(start, seen.stop), size, padding_mode), axis)
            first, last, start = 0, count, 0
        padded |= last - first < count
        kept.append(slice(first, max(last, first)))
        into.append(slice(first - start, max(last, first) - start))
        shape.append(count)
    pixels = part[tuple(kept)]
    if not padded:
        return pixels.astype(dtype or x.dtype, copy=False)
    memory = np.zeros((*shape, x.shape[-1]), dtype or x.dtype)
    memory[tuple(into)] = pixels
    return memory


def patches_of(seen: NDArray[Any], geometry: ConvGeometry) -> NDArray[Any]:
    """The patches of a window as a view, (n, *positions, C, *kernel): Eq. 8 as strides."""
    every = sliding_window_view(seen, geometry.extent, tuple(range(1, seen.ndim - 1)))
    starts = (slice(None, None, s) for s in geometry.stride)
    taps = (slice(None, None, d) for d in geometry.dilation)
    return every[(slice(None), *starts, slice(None), *taps)]


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
    filters = numbers("filters", filters)
    choice("order", order, ORDERS)
    if filters.ndim < 3 or 0 in filters.shape:
        raise ShapeError("filters", f"have shape {filters.shape}; expected (K, *kernel, C/groups), none 0")
    filter_groups(len(filters), groups)
    if order == "chw":
        filters = np.moveaxis(filters, -1, 1)
    return np.array(filters.reshape(len(filters), -1).T, order="C")


def geometry_of(
    shape: Sequence[SupportsIndex],
    kernel_size: Sizes,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: SupportsIndex = 1,
) -> ConvGeometry:
    """`ConvGeometry` of these arguments, remembered, since the same layer comes again and again."""
    where = settled_where(stride, padding, dilation, groups)
    return _geometry(settled("input_shape", shape), settled("kernel_size", kernel_size), *where)


def settled_where(stride: Sizes, padding: Padding, dilation: Sizes, groups: SupportsIndex) -> tuple[Any, ...]:
    """These arguments in a form that may be remembered by."""
    if type(stride) is type(dilation) is type(groups) is int and type(padding) in _PLAIN:
        return stride, padding, dilation, groups
    return (
        settled("stride", stride),
        settled("padding", padding),
        settled("dilation", dilation),
        settled("groups", groups),
    )


_geometry = lru_cache(maxsize=256)(ConvGeometry)


def settled(name: str, value: Any, depth: int = 2) -> Any:
    """`value` in ints, strings and tuples of them, fit to be remembered by: 1.0 and True would equal 1."""
    kind = type(value)
    if kind is int or kind is str or (kind is tuple and _INT.issuperset(map(type, value))):
        return value
    if isinstance(value, str):
        return str(value)
    if depth and (parts := several(value)) is not None:
        return tuple(settled(name, part, depth - 1) for part in parts)
    return whole(name, value)


_INT, _PLAIN = {int}, {int, str}


def steps_of(a: NDArray[Any]) -> tuple[int, ...] | None:
    """Elements from neighbour to neighbour along all axes but the last, for the compiled library.

    Empty for a C-contiguous array, None where it cannot read the array: unaligned, of elements above 16
    bytes, or with elements apart along the last axis.
    """
    flags, size = a.flags, a.itemsize
    if not flags.aligned or size > 16:
        return None
    if flags.c_contiguous:
        return ()
    if (a.shape[-1] > 1 and a.strides[-1] != size) or any(s % size for s in a.strides):
        return None
    return tuple(s // size for s in a.strides[:-1])


def allocate(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array of a result's shape, to be filled.

    Raises:
        MemoryLimitError: there is no memory for it.
    """
    try:
        return np.empty(shape, dtype)
    except (MemoryError, ValueError):  # more than there is, more than there could be
        needed = math.prod(shape) * dtype.itemsize
        raise MemoryLimitError(
            "output",
            f"of shape {shape} needs {needed} bytes of memory, more than there are; give fewer images, or "
            "less padding",
        ) from None
