"""Unrolling images into X_col, folding X_col into images, flattening filters into W_col: bytes moved by Eq. 8.

The compiled library does it where there is one. Without it NumPy does, in blocks: a window of the padded input, in
which every patch is a view.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from convmat import native
from convmat.errors import DTypeError, GeometryError, IntegerRangeError, ShapeError
from convmat.geometry import (
    ORDERS,
    PADDING_MODES,
    Block,
    ConvGeometry,
    Padding,
    Sizes,
    check_choice,
    padding_source,
    whole,
)
from convmat.threads import thread_count

OVERLAPS = ("sum", "mean")

BLOCK_BYTES = 1 << 22
"""Of X_col that are moved at a time: bounds the memory of streams, and how long Ctrl-C waits for an answer."""


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
    x = as_numbers("x", x)
    geometry = ConvGeometry(x.shape, kernel_size, stride, padding, dilation)
    check_choice("padding_mode", padding_mode, PADDING_MODES)
    check_choice("order", order, ORDERS)
    threads = thread_count(threads)
    if out is None:
        out = np.empty(geometry.matrix_shape, x.dtype)
    else:
        check_out(out, geometry.matrix_shape, x.dtype, "X_col", x)
    for block in geometry.boxes(_block_shape(x, geometry, BLOCK_BYTES)):
        part = out[block.rows.start : block.rows.stop]
        rows = part if part.flags.c_contiguous else np.empty(part.shape, x.dtype)
        _write_rows(rows, x, geometry, block, padding_mode, order, threads)
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
    check_choice("order", order, ORDERS)
    threads = thread_count(threads)
    shape = _block_shape(x, geometry, block_bytes)
    buffer = np.empty((math.prod(shape), geometry.matrix_shape[1]), x.dtype)
    for block in geometry.boxes(shape):
        rows = buffer[: len(block.rows)]
        _write_rows(rows, x, geometry, block, padding_mode, order, threads)
        yield rows


def _block_shape(x: NDArray[Any], geometry: ConvGeometry, nbytes: int) -> tuple[int, ...]:
    """Outputs, over (n, *position), whose rows, or the input they span, take at most so many bytes, or one row."""
    return geometry.block_shape(nbytes // (geometry.row_footprint * x.itemsize))


def _write_rows(
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
        packed = pack(geometry, block, steps, padding_mode)
        compiled.unroll(packed, x[block.positions[0].start :], rows, order, 0, len(rows), threads)
        return
    patches = patches_of(window(x, geometry, block.positions, padding_mode), geometry)
    if order == "hwc":
        patches = np.moveaxis(patches, len(geometry.kernel_size) + 1, -1)
    rows.reshape(patches.shape)[...] = patches


def pack(
    geometry: ConvGeometry,
    block: Block,
    steps: tuple[int, ...] | None,
    padding_mode: str = "zeros",
    filters: int = 1,
    parts: int = 1,
) -> bytes:
    """A block's numbers for the compiled library, as if it were all outputs of a layer of its own.

    Args:
        steps: `steps_of` x, which is read from the block's first image on; None where it is the block's `window`.
        filters: K. parts: channels that each channel is seen as, 2 for complex numbers.
    """
    images, *positions = block.positions
    channels = (geometry.channels * parts, filters * parts, geometry.groups)
    if _is_flat(geometry, block, steps):  # each output is a pixel: one axis of them all
        rows, one = (len(block.rows),), (1,)
        return native.sizes(1, *channels, rows, rows, one, one, one, (0,))
    axes = list(zip(positions, geometry.stride, geometry.pads, geometry.extent, strict=True))
    size: Sequence[int] = geometry.input_size
    before = [pads[0] - p.start * s for p, s, pads, _ in axes]
    if steps is None:
        size, before, padding_mode = (
            [(len(p) - 1) * s + extent for p, s, _, extent in axes],
            [0] * len(axes),
            "zeros",
        )
    else:
        steps = tuple(parts * step for step in steps)
    return native.sizes(
        len(images),
        *channels,
        size,
        [len(p) for p in positions],
        geometry.kernel_size,
        geometry.stride,
        geometry.dilation,
        before,
        padding_mode,
        x_steps=steps,
    )


def _is_flat(geometry: ConvGeometry, block: Block, steps: tuple[int, ...] | None) -> bool:
    """Whether a block's outputs are pixels one after another in memory, each seen by itself."""
    if {*geometry.kernel_size, *geometry.stride} != {1} or any(map(any, geometry.pads)):
        return False
    if steps is None:
        return True
    run = geometry.channels
    for size, count, step in zip(
        reversed(geometry.input_size), map(len, reversed(block.positions)), reversed(steps), strict=False
    ):
        if count < size or (size > 1 and step != run):
            return False
        run *= size
    return len(block.positions[0]) == 1 or steps[0] == run


def window(
    x: NDArray[Any],
    geometry: ConvGeometry,
    positions: tuple[range, ...],
    padding_mode: str = "zeros",
    dtype: np.dtype[Any] | None = None,
) -> NDArray[Any]:
    """The part of the padded input that a box of output positions (n, *position) sees, (n, *lines, C).

    A view where it lies inside the input and the dtype stays.
    """
    images, *along = positions
    part = x[images.start : images.stop]
    lines = [
        range(p.start * s - before, (p.stop - 1) * s - before + extent)
        for p, s, (before, _), extent in zip(
            along, geometry.stride, geometry.pads, geometry.extent, strict=True
        )
    ]
    sizes = x.shape[1:-1]
    if padding_mode != "zeros":
        for axis, (line, size) in enumerate(zip(lines, sizes, strict=True), 1):
            part = part.take(padding_source(np.arange(line.start, line.stop), size, padding_mode), axis)
        return part.astype(dtype or x.dtype, copy=False)
    inside = [
        range(max(line.start, 0), min(line.stop, size)) for line, size in zip(lines, sizes, strict=True)
    ]
    pixels = part[:, *(slice(r.start, max(r.stop, r.start)) for r in inside)]
    if inside == lines:
        return pixels.astype(dtype or x.dtype, copy=False)
    padded = np.zeros((len(part), *map(len, lines), x.shape[-1]), dtype or x.dtype)
    into = (
        slice(r.start - line.start, r.start - line.start + len(r))
        for r, line in zip(inside, lines, strict=True)
    )
    padded[:, *into] = pixels
    return padded


def patches_of(seen: NDArray[Any], geometry: ConvGeometry) -> NDArray[Any]:
    """The patches of a window as a view, (n, *positions, C, *kernel): Eq. 8 as strides."""
    axes = tuple(range(1, seen.ndim - 1))
    every = sliding_window_view(seen, geometry.extent, axes)
    starts = (slice(None, None, s) for s in geometry.stride)
    taps = (slice(None, None, d) for d in geometry.dilation)
    return every[(slice(None), *starts, slice(None), *taps)]


def fold(
    x_col: ArrayLike,
    input_shape: Sequence[SupportsIndex],
    kernel_size: Sizes,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    overlap: str = "sum",
    *,
    order: str = "hwc",
    threads: int | None = None,
) -> NDArray[Any]:
    """Put the patches of X_col back where `unroll` took them from (col2im).

    Every element X_col[row, col] goes to the pixel that Eq. 8 names; what fell into the padding is dropped.

    Args:
        x_col: (N·P, kh·kw·C), or (N, P, kh·kw·C).
        input_shape: (N, *spatial, C), of the input that was unrolled.
        kernel_size, stride, padding, dilation: those of the unrolling, as `ConvGeometry` takes them.
        overlap: what becomes of elements that meet in one pixel. "sum" adds them: the adjoint of `unroll`,
            ⟨unroll x, p⟩ = ⟨x, fold p⟩, and so its gradient; PyTorch's Fold, ONNX's Col2Im. "mean" is the
            inverse of `unroll`, exact wherever a patch covers the pixel.
        order: of the columns, as `unroll` takes it.
        threads: to work with, 1 to 1024; by default what CONVMAT_THREADS says, or all cores. The same call
            gives the same bits for any number.

    Returns:
        (N, *spatial, C); 0 where no patch reaches. Where no elements meet they keep dtype and bits. Else
        sums of integers are int64, their means float64; floats keep their dtype, in native byte order
        (float16 is summed in float32). A mean lies between the least and the largest of its elements.

    Raises:
        GeometryError: sizes that make no convolution. ShapeError: an X_col that is not of this geometry.
        DTypeError: not numbers. IntegerRangeError: integers whose sums could pass 2^63.
    """
    x_col = as_numbers("x_col", x_col)
    geometry = ConvGeometry(input_shape, kernel_size, stride, padding, dilation)
    check_x_col(x_col.shape, geometry)
    check_choice("order", order, ORDERS)
    folding = _Folding(
        geometry, fold_dtype(x_col.dtype, geometry, overlap), overlap, order, thread_count(threads)
    )
    rows = x_col.reshape(geometry.matrix_shape)
    image = np.empty(geometry.input_shape, folding.result)
    for band in folding.bands(BLOCK_BYTES, x_col.dtype):
        folding.write(rows[band.rows.start : band.rows.stop], band, image[band.box])
    return image


def fold_stream(
    parts: Iterable[NDArray[Any]],
    dtype: np.dtype[Any],
    geometry: ConvGeometry,
    overlap: str = "sum",
    order: str = "hwc",
    threads: int | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[NDArray[Any]]:
    """The folded images line by line, (lines, *other axes, C), all images' first axes joined.

    Args:
        parts: X_col of `dtype`, any number of rows at a time. What is held of it at a time is `block_bytes`, or the
            lines of outputs that meet in a line of pixels.
    """
    check_choice("order", order, ORDERS)
    folding = _Folding(geometry, fold_dtype(dtype, geometry, overlap), overlap, order, thread_count(threads))
    for band, rows in _regrouped(parts, folding.bands(block_bytes, dtype)):
        lines = np.empty((len(band.images), len(band.lines), *geometry.input_shape[2:]), folding.result)
        folding.write(rows, band, lines)
        yield lines.reshape(-1, *lines.shape[2:])


def check_x_col(shape: tuple[int, ...], geometry: ConvGeometry) -> None:
    """Raise ShapeError unless a matrix of this shape is an X_col of the geometry."""
    rows, columns = geometry.matrix_shape
    if shape not in ((rows, columns), (geometry.batch, geometry.patches, columns)):
        raise ShapeError(
            "x_col",
            f"has shape {shape}, an input of {geometry.input_shape} is unrolled to {(rows, columns)}; "
            "give the shape, kernel, stride, padding and dilation of the unrolling",
        )


def fold_dtype(dtype: np.dtype[Any], geometry: ConvGeometry, overlap: str = "sum") -> np.dtype[Any]:
    """The dtype that `fold` returns for an X_col of this dtype."""
    check_choice("overlap", overlap, OVERLAPS)
    if _most_that_meet(geometry) < 2:
        return dtype
    if dtype.kind in "biu":
        return np.dtype(np.int64 if overlap == "sum" else np.float64)
    return dtype.newbyteorder("=")


def _regrouped(parts: Iterable[NDArray[Any]], bands: Iterable[Band]) -> Iterator[tuple[Band, NDArray[Any]]]:
    """Each band with its rows, however many come at a time; rows that bands share are held for the next."""
    rest, held, first = iter(parts), np.empty((0, 0)), 0
    for band in bands:
        got, end = [held], first + len(held)
        while end < band.rows.stop:
            part = next(rest)
            got.append(part.reshape(-1, part.shape[-1]))
            end += len(got[-1])
        got = [part for part in got if len(part)] or got
        held = (got[0] if len(got) == 1 else np.concatenate(got))[band.rows.start - first :]
        first = band.rows.start
        yield band, held[: len(band.rows)]


class Band(NamedTuple):
    """Lines of pixels along the first axis of some images, and the outputs that reach them."""

    images: range
    lines: range
    positions: range
    """Of outputs, along the first axis."""
    rows: range
    """Those outputs as rows of X_col."""

    @property
    def box(self) -> tuple[slice, slice]:
        """Where the lines are in (N, *spatial, C)."""
        return slice(self.images.start, self.images.stop), slice(self.lines.start, self.lines.stop)

    def before(self, geometry: ConvGeometry) -> int:
        """Lines from the first output's first tap to the first pixel: the padding, were the band an image."""
        return geometry.pads[0][0] + self.lines.start - self.positions.start * geometry.stride[0]


def bands(geometry: ConvGeometry, positions: tuple[int, ...], line_bytes: int, limit: int) -> Iterator[Band]:
    """Images cut so that the outputs that reach a band take `limit` bytes, or what a kernel's height reaches.

    Args:
        positions: outputs of an image, along each axis. line_bytes: of a line of them.
    """
    size, stride, before, extent = (
        geometry.input_size[0],
        geometry.stride[0],
        geometry.pads[0][0],
        geometry.extent[0],
    )
    count, line = positions[0], math.prod(positions[1:])
    fit = max(limit // max(line_bytes, 1), 1)
    images, step = (fit // count, size) if fit >= count else (1, max(fit, -(-extent // stride)) * stride)
    for n in range(0, geometry.batch, images):
        some = range(n, min(n + images, geometry.batch))
        for start in range(0, size, step):
            stop = min(start + step, size)
            first, last = 0, count
            if step < size:  # outputs o with start <= o·S − P + tap < stop
                first = min(max(-(-(start + before - extent + 1) // stride), 0), count)
                last = max(min((stop - 1 + before) // stride + 1, count), first)
            rows = range((some.start * count + first) * line, ((some.stop - 1) * count + last) * line)
            yield Band(some, range(start, stop), range(first, last), rows)


class _Folding(NamedTuple):
    """One folding, decided: what becomes of elements that meet, in which dtype."""

    geometry: ConvGeometry
    result: np.dtype[Any]
    overlap: str
    order: str
    threads: int

    def bands(self, limit: int, dtype: np.dtype[Any]) -> Iterator[Band]:
        """The bands to `write`, of X_col in this dtype."""
        line = math.prod(self.geometry.output_size[1:]) * self.geometry.matrix_shape[1]
        return bands(self.geometry, self.geometry.output_size, line * dtype.itemsize, limit)

    def write(self, rows: NDArray[Any], band: Band, lines: NDArray[Any]) -> None:
        """Write a band's lines, (n, lines, *others, C), from its rows of X_col."""
        meet = _most_that_meet(self.geometry)
        how = self.overlap if meet > 1 else "move"
        accumulator = np.dtype(np.float32) if how != "move" and self.result == np.float16 else self.result
        if how == "sum" and rows.dtype.kind in "biu":
            _check_range(rows, meet)
        compiled = native.library() if self._compiled(accumulator, how) else None
        if how != "move" and not (compiled and accumulator.kind == "i" and rows.dtype.isnative):
            rows = rows.astype(accumulator, copy=False)
        found = lines if lines.dtype == accumulator else np.empty(lines.shape, accumulator)
        if compiled is not None:
            parts = 2 if accumulator.kind == "c" and how != "move" else 1
            self._fold_compiled(compiled, np.ascontiguousarray(rows), band, found, how, parts)
        else:
            with np.errstate(all="ignore"):
                found[...] = self._fold(self._as_patches(rows, band), band, how)
        if found is not lines:
            with np.errstate(all="ignore"):
                np.copyto(lines, found, casting="unsafe")

    def _compiled(self, accumulator: np.dtype[Any], how: str) -> bool:
        # A complex number is two channels, which are neighbours in the one order of columns alone.
        return how == "move" or accumulator.kind != "c" or self.order == "hwc"

    def _fold_compiled(
        self,
        compiled: native.Native,
        rows: NDArray[Any],
        band: Band,
        lines: NDArray[Any],
        how: str,
        parts: int,
    ) -> None:
        g = self.geometry
        if parts > 1:
            rows, lines = (a.view(a.real.dtype) for a in (rows, lines))
        packed = native.sizes(
            len(band.images),
            g.channels * parts,
            1,
            1,
            (len(band.lines), *g.input_size[1:]),
            (len(band.positions), *g.output_size[1:]),
            g.kernel_size,
            g.stride,
            g.dilation,
            (band.before(g), *(before for before, _ in g.pads[1:])),
        )
        count = math.prod(lines.shape[:-2])
        compiled.fold(packed, rows, 0, lines, how, self.order, 0, count, self.threads)

    def _as_patches(self, rows: NDArray[Any], band: Band) -> NDArray[Any]:
        """(n, *positions, *kernel, C)."""
        g = self.geometry
        where = (len(band.images), len(band.positions), *g.output_size[1:])
        if self.order == "hwc":
            return rows.reshape(*where, *g.kernel_size, g.channels)
        return np.moveaxis(rows.reshape(*where, g.channels, *g.kernel_size), len(where), -1)

    def _fold(self, patches: NDArray[Any], band: Band, how: str) -> NDArray[Any]:
        if how != "mean":
            return lay_down(patches, self.geometry, band, np.add if how == "sum" else None)
        if patches.dtype.kind == "c":  # by part: a division of complex numbers makes NaN of infinities
            mean = [self._fold(part, band, how) for part in (patches.real, patches.imag)]
            return np.stack(mean, -1).view(patches.dtype)[..., 0]
        total, least, largest = (
            lay_down(patches, self.geometry, band, put, first)
            for put, first in ((np.add, 0), (np.minimum, np.inf), (np.maximum, -np.inf))
        )
        along = _counts(self.geometry)
        times = np.maximum(along[0][band.lines.start : band.lines.stop], 1)
        for count in along[1:]:
            times = np.multiply.outer(times, np.maximum(count, 1))
        total /= times[..., None].astype(total.dtype)
        # A mean of equal numbers is that number, whatever their sum was rounded to, or overflowed to.
        np.copyto(total, np.clip(total, least, largest), where=least <= largest)
        return total


def lay_down(
    patches: NDArray[Any], geometry: ConvGeometry, band: Band, put: Any = np.add, first: float = 0
) -> NDArray[Any]:
    """Lines of pixels from the patches (n, *positions, *kernel, C) that reach them, added, or by another `put`.

    Elements come to a pixel in the order of the outputs along the first axis, however the lines are cut.
    """
    kernel, stride, dilation = geometry.kernel_size, geometry.stride, geometry.dilation
    counts = patches.shape[1 : 1 + len(kernel)]
    before = [band.before(geometry), *(before for before, _ in geometry.pads[1:])]
    sizes = (len(band.lines), *geometry.input_size[1:])
    margins = [max(-b, 0) for b in before]  # where the first output begins inside
    cut = [slice(max(b, 0), max(b, 0) + size) for b, size in zip(before, sizes, strict=True)]
    ends = zip(margins, counts, stride, geometry.extent, cut, strict=True)
    room = [max(margin + (n - 1) * s + extent, c.stop) for margin, n, s, extent, c in ends]
    memory = np.full((len(patches), *room, geometry.channels), first, patches.dtype)
    for tap in reversed(list(itertools.product(*map(range, kernel)))):
        begin = (m + i * d for m, i, d in zip(margins, tap, dilation, strict=True))
        place = memory[:, *(slice(b, b + n * s, s) for b, n, s in zip(begin, counts, stride, strict=True))]
        pixels = patches[(..., *tap, slice(None))]
        if put is None:
            place[...] = pixels
        else:
            put(place, pixels, out=place)
    return memory[:, *cut]


@lru_cache(maxsize=16)
def _counts(geometry: ConvGeometry) -> tuple[NDArray[np.intp], ...]:
    """How many patches see each pixel along each axis; over several axes these multiply."""
    found = []
    for size, k, s, d, (before, _), out in zip(
        geometry.input_size,
        geometry.kernel_size,
        geometry.stride,
        geometry.dilation,
        geometry.pads,
        geometry.output_size,
        strict=True,
    ):
        seen = np.add.outer(np.arange(k) * d, np.arange(out) * s) - before
        found.append(np.bincount(seen[(seen >= 0) & (seen < size)], minlength=size))
    return tuple(found)


def _most_that_meet(geometry: ConvGeometry) -> int:
    """Elements of X_col that meet in one pixel, at most."""
    return math.prod(int(count.max()) for count in _counts(geometry))


def _check_range(rows: NDArray[Any], most: int) -> None:
    """Raise IntegerRangeError where sums of so many of the elements could pass int64."""
    if not rows.size or (rows.dtype.itemsize < 8 and most < 1 << 31):
        return
    peak = max(int(rows.max()), -int(rows.min())) * most
    if peak >= 1 << 63:
        raise IntegerRangeError(
            "x_col",
            f"sums of {most} integers could reach {peak:.3g}, int64 ends at {2**63 - 1:.3g}; "
            "use smaller integers, or floats",
        )


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
    check_choice("order", order, ORDERS)
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


def check_out(
    out: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any], what: str, *inputs: NDArray[Any] | None
) -> None:
    """Raise ShapeError or DTypeError unless `out` can take a result, and overlaps none of the inputs."""
    if out.shape != shape:
        raise ShapeError("out", f"has shape {out.shape}, {what} has {shape}")
    if out.dtype != dtype:
        raise DTypeError("out", f"has dtype {out.dtype}, {what} has {dtype}")
    if any(a is not None and np.may_share_memory(out, a) for a in inputs):
        raise ShapeError("out", "overlaps the input in memory; give an array of its own")


def steps_of(a: NDArray[Any]) -> tuple[int, ...] | None:
    """Elements from neighbour to neighbour along all axes but the last, for the compiled library.

    None where it cannot read the array: unaligned, or with elements apart along the last axis.
    """
    size = a.itemsize
    if not a.flags.aligned or (a.shape[-1] > 1 and a.strides[-1] != size) or any(s % size for s in a.strides):
        return None
    return tuple(s // size for s in a.strides[:-1])


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
