"""Folding X_col back into images: elements that meet in a pixel are added, or their mean is taken."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, reduce
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat import native
from convmat.arrays import numbers
from convmat.checks import choice
from convmat.errors import IntegerRangeError, ShapeError
from convmat.geometry import ORDERS, ConvGeometry, Padding, Sizes
from convmat.patches import BLOCK_BYTES, allocate, geometry_of, pack
from convmat.threads import thread_count

OVERLAPS = ("sum", "mean")


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


def bands_of(geometry: ConvGeometry, outputs: Sequence[int], line_bytes: int, limit: int) -> Iterator[Band]:
    """Images cut so that the outputs that reach a band take `limit` bytes, or what one kernel's height is.

    Args:
        outputs: of an image along each axis. line_bytes: of a line of them.
    """
    size, stride, extent = geometry.input_size[0], geometry.stride[0], geometry.extent[0]
    count, line = outputs[0], math.prod(outputs[1:])
    fit = max(limit // max(line_bytes, 1), 1)
    images, step = (fit // count, size) if fit >= count else (1, max(fit, -(-extent // stride)) * stride)
    for n in range(0, geometry.batch, images):
        some = range(n, min(n + images, geometry.batch))
        for start in range(0, size, step):
            stop = min(start + step, size)
            lines, reaching = range(start, stop), range(count)
            if step < size:
                reaching = geometry.outputs_reaching(0, lines, count)
            yield Band(some, lines, reaching, rows_of(some, reaching, count, line))


def rows_of(images: range, outputs: range, count: int, line: int) -> range:
    """The rows of X_col of some outputs along the first axis, which has `count` lines of `line` outputs."""
    return range(
        (images.start * count + outputs.start) * line, ((images.stop - 1) * count + outputs.stop) * line
    )


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
        return bands_of(self.geometry, self.geometry.output_size, line, limit)

    def write(self, lines: NDArray[Any], rows: NDArray[Any], band: Band) -> None:
        """Write a band's lines, (n, lines, *others, C), C-contiguous, from its rows of X_col."""
        g, order, parts = self.geometry, self.order, 1
        compiled = (
            native.library() if self.accumulator.itemsize <= _widest(self.how, self.accumulator) else None
        )
        if self.how == "sum":
            check_sums(rows, g)
        folded = lines if self.accumulator == self.result else np.empty(lines.shape, self.accumulator)
        sums = folded
        with np.errstate(all="ignore"):
            if self.how != "move":
                rows = rows.astype(self.accumulator, copy=False)
            if self.how != "move" and self.accumulator.kind == "c":  # two channels each, which are neighbours
                rows, order, parts = _as_floats(self._patches(rows, band)), "hwc", 2
                sums = _as_floats(folded)
            if compiled is not None:
                out = [len(band.outputs), *g.output_size[1:]]
                packed = pack(g, len(folded), folded.shape[1:-1], out, band.before(g), parts=parts)
                rows, count = np.ascontiguousarray(rows), math.prod(folded.shape[:-2])
                compiled.fold(packed, rows, 0, sums, self.how, order, 0, count, self.threads)
            else:
                sums[...] = self._by_numpy(self._patches(rows, band) if parts == 1 else rows, band)
            if folded is not lines:
                np.copyto(lines, folded, casting="unsafe")

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
    counts = []
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
        counts.append(count)
    return tuple(counts)


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
