"""The engine: plan a convolution as blocks of X_col, then multiply block by block; X_col is never whole.

`plan` decides everything as a frozen value that prints: the geometry, the arithmetic, the tactic, the blocks,
the threads. `prepare` checks the arrays and joins them with their plan; `execute` and `stream` do what it
says. One mechanism serves all shapes. It has two dials, whose best setting a model of the costs finds:

- Wider patches. The FC equivalence holds for several outputs at once: t neighbours of a line are one patch,
  (t − 1)·S pixels wider, times a banded weight matrix of t·K columns. The copy shrinks, since neighbours
  share pixels, and BLAS, which likes wide matrices, loses less than that.
- Merged groups. Several groups of channels are one product with a block-diagonal weight matrix, so that many
  groups are not many tiny products.

Where each channel has one filter of its own the product has no second dimension, nothing for BLAS to gain
from; then Y is summed column by column of X_col, each seen in the input, none copied.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat.errors import DTypeError, IntegerRangeError, ShapeError
from convmat.geometry import (
    PADDING_MODES,
    Block,
    ConvGeometry,
    Padding,
    Sizes,
    check_choice,
    transpose_geometry,
)
from convmat.parallel import share_out, thread_count
from convmat.patches import (
    Folding,
    Patches,
    allocate,
    as_numbers,
    check_filter_groups,
    check_flag,
    check_out,
)
from convmat.shown import Shown

BLOCK_BYTES = 1 << 22
"""Size of the buffer that holds a block of X_col. Smaller ones would stay nearer to the core, but to change
between copying and multiplying costs a core some time, and BLAS packs W_col anew for each block."""

TAP_BLOCK_BYTES = 1 << 19
"""The same where no X_col is formed: of the sums, which each tap passes over."""

# OpenBLAS multiplies without packing up to so many multiplications, for few columns a half faster.
_UNPACKED = 1_000_000
_FEW_COLUMNS = 32
_WORTH_ONE_BLAS = 1 << 19  # FLOPs; below, BLAS starts no threads of its own, and need not be told


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
    """Convolve images with filters as a matrix product, Y = X_col · W_col (+ bias), block by block.

    "Convolution" is cross-correlation, as in every CNN; `flip` reverses the filters along each spatial axis
    for the true convolution (Eq. 3).

    Args:
        x: (N, *spatial, C), 1 to 3 spatial axes, any strides and byte order; not written to.
        filters: (K, *kernel, C/groups).
        stride, padding, dilation: as `ConvGeometry` takes them; padding_mode as `unroll` does.
        groups: divides C and K; group g's filters see only group g's channels. C for depthwise.
        bias: (K,), added to each position.
        out: array to write Y to, of its shape and dtype, that overlaps neither input.
        threads: to work with; by default what CONVMAT_THREADS says, or all cores. For the same number the
            same call gives the same bits.

    Returns:
        Y, (N, *out, K). Integers give the exact int64; floats and complex compute in the widest of the
        inputs' dtypes, float16 accumulates in float32 and is rounded once. Each element of a float
        result is within Higham's bound of the exact sum (see `convmat.verify`).

    Raises:
        GeometryError, ShapeError: sizes, filters or bias that do not fit.
        DTypeError: elements that are not numbers, or wider than float64 and complex128.
        IntegerRangeError: integers whose sums could pass 2^63.
    """
    todo = prepare(x, filters, stride, padding, dilation, groups, bias, flip, padding_mode, threads)
    return execute(todo, out)


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
    ConvTranspose.

    Args:
        y: (N, *out, K), what a convolution with these filters gives.
        filters: (K, *kernel, C/groups), those of the convolution that is transposed.
        stride, padding, dilation, groups: of that convolution.
        output_padding: lines more at the end of each axis; 0 to max(stride, dilation) − 1.
        input_shape: (N, *spatial, C) of that convolution's input, where many would give this y: the result
            is then the exact adjoint, under any padding name. Without it the output has
            (H − 1)·S − P + D·(k − 1) + 1 + output_padding lines, or H·S for "same" and "same-lower".
        bias: (C,), added to each pixel.

    Returns:
        (N, *spatial, C), in the dtype that `convolve` has.

    Raises:
        As `convolve`; GeometryError for an `input_shape` whose convolution does not give this y.
    """
    y, filters = as_numbers("input", y), as_numbers("filters", filters)
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
    check_filter_groups(len(filters), groups)
    channels = filters.shape[-1] * groups
    geometry = transpose_geometry(
        y.shape,
        channels,
        filters.shape[1:-1],
        stride,
        padding,
        dilation,
        groups,
        output_padding,
        input_shape,
    )
    if bias is not None:
        bias = as_numbers("bias", bias)
        if bias.shape != (channels,):
            raise ShapeError("bias", f"has shape {bias.shape}, {channels} channels take ({channels},)")
    terms = math.prod(geometry.kernel_size) * len(filters) // groups
    arithmetic = choose_arithmetic(terms, y, filters, bias)
    accumulator = arithmetic.accumulator
    threads = thread_count(threads)
    if 2 * y.size * geometry.terms < _WORTH_ONE_BLAS:
        threads = 1
    with np.errstate(all="ignore"):
        # W_colᵀ of each group, (groups, K/groups, n).
        w_rows = filters.astype(accumulator, copy=False).reshape(groups, len(filters) // groups, -1)
        x = allocate(geometry.input_shape, arithmetic.result)
        folding = Folding(geometry, accumulator, positions=y.shape[1:-1], threads=threads)
        if folding.adds_in(x.dtype):
            folding.fill(x, functools.partial(_products, y, w_rows, geometry), blas=True)
            if bias is not None:
                x += bias
            return x
        blocks = (
            (block, functools.partial(_products, y, w_rows, geometry, block)) for block in folding.blocks()
        )
        lines, start = x.reshape(len(y) * x.shape[1], *x.shape[2:]), 0
        for found in folding.run(blocks, blas=True):
            if bias is not None:
                found = found + bias.astype(accumulator)
            np.copyto(lines[start : start + len(found)], found, casting="unsafe")
            start += len(found)
    return x


def _products(y: NDArray[Any], w_rows: NDArray[Any], geometry: ConvGeometry, block: Block) -> NDArray[Any]:
    """Rows of Y · W_colᵀ as patches, (n, *positions, *kernel, C)."""
    images, lines, *_ = block.positions
    groups, per_group, _ = w_rows.shape
    part = y[images.start : images.stop, lines.start : lines.stop].astype(w_rows.dtype, copy=False)
    rows = part.reshape(-1, groups, per_group).transpose(1, 0, 2)
    found = np.matmul(rows, w_rows)  # (groups, rows, kh·kw·C/groups)
    depth = geometry.channels // groups
    patches = (*part.shape[:-1], *geometry.kernel_size)
    split: NDArray[Any] = np.moveaxis(found.reshape(groups, *patches, depth), 0, -2)
    return split.reshape(*patches, geometry.channels)


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


class Tactic(NamedTuple):
    """How the product is cut: see the module's first lines."""

    outputs: int = 1
    """t, neighbouring outputs of a line that one patch serves."""
    groups: int = 1
    """Groups of channels multiplied together."""
    by_taps: bool = False
    """Summed tap by tap, with no copy of X_col."""


# Costs in nanoseconds on one core, for the choice of a tactic; only what they are to each other matters.
# Rounded fits to x86-64 cores with AVX-512; what the plan makes of them `convolve --explain` prints.
_RUN = 5.0  # to begin the copy of a run
_BYTE = 1 / 20  # to copy a byte within the cache
_MULTIPLY = 1 / 50  # of BLAS, in float32, times the columns rounded up to whole registers
_REGISTER = 64  # bytes
_STREAMED = 1 / 12  # a byte of a matrix that meets one column: read once, used once
_TAP = 0.15  # to multiply and add an element of float32, in NumPy
_LOOP = 12.0  # to begin one of NumPy's inner loops
_INTEGER = 1.0  # to multiply and add in int64, which BLAS does not

_OUTPUTS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32)  # settings of t that are weighed
_MERGED = 64  # most groups in one product
_WORTH_THREADS = 200_000.0  # ns of work; below, to wake another thread takes longer than it saves


def widen(geometry: ConvGeometry, outputs: int) -> ConvGeometry:
    """The geometry whose patches each serve `outputs` neighbouring outputs of a line.

    Where they do not divide the line its last patch reaches further right, into padding if need be.
    """
    if outputs == 1:
        return geometry
    size, stride, extent = geometry.input_size[-1], geometry.stride[-1], geometry.extent[-1]
    before, after = geometry.pads[-1]
    last = -(-geometry.output_size[-1] // outputs) * outputs - 1
    return ConvGeometry(
        geometry.input_shape,
        (*geometry.kernel_size[:-1], extent + (outputs - 1) * stride),
        (*geometry.stride[:-1], outputs * stride),
        (*geometry.pads[:-1], (before, max(after, last * stride + extent - before - size))),
        (*geometry.dilation[:-1], 1),
        geometry.groups,
    )


def tactics(geometry: ConvGeometry, filters: int) -> Iterator[Tactic]:
    """Every tactic worth weighing, the plain one first."""
    line = geometry.output_size[-1]
    for groups in range(1, min(geometry.groups, _MERGED) + 1):
        if geometry.groups % groups == 0:
            for outputs in sorted({*_OUTPUTS, line}):
                if outputs <= line and outputs * groups <= 4 * _MERGED:
                    yield Tactic(outputs, groups)
    if geometry.groups == geometry.channels == filters:
        yield Tactic(by_taps=True)


def _cost(geometry: ConvGeometry, filters: int, accumulator: np.dtype[Any], tactic: Tactic) -> float:
    """Nanoseconds that a convolution takes on one core, about."""
    itemsize, taps = accumulator.itemsize, math.prod(geometry.kernel_size)
    positions = geometry.matrix_shape[0]
    if tactic.by_taps:
        channels, line = geometry.channels, geometry.output_size[-1]
        loop = line * channels if geometry.stride[-1] == 1 else channels
        passes = taps + (2 * geometry.kernel_size[-1] if channels == 1 else 0)
        return positions * passes * channels * (_TAP * itemsize / 4 + _LOOP / max(loop, 1))
    # One row of the widened X_col: what its copy and its product take.
    width = geometry.kernel_size[-1]
    in_runs = geometry.dilation[-1] == 1 or tactic.outputs > 1
    if tactic.outputs > 1:
        width = geometry.extent[-1] + (tactic.outputs - 1) * geometry.stride[-1]
    parts = geometry.groups // tactic.groups
    lines = taps // geometry.kernel_size[-1]
    n = lines * width * geometry.channels // parts
    columns = tactic.outputs * filters // parts
    copied, streamed = _RUN * lines * (1 if in_runs and parts == 1 else width), _BYTE * n * itemsize
    if accumulator.kind == "i":
        product = _INTEGER * n * columns
    elif columns == 1:
        product = _STREAMED * n * itemsize
    else:
        lanes = max(_REGISTER // itemsize, 1)
        product = _MULTIPLY * (itemsize / 4) * n * (-(-columns // lanes) * lanes)
        product *= 2 if accumulator.kind == "c" else 1
    row = parts * (copied + streamed + product)
    if _is_matrix(geometry, tactic.outputs) and parts == 1:
        row = product
    if parts > 1 or geometry.output_size[-1] % tactic.outputs:
        row += 2 * _BYTE * tactic.outputs * filters * itemsize
    rows = positions // max(geometry.output_size[-1], 1) * -(-geometry.output_size[-1] // tactic.outputs)
    return rows * row + n * columns * parts  # and W_col is written once


def _is_matrix(geometry: ConvGeometry, outputs: int) -> bool:
    """Whether X_col of a widened geometry is the input's own memory, whose rows follow at equal steps."""
    if any(map(any, geometry.pads)) or (geometry.output_size[-1] % outputs if outputs > 1 else False):
        return False
    width = geometry.extent[-1] + (outputs - 1) * geometry.stride[-1]
    kernel = (*geometry.kernel_size[:-1], width if outputs > 1 else geometry.kernel_size[-1])
    dilation = (*geometry.dilation[:-1], 1 if outputs > 1 else geometry.dilation[-1])
    stride = (1, *geometry.stride[:-1], geometry.stride[-1] * outputs)
    counts = (geometry.batch, *geometry.output_size[:-1], geometry.output_size[-1] // outputs)
    run = line = geometry.channels
    lines: list[int] = []
    for k, d, size in zip(reversed(kernel), reversed(dilation), reversed(geometry.input_size), strict=True):
        if k > 1 and (d > 1 or run != line):
            return False
        run, lines = run * k if k > 1 else run, [line, *lines]
        line *= size
    steps = [s * step for s, step in zip(stride, [line, *lines], strict=True)]
    moving = [(count, step) for count, step in zip(counts, steps, strict=True) if count > 1]
    if moving and moving[-1][1] < run:
        return False
    return all(step == count * inner for (_, step), (count, inner) in itertools.pairwise(moving))


@dataclass(frozen=True)
class BlockPlan(Shown):
    """One convolution, decided: in which dtypes, how, in which blocks, on how many threads."""

    geometry: ConvGeometry
    filters: int
    """K."""
    arithmetic: Arithmetic
    padding_mode: str
    tactic: Tactic
    product: ConvGeometry
    """The geometry that is unrolled: `geometry`, or its patches widened to serve several outputs each."""
    block_shape: tuple[int, ...]
    """Largest block of the product, over (n, *position of a patch)."""
    threads: int

    def for_batch(self, batch: int, threads: int | None = None) -> BlockPlan:
        """The plan for another number of images; threads as `convolve` takes them."""
        geometry = self.geometry.for_batch(batch)
        return plan(geometry, self.filters, self.arithmetic, self.padding_mode, thread_count(threads))

    @property
    def block_rows(self) -> int:
        """Rows of the product in the largest block."""
        return math.prod(self.block_shape)

    @property
    def block_outputs(self) -> int:
        """Rows of Y that come of the largest block."""
        return self.block_rows * self.tactic.outputs

    @property
    def buffer_bytes(self) -> int:
        """Size of the buffer in which a thread holds a block of X_col."""
        if self.tactic.by_taps:
            return self.block_rows * self.filters * self.arithmetic.accumulator.itemsize
        return self.block_rows * self.product.matrix_shape[1] * self.arithmetic.accumulator.itemsize

    @property
    def flops(self) -> int:
        """Multiplications and additions of the definition."""
        return 2 * self.geometry.matrix_shape[0] * self.geometry.terms * self.filters

    @property
    def product_flops(self) -> int:
        """Multiplications and additions that are carried out, those with a band's zeros included."""
        if self.tactic.by_taps:
            return self.flops
        rows, columns = self.product.matrix_shape[0], self.tactic.outputs * self.filters
        return 2 * rows * self.product.terms * columns * self.tactic.groups

    @property
    def bytes_copied(self) -> int:
        """Bytes of X_col that are written; 0 where an input of the accumulator's dtype is read in place."""
        if self.tactic.by_taps or (self.tactic.groups == self.geometry.groups and self._in_place):
            return 0
        return math.prod(self.product.matrix_shape) * self.arithmetic.accumulator.itemsize

    @property
    def _in_place(self) -> bool:
        return _is_matrix(self.geometry, self.tactic.outputs)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(N, *out, K)."""
        return (self.geometry.batch, *self.geometry.output_size, self.filters)

    def __str__(self) -> str:
        rows, columns = self.product.matrix_shape
        block = " × ".join(map(str, self.block_shape))
        parts = self.geometry.groups // self.tactic.groups
        if self.tactic.by_taps:
            how = f"{math.prod(self.geometry.kernel_size)} taps summed in place"
        else:
            how = f"X_col {rows} × {columns}"
            how += f", {self.tactic.outputs} outputs a patch" if self.tactic.outputs > 1 else ""
            how += f", {parts} products of {self.tactic.groups} groups" if self.geometry.groups > 1 else ""
        return (
            f"{how}, in blocks of {self.block_rows} rows ({block}), {self.buffer_bytes} bytes each, "
            f"on {self.threads} thread{'s' if self.threads > 1 else ''}; {self.bytes_copied} bytes copied; "
            f"{self.product_flops} FLOPs for {self.flops} in {self.arithmetic.accumulator}, "
            f"result {self.arithmetic.result}"
        )


def plan(
    geometry: ConvGeometry,
    filters: int,
    arithmetic: Arithmetic,
    padding_mode: str = "zeros",
    threads: int = 1,
    block_bytes: int | None = None,
    tactic: Tactic | None = None,
) -> BlockPlan:
    """Decide how to convolve with `filters` filters.

    Args:
        threads: to use at most; small work is done on one.
        block_bytes: of X_col that a thread holds at a time, at most, or one row; by default what suits.
        tactic: to use, instead of the one that costs least.
    """
    tactic, block_shape, threads = _decide(
        geometry, filters, arithmetic.accumulator, threads, block_bytes, tactic
    )
    # Not remembered: a geometry equals one whose padding has another name.
    product = widen(geometry, tactic.outputs)
    return BlockPlan(geometry, filters, arithmetic, padding_mode, tactic, product, block_shape, threads)


@functools.lru_cache(maxsize=256)
def _decide(
    geometry: ConvGeometry,
    filters: int,
    accumulator: np.dtype[Any],
    threads: int,
    block_bytes: int | None,
    tactic: Tactic | None,
) -> tuple[Tactic, tuple[int, ...], int]:
    """A plan's tactic, blocks and threads; remembered, since the same layer comes again and again."""
    if tactic is None:
        tactic = min(tactics(geometry, filters), key=lambda t: _cost(geometry, filters, accumulator, t))
    product = widen(geometry, tactic.outputs)
    rows = max(product.matrix_shape[0], 1)
    row_bytes = max(tactic.outputs * filters, product.matrix_shape[1]) * accumulator.itemsize
    if tactic.by_taps:
        row_bytes = filters * accumulator.itemsize
    if block_bytes is None:
        block_bytes = TAP_BLOCK_BYTES if tactic.by_taps else BLOCK_BYTES
    block_rows = max(block_bytes // row_bytes, 1)
    if _cost(geometry, filters, accumulator, tactic) < _WORTH_THREADS:
        threads = 1
    block_shape = product.block_shape(min(block_rows, -(-rows // threads)), threads)
    return tactic, block_shape, min(threads, -(-rows // math.prod(block_shape)))


def _unpacked_rows(product: ConvGeometry, filters: int, tactic: Tactic) -> int | None:
    """Rows of the product to multiply at a time, where BLAS does better with few; None where it does not."""
    n = product.terms * tactic.groups
    columns = tactic.outputs * filters * tactic.groups // product.groups
    rows = max(_UNPACKED // (n * columns), 1)
    return rows if columns <= _FEW_COLUMNS or rows >= 100 else None


def _multiply(left: NDArray[Any], right: NDArray[Any], out: NDArray[Any], at_a_time: int | None) -> None:
    """Products (parts, rows, n) · (parts, n, columns), `at_a_time` rows after another's."""
    _, rows, n = left.shape
    if at_a_time is None or at_a_time >= rows:
        np.matmul(left, right, out=out)
        return
    at_a_time = -(-rows // -(-rows // at_a_time))  # as even as can be
    for part, other, found in zip(left, right, out, strict=True):
        even = rows // at_a_time * at_a_time
        np.matmul(
            part[:even].reshape(-1, at_a_time, n),
            other,
            out=found[:even].reshape(-1, at_a_time, len(other.T)),
        )
        if even < rows:
            np.matmul(part[even:], other, out=found[even:])


@dataclass(frozen=True)
class Convolution:
    """A plan with the arrays it was made for."""

    plan: BlockPlan
    x: NDArray[Any]
    filters: NDArray[Any]
    """(K, *kernel, C/groups), flipped if so asked, in the accumulator's dtype."""
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
    threads: int | None = None,
) -> Convolution:
    """Check a convolution's arrays and plan it; arguments and errors are those of `convolve`."""
    x, filters = as_numbers("input", x), as_numbers("filters", filters)
    check_choice("padding_mode", padding_mode, PADDING_MODES)
    check_flag("flip", flip)
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
        return Convolution(
            plan=plan(geometry, count, arithmetic, padding_mode, thread_count(threads)),
            x=x,
            filters=filters.astype(accumulator, copy=False),
            bias=None if bias is None else bias.astype(accumulator),
        )


def replan(todo: Convolution, **choices: Any) -> Convolution:
    """The same convolution by another plan; `choices` are arguments of `plan`."""
    old = todo.plan
    return replace(todo, plan=plan(old.geometry, old.filters, old.arithmetic, old.padding_mode, **choices))


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
    if filter_shape[-1] * geometry.groups != geometry.channels:
        raise ShapeError(
            "filters",
            f"made for {filter_shape[-1]} channels in each of {geometry.groups} groups, the input has "
            f"{geometry.channels} in all; give filters of shape "
            f"{('K', *filter_shape[1:-1], geometry.channels // groups)}".replace("'", ""),
        )
    return geometry


def execute(todo: Convolution, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Y, (N, *out, K), whole; written to `out` where given.

    Raises:
        ShapeError, DTypeError: an `out` of another shape or dtype, or that overlaps the input.
    """
    plan = todo.plan
    if out is not None:
        check_out(out, plan.output_shape, plan.arithmetic.result, "Y")
    y = allocate(plan.output_shape, plan.arithmetic.result) if out is None else out
    if out is not None and (np.may_share_memory(out, todo.x) or np.may_share_memory(out, todo.filters)):
        raise ShapeError("out", "overlaps the input in memory; give an array of its own")
    _share_out(todo, ((block, y[outputs]) for block, outputs in _blocks(plan)))
    return y


def stream(todo: Convolution) -> Iterator[NDArray[Any]]:
    """Y's rows, (rows, K), in order, for outputs larger than memory: each time as many blocks as threads."""
    plan = todo.plan
    blocks = iter(_blocks(plan))
    while wave := list(itertools.islice(blocks, plan.threads)):
        shapes = [[part.stop - part.start for part in outputs] for _, outputs in wave]
        ends = list(itertools.accumulate(map(math.prod, shapes), initial=0))
        rows = np.empty((ends[-1], plan.filters), plan.arithmetic.result)
        parts = [
            (block, rows[start:stop].reshape(*shape, plan.filters))
            for (block, _), shape, (start, stop) in zip(wave, shapes, itertools.pairwise(ends), strict=True)
        ]
        _share_out(todo, parts)
        yield rows


def _blocks(plan: BlockPlan) -> Iterable[tuple[Block, tuple[slice, ...]]]:
    """The product's blocks, each with the box of Y, over (n, *output position), that comes of it."""
    few = (
        math.prod(-(-n // m) for n, m in zip(_positions(plan.product), plan.block_shape, strict=True)) < 1000
    )
    boxes = _few_blocks if few else _cut_blocks
    return boxes(plan.product, plan.block_shape, plan.geometry.output_size[-1], plan.tactic.outputs)


def _positions(geometry: ConvGeometry) -> tuple[int, ...]:
    return (geometry.batch, *geometry.output_size)


def _cut_blocks(
    product: ConvGeometry, block_shape: tuple[int, ...], line: int, outputs: int
) -> Iterator[tuple[Block, tuple[slice, ...]]]:
    for block in product.boxes(block_shape):
        *before, x = (slice(p.start, p.stop) for p in block.positions)
        yield block, (*before, slice(x.start * outputs, min(x.stop * outputs, line)))


@functools.lru_cache(maxsize=256)
def _few_blocks(*args: Any) -> tuple[tuple[Block, tuple[slice, ...]], ...]:
    """The same, remembered: a small convolution takes no longer than to cut it up."""
    return tuple(_cut_blocks(*args))


Part = tuple[Block, NDArray[Any]]
"""A block of the product, and the box (n, *output position, K) of Y to write."""


def _share_out(todo: Convolution, parts: Iterable[Part]) -> None:
    plan = todo.plan
    by_taps = plan.tactic.by_taps
    make, weights = (_by_taps, _tap_weights(todo)) if by_taps else (_by_products, _product_weights(todo))
    groups = plan.geometry.groups // plan.tactic.groups if not by_taps else 1
    patches = Patches(
        todo.x, plan.product, plan.block_shape, plan.padding_mode, plan.arithmetic.accumulator, groups
    )

    def worker() -> Callable[[Part], None]:
        compute = make(todo, weights, patches.twin())

        def quietly(part: Part) -> None:
            # An infinity or NaN is a result here, not an accident to warn of.
            with np.errstate(all="ignore"):
                compute(*part)

        return quietly

    blas = not by_taps and plan.product_flops > _WORTH_ONE_BLAS
    share_out(parts, worker, plan.threads, blas)


def _product_weights(todo: Convolution) -> NDArray[Any]:
    """W_col of each product, (products, n, t·K/products): a band for wide patches, blocks for groups."""
    plan, filters = todo.plan, todo.filters
    geometry, (outputs, merged, _) = plan.geometry, plan.tactic
    parts, per_group, depth = geometry.groups // merged, len(filters) // geometry.groups, filters.shape[-1]
    if outputs == merged == 1:
        weights = filters.reshape(parts, per_group, -1).transpose(0, 2, 1)
        # BLAS packs a transposed matrix as fast, but only a straight one does it use unpacked.
        return (
            weights if _unpacked_rows(plan.product, plan.filters, plan.tactic) is None else weights.copy("C")
        )
    banded = np.zeros(
        (parts, *plan.product.kernel_size, merged, depth, outputs, merged, per_group), filters.dtype
    )
    # (products, *kernel, C/groups, K/groups) of each group that is merged.
    own = np.moveaxis(filters.reshape(parts, merged, per_group, *filters.shape[1:]), 2, -1)
    for u in range(outputs):
        start = u * geometry.stride[-1]
        taps = (
            slice(start, start + geometry.extent[-1], geometry.dilation[-1]) if outputs > 1 else slice(None)
        )
        for g in range(merged):
            banded[..., taps, g, :, u, g, :] = own[:, g]
    return banded.reshape(parts, plan.product.terms * merged, -1)


def _by_products(
    todo: Convolution, weights: NDArray[Any], patches: Patches
) -> Callable[[Block, NDArray[Any]], None]:
    """What computes a block by matrix products, with one thread's memory for X_col and Y."""
    plan = todo.plan
    accumulator, outputs = plan.arithmetic.accumulator, plan.tactic.outputs
    parts, n, columns = weights.shape
    at_a_time = None if accumulator.kind == "i" else _unpacked_rows(plan.product, plan.filters, plan.tactic)
    in_place = patches.matrix() if parts == 1 else None
    x_col = np.empty((parts, plan.block_rows * n if in_place is None else 0), accumulator)
    direct_dtype = accumulator == plan.arithmetic.result
    sums: list[NDArray[Any]] = []
    plainly: list[Callable[[Block, NDArray[Any]], None]] = []

    def compute(block: Block, y: NDArray[Any]) -> None:
        rows, line = len(block.rows), y.shape[-2]
        if in_place is None:
            left = x_col[:, : rows * n].reshape(parts, rows, n)
            patches.copy_to(left, block)
        else:
            left = in_place[None, block.rows.start : block.rows.stop]
            patches.at(block)
        if (outputs > 1 or plan.tactic.groups > 1) and not patches.are_finite():
            # Times the zeros of a band or block an infinity is NaN, where the definition has no product.
            if not plainly:
                plainly.append(_in_small(todo))
            plainly[0](block, y)
            return
        if (
            parts == 1
            and direct_dtype
            and y.flags.c_contiguous
            and line == len(block.positions[-1]) * outputs
        ):
            _multiply(left, weights, y.reshape(1, rows, columns), at_a_time)
            if todo.bias is not None:
                y += todo.bias
            return
        if not sums:
            sums.append(np.empty((parts, plan.block_rows * columns), accumulator))
        product = sums[0][:, : rows * columns].reshape(parts, rows, columns)
        _multiply(left, weights, product, at_a_time)
        split = product.reshape(parts, *y.shape[:-2], -1, columns // outputs)
        found = np.moveaxis(split, 0, -2).reshape(*y.shape[:-2], -1, plan.filters)[..., :line, :]
        if todo.bias is not None:
            found += todo.bias
        np.copyto(y, found, casting="unsafe")

    return compute


def _in_small(todo: Convolution) -> Callable[[Block, NDArray[Any]], None]:
    """What computes a block line by line without widening or merging: only the definition's own products."""
    wide = todo.plan
    geometry, outputs = wide.geometry, wide.tactic.outputs
    small = plan(geometry, wide.filters, wide.arithmetic, wide.padding_mode, tactic=Tactic())
    step = small.block_shape[-1]
    plain = replace(todo, plan=replace(small, block_shape=(*(1 for _ in small.block_shape[1:]), step)))
    patches = Patches(
        todo.x,
        geometry,
        plain.plan.block_shape,
        wide.padding_mode,
        wide.arithmetic.accumulator,
        geometry.groups,
    )
    compute = _by_products(plain, _product_weights(plain), patches)

    def lines(block: Block, y: NDArray[Any]) -> None:
        *before, x = block.positions
        for place in itertools.product(*map(range, y.shape[:-2])):
            at = [range(p.start + i, p.start + i + 1) for p, i in zip(before, place, strict=True)]
            for start in range(0, y.shape[-2], step):
                stop = min(start + step, y.shape[-2])
                along = range(x.start * outputs + start, x.start * outputs + stop)
                row = geometry.patch_row(tuple(p.start for p in (*at, along)))
                box = (*(slice(i, i + 1) for i in place), slice(start, stop))
                compute(Block(range(row, row + len(along)), (*at, along)), y[box])

    return lines


def _tap_weights(todo: Convolution) -> NDArray[Any]:
    """The filters' values, (*kernel, C), or (*kernel, line·C) so that NumPy's inner loop is a whole line."""
    plan = todo.plan
    weights = np.ascontiguousarray(np.moveaxis(todo.filters[..., 0], 0, -1))
    line = plan.block_shape[-1]
    lines = plan.geometry.stride[-1] == 1 and line * weights.nbytes <= TAP_BLOCK_BYTES
    return np.tile(weights, line) if lines else weights


def _by_taps(
    todo: Convolution, weights: NDArray[Any], patches: Patches
) -> Callable[[Block, NDArray[Any]], None]:
    """What computes a block tap by tap, each channel with its own filter.

    A block is one call of einsum, which multiplies and adds in one pass over the sums. In calls for every tap
    the threads would wait for each other, in between, longer than they work.
    """
    plan = todo.plan
    accumulator, axes = plan.arithmetic.accumulator, len(plan.geometry.kernel_size)
    own = accumulator != plan.arithmetic.result
    size = plan.block_rows * plan.filters
    memory = np.empty(size if own else 0, accumulator)
    places, taps = "nzyx"[: axes + 1], "ijk"[:axes]
    by_pixels = f"{places}{taps}c,{taps}c->{places}c"
    by_lines = f"{places[:-1]}{taps}c,{taps}c->{places[:-1]}c"
    # One channel's neighbours are as near as its taps, and einsum would run along these, which are few.
    width = plan.geometry.kernel_size[-1]
    turns = [slice(None)] if plan.filters > 1 else [slice(j, j + 1) for j in range(width)]
    turned = np.empty(size if len(turns) > 1 else 0, accumulator)

    def compute(block: Block, y: NDArray[Any]) -> None:
        seen = patches.at(block)[0]
        total = memory[: y.size].reshape(y.shape) if own else y
        line, channels = y.shape[-2:]
        # Whether the pixels of a line, and its sums, follow one another.
        joined = (
            (a.strides[axes], a.strides[-1]) == (channels * a.itemsize, a.itemsize) for a in (seen, total)
        )
        if weights.shape[-1] >= line * channels and all(joined):
            pixels = np.moveaxis(seen, axes, -2)
            pixels = pixels.reshape(*pixels.shape[:-2], -1)
            sums = total.reshape(*total.shape[:-2], -1)
            more = turned[: y.size].reshape(sums.shape) if len(turns) > 1 else sums
            for number, turn in enumerate(turns):
                weight = weights[..., turn, : line * channels]
                np.einsum(by_lines, pixels[..., turn, :], weight, out=more if number else sums)
                if number:
                    sums += more
        else:
            np.einsum(by_pixels, seen, weights[..., :channels], out=total)
        if todo.bias is not None:
            total += todo.bias
        if own:
            np.copyto(y, total, casting="unsafe")

    return compute
