"""Unrolling images into X_col and flattening filters into W_col: the FC equivalence, on arrays."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import ArrayLike, NDArray

from convmat.errors import DTypeError, GeometryError, ShapeError
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
from convmat.parallel import share_out, thread_count

# Of X_col, written at one time by a thread: bounds a block's slab, and a stream's memory.
_BLOCK_BYTES = 1 << 20
_WORTH_THREADS = 1 << 19  # bytes; below, to wake another thread takes longer than it saves
_LONGEST_RUN = 1 << 30  # bytes; NumPy's elements end at 2^31


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
        out = np.empty(geometry.matrix_shape, x.dtype)
    elif out.shape != geometry.matrix_shape:
        raise ShapeError("out", f"has shape {out.shape}, X_col has {geometry.matrix_shape}")
    elif out.dtype != x.dtype:
        raise DTypeError("out", f"has dtype {out.dtype}, X_col keeps the input's {x.dtype}")
    elif np.may_share_memory(out, x):
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

    def worker(buffer: NDArray[Any], first: int) -> Callable[[], Callable[[Block], None]]:
        def make() -> Callable[[Block], None]:
            patches = Patches(x, geometry, shape, padding_mode, order=order)
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
        self._axes = [
            _Axis(*axis)
            for axis in zip(
                geometry.input_size,
                geometry.kernel_size,
                geometry.stride,
                geometry.dilation,
                (before for before, _ in geometry.pads),
                geometry.extent,
                block_shape[1:],
                strict=True,
            )
        ]
        self._input = self._see_input()
        self._slab: NDArray[Any] | None = None
        self._slab_seen: _Seen | None = None
        self._inner: list[slice] | None = None
        self._read = x[:0]

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
        pixels = self._read
        if pixels.dtype.kind not in "fc":
            return True
        if not pixels.flags.c_contiguous or not pixels.dtype.isnative:
            return bool(np.isfinite(pixels).all())
        flat = pixels.reshape(-1).view(pixels.real.dtype)
        # One pass of BLAS. A sum of squares that overflows is no harm: the slow way is taken for nothing.
        return bool(np.isfinite(np.dot(flat, flat)))

    def _see(self, block: Block) -> tuple[_Seen, tuple[slice, ...]]:
        """What a block's patches are seen in, and their part of it."""
        images, positions = block.positions[0], block.positions[1:]
        if self._input is not None and all(
            axis.inside.start <= p.start and p.stop <= axis.inside.stop
            for axis, p in zip(self._axes, positions, strict=True)
        ):
            spans = (axis.span(p) for axis, p in zip(self._axes, positions, strict=True))
            self._read = self._x[images.start : images.stop, *(slice(s.start, s.stop) for s in spans)]
            starts = [axis.inside.start for axis in self._axes]
            cut = [slice(p.start - start, p.stop - start) for p, start in zip(positions, starts, strict=True)]
            return self._input, (slice(None), slice(images.start, images.stop), *cut)
        if self._slab is None or self._slab_seen is None:
            self._slab = self._new_slab()
            self._slab_seen = self._seen_in(
                self._slab, [0] * len(self._axes), [a.most for a in self._axes], [a.steps for a in self._axes]
            )
        self._fill(self._slab, self._x[images.start : images.stop], positions)
        self._read = self._slab
        return self._slab_seen, (slice(None), slice(0, len(images)), *(slice(0, len(p)) for p in positions))

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
        DTypeError: any other dtype.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biufc":
        raise DTypeError(
            name, f"has dtype {array.dtype}; expected booleans, integers, floats or complex numbers"
        )
    return array
