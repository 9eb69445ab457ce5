"""The engine: check, plan, run; X_col is never whole.

`prepare` checks a convolution's arrays and joins them with a `Plan`, a frozen value that says what will run:
in which arithmetic, by which kernel, in which boxes, on how many threads. `execute` and `stream` run it.
Where there is a compiled library, it reads each tap where it lies in x. Where there is none, or sums need
int64, NumPy multiplies blocks of X_col by W_col, or adds tap by tap where each filter sees a single channel.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat import native
from convmat.arithmetic import Arithmetic, choose_arithmetic
from convmat.axis import PADDING_MODES
from convmat.blocks import Block
from convmat.checks import bias_numbers, choice, filter_groups, flag, numbers, out_array
from convmat.errors import ShapeError
from convmat.geometry import ConvGeometry, Padding, Sizes
from convmat.patches import (
    Band,
    allocate,
    bands,
    geometry_of,
    lay_down,
    pack_block,
    patches_of,
    settled_where,
    steps_of,
    window,
)
from convmat.shown import Fact, Shown, bytes_text, shape_fact, sizes
from convmat.threads import thread_count
from convmat.transposed import transpose_geometry

BLOCK_BYTES = 1 << 21
"""Of NumPy's X_col, or of what is converted of X or Y, that are held at a time."""

_CALL_FLOPS = 20_000_000_000
"""Done by one call of the compiled library, at most about: between two calls Ctrl-C is answered."""

_WORTH_THREADS = 1_000_000
"""Operations and bytes, about, from which on another thread is woken."""

NUMPY_KERNELS = ("blocks", "taps")


def convolve(
    x: ArrayLike,
    filters: ArrayLike,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
    bias: ArrayLike | None = None,
    flip: bool = False,
    padding_mode: str = "zeros",
    *,
    out: NDArray[Any] | None = None,
    threads: int | None = None,
) -> NDArray[Any]:
    """Convolve images with filters as a matrix product, Y = X_col · W_col (+ bias), without X_col in memory.

    "Convolution" is cross-correlation, as in every CNN; `flip` reverses the filters along each spatial axis
    for the true convolution (Eq. 3).

    Args:
        x: (N, *spatial, C), 1 to 3 spatial axes, any strides and byte order; not written to.
        filters: (K, *kernel, C/groups).
        stride, padding, dilation: as `ConvGeometry` takes them; padding_mode as `unroll` does.
        groups: divides C and K; group g's filters see only group g's channels. C for depthwise.
        bias: (K,), added to each position.
        out: array to write Y to, of its shape and dtype, that overlaps no input.
        threads: to work with, 1 to 1024; by default what CONVMAT_THREADS says, or all cores. The same call
            gives the same bits for any number.

    Returns:
        Y, (N, *out, K). Integers give the exact int64; floats and complex compute in the widest of the
        inputs' dtypes, float16 accumulates in float32 and is rounded once. Each element of a float
        result is within Higham's bound of the exact sum (see `convmat.verify`).

    Raises:
        GeometryError, ShapeError: sizes, filters, bias or out that do not fit.
        DTypeError: elements that are not numbers, or wider than float64 and complex128; out of another dtype.
        IntegerRangeError: integers whose sums could pass 2^63.
    """
    todo = prepare(x, filters, stride, padding, dilation, groups, bias, flip, padding_mode, threads)
    return execute(todo, out)


def multiply(x_col: ArrayLike, w_col: ArrayLike, threads: int | None = None) -> NDArray[Any]:
    """Y = X_col · W_col, (..., K): a convolution with kernels of one pixel, and its arithmetic.

    Args:
        x_col: (..., n), rows of patches; any leading axes. w_col: (n, K). threads: as `convolve` takes them.

    Raises:
        ShapeError: columns of X_col that are not the rows of W_col. DTypeError, IntegerRangeError: as
            `convolve`.
    """
    x_col, w_col = numbers("x_col", x_col), numbers("w_col", w_col)
    check_product(x_col.shape, w_col.shape)
    line = x_col.reshape(1, math.prod(x_col.shape[:-1]), len(w_col))
    if not line.size:  # a line has a pixel at least
        return np.empty((*x_col.shape[:-1], w_col.shape[1]), result_dtype(x_col.dtype, w_col.dtype))
    y = execute(prepare(line, w_col.T[:, None], threads=threads))
    return y.reshape(*x_col.shape[:-1], w_col.shape[1])


def check_product(x_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> None:
    """Raise ShapeError unless X_col (..., n) and W_col (n, K) can be multiplied."""
    if len(w_shape) != 2 or 0 in w_shape:
        raise ShapeError(
            "w_col", f"has shape {w_shape}, expected (n, K), neither 0; flatten-filters makes one"
        )
    if len(x_shape) < 2 or x_shape[-1] != w_shape[0]:
        raise ShapeError(
            "x_col",
            f"has shape {x_shape}, W_col has {w_shape}: expected {w_shape[0]} columns; "
            "unroll with the kernel's own size and the input's own channels",
        )


def result_dtype(*dtypes: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that `convolve` and `multiply` return for inputs of these dtypes."""
    return choose_arithmetic(0, *(np.empty(0, dtype) for dtype in dtypes)).result


# Check.


class Convolution(NamedTuple):
    """A plan with the arrays it was made for."""

    plan: Plan
    x: NDArray[Any]
    filters: NDArray[Any]
    """(K, *kernel, C/groups), flipped if so asked, as `_weights` makes them."""
    bias: NDArray[Any] | None
    """(K,), likewise."""


def prepare(
    x: ArrayLike,
    filters: ArrayLike,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
    bias: ArrayLike | None = None,
    flip: bool = False,
    padding_mode: str = "zeros",
    threads: int | None = None,
    kernel: str | None = None,
    band_bytes: int | None = None,
) -> Convolution:
    """Check a convolution's arrays and plan it.

    Arguments and errors are those of `convolve`; `kernel` and `band_bytes` those of `make_plan`.
    """
    x, filters = numbers("input", x), numbers("filters", filters)
    choice("padding_mode", padding_mode, PADDING_MODES)
    flag("flip", flip)
    bias = None if bias is None else numbers("bias", bias)
    arithmetic = choose_arithmetic(math.prod(filters.shape[1:]), x, filters, bias)
    steps = steps_of(x) if x.dtype == arithmetic.accumulator else None
    compiled = (
        native.library() if kernel not in NUMPY_KERNELS and arithmetic.accumulator.kind != "i" else None
    )
    where = settled_where(stride, padding, dilation, groups)
    layer = (x.shape, filters.shape, *where, arithmetic, padding_mode, steps, compiled, kernel, band_bytes)
    plan = make_plan(*layer, 1 if threads is None else thread_count(threads))
    if threads is None and plan.worth_threads:  # to ask how many there are takes as long as a small layer
        plan = make_plan(*layer, thread_count())
    if bias is not None:
        bias_numbers(bias, len(filters), "filters")
    if flip:
        filters = np.flip(filters, tuple(range(1, filters.ndim - 1)))
    return Convolution(plan, x, *_weights(filters, bias, arithmetic.accumulator, compiled))


def _weights(
    filters: NDArray[Any],
    bias: NDArray[Any] | None,
    accumulator: np.dtype[Any],
    compiled: native.Native | None,
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Filters and bias in the accumulator's dtype, C-contiguous; where compiled, complex ones `as_real`."""
    if filters.dtype != accumulator or (bias is not None and bias.dtype != accumulator):
        with np.errstate(all="ignore"):
            filters = filters.astype(accumulator, copy=False)
            bias = None if bias is None else bias.astype(accumulator)
    if compiled is not None and accumulator.kind == "c":
        filters, bias = as_real(filters), None if bias is None else _as_floats(np.ascontiguousarray(bias))
    return tidy(filters), None if bias is None else tidy(bias)


def tidy(a: NDArray[Any]) -> NDArray[Any]:
    """The array, C-contiguous and aligned."""
    return a if a.flags.c_contiguous and a.flags.aligned else np.array(a, order="C")


def as_real(filters: NDArray[Any]) -> NDArray[Any]:
    """Complex filters (K, *kernel, C/groups) as the real ones, (2K, *kernel, 2C/groups), that do the same.

    They see each complex number of x as two channels, and give each of Y as two, by [re −im; im re].
    """
    count, *kernel, depth = filters.shape
    real = np.empty((count, 2, *kernel, depth, 2), filters.real.dtype)
    real[:, 0, ..., 0] = real[:, 1, ..., 1] = filters.real
    real[:, 1, ..., 0] = filters.imag
    np.multiply(filters.imag, -1, out=real[:, 0, ..., 1])  # np.negative is wrong for some strides (NumPy 2.4)
    return real.reshape(2 * count, *kernel, 2 * depth)


def filter_geometry(
    input_shape: tuple[int, ...],
    filter_shape: tuple[int, ...],
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: SupportsIndex = 1,
) -> ConvGeometry:
    """The geometry of filters (K, *kernel, C/groups) on an input (N, *spatial, C), checked to fit.

    Raises:
        ShapeError: another number of axes or channels. GeometryError: as `ConvGeometry`.
    """
    if len(filter_shape) != len(input_shape) or 0 in filter_shape:
        raise ShapeError(
            "filters",
            f"have shape {filter_shape}, expected (K, *kernel, C/groups) with "
            f"{len(input_shape)} axes, none 0, as for the input {input_shape}",
        )
    geometry = geometry_of(input_shape, filter_shape[1:-1], stride, padding, dilation, groups)
    filter_groups(filter_shape[0], geometry.groups)
    if filter_shape[-1] * geometry.groups != geometry.channels:
        raise ShapeError(
            "filters",
            f"made for {filter_shape[-1]} channels in each of {geometry.groups} groups, the input has "
            f"{geometry.channels} in all; give filters of shape "
            f"{('K', *filter_shape[1:-1], geometry.channels // geometry.groups)}".replace("'", ""),
        )
    return geometry


# Plan.


@dataclass(frozen=True)
class Plan(Shown):
    """One convolution, decided: its arithmetic, its kernel, what is computed at a time, how many threads."""

    geometry: ConvGeometry
    filters: int
    """K."""
    arithmetic: Arithmetic
    padding_mode: str
    kernel: str
    """Compiled: "wide" (vectors of filters), "planes" (of outputs) or "depthwise" (of channels). NumPy's:
    "blocks" (of X_col, times W_col) or "taps" (added one after another)."""
    level: str
    """The instructions that the compiled kernel uses, or "NumPy"."""
    in_place: bool
    """Whether x is read where it lies. Else each band's part is first copied, in the accumulator's dtype."""
    band: tuple[int, ...]
    """Outputs, over (n, *position), computed by one call; consecutive rows of Y."""
    box: native.Box | None
    """Outputs that a thread of a compiled kernel computes at a time; None for NumPy."""
    threads: int
    layer: bytes | None = field(repr=False, compare=False)
    """What the compiled library is given, where one call does it all."""

    def for_batch(self, batch: int) -> Plan:
        """The same plan for another number of images: as a batch is run that comes in parts."""
        return replace(self, geometry=self.geometry.for_batch(batch))

    @cached_property
    def output_shape(self) -> tuple[int, ...]:
        """(N, *out, K)."""
        return (self.geometry.batch, *self.geometry.output_size, self.filters)

    @property
    def scratch(self) -> int:
        """Bytes that a thread works in: of a compiled box, or of NumPy's block of X_col and its product."""
        if self.box is not None:
            return self.box.scratch
        columns = self.geometry.matrix_shape[1] if self.kernel == "blocks" else self.geometry.channels
        return math.prod(self.band) * (columns + self.filters) * self.arithmetic.accumulator.itemsize

    @property
    def flops(self) -> int:
        """Multiplications and additions of the definition; of a complex product there are four, and four."""
        each = 8 if self.arithmetic.accumulator.kind == "c" else 2
        return each * self.geometry.matrix_shape[0] * self.geometry.terms * self.filters

    @property
    def bytes(self) -> int:
        """Bytes of X and W, in the accumulator's dtype, and of Y: what has to be read and written once."""
        weights = self.filters * self.geometry.terms
        read = (math.prod(self.geometry.input_shape) + weights) * self.arithmetic.accumulator.itemsize
        return read + math.prod(self.output_shape) * self.arithmetic.result.itemsize

    @cached_property
    def worth_threads(self) -> bool:
        """Whether there is so much to do that to wake another thread takes less than it saves."""
        return self.box is not None and self.flops // 8 + self.bytes >= _WORTH_THREADS

    def facts(self) -> list[Fact]:
        """The layer, and how it is computed."""
        geometry, summed = self.geometry, str(self.arithmetic.accumulator)
        weights = (*geometry.kernel_size, geometry.channels // geometry.groups)
        box = None if self.box is None else list(self.box[:4])
        band = f"{sizes(self.band)} of (n, *positions)" + (f", in boxes of {sizes(box)}" if box else "")
        read = "read where it lies" if self.in_place else "copied, a band at a time"
        return [
            *geometry.facts(),
            Fact("filters", "filters", self.filters, f"{self.filters} of {sizes(weights)}"),
            Fact("groups", "groups", geometry.groups, str(geometry.groups)),
            shape_fact("output_shape", "Y", self.output_shape),
            Fact("kernel", "kernel", self.kernel, f"{self.kernel}, {self.level}"),
            Fact("level", "", self.level, ""),
            Fact("accumulators", "summed in", [summed], summed),
            Fact("in_place", "X", self.in_place, read),
            Fact("band_shape", "outputs at a time", list(self.band), band),
            Fact("box_shape", "", box, ""),
            Fact("scratch_bytes", "scratch of a thread", self.scratch, bytes_text(self.scratch)),
            Fact("threads", "threads", self.threads, str(self.threads)),
            Fact("flops", "FLOPs", self.flops, str(self.flops)),
            Fact("bytes", "bytes of X, W, Y", self.bytes, bytes_text(self.bytes)),
        ]

    def __str__(self) -> str:
        return (
            f"{self.kernel}, {self.level}, {sizes(self.band)} outputs at a time"
            + ("" if self.box is None else f" in boxes of {sizes(self.box[:4])}")
            + (", x read in place" if self.in_place else ", x copied")
            + f"; {self.scratch} bytes of scratch, {self.threads} thread{'s' if self.threads > 1 else ''}; "
            f"{self.flops} FLOPs in {self.arithmetic.accumulator}, {self.bytes} bytes, "
            f"result {self.arithmetic.result}"
        )


def choose_kernel(taps: int, planes: int, channels: int, filters: int, groups: int, lanes: int) -> str:
    """The compiled kernel that suits a layer.

    Args:
        taps: of a kernel, kd·kh·kw. planes: that the kernel of that name makes of a channel, kd·S_h·S_w.
        lanes: of a vector.
    """
    depth, own = channels // groups, filters // groups
    if depth == 1 and channels >= lanes:
        return "depthwise"
    # Cycles for an output, about: vectors of filters; or the planes, and a vector of outputs for each tap.
    wide = 24 + depth * 0.6 * taps * -(-own // lanes)
    split = 4 + 1.75 * own + depth * (planes * (1 if groups == 1 else 2.5) + 0.75 * taps * own / lanes)
    return "planes" if split < wide else "wide"


def kernels(geometry: ConvGeometry, accumulator: np.dtype[Any]) -> tuple[str, ...]:
    """Every kernel that can compute such a layer here."""
    alone, compiled = geometry.channels == geometry.groups, native.library()
    found = ["blocks", *(["taps"] if alone else [])]
    if compiled is not None and accumulator.kind in "fc":
        found += ["wide", "planes"]
        if alone and accumulator.kind == "f" and geometry.channels >= compiled.lanes(accumulator):
            found.append("depthwise")
    return tuple(found)


@lru_cache(maxsize=256)
def make_plan(
    input_shape: tuple[int, ...],
    filter_shape: tuple[int, ...],
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    arithmetic: Arithmetic,
    padding_mode: str,
    steps: tuple[int, ...] | None,
    compiled: native.Native | None,
    kernel: str | None,
    band_bytes: int | None,
    threads: int,
) -> Plan:
    """Decide how to convolve; remembered, since the same layer comes again and again.

    Args:
        stride, padding, dilation, groups: as `settled_where` makes them.
        steps: `steps_of` an x that has the accumulator's dtype, and can be read where it lies.
        compiled: the library that is to compute; None for NumPy.
        kernel: one of `kernels`; by default the one that suits.
        band_bytes: of Y, or of what is copied for it, that are held at a time, at most, or one row; by
            default `BLOCK_BYTES` where something is copied, else all.
        threads: to use at most; small work is done on one.
    """
    geometry = filter_geometry(input_shape, filter_shape, stride, padding, dilation, groups)
    (accumulator, result), filters = arithmetic, filter_shape[0]
    itemsize, parts = accumulator.itemsize, _parts(accumulator)
    plan = Plan(geometry, filters, arithmetic, padding_mode, kernel or "", "NumPy", False, (), None, 1, None)
    if compiled is None:
        kernel = kernel or ("taps" if geometry.channels == geometry.groups else "blocks")
        row = itemsize * max(filters, geometry.row_footprint)
        # No more than by default: BLAS rounds by the size of a block, and a stream has the bits of the whole.
        fit = min(band_bytes or BLOCK_BYTES, BLOCK_BYTES) // row
        return replace(plan, kernel=kernel, band=geometry.block_shape(fit))
    whole = band_bytes is None and (accumulator == result or result.kind == "i")
    if whole and steps is not None:
        rows = _CALL_FLOPS // (2 * geometry.terms * filters)
    else:
        row = itemsize * max(0 if whole else filters, math.prod(geometry.stride) * geometry.channels)
        rows = (band_bytes or BLOCK_BYTES) // row
    band = geometry.block_shape(rows)
    first = Block(range(math.prod(band)), tuple(map(range, band)))
    sizes = pack_block(geometry, first, steps, padding_mode, filters, parts)
    real = np.empty(0, accumulator).real.dtype
    if kernel is None:
        taps, planes = math.prod(geometry.kernel_size), math.prod(geometry.stride[-2:])
        planes *= math.prod(geometry.kernel_size[:-2])
        layer = (parts * geometry.channels, parts * filters, geometry.groups)
        kernel = choose_kernel(taps, planes, *layer, compiled.lanes(real))
    plan = replace(plan, kernel=kernel, level=compiled.level, in_place=steps is not None, band=band)
    all_at_once = steps is not None and band == (geometry.batch, *geometry.output_size)
    plan = replace(plan, box=native.Box(0, 0, 0, 0, 0, 0))
    threads = threads if plan.worth_threads else 1
    packed = compiled.layer(sizes, real, kernel, threads, result.kind == "i")
    return replace(plan, box=native.box_of(packed), threads=threads, layer=packed if all_at_once else None)


def _parts(dtype: np.dtype[Any]) -> int:
    """Real numbers in one of the dtype's."""
    return 2 if dtype.kind == "c" else 1


# Run.


def execute(todo: Convolution, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Y, (N, *out, K), whole; written to `out` where given.

    Raises:
        ShapeError, DTypeError: an `out` of another shape or dtype, or that overlaps an input.
    """
    plan = todo.plan
    if out is None:
        y = out = allocate(plan.output_shape, plan.arithmetic.result)
    else:
        out_array(out, plan.output_shape, plan.arithmetic.result, "Y", todo.x, todo.filters, todo.bias)
        y = out if out.flags.c_contiguous and out.flags.aligned else np.empty(out.shape, out.dtype)
    if plan.layer is not None:
        _call(todo, plan.layer, todo.x, y)
    else:
        rows = y.reshape(-1, plan.filters)
        for block in plan.geometry.boxes(plan.band):
            _compute(todo, block, rows[block.rows.start : block.rows.stop])
    if y is not out:
        out[...] = y
    return out


def stream(todo: Convolution) -> Iterator[NDArray[Any]]:
    """Y's rows, (rows, K), in order, a band at a time; each is valid until the next."""
    plan = todo.plan
    buffer = np.empty((math.prod(plan.band), plan.filters), plan.arithmetic.result)
    for block in plan.geometry.boxes(plan.band):
        rows = buffer[: len(block.rows)]
        _compute(todo, block, rows)
        yield rows


def _compute(todo: Convolution, block: Block, rows: NDArray[Any]) -> None:
    """Write a band's rows of Y, C-contiguous, (rows, K)."""
    plan, compiled = todo.plan, native.library()
    accumulator = plan.arithmetic.accumulator
    with np.errstate(all="ignore"):  # an infinity or NaN is a result here, not an accident to warn of
        if plan.box is None or compiled is None:
            np.copyto(rows, _by_numpy(todo, block), casting="unsafe")
            return
        x, steps = todo.x[block.positions[0].start :], None
        if plan.in_place:
            steps = steps_of(x)
        else:
            seen = tidy(window(todo.x, plan.geometry, block.positions, plan.padding_mode))
            x = np.empty(seen.shape, accumulator)
            _convert(compiled, seen, x, plan.threads)
    sizes = pack_block(plan.geometry, block, steps, plan.padding_mode, plan.filters, _parts(accumulator))
    real, integers = _as_floats(x).dtype, plan.arithmetic.result.kind == "i"
    _call(todo, compiled.layer(sizes, real, plan.kernel, plan.threads, integers), x, rows)


def _call(todo: Convolution, layer: bytes, x: NDArray[Any], y: NDArray[Any]) -> None:
    """One call of the compiled library; its sums are converted where it does not write Y's dtype."""
    plan, compiled = todo.plan, native.library()
    assert compiled is not None
    accumulator, result = plan.arithmetic
    sums = y if accumulator == result or result.kind == "i" else np.empty(y.shape, accumulator)
    compiled.convolve(layer, _as_floats(x), todo.filters, todo.bias, _as_floats(sums), plan.threads)
    if sums is not y:
        with np.errstate(all="ignore"):
            np.copyto(y, sums, casting="unsafe")


def _convert(compiled: native.Native, source: NDArray[Any], target: NDArray[Any], threads: int) -> None:
    """Copy numbers to floats, both C-contiguous; by all threads where the library can."""
    a = source.dtype
    if a.isnative and ((a.kind in "bi" and a.itemsize <= 4) or (a.kind == "u" and a.itemsize <= 2)):
        compiled.convert(source, target, threads)
    else:
        np.copyto(target, source, casting="unsafe")


def _as_floats(a: NDArray[Any]) -> NDArray[Any]:
    """Complex numbers, which are neighbours, as twice as many channels, in place."""
    return a.view(a.real.dtype) if a.dtype.kind == "c" else a


def _by_numpy(todo: Convolution, block: Block) -> NDArray[Any]:
    """A band's rows of Y in the accumulator's dtype: X_col · W_col of each group, or tap by tap."""
    plan, filters = todo.plan, todo.filters
    g, axes = plan.geometry, len(plan.geometry.kernel_size)
    seen = patches_of(window(todo.x, g, block.positions, plan.padding_mode, filters.dtype), g)
    own = plan.filters // g.groups
    if plan.kernel == "taps":
        total = np.zeros((*seen.shape[: axes + 2], own), filters.dtype)
        by_channel = filters.reshape(g.groups, own, *g.kernel_size)
        for tap in itertools.product(*map(range, g.kernel_size)):
            at: Any = (..., *tap)
            total += seen[at][..., None] * by_channel[at]
    else:
        total = np.empty((len(block.rows), g.groups, own), filters.dtype)
        pixels = np.moveaxis(seen, axes + 1, -1)
        for part, w, y in zip(
            np.split(pixels, g.groups, -1), np.split(filters, g.groups), total.swapaxes(0, 1), strict=True
        ):
            y[...] = part.reshape(len(block.rows), g.terms) @ w.reshape(own, g.terms).T
    rows = total.reshape(-1, plan.filters)
    return rows if todo.bias is None else rows + todo.bias


# The way back.


def convolve_transpose(
    y: ArrayLike,
    filters: ArrayLike,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
    output_padding: Sizes = 0,
    input_shape: Sequence[SupportsIndex] | None = None,
    *,
    bias: ArrayLike | None = None,
    threads: int | None = None,
) -> NDArray[Any]:
    """Transposed convolution: fold(Y · W_colᵀ), the adjoint of `convolve`, ⟨convolve x, y⟩ = ⟨x, this y⟩.

    So it is the gradient of a convolution by its input, and the layer called deconvolution or
    ConvTranspose. Compiled, Y · W_colᵀ is never in memory.

    Args:
        y: (N, *out, K), what a convolution with these filters gives.
        filters: (K, *kernel, C/groups), those of the convolution that is transposed.
        stride, padding, dilation, groups: of that convolution.
        output_padding: lines more at the end of each axis; 0 to max(stride, dilation) − 1.
        input_shape: (N, *spatial, C) of that convolution's input, where many would give this y: the result
            is then the exact adjoint, under any padding name. Without it the output has
            (H − 1)·S − P + D·(k − 1) + 1 + output_padding lines, or H·S for "same" and "same-lower".
        bias: (C,), added to each pixel.
        threads: as `convolve` takes them; the same bits for any number.

    Returns:
        (N, *spatial, C), in the dtype that `convolve` has.

    Raises:
        As `convolve`; GeometryError for an `input_shape` whose convolution does not give this y.
    """
    y, filters = numbers("input", y), numbers("filters", filters)
    if len(filters.shape) != y.ndim or 0 in filters.shape:
        raise ShapeError(
            "filters",
            f"have shape {filters.shape}, expected (K, *kernel, C/groups) with {y.ndim} axes, none 0",
        )
    if y.shape[-1] != len(filters):
        raise ShapeError(
            "input",
            f"has {y.shape[-1]} channels, {len(filters)} filters give as many; what is transposed takes "
            "the outputs of a convolution with these filters",
        )
    filter_groups(len(filters), groups)
    geometry = transpose_geometry(
        y.shape,
        filters.shape[-1] * groups,
        filters.shape[1:-1],
        stride,
        padding,
        dilation,
        groups,
        output_padding,
        input_shape,
    )
    if bias is not None:
        bias = bias_numbers(bias, geometry.channels, "channels")
    terms = math.prod(geometry.kernel_size) * len(filters) // groups
    accumulator, result = choose_arithmetic(terms, y, filters, bias)
    threads, compiled = thread_count(threads), native.library() if accumulator.kind != "i" else None
    if compiled is not None:
        filters = filters.conj()  # for `as_real`: its transpose is that of the filters themselves
    weights, bias = _weights(filters, bias, accumulator, compiled)
    line = math.prod(y.shape[2:-1]) * accumulator.itemsize
    line *= len(filters) if compiled is not None else math.prod(geometry.kernel_size) * geometry.channels
    x = allocate(geometry.input_shape, result)
    for band in bands(geometry, y.shape[1:-1], line, BLOCK_BYTES):
        part = y[band.images.start : band.images.stop, band.outputs.start : band.outputs.stop]
        lines = x[band.box]
        with np.errstate(all="ignore"):
            part = tidy(part.astype(accumulator, copy=False))
            direct = accumulator == result or (compiled is not None and result.kind == "i")
            sums = lines if direct else np.empty(lines.shape, accumulator)
            if compiled is not None:
                _transpose_compiled(compiled, geometry, band, part, weights, bias, sums, threads)
            else:
                sums[...] = lay_down(_products(part, weights, geometry), geometry, band)
                sums += 0 if bias is None else bias
            if sums is not lines:
                np.copyto(lines, sums, casting="unsafe")
    return x


def _products(y: NDArray[Any], filters: NDArray[Any], geometry: ConvGeometry) -> NDArray[Any]:
    """Y · W_colᵀ of each group as patches, (n, *positions, *kernel, C)."""
    groups, kernel, depth = geometry.groups, geometry.kernel_size, filters.shape[-1]
    own = len(filters) // groups
    rows = y.reshape(-1, groups, own).swapaxes(0, 1)
    found = np.matmul(rows, filters.reshape(groups, own, -1))  # (groups, rows, kh·kw·C/groups)
    split: NDArray[Any] = np.moveaxis(found.reshape(groups, *y.shape[:-1], *kernel, depth), 0, -2)
    return split.reshape(*y.shape[:-1], *kernel, geometry.channels)


def _transpose_compiled(
    compiled: native.Native,
    geometry: ConvGeometry,
    band: Band,
    y: NDArray[Any],
    filters: NDArray[Any],
    bias: NDArray[Any] | None,
    x: NDArray[Any],
    threads: int,
) -> None:
    """Write a band's lines: each place of a pixel in a stride is a convolution of its own over y."""
    y, x = _as_floats(y), _as_floats(x)
    where = (geometry.stride, geometry.dilation, tuple(band.before(geometry)), geometry.groups)
    w, pixels = filters.reshape(-1), x.reshape(-1)
    shapes = (y.shape, filters.shape, x.shape)
    for layer, w_at, x_at in _phases(where, *shapes, y.dtype, x.dtype.kind == "i", threads, compiled):
        compiled.convolve(layer, y, w[w_at:], bias, pixels[x_at:], threads)


@lru_cache(maxsize=64)
def _phases(
    where: tuple[Any, ...],
    y_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    x_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    integers: bool,
    threads: int,
    compiled: native.Native,
) -> list[tuple[bytes, int, int]]:
    """The convolutions that a transposed one is, and where they begin in W and X."""
    found = []
    lanes, filters, channels, groups = compiled.lanes(dtype), y_shape[-1], x_shape[-1], where[-1]
    for packed, w_at, x_at in native.phases(where, y_shape, w_shape, x_shape):
        taps = math.prod(struct.unpack_from("3q", packed, 8 * 10))
        kernel = choose_kernel(taps, 1, filters, channels, groups, lanes)
        found.append((compiled.layer(packed, dtype, kernel, threads, integers), w_at, x_at))
    return found
