"""Verification: a result against the definition, element by element, within a proven bound.

The bound is Higham's ("Accuracy and Stability of Numerical Algorithms", 2nd ed., Section 3.1): a sum of n
products computed with unit roundoff u, in any order, with or without fused multiply-add, differs from the
exact one by at most γ_n·A, γ_n = n·u / (1 − n·u), A = |X_col|·|W_col|. It is no tolerance to tune: a right
result stays inside, whatever the input.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat import reference
from convmat.engine import (
    Tactic,
    convolve,
    convolve_transpose,
    execute,
    prepare,
    replan,
    stream,
    tactics,
)
from convmat.errors import ShapeError
from convmat.geometry import PADDING_NAMES, ConvGeometry, Padding, Sizes, transpose_geometry
from convmat.layouts import from_batch, to_batch, to_filters
from convmat.matrix import layer_matrix
from convmat.patches import as_numbers, flatten_filters, fold, fold_stream, unroll

_BAND_BYTES = 1 << 26  # of the definition's output held at one time


@dataclass(frozen=True)
class Report:
    """What a comparison found; true when equal."""

    equal: bool
    shape: tuple[int, ...]
    """Of the result, as compared."""
    expected_shape: tuple[int, ...]
    """Of the definition."""
    dtype: str
    """Of the result."""
    exact: bool
    """Judged by equality rather than by the bound."""
    elements: int
    outside: int
    """Elements that differ (exact), or differ by more than their bound."""
    max_abs_error: float
    bound: float
    """The bound of the element with the largest error; 0 when exact."""
    error_over_bound: float
    """The largest over all elements: at most 1 when equal."""
    worst: tuple[int, ...] | None
    """Index of the element with the largest error / bound, or error if exact; None where there is none."""
    worst_values: tuple[Any, Any] | None
    """The result's value there, and the definition's."""

    def __bool__(self) -> bool:
        return self.equal

    def __str__(self) -> str:
        if self.shape != self.expected_shape:
            return f"different: shape {self.shape}, the definition gives {self.expected_shape}"
        verdict = "equal" if self.equal else "different"
        allowed = "0, exact" if self.exact else f"bound {self.bound:.3g}"
        return (
            f"{verdict}: {self.outside} of {self.elements} elements outside, "
            f"max abs error {self.max_abs_error:.3g} ({allowed})"
        )


def verify(
    x: ArrayLike,
    filters: ArrayLike,
    expected: ArrayLike | None = None,
    stride: Sizes = 1,
    padding: Padding = "valid",
    dilation: Sizes = 1,
    groups: int = 1,
    bias: ArrayLike | None = None,
    flip: bool = False,
    padding_mode: str = "zeros",
) -> Report:
    """Compare a convolution with the definition: the engine's, or yours if `expected` is given.

    Args:
        x, filters and the geometry: as `convolve` takes them.
        expected: the result to judge, (N, *out, K) or (N·H_out·W_out, K). Its accumulator is taken to be
            the coarser of the inputs' dtype and its own (float32 for float16).

    Returns:
        A report, truthy when every element is equal (integers), or within its bound (floats), and NaN and
        infinity stand where the definition has them. A result of another shape is different, no error.

    Raises:
        The errors of `convolve`, for inputs that make no convolution.
    """
    todo = prepare(x, filters, stride, padding, dilation, groups, bias, flip, padding_mode)
    x, filters = np.asarray(x), np.asarray(filters)
    bias = None if bias is None else np.asarray(bias)
    geometry = todo.plan.geometry
    size = reference.output_size(
        x.shape[1:-1], filters.shape[1:-1], geometry.stride, _plain_padding(geometry), geometry.dilation
    )
    shape = (len(x), *size, len(filters))
    result = execute(todo) if expected is None else as_numbers("expected", expected)
    if result.shape == (math.prod(shape[:-1]), shape[-1]) and result.shape != shape:
        result = result.reshape(shape)
    if result.shape != shape:
        return _other_shape(result, shape)
    inputs = [x, filters] if bias is None else [x, filters, bias]
    judge = _Judge(result.dtype, geometry.terms + len(inputs) - 2, inputs)
    arguments = {
        "stride": geometry.stride,
        "padding": _plain_padding(geometry),
        "dilation": geometry.dilation,
        "groups": groups,
        "flip": flip,
        "padding_mode": padding_mode,
    }
    step = max(_BAND_BYTES // max(math.prod(shape) // size[0] * 8, 1), 1)
    with np.errstate(all="ignore"):  # infinities and NaN are compared, not warned of
        for start in range(0, size[0], step):
            band = range(start, min(start + step, size[0]))
            wanted = reference.convolve_by_taps(x, filters, bias=bias, band=band, **arguments)
            magnitude = None
            if not judge.exact:
                magnitude = reference.convolve_by_taps(
                    np.abs(x.astype(wanted.dtype)),
                    np.abs(filters.astype(wanted.dtype)),
                    bias=None if bias is None else np.abs(bias.astype(wanted.dtype)),
                    band=band,
                    **arguments,
                )
            judge.compare(result[:, band.start : band.stop], wanted, magnitude, start)
    return judge.report(result)


def compare_exactly(result: NDArray[Any], wanted: NDArray[Any]) -> Report:
    """Compare arrays that must be equal in every element: moved bytes, integers, exact probes."""
    if result.shape != wanted.shape:
        return _other_shape(result, wanted.shape)
    judge = _Judge(result.dtype)
    judge.compare(result, wanted, None, 0)
    return judge.report(result)


def _plain_padding(geometry: ConvGeometry) -> Any:
    """The padding as given, in the only forms the reference reads; names are left for it to work out."""
    return geometry.padding if geometry.padding is not None else geometry.pads


def _other_shape(result: NDArray[Any], shape: tuple[int, ...]) -> Report:
    count = math.prod(shape)
    return Report(
        equal=False,
        shape=result.shape,
        expected_shape=shape,
        dtype=str(result.dtype),
        exact=False,
        elements=count,
        outside=count,
        max_abs_error=math.inf,
        bound=0.0,
        error_over_bound=math.inf,
        worst=None,
        worst_values=None,
    )


class _Judge:
    """Compares a result with the definition in parts, and keeps the worst."""

    def __init__(self, dtype: np.dtype[Any], terms: int = 1, inputs: Sequence[NDArray[Any]] = ()) -> None:
        """Without inputs the result must be exact; else a sum of `terms` (products, bias) of them."""
        integers = all(a.dtype.kind in "biu" for a in inputs)
        self.exact = not inputs or (integers and dtype.kind in "biu")
        self.elements = self.outside = 0
        self.max_abs_error = self.bound = self.ratio = 0.0
        self._rank = 0.0
        self.worst: tuple[int, ...] | None = None
        self.worst_values: tuple[Any, Any] | None = None
        if self.exact:
            return
        # The coarsest arithmetic that the result may honestly come from; the engine's own word for what it
        # summed in is not taken.
        sources = [] if integers else [np.result_type(*(a.dtype for a in inputs))]
        sources += [dtype] if dtype.kind in "fc" else []
        summed_in = [np.dtype(np.float32) if d == np.float16 else d for d in sources]
        limits = max((np.finfo(d) for d in summed_in), key=lambda info: float(info.eps))
        self.u = float(limits.eps) / 2
        self.largest = self.largest_out = float(limits.max)
        self.terms = 2 * terms if any(a.dtype.kind == "c" for a in inputs) else terms
        self.underflow = self.terms * float(limits.tiny)
        self.u_out = 0.0
        if dtype.kind in "fc" and np.finfo(dtype).eps > limits.eps:
            self.u_out = float(np.finfo(dtype).eps) / 2
            self.underflow += float(np.finfo(dtype).smallest_subnormal)
            self.largest_out = float(np.finfo(dtype).max)
        self.finite_inputs = all(bool(np.isfinite(a).all()) for a in inputs)

    def compare(
        self,
        result: NDArray[Any],
        wanted: NDArray[Any],
        magnitude: NDArray[Any] | None,
        start: int,
    ) -> None:
        """Judge a part of the result, whose second axis begins at `start`."""
        if magnitude is None:
            outside = (result != wanted) & ~((result != result) & (wanted != wanted))
            error = _distance(result, wanted)
            tolerance = np.zeros(error.shape)
        else:
            error, tolerance, outside = self._against_bound(result, wanted, magnitude.real)
        self.elements += outside.size
        self.outside += int(np.count_nonzero(outside))
        if not error.size:
            return
        with np.errstate(all="ignore"):
            ratio = np.where(error == 0, 0.0, error / tolerance)
        ratio[outside & ~(ratio > 1)] = math.inf  # NaN where the definition has none, say
        rank = error if self.exact else ratio
        largest = np.unravel_index(int(error.argmax()), error.shape)
        if self.elements == outside.size or error[largest] > self.max_abs_error:
            self.max_abs_error = float(error[largest])
            self.bound = float(tolerance[largest])
        at = np.unravel_index(int(rank.argmax()), rank.shape)
        self.ratio = max(self.ratio, float(ratio[at]))
        if rank[at] > self._rank:
            self._rank = float(rank[at])
            self.worst_values = result[at].item(), wanted[at].item()
            place = [int(i) for i in at]
            if start:
                place[1] += start
            self.worst = tuple(place)

    def _against_bound(
        self, result: NDArray[Any], wanted: NDArray[Any], magnitude: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """(error, tolerance, outside) for each element; for complex ones, of the worse component."""
        kind = np.result_type(result.dtype, wanted.dtype, np.float64)
        result, wanted = result.astype(kind), wanted.astype(kind)
        if kind.kind == "c":
            parts = [
                self._against_bound(r, w, magnitude)
                for r, w in ((result.real, wanted.real), (result.imag, wanted.imag))
            ]
            # Where infinities meet, what each component becomes depends on how complex numbers multiply.
            both_wild = ~np.isfinite(result) & ~np.isfinite(wanted)
            outside = (parts[0][2] | parts[1][2]) & ~both_wild
            error = np.where(both_wild, 0.0, np.maximum(parts[0][0], parts[1][0]))
            return error, np.maximum(parts[0][1], parts[1][1]), outside
        # R comes from float64 sums, with an error of their own.
        gamma = _gamma(self.terms, self.u) + _gamma(self.terms, 2.0**-53)
        tolerance = gamma * magnitude * (1 + self.u_out) + self.u_out * np.abs(wanted)
        tolerance += self.underflow
        error = np.where(result == wanted, 0.0, np.abs(result - wanted))
        error[np.isnan(result) & np.isnan(wanted)] = 0.0
        error[np.isnan(error)] = math.inf
        outside = (error != 0) & ~((error <= tolerance) & np.isfinite(error))
        # A sum may overflow in one order and not in another; then no bound holds.
        overflow = ~(magnitude + tolerance < self.largest)
        wild = ~np.isfinite(result) | ~np.isfinite(wanted)
        if not self.finite_inputs:
            overflow &= np.isfinite(wanted)
        rounded = (np.abs(wanted) + tolerance >= self.largest_out) & (result == np.copysign(np.inf, wanted))
        forgiven = outside & ((overflow & wild) | rounded)
        error[forgiven], outside[forgiven] = 0.0, False
        return error, tolerance, outside

    def report(self, result: NDArray[Any]) -> Report:
        return Report(
            equal=self.outside == 0,
            shape=result.shape,
            expected_shape=result.shape,
            dtype=str(result.dtype),
            exact=self.exact,
            elements=self.elements,
            outside=self.outside,
            max_abs_error=self.max_abs_error,
            bound=self.bound,
            error_over_bound=self.ratio,
            worst=self.worst,
            worst_values=self.worst_values,
        )


def _gamma(terms: int, u: float) -> float:
    """Higham's γ_n = n·u / (1 − n·u)."""
    return terms * u / (1 - terms * u) if terms * u < 1 else math.inf


def _distance(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """|a − b| in float64, right also where integers' difference would wrap."""
    if a.dtype.kind in "biu" and b.dtype.kind in "biu":
        if np.uint64 in (a.dtype, b.dtype):
            a, b = a.astype(np.longdouble), b.astype(np.longdouble)
        else:
            high, low = np.maximum(a, b, dtype=np.int64), np.minimum(a, b, dtype=np.int64)
            return np.asarray(high.astype(np.uint64) - low.astype(np.uint64), np.float64)
    with np.errstate(all="ignore"):
        distance = np.asarray(np.abs(a - b), np.float64)
    distance[(a == b) | ((a != a) & (b != b))] = 0.0
    distance[np.isnan(distance)] = math.inf
    return distance


# The self-check: `convmat verify` alone.


@dataclass(frozen=True)
class Check:
    """One line of the self-check; true when the two sides agree."""

    family: str
    name: str
    input_shape: tuple[int, ...]
    filter_shape: tuple[int, ...]
    matrix_shape: tuple[int, ...]
    """Of X_col."""
    dtype: str
    max_abs_error: float
    bound: float
    """Of the element with that error; 0 where only the exact result will do."""
    trouble: str = ""
    """Which stages differ or raise, and how; empty when all agree."""

    def __bool__(self) -> bool:
        return not self.trouble


def self_check() -> Iterator[Check]:
    """Check every stage against the definition over a fixed grid of cases, one `Check` each.

    A stage that raises is a difference like any other: the definition has a result there.
    """
    rng = np.random.default_rng(2017)
    yield _check_sizes()
    yield _check_transposed_sizes()
    for name, shape, filter_shape, options in _GRID:
        yield _check_geometry(name, shape, filter_shape, options, rng)
    for dtype in _DTYPES:
        yield _check_dtype(np.dtype(dtype), rng)
    yield from _check_arrays(rng)


# (name, input (N, *spatial, C), filters (K, *kernel, C/groups), options of convolve). Small enough for plain
# loops; together they use every option, alone and with others, along 1 to 3 axes.
_GRID: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("the paper's 28 × 28", (1, 28, 28, 1), (2, 7, 7, 1), {"stride": 7}),
    ("1 × 1 kernel", (2, 3, 4, 3), (4, 1, 1, 3), {}),
    ("kernel as large as the input", (2, 4, 3, 2), (3, 4, 3, 2), {}),
    ("kernel 2 × 4", (1, 5, 7, 2), (3, 2, 4, 2), {"stride": (2, 1)}),
    ("stride skips pixels", (1, 9, 8, 1), (1, 2, 2, 1), {"stride": (3, 4)}),
    ("same", (1, 6, 5, 3), (2, 3, 3, 3), {"padding": "same"}),
    ("same, stride 2", (1, 6, 7, 2), (2, 3, 3, 2), {"padding": "same", "stride": 2}),
    ("same-lower, kernel 2", (1, 5, 4, 2), (2, 2, 2, 2), {"padding": "same-lower"}),
    ("half, kernel 4 × 3", (1, 6, 5, 1), (2, 4, 3, 1), {"padding": "half"}),
    ("full, flipped", (1, 4, 5, 1), (2, 3, 2, 1), {"padding": "full", "flip": True}),
    ("padding per axis", (1, 5, 4, 2), (2, 3, 3, 2), {"padding": (2, 1), "stride": 2}),
    ("padding per side", (2, 4, 5, 1), (2, 3, 3, 1), {"padding": ((1, 2), (0, 3))}),
    ("dilation 2", (1, 7, 8, 2), (2, 3, 3, 2), {"dilation": 2}),
    ("dilation 3 × 1, same", (1, 7, 5, 1), (2, 3, 2, 1), {"dilation": (3, 1), "padding": "same"}),
    ("groups 2, bias", (2, 5, 4, 4), (6, 3, 2, 2), {"groups": 2, "bias": True}),
    ("depthwise, stride 2", (1, 6, 5, 3), (6, 3, 3, 1), {"groups": 3, "stride": 2, "padding": 1}),
    ("depthwise, bias", (2, 5, 6, 3), (3, 3, 2, 1), {"groups": 3, "bias": True, "padding": "same"}),
    ("flipped, bias", (1, 5, 6, 2), (3, 2, 3, 2), {"flip": True, "bias": True}),
    ("reflect", (1, 4, 5, 2), (2, 3, 3, 2), {"padding": 2, "padding_mode": "reflect"}),
    ("replicate", (1, 3, 4, 1), (2, 3, 3, 1), {"padding": (1, 3), "padding_mode": "replicate"}),
    ("circular", (1, 4, 3, 2), (2, 3, 3, 2), {"padding": "same", "padding_mode": "circular"}),
    ("1 axis", (2, 12, 2), (3, 4, 2), {"stride": 3, "padding": ((1, 2),)}),
    ("1 axis, dilated, groups", (1, 11, 4), (4, 3, 2), {"dilation": 2, "groups": 2}),
    ("3 axes", (1, 4, 3, 5, 2), (2, 2, 2, 3, 2), {"stride": (1, 2, 2), "padding": "same"}),
    ("3 axes, dilated", (1, 5, 4, 3, 1), (2, 2, 3, 2, 1), {"dilation": (2, 1, 1), "padding": 1}),
]

_GEOMETRY_DEFAULTS = {"stride": 1, "padding": "valid", "dilation": 1}
_INTEGERS = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", ">i2"]
_DTYPES = [*_INTEGERS, "f2", "f4", "f8", "c8", "c16", ">f4", ">c16"]


def _check_sizes() -> Check:
    """Output sizes under every padding rule for all small sizes, against sliding the kernel."""
    ranges = (range(1, 8), range(1, 4), range(1, 4), range(1, 3), PADDING_NAMES)
    wrong = 0

    def run() -> Report:
        nonlocal wrong
        for size, k, s, d, rule in itertools.product(*ranges):
            counted = reference.output_size((size,), (k,), s, rule, d)
            if counted != (0,):
                wrong += ConvGeometry((1, size, 1), k, s, rule, d).output_size != counted
        return compare_exactly(np.array([wrong]), np.array([0]))

    return _checked("output size", "every size to 7, kernel to 3", (), (), {"geometry": run})


def _check_transposed_sizes() -> Check:
    """Sizes of transposed convolutions under every padding rule, against laying kernels side by side."""
    ranges = (range(1, 6), range(1, 4), range(1, 4), range(1, 3), (0, 1), PADDING_NAMES)
    wrong = 0

    def run() -> Report:
        nonlocal wrong
        for size, k, s, d, more, rule in itertools.product(*ranges):
            counted = reference.transposed_size((size,), (k,), s, rule, d, more)
            if counted[0] > 0 and more < max(s, d) and not (more and rule.startswith("same")):
                geometry = transpose_geometry((1, size, 1), 1, k, s, rule, d, 1, more)
                wrong += geometry.input_size != counted
        return compare_exactly(np.array([wrong]), np.array([0]))

    return _checked("output size", "transposed, every size to 5", (), (), {"geometry": run})


def _check_geometry(
    name: str,
    shape: tuple[int, ...],
    filter_shape: tuple[int, ...],
    options: dict[str, Any],
    rng: np.random.Generator,
) -> Check:
    """Every stage for one geometry: mapping, X_col, W_col, product and the engine's blocks."""
    kernel = filter_shape[1:-1]
    where = {k: options[k] for k in _GEOMETRY_DEFAULTS if k in options}
    patch = {k: options[k] for k in (*where, "padding_mode") if k in options}
    # Small integers, whose sums are exact in float32 in any order: right is right to the last bit.
    x = rng.integers(-8, 9, shape).astype(np.float32)
    w = rng.integers(-8, 9, filter_shape).astype(np.float32)
    layer = dict(options)
    if layer.pop("bias", False):
        layer["bias"] = rng.integers(-8, 9, len(w)).astype(np.float32)

    # An image of its own coordinates, so that each element of X_col says where it came from; 0 is padding.
    coded = np.arange(1, x.size + 1).reshape(shape)

    mode = options.get("padding_mode", "zeros")
    order = "hwc" if mode == "zeros" else "chw"  # both, without doubling the work

    def mapping() -> Report:
        geometry = ConvGeometry(shape, kernel, **where)
        rows, cols = geometry.matrix_shape
        x_col = reference.unroll(coded, kernel, **patch, order=order)
        found = np.zeros((rows, cols), coded.dtype)
        for row, col in itertools.product(range(rows), range(cols)):
            index = geometry.place(row, col, mode, order=order).element
            found[row, col] = 0 if index is None else coded[index]
        back = np.zeros((rows, cols), coded.dtype)
        for element in np.ndindex(*shape):
            n, *pixel, c = element
            for row, col in geometry.matrix_indices(n, pixel, c, mode, order=order):
                back[row, col] = coded[element]
        return compare_exactly(np.stack([found, back]), np.stack([x_col, x_col]))

    def unrolled() -> Report:
        x_cols = [unroll(coded, kernel, **patch, order=order) for order in ("hwc", "chw")]
        wanted = [reference.unroll(coded, kernel, **patch, order=order) for order in ("hwc", "chw")]
        return compare_exactly(np.stack(x_cols), np.stack(wanted))

    def flattened() -> Report:
        w_cols = [flatten_filters(w, order=order) for order in ("hwc", "chw")]
        wanted = [reference.flatten_filters(w, order=order) for order in ("hwc", "chw")]
        return compare_exactly(np.stack(w_cols), np.stack(wanted))

    def multiplied() -> Report:
        wanted = reference.convolve(x, w, **patch)
        y = unroll(x, kernel, **patch) @ flatten_filters(w)
        return compare_exactly(y.reshape(wanted.shape), wanted.astype(y.dtype))

    def convolved() -> Report:
        wanted = reference.convolve(x, w, **layer).astype(np.float32)
        by_taps = reference.convolve_by_taps(x, w, **layer).astype(np.float32)
        todo = prepare(x, w, **layer, threads=1)
        # The plan that is chosen, and others: rows one by one, a few rows, every way to cut the product.
        plans: list[dict[str, Any]] = [
            {"block_bytes": 1, "tactic": Tactic()},
            {"block_bytes": 600, "threads": 2},
        ]
        plans += [{"tactic": tactic} for tactic in tactics(todo.plan.geometry, len(w))]
        ys = [execute(todo), *(execute(replan(todo, **choices)) for choices in plans)]
        ys.append(np.concatenate(list(stream(replan(todo, block_bytes=200)))).reshape(wanted.shape))
        return compare_exactly(np.stack([by_taps, *ys]), np.stack([wanted] * (len(ys) + 1)))

    def bounded() -> Report:
        noise = rng.standard_normal(shape).astype(np.float32)
        weights = rng.standard_normal(filter_shape).astype(np.float32)
        return verify(noise, weights, **layer)

    def strewn() -> Report:
        """Infinities reach the outputs whose kernels see them, and no others."""
        noise = rng.standard_normal(shape).astype(np.float32)
        noise.flat[:: max(noise.size // 3, 1)] = np.inf
        return verify(noise, w, **layer)

    def folded() -> Report:
        """Sums and means, and ⟨unroll x, p⟩ = ⟨x, fold p⟩."""
        unrolled = unroll(x, kernel, **where)
        p = rng.integers(-8, 9, unrolled.shape).astype(np.float32)
        found = [
            fold(p, shape, kernel, **where),
            fold(p, shape, kernel, **where, order="chw"),
            fold(unrolled, shape, kernel, **where, overlap="mean"),
        ]
        wanted = [
            reference.fold(p, shape, kernel, **where),
            reference.fold(p, shape, kernel, **where, order="chw"),
            reference.fold(unrolled, shape, kernel, **where, overlap="mean"),
        ]
        inner = [np.full(shape, float(np.vdot(a, b))) for a, b in ((unrolled, p), (x, found[0]))]
        return compare_exactly(np.stack([*found, inner[0]]), np.stack([*wanted, inner[1]]).astype(np.float32))

    linear = {key: value for key, value in layer.items() if key != "bias"}
    transpose = where | {key: layer[key] for key in ("groups",) if key in layer}

    def transposed() -> Report:
        """Against the definition, sized by itself and by the input."""
        y = rng.integers(-8, 9, (shape[0], *ConvGeometry(shape, kernel, **where).output_size, len(w)))
        bias = rng.integers(-8, 9, shape[-1])
        reports = [
            compare_exactly(
                convolve_transpose(y.astype(np.float32), w, **transpose, input_shape=known, bias=added),
                reference.convolve_transpose(y, w, **transpose, input_shape=known, bias=added).astype(
                    np.float32
                ),
            )
            for known, added in ((shape, None), (None, bias.astype(np.float32)))
        ]
        return max(reports, key=lambda report: report.outside)

    def as_matrix() -> Report:
        """M · vec(X) in the order of either layout."""
        wanted = reference.convolve_by_taps(x[:1], w, **linear)
        found = []
        for order in ("nhwc", "nchw"):
            m = layer_matrix(w, shape, **linear, layout=order)
            columns = m @ from_batch(x[:1], order).reshape(-1)
            found.append(to_batch(columns.reshape(from_batch(wanted, order).shape), len(kernel), order))
        return compare_exactly(np.stack(found), np.stack([wanted] * 2).astype(np.float32))

    stages = {
        "index mapping": mapping,
        "unroll": unrolled,
        "fold": folded,
        "convolve transposed": transposed,
        "matrix": as_matrix,
        "flatten-filters": flattened,
        "convolve": convolved,
        "convolve within bound": bounded,
        "convolve with infinities": strewn,
    }
    if "groups" not in options and "flip" not in options:
        stages["X_col · W_col"] = multiplied
    return _checked("every stage", name, shape, filter_shape, stages, where)


def _check_dtype(dtype: np.dtype[Any], rng: np.random.Generator) -> Check:
    """One dtype, on numbers whose sums it holds exactly."""
    shape, filter_shape = (2, 5, 6, 3), (4, 3, 2, 3)
    low = 0 if dtype.kind in "bu" else -2
    x = rng.integers(low, 3, shape).astype(dtype)
    w = rng.integers(low, 3, filter_shape).astype(dtype)

    where: dict[str, Any] = {"stride": (1, 2), "padding": "same"}

    def exact() -> Report:
        if dtype.kind == "c":
            x.imag, w.imag = x.real[..., ::-1, :], w.real[::-1]
        y = convolve(x, w, **where)
        wanted = reference.convolve(x, w, **where)
        kept = dtype.newbyteorder("=") if dtype.kind in "fc" else np.dtype(np.int64)
        if y.dtype != kept:
            raise ShapeError("result", f"has dtype {y.dtype}, expected {kept}")
        return compare_exactly(y, wanted.astype(kept))

    def bounded() -> Report:
        noise, weights = rng.standard_normal((2, math.prod(shape)))
        if dtype.kind == "c":
            noise, weights = noise + 1j * weights, weights - 1j * noise
        count = math.prod(filter_shape)
        noise, weights = noise.reshape(shape), weights[:count].reshape(filter_shape)
        return verify(noise.astype(dtype), weights.astype(dtype), **where)

    def folded() -> Report:
        """The mean is the inverse of unroll, and sums do not wrap."""
        x_col = unroll(x, filter_shape[1:-1], **where)
        mean = fold(x_col, shape, filter_shape[1:-1], **where, overlap="mean")
        total = fold(x_col, shape, filter_shape[1:-1], **where)
        times = reference.fold(np.ones(x_col.shape, int), shape, filter_shape[1:-1], **where)
        wide = np.dtype(np.complex128 if dtype.kind == "c" else np.float64)
        wanted = np.stack([x.astype(wide), x.astype(wide) * times])
        return compare_exactly(np.stack([mean.astype(wide), total.astype(wide)]), wanted)

    name = dtype.name + (", big-endian" if dtype.byteorder == ">" else "")
    stages = {"convolve": exact, "fold": folded}
    stages |= {"convolve within bound": bounded} if dtype.kind in "fc" else {}
    return _checked("dtype", name, shape, filter_shape, stages, where)


def _check_arrays(rng: np.random.Generator) -> Iterator[Check]:
    """Arrays as they come: other layouts and strides, extreme integers, none at all."""
    shape, filter_shape = (2, 6, 5, 3), (4, 3, 3, 3)
    x, w = rng.integers(-8, 9, shape), rng.integers(-8, 9, filter_shape)
    wanted = reference.convolve(x, w)
    big = np.full((1, 3, 3, 1), 2**29 + 1)

    def nchw() -> Report:
        given = np.ascontiguousarray(np.moveaxis(x, -1, 1))
        y = convolve(to_batch(given, 2, "nchw"), w)
        return compare_exactly(from_batch(y, "nchw"), np.moveaxis(wanted, -1, 1))

    def kernel_layouts() -> Report:
        oihw, hwio = np.moveaxis(w, -1, 1), np.moveaxis(w, 0, -1)
        ys = [convolve(x, to_filters(a, 2, b)) for a, b in ((oihw, "oihw"), (hwio, "hwio"))]
        return compare_exactly(np.stack(ys), np.stack([wanted] * 2))

    def strides() -> Report:
        wide = np.zeros((4, 6, 10, 3), x.dtype)
        wide[::-2, :, ::2] = x
        ys = [convolve(np.asfortranarray(x), w), convolve(wide[::-2, :, ::2], np.asfortranarray(w))]
        return compare_exactly(np.stack(ys), np.stack([wanted] * 2))

    def large() -> Report:
        return compare_exactly(convolve(big, big), reference.convolve(big, big))

    def narrow() -> Report:
        ones = np.full((1, 3, 3, 1), 255, np.uint8)
        return compare_exactly(convolve(ones, ones), np.full((1, 1, 1, 1), 9 * 255 * 255))

    def empty() -> Report:
        return compare_exactly(convolve(x[:0], w), np.zeros((0, *wanted.shape[1:]), np.int64))

    small = ((1, 3, 3, 1), (1, 3, 3, 1))
    for name, run, shapes in (
        ("channels first", nchw, (shape, filter_shape)),
        ("kernels OIHW and HWIO", kernel_layouts, (shape, filter_shape)),
        ("Fortran order, negative strides", strides, (shape, filter_shape)),
        ("sums beyond 2^53", large, small),
        ("uint8 does not wrap", narrow, small),
        ("empty batch", empty, ((0, *shape[1:]), filter_shape)),
    ):
        yield _checked("arrays", name, *shapes, {"convolve": run})
    yield _check_blocks(rng)


def _check_blocks(rng: np.random.Generator) -> Check:
    """Folding an X_col so long that it is cut in blocks, whose pixels overlap; as a stream, too."""
    line, taps = 60_000, 9
    shape = (1, line, 1)
    p = rng.integers(-8, 9, (line - taps + 1, taps)).astype(np.float64)

    def run() -> Report:
        wanted = np.zeros(line)
        for tap in range(taps):
            wanted[tap : tap + len(p)] += p[:, tap]
        parts = np.split(p, [7, 45_000])
        streamed = [lines.copy() for lines in fold_stream(parts, p.dtype, ConvGeometry(shape, taps))]
        found = [fold(p, shape, taps), np.concatenate(streamed)[None]]
        return compare_exactly(np.stack(found), np.stack([wanted.reshape(shape)] * 2))

    return _checked("arrays", "blocks that overlap", shape, (1, taps, 1), {"fold": run})


def _checked(
    family: str,
    name: str,
    shape: tuple[int, ...],
    filter_shape: tuple[int, ...],
    stages: dict[str, Callable[[], Report]],
    where: dict[str, Any] | None = None,
) -> Check:
    """Run all stages of a case; its error and bound are those of the stage with the largest error."""
    trouble, reports = [], []
    matrix: tuple[int, ...] = ()
    for stage, run in stages.items():
        try:
            reports.append(run())
            if not reports[-1]:
                trouble.append(f"{stage}: {reports[-1]}")
        except Exception as error:
            trouble.append(f"{stage}: {type(error).__name__}: {error}")
    if shape:
        size = reference.output_size(
            shape[1:-1],
            filter_shape[1:-1],
            *((where or {}).get(key, usual) for key, usual in _GEOMETRY_DEFAULTS.items()),
        )
        matrix = (shape[0] * math.prod(size), math.prod(filter_shape[1:-1]) * shape[-1])
    worst = max(reports, key=lambda report: report.max_abs_error, default=None)
    return Check(
        family,
        name,
        shape,
        filter_shape,
        matrix,
        "" if worst is None else worst.dtype,
        math.inf if worst is None else worst.max_abs_error,
        0.0 if worst is None else worst.bound,
        "; ".join(trouble),
    )
