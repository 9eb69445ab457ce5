"""Unrolling images into X_col, folding it back, flattening filters into W_col: numbers moved by Eq. 8.

The compiled library does it where there is one. Without it NumPy does, a block at a time: of the window of
the padded input that a block of outputs sees, every patch is a view.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, reduce
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from convmat import native
from convmat.axis import PADDING_MODES, padding_source
from convmat.blocks import Block
from convmat.checks import choice, filter_groups, numbers, out_array, several, whole
from convmat.errors import IntegerRangeError, MemoryLimitError, ShapeError
from convmat.geometry import ORDERS, ConvGeometry, Padding, Sizes
from convmat.threads import thread_count

OVERLAPS = ("sum", "mean")

_ASKED_FROM = 1 << 24  # bytes of a result, from which on it is looked whether there is memory for it

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
    choice("order", order, ORDERS)
    threads = thread_count(threads)
    shape = _block_shape(x, geometry, block_bytes)
    buffer = np.empty((math.prod(shape), geometry.matrix_shape[1]), x.dtype)
    for block in geometry.boxes(shape):
        rows = buffer[: len(block.rows)]
        _write_rows(rows, x, geometry, block, padding_mode, order, threads)
        yield rows


def _block_shape(x: NDArray[Any], geometry: ConvGeometry, nbytes: int) -> tuple[int, ...]:
    """Outputs, over (n, *position), whose rows, or the input they span, take so many bytes, or one row."""
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
) -> bytes:
    """A block's numbers for the compiled library, as if it were all outputs of a layer of its own.

    Args:
        steps: `steps_of` x, which is read from the block's first image on; None for the block's `window`.
        filters: K. parts: channels that each channel is seen as, 2 for complex numbers.
    """
    images, *positions = block.positions
    out = [len(p) for p in positions]
    axes = list(zip(positions, geometry.stride, geometry.pads, geometry.extent, strict=True))
    if steps is None:
        size = [(len(p) - 1) * s + extent for p, s, _, extent in axes]
        return _pack(geometry, len(images), size, out, [0] * len(axes), filters=filters, parts=parts)
    before = [pads[0] - p.start * s for p, s, pads, _ in axes]
    steps = tuple(parts * step for step in steps)
    return _pack(geometry, len(images), geometry.input_size, out, before, padding_mode, steps, filters, parts)


def _pack(
    geometry: ConvGeometry,
    images: int,
    input_size: Sequence[int],
    output_size: Sequence[int],
    before: Sequence[int],
    padding_mode: str = "zeros",
    steps: tuple[int, ...] | None = None,
    filters: int = 1,
    parts: int = 1,
) -> bytes:
    channels = (geometry.channels * parts, filters * parts, geometry.groups)
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
    axes = zip(along, x.shape[1:-1], geometry.stride, geometry.pads, geometry.extent, strict=True)
    shape, padded = [len(images)], False
    for axis, (p, size, stride, (before, _), extent) in enumerate(axes, 1):
        start, count = p.start * stride - before, (len(p) - 1) * stride + extent
        first, last = max(start, 0), min(start + count, size)
        if padding_mode != "zeros" and last - first < count:
            part = part.take(padding_source(np.arange(start, start + count), size, padding_mode), axis)
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
    x_col = numbers("x_col", x_col)
    geometry = geometry_of(input_shape, kernel_size, stride, padding, dilation)
    check_x_col(x_col.shape, geometry)
    folding = _Folding.of(geometry, x_col.dtype, overlap, order, threads)
    rows = x_col.reshape(geometry.matrix_shape)
    image = allocate(geometry.input_shape, folding.result)
    for band in folding.bands(BLOCK_BYTES, x_col.itemsize):
        folding.write(image[band.box], rows[band.rows.start : band.rows.stop], band)
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
        parts: X_col of `dtype`, any number of rows at a time. Held of it are `block_bytes`, or the outputs
            that meet in a line of pixels.
    """
    folding = _Folding.of(geometry, dtype, overlap, order, threads)
    for band, rows in _regrouped(parts, folding.bands(block_bytes, dtype.itemsize)):
        lines = np.empty((len(band.images), len(band.lines), *geometry.input_shape[2:]), folding.result)
        folding.write(lines, rows, band)
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
    choice("overlap", overlap, OVERLAPS)
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
    outputs: range
    """Along the first axis."""
    rows: range
    """Those outputs as rows of X_col."""

    @property
    def box(self) -> tuple[slice, slice]:
        """Where the lines are in (N, *spatial, C)."""
        return slice(self.images.start, self.images.stop), slice(self.lines.start, self.lines.stop)

    def before(self, geometry: ConvGeometry) -> list[int]:
        """What would be the padding before each axis, were the lines images and the outputs all theirs."""
        first = geometry.pads[0][0] + self.lines.start - self.outputs.start * geometry.stride[0]
        return [first, *(before for before, _ in geometry.pads[1:])]


def bands(geometry: ConvGeometry, outputs: Sequence[int], line_bytes: int, limit: int) -> Iterator[Band]:
    """Images cut so that the outputs that reach a band take `limit` bytes, or what one kernel's height is.

    Args:
        outputs: of an image along each axis. line_bytes: of a line of them.
    """
    size, stride, extent, before = (
        geometry.input_size[0],
        geometry.stride[0],
        geometry.extent[0],
        geometry.pads[0][0],
    )
    count, line = outputs[0], math.prod(outputs[1:])
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
    """One folding, decided: what becomes of elements that meet, in which dtypes."""

    geometry: ConvGeometry
    how: str
    """ "sum", "mean", or "move" where none meet."""
    accumulator: np.dtype[Any]
    result: np.dtype[Any]
    order: str
    threads: int

    @classmethod
    def of(
        cls, geometry: ConvGeometry, dtype: np.dtype[Any], overlap: str, order: str, threads: int | None
    ) -> _Folding:
        """Check the arguments of `fold`, and decide."""
        result = fold_dtype(dtype, geometry, overlap)
        choice("order", order, ORDERS)
        how = overlap if _most_that_meet(geometry) > 1 else "move"
        accumulator = np.dtype(np.float32) if how != "move" and result == np.float16 else result
        return cls(geometry, how, accumulator, result, order, thread_count(threads))

    def bands(self, limit: int, itemsize: int) -> Iterator[Band]:
        """The bands to `write`, of an X_col with elements of so many bytes."""
        line = math.prod(self.geometry.output_size[1:]) * self.geometry.matrix_shape[1] * itemsize
        return bands(self.geometry, self.geometry.output_size, line, limit)

    def write(self, lines: NDArray[Any], rows: NDArray[Any], band: Band) -> None:
        """Write a band's lines, (n, lines, *others, C), C-contiguous, from its rows of X_col."""
        g, order, parts = self.geometry, self.order, 1
        compiled = (
            native.library() if self.accumulator.itemsize <= _widest(self.how, self.accumulator) else None
        )
        if self.how == "sum":
            check_sums(rows, g)
        found = lines if self.accumulator == self.result else np.empty(lines.shape, self.accumulator)
        sums = found
        with np.errstate(all="ignore"):
            if self.how != "move":
                rows = rows.astype(self.accumulator, copy=False)
            if self.how != "move" and self.accumulator.kind == "c":  # two channels each, which are neighbours
                rows, order, parts = _as_floats(self._patches(rows, band)), "hwc", 2
                sums = _as_floats(found)
            if compiled is not None:
                out = [len(band.outputs), *g.output_size[1:]]
                packed = _pack(g, len(found), found.shape[1:-1], out, band.before(g), parts=parts)
                rows, count = np.ascontiguousarray(rows), math.prod(found.shape[:-2])
                compiled.fold(packed, rows, 0, sums, self.how, order, 0, count, self.threads)
            else:
                sums[...] = self._by_numpy(self._patches(rows, band) if parts == 1 else rows, band)
            if found is not lines:
                np.copyto(lines, found, casting="unsafe")

    def _patches(self, rows: NDArray[Any], band: Band) -> NDArray[Any]:
        """Rows of X_col as (n, *outputs, *kernel, C)."""
        g = self.geometry
        where = (len(band.images), len(band.outputs), *g.output_size[1:])
        if self.order == "hwc":
            return rows.reshape(*where, *g.kernel_size, g.channels)
        return np.moveaxis(rows.reshape(*where, g.channels, *g.kernel_size), len(where), -1)

    def _by_numpy(self, patches: NDArray[Any], band: Band) -> NDArray[Any]:
        if self.how != "mean":
            return lay_down(patches, self.geometry, band, np.add if self.how == "sum" else None)
        total, least, largest = (
            lay_down(patches, self.geometry, band, put, first)
            for put, first in ((np.add, 0), (np.minimum, np.inf), (np.maximum, -np.inf))
        )
        first, *others = (np.maximum(count, 1) for count in _counts(self.geometry))
        times = reduce(np.multiply.outer, others, first[band.lines.start : band.lines.stop])
        total /= times[..., None].astype(total.dtype)
        # A mean of equal numbers is that number, whatever their sum was rounded to, or overflowed to.
        np.copyto(total, np.clip(total, least, largest), where=least <= largest)
        return total


def _widest(how: str, accumulator: np.dtype[Any]) -> int:
    """Bytes of the widest number that the compiled library moves, or adds."""
    return 16 if how == "move" or accumulator.kind == "c" else 8


def _as_floats(patches: NDArray[Any]) -> NDArray[Any]:
    """Complex numbers as twice as many channels."""
    return np.ascontiguousarray(patches).view(patches.real.dtype)


def lay_down(
    patches: NDArray[Any], geometry: ConvGeometry, band: Band, put: Any = np.add, first: float = 0
) -> NDArray[Any]:
    """A band's lines from the patches (n, *outputs, *kernel, C) that reach it, added, or by another `put`.

    Elements come to a pixel in the order of the outputs along the first axis, however the lines are cut.
    """
    axes = range(len(geometry.kernel_size))
    before, counts = band.before(geometry), patches.shape[1 : 1 + len(axes)]
    sizes = (len(band.lines), *geometry.input_size[1:])
    starts = [max(-b, 0) for b in before]  # where the first output begins inside
    cut = [slice(max(b, 0), max(b, 0) + size) for b, size in zip(before, sizes, strict=True)]
    reach = [starts[a] + (counts[a] - 1) * geometry.stride[a] + geometry.extent[a] for a in axes]
    room = [max(reach[a], cut[a].stop) for a in axes]
    memory = np.full((len(patches), *room, patches.shape[-1]), first, patches.dtype)
    for tap in reversed(list(itertools.product(*map(range, geometry.kernel_size)))):
        begin = [starts[a] + tap[a] * geometry.dilation[a] for a in axes]
        steps = [slice(begin[a], begin[a] + counts[a] * s, s) for a, s in enumerate(geometry.stride)]
        place, pixels = memory[(slice(None), *steps)], patches[(..., *tap, slice(None))]  # type: ignore[arg-type]
        if put is None:
            place[...] = pixels
        else:
            put(place, pixels, out=place)
    return memory[(slice(None), *cut)]


@lru_cache(maxsize=16)
def _counts(geometry: ConvGeometry) -> tuple[NDArray[np.intp], ...]:
    """How many patches see each pixel along each axis, read-only; over several axes these multiply."""
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
        count = np.bincount(seen[(seen >= 0) & (seen < size)], minlength=size)
        count.setflags(write=False)  # every caller is given the same
        found.append(count)
    return tuple(found)


def _most_that_meet(geometry: ConvGeometry) -> int:
    """Elements of X_col that meet in one pixel, at most."""
    return math.prod(int(count.max()) for count in _counts(geometry))


def check_sums(rows: NDArray[Any], geometry: ConvGeometry) -> None:
    """Raise IntegerRangeError for an X_col of integers whose sums in a pixel could pass int64."""
    most = _most_that_meet(geometry)
    if rows.dtype.kind not in "biu" or not rows.size or (rows.itemsize < 8 and most < 1 << 31):
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
    return _geometry(_settled("input_shape", shape), _settled("kernel_size", kernel_size), *where)


def settled_where(stride: Sizes, padding: Padding, dilation: Sizes, groups: SupportsIndex) -> tuple[Any, ...]:
    """These arguments in a form that may be remembered by."""
    return (
        _settled("stride", stride),
        _settled("padding", padding),
        _settled("dilation", dilation),
        _settled("groups", groups),
    )


_geometry = lru_cache(maxsize=256)(ConvGeometry)


def _settled(name: str, value: Any, depth: int = 2) -> Any:
    """`value` in ints, strings and tuples of them, fit to be remembered by: 1.0 and True would equal 1."""
    kind = type(value)
    if kind is int or kind is str or (kind is tuple and _INT.issuperset(map(type, value))):
        return value
    if isinstance(value, str):
        return str(value)
    if depth and (parts := several(value)) is not None:
        return tuple(_settled(name, part, depth - 1) for part in parts)
    return whole(name, value)


_INT = {int}


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
