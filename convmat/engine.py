"""The engine: check, plan, run; X_col is never whole.

`prepare` checks a convolution's arrays and joins them with a `Plan`, a frozen value that says what will run:
in which arithmetic, by which kernel, in which boxes, on how many threads. `execute` and `stream` run it.
Where there is a compiled library, it reads each tap where it lies in x. Where there is none, or sums need
int64, NumPy multiplies blocks of X_col by W_col, or adds tap by tap where each filter sees a single channel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat import native
from convmat.arithmetic import choose_arithmetic
from convmat.arrays import bias_numbers, numbers, out_array
from convmat.axis import PADDING_MODES
from convmat.blocks import Block
from convmat.checks import choice, flag
from convmat.errors import ShapeError
from convmat.geometry import Padding, Sizes
from convmat.patches import allocate, pack_block, patches_of, settled_where, steps_of, window
from convmat.plan import NUMPY_KERNELS, PAIRS, Plan, make_plan, parts_of
from convmat.quantization import Quantization
from convmat.threads import thread_count


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
    quantization: Quantization | None = None,
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
        quantization: what becomes of integers, with zero points, scales and a rounding; Y is of its dtype.
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
    layer = (stride, padding, dilation, groups, bias, flip, padding_mode)
    return execute(prepare(x, filters, *layer, quantization=quantization, threads=threads), out)


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
    """(K, *kernel, C/groups), flipped if so asked, as `weights_of` makes them."""
    bias: NDArray[Any] | None
    """(K,), likewise."""
    quantized: Quantization | None
    """What becomes of the sums; its zero points have been subtracted."""

    @property
    def result(self) -> np.dtype[Any]:
        """The dtype of Y."""
        return self.plan.arithmetic.result if self.quantized is None else np.dtype(self.quantized.dtype)


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
    quantization: Quantization | None = None,
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
    if quantization is not None:
        quantization = Quantization.checked(quantization).of_layer(x, filters, bias)
        x, filters = quantization.pixels(x), quantization.weights(filters)
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
    return Convolution(
        plan, x, *weights_of(filters, bias, plan.arithmetic.accumulator, compiled), quantization
    )


def weights_of(
    filters: NDArray[Any],
    bias: NDArray[Any] | None,
    accumulator: np.dtype[Any],
    compiled: native.Native | None,
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Filters and bias in the accumulator's dtype, C-contiguous; where compiled, complex ones `as_real`.

    For `PAIRS` two channels of int16 are one int32.
    """
    if (
        filters.dtype != accumulator
        or accumulator == PAIRS
        or (bias is not None and bias.dtype != accumulator)
    ):
        with np.errstate(all="ignore"):
            filters = filters.astype(factor_of(accumulator), copy=False)
            bias = None if bias is None else bias.astype(accumulator)
        if accumulator == PAIRS:
            filters = np.ascontiguousarray(filters).view(PAIRS)
    if compiled is not None and accumulator.kind == "c":
        filters, bias = as_real(filters), None if bias is None else as_floats(np.ascontiguousarray(bias))
    return tidy(filters), None if bias is None else tidy(bias)


def factor_of(accumulator: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that is multiplied where sums are of the accumulator's."""
    return np.dtype(np.int16) if accumulator == PAIRS else accumulator


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


# Run.


def execute(todo: Convolution, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Y, (N, *out, K), whole; written to `out` where given.

    Raises:
        ShapeError, DTypeError: an `out` of another shape or dtype, or that overlaps an input.
    """
    plan = todo.plan
    if out is None:
        y = out = allocate(plan.output_shape, todo.result)
    else:
        out_array(out, plan.output_shape, todo.result, "Y", todo.x, todo.filters, todo.bias)
        y = out if out.flags.c_contiguous and out.flags.aligned else np.empty(out.shape, out.dtype)
    if todo.quantized is not None:
        rows = y.reshape(-1, plan.filters)
        for block, made in zip(plan.geometry.boxes(plan.band), stream(todo), strict=True):
            rows[block.rows.start : block.rows.stop] = made
    elif plan.layer is not None:
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
        yield rows if todo.quantized is None else todo.quantized.apply(rows)


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
            x = np.empty(seen.shape, factor_of(accumulator))
            _convert(compiled, seen, x, plan.threads)
            x = x.view(PAIRS) if accumulator == PAIRS else x
    parts, pairs = parts_of(accumulator), accumulator == PAIRS
    sizes = pack_block(plan.geometry, block, steps, plan.padding_mode, plan.filters, parts, pairs)
    real, integers = as_floats(x).dtype, plan.arithmetic.result.kind == "i"
    _call(todo, compiled.layer(sizes, real, plan.kernel, plan.threads, integers), x, rows)


def _call(todo: Convolution, layer: bytes, x: NDArray[Any], y: NDArray[Any]) -> None:
    """One call of the compiled library; its sums are converted where it does not write Y's dtype."""
    plan, compiled = todo.plan, native.library()
    assert compiled is not None
    accumulator, result, _ = plan.arithmetic
    sums = y if accumulator == result or result.kind == "i" else np.empty(y.shape, accumulator)
    if accumulator.kind == "c":
        compiled.convolve(layer, as_floats(x), todo.filters, todo.bias, as_floats(sums), plan.threads)
    else:
        compiled.convolve(layer, x, todo.filters, todo.bias, sums, plan.threads)
    if sums is not y:
        with np.errstate(all="ignore"):
            np.copyto(y, sums, casting="unsafe")


def _convert(compiled: native.Native, source: NDArray[Any], target: NDArray[Any], threads: int) -> None:
    """Copy numbers to floats, or to int16, C-contiguous; to floats by all threads where the library can."""
    a = source.dtype
    if (
        target.dtype.kind == "f"
        and a.isnative
        and ((a.kind in "bi" and a.itemsize <= 4) or (a.kind == "u" and a.itemsize <= 2))
    ):
        compiled.convert(source, target, threads)
    else:
        np.copyto(target, source, casting="unsafe")


def as_floats(a: NDArray[Any]) -> NDArray[Any]:
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
