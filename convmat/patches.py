"""Unrolling images into X_col and flattening filters into W_col: the FC equivalence, on arrays."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from functools import lru_cache, partial
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import ArrayLike, NDArray

from convmat.errors import DTypeError, GeometryError, IntegerRangeError, MemoryLimitError, ShapeError
from convmat.geometry import (
    ORDERS,
    PADDING_MODES,
    Block,
    ConvGeometry,
    Padding,
    Sizes,
    check_choice,
    padding_source,
    told,
    whole,
)
from convmat.parallel import share_out, thread_count

OVERLAPS = ("sum", "mean")

# Of X_col, written at one time by a thread: bounds a block's slab, and a stream's memory.
_BLOCK_BYTES = 1 << 21
_PAIRS = {"f": "F", "d": "D"}  # floats, and the complex numbers that are two of them
_SHORT_RUN = 20  # numbers; longer runs are added as they are
# Bytes of X_col; to wake another thread takes longer than it saves where fewer are copied, or added.
_WORTH_THREADS = 1 << 22
_WORTH_THREADS_ADDING = 1 << 19
_LONGEST_RUN = 1 << 30  # bytes; NumPy's elements end at 2^31
_ALL = slice(None)


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
        threads: to copy with; by default what CONVMAT_THREADS says, or all cores.

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
    check_choice("order", order, ORDERS)
    if out is None:
        out = allocate(geometry.matrix_shape, x.dtype)
    else:
        check_out(out, geometry.matrix_shape, x.dtype, "X_col")
        if np.may_share_memory(out, x):
            raise ShapeError("out", "overlaps the input in memory; give an array of its own")
    for _ in _unrolled(x, geometry, padding_mode, order, thread_count(threads), out):
        pass
    return out


def unroll_stream(
    x: NDArray[Any],
    geometry: ConvGeometry,
    padding_mode: str = "zeros",
    order: str = "hwc",
    threads: int | None = None,
) -> Iterator[NDArray[Any]]:
    """The rows of X_col in blocks, for matrices larger than memory; a block is valid until the next."""
    check_choice("order", order, ORDERS)
    return _unrolled(x, geometry, padding_mode, order, thread_count(threads))


def _unrolled(
    x: NDArray[Any],
    geometry: ConvGeometry,
    padding_mode: str,
    order: str,
    threads: int,
    out: NDArray[Any] | None = None,
) -> Iterator[NDArray[Any]]:
    """X_col, written to `out`; or wave by wave to a buffer, as many blocks at a time as there are threads."""
    rows, columns = geometry.matrix_shape
    limit = max(_BLOCK_BYTES // (geometry.row_footprint * x.itemsize), 1)
    if rows * columns * x.itemsize < _WORTH_THREADS:
        threads = 1
    shape = geometry.block_shape(min(limit, max(-(-rows // threads), 1)), threads)
    blocks = geometry.boxes(shape)
    seen = Patches(x, geometry, shape, padding_mode, order=order)

    def worker(buffer: NDArray[Any], first: int) -> Callable[[], Callable[[Block], None]]:
        def make() -> Callable[[Block], None]:
            patches = seen.twin()
            return lambda block: patches.copy_to(
                buffer[block.rows.start - first : block.rows.stop - first], block
            )

        return make

    if out is not None:
        share_out(blocks, worker(out, 0), threads, blas=False)
        yield out
        return
    buffer = np.empty((threads * math.prod(shape), columns), x.dtype)
    while wave := list(itertools.islice(blocks, threads)):
        share_out(wave, worker(buffer, wave[0].rows.start), len(wave), blas=False)
        yield buffer[: wave[-1].rows.stop - wave[0].rows.start]


class _Seen(NamedTuple):
    """Patches as a view of memory."""

    plain: NDArray[Any]
    """(groups, n, *positions, *kernel, C/groups), or with the channels before the kernel."""
    runs: NDArray[Any]
    """The same with each run along the last `merged` axes as one element."""
    merged: int


class _Axis(NamedTuple):
    """One spatial axis of a slab: which of the input's lines a block of output positions needs, and where.

    Where they lie close the slab has all lines from the first to the last. Where they lie far apart (at a
    large stride or dilation) it has each tap's lines after another's: a slab is never larger than the block
    of X_col that is made of it.
    """

    size: int
    k: int
    stride: int
    dilation: int
    before: int
    extent: int
    most: int
    """Output positions of the largest block."""

    @property
    def is_dense(self) -> bool:
        return self.reach <= self.most * self.k

    @property
    def reach(self) -> int:
        """Lines from the first to the last that the largest block sees."""
        return (self.most - 1) * self.stride + self.extent

    @property
    def length(self) -> int:
        """Lines of the slab."""
        return min(self.reach, self.most * self.k)

    @property
    def steps(self) -> tuple[int, int]:
        """Lines of the slab from position to position, and from tap to tap."""
        return (self.stride, self.dilation) if self.is_dense else (1, self.most)

    @property
    def inside(self) -> range:
        """Output positions whose taps all fall inside the input."""
        return range(
            -(-self.before // self.stride), (self.size - self.extent + self.before) // self.stride + 1
        )

    def span(self, positions: range) -> range:
        """The input's lines from the first to the last that these positions see; some may lie outside."""
        start = positions.start * self.stride - self.before
        return range(start, start + (len(positions) - 1) * self.stride + self.extent)

    def lines(self, positions: range) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The input's lines that these positions see, and the slab's where each is put."""
        if self.is_dense:
            span = self.span(positions)
            return np.arange(span.start, span.stop), np.arange(len(span))
        tap, position = np.arange(self.k)[:, None], np.arange(len(positions))
        seen = tap * self.dilation + (positions.start + position) * self.stride - self.before
        return seen.ravel(), (tap * self.most + position).ravel()


@lru_cache(maxsize=256)
def _slab_axes(geometry: ConvGeometry, most: tuple[int, ...]) -> tuple[_Axis, ...]:
    """The axes of slabs for blocks of at most so many positions; remembered, for small work done often."""
    axes = zip(
        geometry.input_size,
        geometry.kernel_size,
        geometry.stride,
        geometry.dilation,
        (before for before, _ in geometry.pads),
        geometry.extent,
        most,
        strict=True,
    )
    return tuple(_Axis(*axis) for axis in axes)


class Patches:
    """The patches of a batch, a block of output positions at a time: Eq. 8 as strides.

    A step in the output moves S pixels, a tap D pixels, in the same memory: patches are seen without a copy.
    Where a block reaches into the padding, where the dtype has to change, or where the channels do not lie
    side by side, the block's part of the input is first copied to a slab, used again for each block. So an
    object of this class belongs to one thread.

    Args:
        x: (N, *spatial, C).
        block_shape: the largest block there will be, over (n, *output position).
        dtype: to see the pixels in; by default that of `x`.
        groups: of channels, seen apart.
        order: of a patch's elements: "hwc", or "chw" with the channels first.
    """

    def __init__(
        self,
        x: NDArray[Any],
        geometry: ConvGeometry,
        block_shape: tuple[int, ...],
        padding_mode: str = "zeros",
        dtype: np.dtype[Any] | None = None,
        groups: int = 1,
        order: str = "hwc",
    ) -> None:
        self._x, self._geometry, self._mode = x, geometry, padding_mode
        self._dtype = x.dtype if dtype is None else dtype
        self._groups, self._channels_first = groups, order == "chw"
        self._images = block_shape[0]
        self._axes = _slab_axes(geometry, block_shape[1:])
        self._inside = [axis.inside for axis in self._axes]
        self._input = self._see_input()
        self._slab: NDArray[Any] | None = None
        self._slab_seen: _Seen | None = None
        self._inner: list[slice] | None = None
        self._last: Block | None = None

    def twin(self) -> Patches:
        """The same for another thread."""
        other = copy(self)
        other._slab = other._slab_seen = other._inner = other._last = None
        return other

    def at(self, block: Block) -> NDArray[Any]:
        """A block's patches, (groups, n, *positions, *kernel, C/groups), to read until the next block."""
        seen, cut = self._see(block)
        return seen.plain[cut]

    def copy_to(self, rows: NDArray[Any], block: Block) -> None:
        """Write a block's patches as rows of X_col, (rows, kh·kw·C), or as those of each group.

        A kernel row that lies in one run of memory is copied as one opaque element, one memcpy, several times
        faster than value by value.
        """
        seen, cut = self._see(block)
        plain = seen.plain[cut]
        target = rows.reshape(plain.shape)
        if seen.merged and _run_axes(target, seen.merged) == seen.merged:
            np.copyto(_as_runs(target, seen.merged), seen.runs[cut])
        else:
            np.copyto(target, plain)

    def matrix(self) -> NDArray[Any] | None:
        """X_col as a view of the input, (N·P, n), if its rows are runs of memory at equal steps; else None.

        So it is where kernels are 1 × 1, or as wide as their stride and the image.
        """
        whole = (self._geometry.batch, *self._geometry.output_size)
        if self._input is None or self._groups > 1:
            return None
        patches = self._input.plain[0]
        columns = math.prod(patches.shape[len(whole) :])
        if patches.shape[: len(whole)] != whole or _run_axes(patches, len(whole)) < len(whole):
            return None
        steps = [
            (size, step) for size, step in zip(whole, patches.strides[: len(whole)], strict=True) if size > 1
        ]
        step = steps[-1][1] if steps else columns * patches.itemsize
        reach = step
        for size, stride in reversed(steps):
            if stride != reach:
                return None
            reach *= size
        if step < columns * patches.itemsize:
            return None
        return as_strided(patches, self._geometry.matrix_shape, (step, patches.itemsize), writeable=False)

    def are_finite(self) -> bool:
        """Whether all pixels that the last block was taken from are: no NaN, no infinity."""
        if self._x.dtype.kind not in "fc":
            return True
        pixels = self._x if self._slab is None else self._slab
        if self._last is not None:
            images, positions = self._last.positions[0], self._last.positions[1:]
            spans = (axis.span(p) for axis, p in zip(self._axes, positions, strict=True))
            pixels = self._x[images.start : images.stop, *(slice(s.start, s.stop) for s in spans)]
        if not pixels.flags.c_contiguous or not pixels.dtype.isnative:
            return bool(np.isfinite(pixels).all())
        flat = pixels.reshape(-1).view(pixels.real.dtype)
        # One pass of BLAS. A sum of squares that overflows is no harm: the slow way is taken for nothing.
        return bool(np.isfinite(np.dot(flat, flat)))

    def _see(self, block: Block) -> tuple[_Seen, tuple[slice, ...]]:
        """What a block's patches are seen in, and their part of it."""
        images, positions = block.positions[0], block.positions[1:]
        if self._input is not None and all(
            within.start <= p.start and p.stop <= within.stop
            for within, p in zip(self._inside, positions, strict=True)
        ):
            self._last = block
            cut = [
                slice(p.start - within.start, p.stop - within.start)
                for p, within in zip(positions, self._inside, strict=True)
            ]
            return self._input, (_ALL, slice(images.start, images.stop), *cut)
        if self._slab is None or self._slab_seen is None:
            self._slab = self._new_slab()
            self._slab_seen = self._seen_in(
                self._slab, [0] * len(self._axes), [a.most for a in self._axes], [a.steps for a in self._axes]
            )
        self._fill(self._slab, self._x[images.start : images.stop], positions)
        self._last = None
        return self._slab_seen, (_ALL, slice(0, len(images)), *(slice(0, len(p)) for p in positions))

    def _see_input(self) -> _Seen | None:
        """The patches that fall inside the input, as a view of it; None where a slab is needed or better."""
        if self._x.dtype != self._dtype or not all(len(axis.inside) > 0 for axis in self._axes):
            return None
        seen = self._seen_in(
            self._x,
            [axis.inside.start * axis.stride - axis.before for axis in self._axes],
            [len(axis.inside) for axis in self._axes],
            [(axis.stride, axis.dilation) for axis in self._axes],
        )
        last = self._axes[-1]
        row = last.k > 1 and last.dilation == 1
        could_run = (
            row if self._channels_first else self._x.shape[-1] > self._groups or (row and self._groups == 1)
        )
        return seen if seen.merged or not could_run else None

    def _seen_in(
        self, memory: NDArray[Any], starts: list[int], counts: list[int], steps: list[tuple[int, int]]
    ) -> _Seen:
        """The patches as a view of (n, *lines, C): `steps` lines from position to position, tap to tap."""
        step_n, *step, step_c = memory.strides
        channels = memory.shape[-1] // self._groups
        plain = as_strided(
            memory[:, *(slice(start, None) for start in starts)],
            (self._groups, len(memory), *counts, *self._geometry.kernel_size, channels),
            (
                channels * step_c,
                step_n,
                *(a * y for a, (y, _) in zip(step, steps, strict=True)),
                *(a * i for a, (_, i) in zip(step, steps, strict=True)),
                step_c,
            ),
            writeable=False,
        )
        if self._channels_first:
            plain = np.moveaxis(plain, -1, 2 + len(starts))
        merged = _run_axes(plain, len(starts) + 1)
        return _Seen(plain, _as_runs(plain, merged) if merged else plain, merged)

    def _new_slab(self) -> NDArray[Any]:
        lines, channels = [axis.length for axis in self._axes], self._x.shape[-1]
        if self._channels_first:
            return np.moveaxis(np.zeros((self._images, channels, *lines), self._dtype), 1, -1)
        return np.zeros((self._images, *lines, channels), self._dtype)

    def _fill(self, slab: NDArray[Any], x: NDArray[Any], positions: tuple[range, ...]) -> None:
        """Copy a block's part of the input, and the padding around it."""
        pairs = list(zip(self._axes, positions, strict=True))
        spans = [axis.span(p) for axis, p in pairs]
        within = all(s.start >= 0 and s.stop <= axis.size for s, (axis, _) in zip(spans, pairs, strict=True))
        if all(axis.is_dense for axis in self._axes) and (within or self._mode == "zeros"):
            inner, source = [slice(0, len(x))], [slice(None)]
            for span, (axis, _) in zip(spans, pairs, strict=True):
                start, stop = max(span.start, 0), max(min(span.stop, axis.size), 0)
                source.append(slice(start, stop))
                inner.append(slice(start - span.start, max(stop, start) - span.start))
            if inner != self._inner:  # else the padding around is there from the block before
                slab[...] = 0
                self._inner = inner
            slab[*inner] = x[*source]
            return
        self._inner = None
        lines = [axis.lines(p) for axis, p in pairs]
        images = np.arange(len(x))
        seen = [
            padding_source(wanted, axis.size, self._mode)
            for (wanted, _), axis in zip(lines, self._axes, strict=True)
        ]
        part = x[np.ix_(images, *seen)]
        if self._mode == "zeros":
            for n, ((wanted, _), axis) in enumerate(zip(lines, self._axes, strict=True)):
                part[(slice(None),) * (n + 1) + ((wanted < 0) | (wanted >= axis.size),)] = 0
        slab[np.ix_(images, *(put for _, put in lines))] = part


def _run_axes(a: NDArray[Any], most: int) -> int:
    """How many of the last axes, up to `most`, are one run of memory; 0 where that is single elements."""
    run, merged = a.itemsize, 0
    for size, step in zip(reversed(a.shape), reversed(a.strides), strict=True):
        if merged == most or (size > 1 and step != run) or run * size > _LONGEST_RUN:
            break
        run *= size
        merged += 1
    return merged if run > a.itemsize else 0


def _as_runs(a: NDArray[Any], merged: int) -> NDArray[Any]:
    """The array with each run along its last axes as one element of that many bytes, in place."""
    keep = a.ndim - merged
    typestr = f"|V{math.prod(a.shape[keep:]) * a.itemsize}"
    seen = {
        "shape": a.shape[:keep],
        "strides": a.strides[:keep],
        "typestr": typestr,
        "descr": [("", typestr)],
    }
    return np.asarray(_Memory(a, a.__array_interface__ | seen))


class _Memory:
    """Somebody else's memory, seen in another shape and dtype, and kept alive for as long as it is seen."""

    def __init__(self, owner: NDArray[Any], interface: dict[str, Any]) -> None:
        self.owner = owner
        self.__array_interface__ = interface


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
        threads: to work with; by default what CONVMAT_THREADS says, or all cores.

    Returns:
        (N, *spatial, C); 0 where no patch reaches. Where no elements meet they keep dtype and bits. Else
        sums of integers are int64, their means float64; floats keep their dtype, in native byte order
        (float16 is summed in float32, a mean's sum one precision wider).

    Raises:
        GeometryError: sizes that make no convolution. ShapeError: an X_col that is not of this geometry.
        DTypeError: not numbers. IntegerRangeError: integers whose sums could pass 2^63.
    """
    x_col = as_numbers("x_col", x_col)
    geometry = ConvGeometry(input_shape, kernel_size, stride, padding, dilation)
    check_x_col(x_col.shape, geometry)
    rows = x_col.reshape(geometry.matrix_shape)
    image = allocate(geometry.input_shape, fold_dtype(x_col.dtype, geometry, overlap))
    check_choice("order", order, ORDERS)
    folding = Folding(geometry, x_col.dtype, overlap, threads=_worth(rows.nbytes, threads))
    if folding.adds_in(image.dtype):
        folding.fill(
            image, lambda block: _as_patches(rows[block.rows.start : block.rows.stop], geometry, block, order)
        )
        return image
    lines, start = image.reshape(geometry.batch * geometry.input_size[0], *image.shape[2:]), 0
    for block in fold_stream([rows], x_col.dtype, geometry, overlap, order, threads):
        lines[start : start + len(block)] = block
        start += len(block)
    return image


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
    if not _elements_meet(geometry):
        return dtype
    if dtype.kind in "biu":
        return np.dtype(np.int64 if overlap == "sum" else np.float64)
    return dtype.newbyteorder("=")


def fold_stream(
    parts: Iterable[NDArray[Any]],
    dtype: np.dtype[Any],
    geometry: ConvGeometry,
    overlap: str = "sum",
    order: str = "hwc",
    threads: int | None = None,
) -> Iterator[NDArray[Any]]:
    """The folded images line by line, (lines, *other axes, C), all images' first axes joined.

    Args:
        parts: X_col of `dtype`, any number of rows at a time; a few of its lines are held at a time.
    """
    check_choice("order", order, ORDERS)
    folded = fold_dtype(dtype, geometry, overlap)
    folding = Folding(
        geometry, dtype, overlap, threads=_worth(math.prod(geometry.matrix_shape) * dtype.itemsize, threads)
    )
    blocks = _regrouped(parts, folding.blocks())
    work = ((block, partial(_as_patches, rows, geometry, block, order)) for block, rows in blocks)
    for lines in folding.run(work):
        yield lines.astype(folded, copy=False)


def _worth(nbytes: int, threads: int | None) -> int:
    """Threads to move so many bytes with, of those that are asked for."""
    most = thread_count(threads)
    return most if nbytes >= _WORTH_THREADS_ADDING else 1


def _as_patches(rows: NDArray[Any], geometry: ConvGeometry, block: Block, order: str) -> NDArray[Any]:
    """A block's rows of X_col as its patches, (n, *positions, *kernel, C)."""
    where, kernel = tuple(map(len, block.positions)), geometry.kernel_size
    if order == "hwc":
        return rows.reshape(*where, *kernel, geometry.channels)
    return np.moveaxis(rows.reshape(*where, geometry.channels, *kernel), len(where), -1)


def _regrouped(
    parts: Iterable[NDArray[Any]], blocks: Iterable[Block]
) -> Iterator[tuple[Block, NDArray[Any]]]:
    """X_col's rows, however many come at a time, block by block."""
    rest, held = iter(parts), np.empty((0, 0))
    for block in blocks:
        got = [held] if len(held) else []
        while sum(map(len, got)) < len(block.rows):
            part = next(rest)
            got.append(part.reshape(-1, part.shape[-1]))
        rows = got[0] if len(got) == 1 else np.concatenate(got)
        yield block, rows[: len(block.rows)]
        held = rows[len(block.rows) :]


class Folding:
    """Sums, or means, of patches in the pixels where they meet, a block at a time.

    A block of output lines adds up in a slab of its own, the pixel lines it reaches. The last of those are
    also reached by the block that follows: they wait for it. So blocks need nothing of each other, and
    threads can work on several at a time, with the same result for any number of them.

    Args:
        geometry: of the input that is put together.
        dtype: of the patches.
        positions: output positions of an image that there are patches for; by default all.
    """

    def __init__(
        self,
        geometry: ConvGeometry,
        dtype: np.dtype[Any],
        overlap: str = "sum",
        positions: tuple[int, ...] | None = None,
        threads: int = 1,
    ) -> None:
        self._geometry, self._overlap, self._dtype, self._threads = geometry, overlap, dtype, threads
        self._positions = geometry.output_size if positions is None else positions
        self._counts = _counts(geometry)
        self._meet = any(count.max() > 1 for count in self._counts)
        self._most = math.prod(int(count.max()) for count in self._counts)
        self._accumulator = self._choose_accumulator() if self._meet else dtype
        # A mean of equal numbers is that number. A wider sum sees to it; where there is none, bounds do.
        self._bounded = self._meet and overlap == "mean" and self._accumulator == dtype and dtype.kind in "fc"
        self._slabs: dict[tuple[int, int, int], list[_Slab]] = {}

    def blocks(self) -> Iterator[Block]:
        """What `run` takes the patches of: several whole images, or whole lines of one, in order."""
        line = math.prod(self._positions[1:])
        line_bytes = max(line * self._geometry.matrix_shape[1] * self._dtype.itemsize, 1)
        lines = self._positions[0]
        # Not so few that most of a slab waits for the next.
        most = max(_BLOCK_BYTES // line_bytes, -(-self._geometry.extent[0] // (2 * self._geometry.stride[0])))
        images, most = (most // lines, lines) if most >= lines else (1, most)
        images = max(min(images, -(-self._geometry.batch // self._threads)), 1)
        start = 0
        for n in range(0, self._geometry.batch, images):
            some = range(n, min(n + images, self._geometry.batch))
            for y in range(0, lines, most):
                positions = (some, range(y, min(y + most, lines)), *map(range, self._positions[1:]))
                stop = start + math.prod(map(len, positions))
                yield Block(range(start, stop), positions)
                start = stop

    def _choose_accumulator(self) -> np.dtype[Any]:
        if self._dtype.kind in "biu":
            return np.dtype(np.int64)
        if self._dtype == np.float16:
            return np.dtype(np.float32)
        native = self._dtype.newbyteorder("=")
        wider = {"f4": "f8", "c8": "c16"}.get(native.str[1:], native)
        return np.dtype(wider if self._overlap == "mean" else native)

    def run(
        self, blocks: Iterable[tuple[Block, Callable[[], NDArray[Any]]]], blas: bool = False
    ) -> Iterator[NDArray[Any]]:
        """The images' lines, (lines, *other axes, C), a few at a time; each is valid until the next.

        Args:
            blocks: those of `blocks`, each with what gives its patches, (n, *positions, *kernel, C).
        """
        rest, waiting = iter(blocks), list[NDArray[Any]]()
        while wave := list(itertools.islice(rest, self._threads)):
            found: list[list[NDArray[Any]]] = [[] for _ in wave]

            def worker(
                found: list[list[NDArray[Any]]] = found,
            ) -> Callable[[tuple[int, tuple[Block, Callable[[], NDArray[Any]]]]], None]:
                def add(task: tuple[int, tuple[Block, Callable[[], NDArray[Any]]]]) -> None:
                    number, (_, patches) = task
                    with np.errstate(all="ignore"):
                        found[number] = self._add_up(patches(), number)

                return add

            share_out(enumerate(wave), worker, len(wave), blas)
            for (block, _), slabs in zip(wave, found, strict=True):
                lines, waiting = self._finish(block.positions[1], slabs, waiting)
                yield lines

    def adds_in(self, dtype: np.dtype[Any]) -> bool:
        """Whether sums need no more than their own dtype, so that `fill` can write them where they belong."""
        return self._accumulator == dtype and (self._overlap == "sum" or not self._meet)

    def fill(self, image: NDArray[Any], patches: Callable[[Block], NDArray[Any]], blas: bool = False) -> None:
        """Write whole images (N, *spatial, C) from all blocks' patches, each thread its own blocks' lines."""
        blocks = list(self.blocks())
        waiting: list[NDArray[Any] | None] = [None] * len(blocks)

        def worker() -> Callable[[tuple[int, Block]], None]:
            slabs: dict[tuple[int, ...], _Slab] = {}

            def add(task: tuple[int, Block]) -> None:
                number, block = task
                with np.errstate(all="ignore"):
                    found = patches(block)
                    self._check_range(found)
                    slab = slabs.get(found.shape)
                    if slab is None:
                        slab = slabs[found.shape] = _Slab(self, found)
                    slab.memory.fill(0)
                    slab.add(found)
                start, first, stop = self._own(block.positions[1])
                inner = self._inner
                own = slab.memory[:, first - start : max(stop - start, first - start), *inner]
                lines = image[block.positions[0].start : block.positions[0].stop, first:stop]
                lines[:, : own.shape[1]] = own
                lines[:, own.shape[1] :] = 0  # no patch reaches so far
                if block.positions[1].stop < self._positions[0]:
                    waiting[number] = slab.memory[:, max(stop - start, 0) :, *inner].copy()

            return add

        share_out(enumerate(blocks), worker, min(self._threads, max(len(blocks), 1)), blas)
        for block, rest in zip(blocks, waiting, strict=True):
            if rest is not None:
                _, _, stop = self._own(block.positions[1])
                lines = image[block.positions[0].start, stop : stop + rest.shape[1]]
                lines += rest[0, : len(lines)]

    @property
    def _inner(self) -> list[slice]:
        """A slab's part inside the image, along all axes but the first."""
        g = self._geometry
        return [slice(b, b + h) for (b, _), h in zip(g.pads[1:], g.input_size[1:], strict=True)]

    def _own(self, positions: range) -> tuple[int, int, int]:
        """The first line a block reaches, and the first and the end of its own lines in the image."""
        before, size, stride = (
            self._geometry.pads[0][0],
            self._geometry.input_size[0],
            self._geometry.stride[0],
        )
        start = positions.start * stride - before
        stop = size if positions.stop == self._positions[0] else positions.stop * stride - before
        return start, max(start, 0), max(min(stop, size), 0)

    def _add_up(self, patches: NDArray[Any], number: int) -> list[NDArray[Any]]:
        """Sums of patches, and where a mean needs them the least and the largest, in a thread's slabs."""
        self._check_range(patches)
        key = (number, *patches.shape[:2])
        if key not in self._slabs:
            self._slabs[key] = [_Slab(self, patches) for _ in range(3 if self._bounded else 1)]
        slabs = self._slabs[key]
        # Complex numbers are compared by part.
        for slab, first, put in zip(
            slabs, (0, np.inf, -np.inf), (np.add, np.minimum, np.maximum), strict=False
        ):
            for part in _parts(slab.memory):
                part[...] = first
            if put is np.add:
                slab.add(patches)
            else:
                for source, target in slab.pieces(patches):
                    for value, bound in zip(_parts(source), _parts(target), strict=True):
                        put(bound, value, out=bound)
        return [slab.memory for slab in slabs]

    def _finish(
        self, positions: range, slabs: list[NDArray[Any]], waiting: list[NDArray[Any]]
    ) -> tuple[NDArray[Any], list[NDArray[Any]]]:
        """The lines that no later block reaches, and a copy of the others."""
        for slab, rest, merge in zip(slabs, waiting, (np.add, np.minimum, np.maximum), strict=False):
            for ours, theirs in zip(_parts(slab), _parts(rest), strict=True):
                both = ours[:, : theirs.shape[1]]
                merge(both, theirs, out=both)
        start, first, stop = self._own(positions)
        box = (slice(None), slice(first - start, max(stop - start, first - start)), *self._inner)
        lines = self._result([slab[box] for slab in slabs], first)
        if lines.shape[1] < stop - first:  # no patch reaches further
            gap = np.zeros((len(lines), stop - first - lines.shape[1], *lines.shape[2:]), lines.dtype)
            lines = np.concatenate([lines, gap], axis=1)
        last = positions.stop == self._positions[0]
        further = len(positions) * self._geometry.stride[0]  # where the next block begins
        waiting = [] if last else [slab[:, further:].copy() for slab in slabs]
        return lines.reshape(-1, *lines.shape[2:]), waiting

    def _result(self, found: list[NDArray[Any]], first: int) -> NDArray[Any]:
        """Sums, or means, of lines from line `first` on."""
        total = found[0]
        if self._overlap == "sum" or not self._meet:
            return total
        times = np.ones(())
        for axis, count in enumerate(self._counts):
            along = count[first : first + total.shape[1]] if axis == 0 else count
            times = np.multiply.outer(times, np.maximum(along, 1))
        times = times[..., None].astype(np.result_type(total.real, np.float16))
        mean: NDArray[Any] = np.empty(total.shape, np.result_type(total, times))
        with np.errstate(all="ignore"):
            # By part: a division of complex numbers makes NaN of infinities.
            for value, part in zip(_parts(mean), _parts(total), strict=True):
                np.divide(part, times, out=value)
        if self._bounded:
            for value, low, high in zip(*map(_parts, (mean, *found[1:])), strict=True):
                # Where no patch reaches, the least is above the largest.
                np.copyto(value, np.clip(value, low, high), where=low <= high)
        return mean

    def _check_range(self, patches: NDArray[Any]) -> None:
        if not self._meet or patches.dtype.kind not in "biu" or not patches.size:
            return
        if patches.dtype.itemsize < 8 and self._most < 1 << 31:
            return
        peak = max(int(patches.max()), -int(patches.min())) * self._most
        if peak >= 1 << 63:
            raise IntegerRangeError(
                "x_col",
                f"sums of {self._most} integers could reach {peak:.3g}, int64 ends at {2**63 - 1:.3g}; "
                "use smaller integers, or floats",
            )


class _Slab:
    """The pixel lines that a block of patches reaches, padding included, and where each patch goes.

    Along each axis patches go tap by tap, or whole: then every m-th at a time, so that none meet. To be added
    they are copied first to where they stay in the cache, and where the views of them are made once for all
    blocks. There short kernel rows are added two numbers at a time, as the parts of one complex number: NumPy
    takes little longer to add two than to add one.
    """

    def __init__(self, folding: Folding, patches: NDArray[Any]) -> None:
        self._geometry, self._meet = folding._geometry, folding._meet
        g, axes = self._geometry, len(folding._geometry.kernel_size)
        shape = [len(patches)]
        for axis, (size, count) in enumerate(zip(g.input_size, patches.shape[1 : 1 + axes], strict=True)):
            reach = (count - 1) * g.stride[axis] + g.extent[axis]
            shape.append(reach if axis == 0 else max(reach, g.pads[axis][0] + size))
        self.memory = np.empty((*shape, g.channels), folding._accumulator)
        if self._meet:
            self._near = np.empty(patches.shape, folding._accumulator)
            self._sums = list(self._paired())
        self._pieces: list[tuple[tuple[slice, ...], NDArray[Any]]] | None = None

    def pieces(self, patches: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Parts of the patches that share no pixel, each with its place."""
        if self._pieces is None:
            g = self._geometry
            self._pieces = list(_places(self.memory, patches.shape, g.kernel_size, g.stride, g.dilation))
        return ((patches[part], place) for part, place in self._pieces)

    def add(self, patches: NDArray[Any]) -> None:
        """Add patches; where none meet, write them, whole runs at a time."""
        if self._meet:
            # Also uint64 fits int64, as is known by now.
            np.copyto(self._near, patches, casting="unsafe")
            for source, target in self._sums:
                np.add(target, source, out=target)
            return
        for source, target in self.pieces(patches):
            merged = min(_run_axes(source, source.ndim), _run_axes(target, source.ndim))
            if merged and source.dtype == target.dtype:
                source, target = _as_runs(source, merged), _as_runs(target, merged)
            np.copyto(target, source)

    def _paired(self) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """What is to be added to what, of `_near` and the slab."""
        g, near, memory = self._geometry, self._near, self.memory
        kernel, stride, width, pairs = g.kernel_size, g.stride, 1, None
        if g.dilation[-1] == 1:  # then channels are more taps of the last axis
            kernel, stride = ((*sizes[:-1], sizes[-1] * g.channels) for sizes in (kernel, stride))
            near = near.reshape(*near.shape[:-2], -1, 1)
            memory = memory.reshape(*memory.shape[:-2], -1, 1)
            if kernel[-1] >= _SHORT_RUN:
                width = kernel[-1]
            elif pairs := _PAIRS.get(memory.dtype.char):
                width = 2
            elif g.channels > 1:
                width = kernel[-1]
        for part, place in _places(memory, near.shape, kernel, stride, g.dilation, width):
            source = near[part]
            if pairs and source.shape[-2] == 2:
                source, place = source[..., 0].view(pairs), place[..., 0].view(pairs)
            yield source, place


def _places(
    memory: NDArray[Any],
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    width: int | None = None,
) -> Iterator[tuple[tuple[slice, ...], NDArray[Any]]]:
    """Parts of patches, (n, *positions, *kernel, C), whose elements share no pixel, each with its place.

    `width` is how many taps of the last axis go together; all where it is None.
    """
    counts, last = shape[1 : 1 + len(kernel)], len(kernel) - 1
    steps = memory.strides
    ways: list[list[tuple[slice, slice, int]]] = []
    for axis, (k, s, d, count) in enumerate(zip(kernel, stride, dilation, counts, strict=True)):
        taps = k
        if axis == last and width is not None:
            taps = width
        elif axis != last and (-(-(d * (k - 1) + 1) // s) >= k or (width or _SHORT_RUN) < _SHORT_RUN):
            taps = 1  # no more parts than of positions, or lines of positions, that NumPy runs along
        apart = min(-(-(d * (taps - 1) + 1) // s), count)
        starts = itertools.product(range(0, k, taps), range(apart))
        ways.append([(slice(f, None, apart), slice(j, j + taps), f * s + j * d) for j, f in starts])
    for way in itertools.product(*ways):
        positions, taken, begins = zip(*way, strict=True)
        part = (slice(None), *positions, *taken)
        sizes = [len(range(n)[where]) for n, where in zip((*counts, *kernel), part[1:], strict=True)]
        every = [where.step for where in positions]
        # As as_strided would make it, in a fifth of the time: small layers are made of many.
        place = np.ndarray(
            (shape[0], *sizes, shape[-1]),
            memory.dtype,
            memory,
            sum(begin * step for begin, step in zip(begins, steps[1:-1], strict=True)),
            (
                steps[0],
                *(n * s * step for n, s, step in zip(every, stride, steps[1:-1], strict=True)),
                *(d * step for d, step in zip(dilation, steps[1:-1], strict=True)),
                steps[-1],
            ),
        )
        yield part, place


def _parts(a: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """The real and the imaginary part, which are compared apart, or real numbers themselves."""
    return (a.real, a.imag) if a.dtype.kind == "c" else (a,)


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


def _elements_meet(geometry: ConvGeometry) -> bool:
    return any(count.max() > 1 for count in _counts(geometry))


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


def as_numbers(name: str, values: ArrayLike) -> NDArray[Any]:
    """`values` as an array of booleans, integers, floats or complex numbers.

    Raises:
        DTypeError: any other dtype. ShapeError: what is no array, such as lists of several lengths.
    """
    try:
        array = np.asarray(values)
    except Exception as error:  # what nests in any way, or only claims to be an array, may raise anything
        raise ShapeError(name, f"is no array: {' '.join(str(error).split())[:80]}; give one") from None
    if array.dtype.kind not in "biufc":
        raise DTypeError(
            name, f"has dtype {array.dtype}; expected booleans, integers, floats or complex numbers"
        )
    return array


def check_flag(name: str, value: Any) -> None:
    """Raise GeometryError unless `value` is True or False, of Python or NumPy."""
    if not isinstance(value, (bool, np.bool_)):
        raise GeometryError(name, f"expected True or False, got {told(value)}")


def is_finite(value: Any) -> bool:
    """Whether `value` is one real number, as float64 can hold it."""
    try:
        return isinstance(value, (int, float, np.integer, np.floating)) and math.isfinite(value)
    except OverflowError:
        return False


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], what: str) -> None:
    """Raise ShapeError or DTypeError unless `out` is an array of this shape and dtype, those of `what`."""
    if not isinstance(out, np.ndarray):
        raise ShapeError("out", f"expected an array of shape {shape}, got {told(out)}")
    if out.shape != shape:
        raise ShapeError("out", f"has shape {out.shape}, {what} has {shape}")
    if out.dtype != dtype:
        raise DTypeError("out", f"has dtype {out.dtype}, {what} has {dtype}")


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
