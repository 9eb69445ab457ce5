"""The engine: plan a convolution as blocks of X_col, then multiply block by block; X_col is never whole.

`plan` decides everything as a frozen value: the geometry, the arithmetic, the block. `prepare` checks the
arrays and joins them with their plan; `execute` and `stream` do what it says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat.errors import DTypeError, IntegerRangeError, ShapeError
from convmat.geometry import ConvGeometry, Padding, Sizes
from convmat.patches import (
    PADDING_MODES,
    as_numbers,
    check_choice,
    check_filter_groups,
    copy_runs,
    flatten_filters,
    windows,
)

BLOCK_BYTES = 1 << 20
"""Size of the buffer that holds a block of X_col: within a core's cache, so that BLAS finds it there."""


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
) -> NDArray[Any]:
    """Convolve images with filters as a matrix product, Y = X_col · W_col (+ bias), block by block.

    "Convolution" is cross-correlation, as in every CNN; `flip` reverses the filters along each spatial axis
    for the true convolution (Eq. 3).

    Args:
        x: (N, *spatial, C), 1 to 3 spatial axes, any strides and byte order; not written to.
        filters: (K, *kernel, C/groups).
        stride, padding, dilation: as `ConvGeometry` takes them; padding_mode as `unroll` does.
        groups: divides C and K; group g's filters see only group g's channels. C for depthwise.
        bias: (K,), added to each position.

    Returns:
        Y, (N, *out, K). Integers give the exact int64; floats and complex compute in the widest of the
        inputs' dtypes, float16 accumulates in float32 and is rounded once. Each element of a float
        result is within Higham's bound of the exact sum (see `convmat.verify`).

    Raises:
        GeometryError, ShapeError: sizes, filters or bias that do not fit.
        DTypeError: elements that are not numbers, or wider than float64 and complex128.
        IntegerRangeError: integers whose sums could pass 2^63.
    """
    return execute(prepare(x, filters, stride, padding, dilation, groups, bias, flip, padding_mode))


def multiply(x_col: ArrayLike, w_col: ArrayLike) -> NDArray[Any]:
    """Y = X_col · W_col, (..., K), with the arithmetic of `convolve`: integers exact as int64.

    Args:
        x_col: (..., n), rows of patches; any leading axes. w_col: (n, K).

    Raises:
        ShapeError: columns of X_col that are not the rows of W_col. DTypeError, IntegerRangeError: as
            `convolve`.
    """
    x_col, w_col = as_numbers("x_col", x_col), as_numbers("w_col", w_col)
    check_product(x_col.shape, w_col.shape)
    arithmetic = choose_arithmetic(len(w_col), x_col, w_col)
    with np.errstate(all="ignore"):
        y = x_col.astype(arithmetic.accumulator, copy=False) @ w_col.astype(
            arithmetic.accumulator, copy=False
        )
        return np.asarray(y, arithmetic.result)


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


class Arithmetic(NamedTuple):
    """The dtypes a product is summed in and returned in."""

    accumulator: np.dtype[Any]
    result: np.dtype[Any]


def choose_arithmetic(
    terms: int, x: NDArray[Any], weights: NDArray[Any], bias: NDArray[Any] | None = None
) -> Arithmetic:
    """How to compute sums of `terms` products x·w (+ bias) so that they are exact, or within the bound.

    Integers are exact: the float64 of BLAS holds every partial sum when n·max|x|·max|w| (+ max|b|) is below
    2^53, in whatever order it adds; below 2^63 int64 does.

    Raises:
        DTypeError: floats wider than float64. IntegerRangeError: sums that could pass 2^63.
    """
    arrays = [x, weights] if bias is None else [x, weights, bias]
    if all(a.dtype.kind in "biu" for a in arrays):
        result = np.dtype(np.int64)
        peak = _largest_sum(terms, arrays, _dtype_peak)
        if peak >= 1 << 53:
            peak = _largest_sum(terms, arrays, _value_peak)
        if peak >= 1 << 63:
            raise IntegerRangeError(
                "input",
                f"sums of {terms} products could reach {peak:.3g}, int64 ends at {2**63 - 1:.3g}; "
                "use smaller integers, or floats",
            )
        return Arithmetic(np.dtype(np.float64 if peak < 1 << 53 else np.int64), result)
    result = np.result_type(*(a.dtype for a in arrays)).newbyteorder("=")
    if result.itemsize > (16 if result.kind == "c" else 8):
        raise DTypeError(
            "input", f"computing in {result} is not supported; use float64 or complex128 at most"
        )
    accumulator = np.dtype(np.float32) if result == np.float16 else result
    return Arithmetic(accumulator, result)


def _largest_sum(terms: int, arrays: list[NDArray[Any]], peak: Any) -> int:
    x, w, *bias = (peak(a) for a in arrays)
    return int(terms * x * w + sum(bias))


def _dtype_peak(a: NDArray[Any]) -> int:
    if a.dtype.kind == "b":
        return 1
    info = np.iinfo(a.dtype)
    return max(int(info.max), -int(info.min))


def _value_peak(a: NDArray[Any]) -> int:
    return max(int(a.max()), -int(a.min())) if a.size else 0


@dataclass(frozen=True)
class BlockPlan:
    """One convolution, decided: what is computed, in which dtypes, in which blocks."""

    geometry: ConvGeometry
    filters: int
    """K."""
    arithmetic: Arithmetic
    padding_mode: str
    block_shape: tuple[int, ...]
    """Largest block, over (n, *output position)."""

    def for_batch(self, batch: int) -> BlockPlan:
        """The same plan for another number of images."""
        return plan(self.geometry.for_batch(batch), self.filters, self.arithmetic, self.padding_mode)

    @property
    def block_rows(self) -> int:
        """Rows of X_col in the largest block."""
        return math.prod(self.block_shape)

    @property
    def buffer_bytes(self) -> int:
        """Size of the buffer that holds one block of X_col."""
        columns = self.geometry.matrix_shape[1]
        return self.block_rows * columns * self.arithmetic.accumulator.itemsize

    @property
    def flops(self) -> int:
        """Multiplications and additions of the product."""
        return 2 * self.geometry.matrix_shape[0] * self.geometry.terms * self.filters

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(N, *out, K)."""
        return (self.geometry.batch, *self.geometry.output_size, self.filters)

    def __str__(self) -> str:
        rows, columns = self.geometry.matrix_shape
        block = " × ".join(map(str, self.block_shape))
        return (
            f"X_col {rows} × {columns} in blocks of {self.block_rows} rows ({block}), "
            f"{self.buffer_bytes} bytes each; W_col {self.geometry.terms} × {self.filters}; "
            f"{self.flops} FLOPs in {self.arithmetic.accumulator}, result {self.arithmetic.result}"
        )


def plan(
    geometry: ConvGeometry,
    filters: int,
    arithmetic: Arithmetic,
    padding_mode: str = "zeros",
    block_bytes: int = BLOCK_BYTES,
) -> BlockPlan:
    """Decide how to convolve with `filters` filters: blocks of X_col of at most `block_bytes`, or one row."""
    row_bytes = geometry.row_footprint * arithmetic.accumulator.itemsize
    block_shape = geometry.block_shape(block_bytes // row_bytes)
    return BlockPlan(geometry, filters, arithmetic, padding_mode, block_shape)


@dataclass(frozen=True)
class Convolution:
    """A plan with the arrays it was made for."""

    plan: BlockPlan
    x: NDArray[Any]
    weights: NDArray[Any]
    """W_col of each group, (groups, n, K/groups), in the accumulator's dtype."""
    bias: NDArray[Any] | None


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
    block_bytes: int = BLOCK_BYTES,
) -> Convolution:
    """Check a convolution's arrays and plan it; arguments and errors are those of `convolve`."""
    x, filters = as_numbers("input", x), as_numbers("filters", filters)
    check_choice("padding_mode", padding_mode, PADDING_MODES)
    geometry = filter_geometry(x.shape, filters.shape, stride, padding, dilation, groups)
    count = len(filters)
    if bias is not None:
        bias = as_numbers("bias", bias)
        if bias.shape != (count,):
            raise ShapeError(
                "bias", f"has shape {bias.shape}, {count} filters take ({count},), one number each"
            )
    arithmetic = choose_arithmetic(geometry.terms, x, filters, bias)
    accumulator = arithmetic.accumulator
    if flip:
        filters = np.flip(filters, tuple(range(1, filters.ndim - 1)))
    with np.errstate(all="ignore"):
        w_col = flatten_filters(filters, groups).astype(accumulator)
        bias = None if bias is None else bias.astype(accumulator)
    return Convolution(
        plan=plan(geometry, count, arithmetic, padding_mode, block_bytes),
        x=x,
        weights=np.ascontiguousarray(np.moveaxis(w_col.reshape(geometry.terms, groups, -1), 1, 0)),
        bias=bias,
    )


def filter_geometry(
    input_shape: tuple[int, ...],
    filter_shape: tuple[int, ...],
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
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
    geometry = ConvGeometry(input_shape, filter_shape[1:-1], stride, padding, dilation, groups)
    check_filter_groups(filter_shape[0], geometry.groups)
    if filter_shape[-1] * groups != geometry.channels:
        raise ShapeError(
            "filters",
            f"made for {filter_shape[-1]} channels in each of {groups} groups, the input has "
            f"{geometry.channels} in all; give filters of shape "
            f"{('K', *filter_shape[1:-1], geometry.channels // groups)}".replace("'", ""),
        )
    return geometry


def execute(todo: Convolution) -> NDArray[Any]:
    """Y, (N, *out, K), whole."""
    y = np.empty((todo.plan.geometry.matrix_shape[0], todo.plan.filters), todo.plan.arithmetic.result)
    for rows, block in _blocks(todo):
        y[rows.start : rows.stop] = block
    return y.reshape(todo.plan.output_shape)


def stream(todo: Convolution) -> Iterator[NDArray[Any]]:
    """Y's rows, (rows, K), block by block in order, for outputs larger than memory."""
    for _, block in _blocks(todo):
        yield block.copy()


def _blocks(todo: Convolution) -> Iterator[tuple[range, NDArray[Any]]]:
    """The rows of each block and Y's values there, (rows, K); valid until the next."""
    geometry, padding_mode = todo.plan.geometry, todo.plan.padding_mode
    groups, terms, per_group = todo.weights.shape
    accumulator = todo.plan.arithmetic.accumulator
    patches = np.empty((groups, todo.plan.block_rows * terms), accumulator)
    sums = np.empty((groups, todo.plan.block_rows * per_group), accumulator)
    for block in geometry.blocks(todo.plan.block_rows):
        x_col = patches[:, : len(block.rows) * terms]
        y = sums[:, : len(block.rows) * per_group].reshape(groups, len(block.rows), per_group)
        # An infinity or NaN is a result here, not an accident to warn of.
        with np.errstate(all="ignore"):
            _fill(x_col, windows(todo.x, geometry, block, padding_mode))
            np.matmul(x_col.reshape(groups, len(block.rows), terms), todo.weights, out=y)
            values = np.moveaxis(y, 0, 1).reshape(len(block.rows), todo.plan.filters)
            if todo.bias is not None:
                values += todo.bias
            values = values.astype(todo.plan.arithmetic.result, copy=False)
        yield block.rows, values


def _fill(x_col: NDArray[Any], view: NDArray[Any]) -> None:
    """Write a block's patches (n, *positions, *kernel, C) into (groups, rows·kh·kw·C/groups)."""
    groups = len(x_col)
    split = view.reshape(*view.shape[:-1], groups, -1)
    target = x_col.reshape(groups, *view.shape[:-1], split.shape[-1])
    copy_runs(np.moveaxis(split, -2, 0), target)
