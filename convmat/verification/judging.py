"""Verification: a result against the definition, element by element, within a proven bound.

The bound is Higham's ("Accuracy and Stability of Numerical Algorithms", 2nd ed., Section 3.1): a sum of n
products computed with unit roundoff u, in any order, with or without fused multiply-add, differs from the
exact one by at most γ_n·A, γ_n = n·u / (1 − n·u), A = |X_col|·|W_col|. It is no tolerance to tune: a right
result stays inside, whatever the input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convmat import reference
from convmat.engine import execute, prepare
from convmat.geometry import ConvGeometry, Padding, Sizes
from convmat.patches import as_numbers

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
